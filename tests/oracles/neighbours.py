"""Expansion, augmentation and re-ranking, one photograph at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def nearest(query: Vector, gallery: Sequence[Vector], k: int) -> list[tuple[int, float]]:
    """Rows and similarities, most similar first, ties by row."""
    similarities = [(row, float(query @ one)) for row, one in enumerate(gallery)]
    return sorted(similarities, key=lambda one: (-one[1], one[0]))[:k]


def expanded(
    query: Vector, neighbours: Sequence[tuple[int, float]], gallery: Sequence[Vector], alpha: float
) -> Vector:
    total = query.astype(np.float64)
    for row, similarity in neighbours:
        if row >= 0 and similarity > 0:
            total = total + similarity**alpha * gallery[row]
    length = float(np.sqrt(sum(number**2 for number in total)))
    return total / length if length > 0 else total


def augmented(gallery: Sequence[Vector], n: int, alpha: float) -> list[Vector]:
    result = []
    for own, row in enumerate(gallery):
        near = [one for one in nearest(row, gallery, len(gallery)) if one[0] != own][:n]
        result.append(expanded(row, near, gallery, alpha))
    return result


def by_label(
    ranking: Sequence[int], codes: Sequence[int], predicted: int, query: Vector, gallery: Vector
) -> list[int]:
    """The ranking's rows, those of the predicted landmark first, with ones that it missed."""
    there = [row for row in ranking if row >= 0]
    shown = [row for row in there if codes[row] == predicted]
    others = [row for row in there if codes[row] != predicted]
    everything = [row for row, _ in nearest(query, list(gallery), len(gallery))]
    missed = [row for row in everything if codes[row] == predicted and row not in shown]
    padded = shown + missed + others + [-1] * len(ranking)
    return padded[: len(ranking)]


def by_both(
    query: Vector,
    gallery: Sequence[Vector],
    by_words: Sequence[float],
    share: float,
    own: int | None,
) -> list[tuple[int, float]]:
    """Every row but the query's own by what descriptors and words say of it, ties by row."""
    similarities = [
        (row, (1 - share) * float(query @ one) + share * by_words[row])
        for row, one in enumerate(gallery)
        if row != own
    ]
    return sorted(similarities, key=lambda one: (-one[1], one[0]))
