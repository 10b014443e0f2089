"""The figures of retrieval.evaluation.metrics, one photograph at a time, from their definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.evaluation.metrics import Truth


def truth_of(landmarks: Sequence[set[int]]) -> Truth:
    """Any number of landmarks a photograph."""
    pairs = [(place, code) for place, each in enumerate(landmarks) for code in each]
    photographs, codes = np.array(pairs, np.int64).reshape(-1, 2).T
    return Truth(len(landmarks), photographs, codes)


def rankings_of(similarities: NDArray[np.float32]) -> NDArray[np.int64]:
    """(q, n) columns by falling similarity, ties by column."""
    return np.argsort(-similarities, axis=1, kind="stable")


def global_average_precision(
    ids: Sequence[str],
    predicted: Sequence[int | None],
    confidence: Sequence[float],
    truth: Sequence[set[int]],
) -> float:
    photographs = sum(1 for shown in truth if shown)
    if photographs == 0:
        return 0.0
    pool = []
    for name, landmark, score, shown in zip(ids, predicted, confidence, truth, strict=True):
        if landmark is not None:
            pool.append((-score, name, landmark, shown))
    pool.sort(key=lambda one: one[:3])
    total, correct = 0.0, 0
    for seen, (_, _, landmark, shown) in enumerate(pool, start=1):
        if landmark in shown:
            correct += 1
            total += correct / seen
    return total / photographs


def average_precision(results: Sequence[int], relevant: set[int], k: int) -> float:
    """Over ranked items, negative where there is none."""
    if not relevant:
        return 0.0
    total, found = 0.0, set()
    for rank, item in enumerate(results[:k], start=1):
        if item in relevant and item not in found:
            found.add(item)
            total += len(found) / rank
    return total / min(len(relevant), k)


def top_k_accuracy(candidates: Sequence[Sequence[int]], truth: Sequence[set[int]], k: int) -> float:
    right = [
        any(one in shown for one in row[:k])
        for row, shown in zip(candidates, truth, strict=True)
        if shown
    ]
    return sum(right) / len(right)


def rejection_auc(confidence: Sequence[float], has_landmark: Sequence[bool]) -> float:
    """Every landmark photograph against every other."""
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, shown in zip(confidence, has_landmark, strict=True)
        if shown
        for b, other in zip(confidence, has_landmark, strict=True)
        if not other
    ]
    return sum(pairs) / len(pairs)


def trapezoidal_average_precision(hits: Sequence[bool], relevant: int) -> float:
    """The area between neighbouring points of the precision-recall curve, each hit a step."""
    area, found = 0.0, 0
    for rank, hit in enumerate(hits):
        if hit:
            left = 1.0 if rank == 0 else found / rank
            found += 1
            right = found / (rank + 1)
            area += (left + right) / 2 / relevant
    return area


def holidays_map(numbers: Sequence[int], rankings: dict[int, list[int]]) -> float:
    """Over rankings of numbers, by query."""
    found = []
    for query in numbers:
        group = [one for one in numbers if one // 100 == query // 100 and one != query]
        if query % 100 == 0 and group:
            others = [one for one in rankings[query] if one != query]
            hits = [one in group for one in others]
            found.append(trapezoidal_average_precision(hits, len(group)))
    return sum(found) / len(found)


def revisited(
    sought: set[int], passed: set[int], ranking: Sequence[int], cuts: Sequence[int]
) -> list[float] | None:
    """One query's average precision, and its precision at cuts; None where nothing is sought."""
    if not sought:
        return None
    left = [one for one in ranking if one >= 0 and one not in passed]
    hits = [one in sought for one in left]
    figures = [trapezoidal_average_precision(hits, len(sought))]
    positions = [rank for rank, hit in enumerate(hits, start=1) if hit]
    for cut in cuts:
        top = min([*positions[-1:], cut]) if positions else cut
        figures.append(sum(hits[:top]) / top)
    return figures
