"""Gallery photographs that methods are tried on, drawn by seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from retrieval.errors import ExplainError, PhotographError
from retrieval.explain.explainer import Explainer
from retrieval.explain.targets import Asked
from retrieval.photographs.given import open_given
from retrieval.types import Photograph

LOOKED_AT: Final = 4096
"""Rows of a large gallery that are drawn from."""


@dataclass(frozen=True)
class Drawn:
    """A gallery photograph that is to be explained.

    Attributes:
        row: of the gallery.
        asked: by the most similar other photograph of its landmark.
    """

    row: int
    asked: Asked


def drawn(explainer: Explainer, count: int, side: int, seed: int = 0) -> list[Drawn]:
    """Photographs of landmarks with at least two, each landmark once while there are others.

    Args:
        explainer: of the system.
        count: how many, at most.
        side: their longest side in pixels, at most.
        seed: of the draw.

    Raises:
        ExplainError: none can be read, or no landmark has two.
    """
    codes = np.asarray(explainer.gallery.codes)
    rows = np.random.default_rng(seed).permutation(len(codes))[:LOOKED_AT]
    rounds: dict[int, int] = {}
    turn = np.empty(len(rows), np.int64)
    for place, code in enumerate(codes[rows].tolist()):
        rounds[code] = turn[place] = rounds.get(code, -1) + 1
    found: list[Drawn] = []
    for row in rows[np.argsort(turn, kind="stable")].tolist():
        if len(found) == count:
            break
        found += of_rows(explainer, [row], side)
    if not found:
        raise ExplainError(
            "no photograph of the gallery can be read of a landmark that has two of them"
        )
    return found


def of_rows(explainer: Explainer, rows: list[int], side: int) -> Iterator[Drawn]:
    """Those rows of which the photograph can be read, and another of its landmark."""
    gallery = explainer.gallery
    codes, vectors = np.asarray(gallery.codes), gallery.vectors
    for row in rows:
        others = np.flatnonzero(codes == codes[row])
        others = others[others != row]
        if not len(others):
            continue
        nearest = int(others[np.argmax(vectors[others] @ vectors[row])])
        photographs = [opened(explainer, one, side) for one in (row, nearest)]
        if photographs[0] is None or photographs[1] is None:
            continue
        yield Drawn(
            row,
            Asked(
                explainer.in_float32, photographs[0], photographs[1], int(codes[row]),
                explainer.classifiers, explainer.answer,
            ),
        )  # fmt: skip


def opened(explainer: Explainer, row: int, side: int) -> Photograph | None:
    """A gallery photograph; ``None`` where it cannot be read any more."""
    try:
        return open_given(
            str(explainer.rows["source"].iloc[row]), min(side, explainer.describer.longest_side)
        )
    except PhotographError:
        return None
