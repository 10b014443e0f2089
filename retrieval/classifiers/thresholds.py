"""Thresholds on confidences: the best balance, a promised precision, or bounded false accepts."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.classifiers.promise import least_false_accepts
from retrieval.types import Flags

TELLING: Final = 0.9
"""The share of banks that do not speak against a tolerance which is true of them."""
LARGEST: Final = 0.12
"""The largest share that is tolerated of however few photographs, one more counted as accepted."""


class OperatingPoint(NamedTuple):
    """A threshold, and why what was asked of it cannot be promised; empty where it can."""

    threshold: float
    unkept: str = ""


def best_threshold(confidence: NDArray[Any], gain: NDArray[np.float64]) -> float:
    """The threshold at which the accepted examples' gains sum to the most.

    Of equally good ones the highest is taken, half-way to the next confidence below, so that
    neither of the two examples it lies between decides by its last bit. Without any example, or
    where accepting all is best, -inf.

    Args:
        confidence: (n,) float32; -inf (no candidate) is never accepted.
        gain: (n,) of accepting each, negative where that is an error.
    """
    scores, places = np.unique(confidence[np.isfinite(confidence)], return_inverse=True)
    if not len(scores):
        return -np.inf
    gains = np.bincount(places, weights=gain[np.isfinite(confidence)], minlength=len(scores))
    # total[i]: everything from the i-th lowest score up is accepted; the last accepts nothing.
    total = np.append(np.cumsum(gains[::-1])[::-1], 0.0)
    chosen = int(np.flatnonzero(total >= total.max() - 1e-12)[-1])
    return _half_way(scores, chosen)


def precise_threshold(
    confidence: NDArray[Any], right: Flags, weights: NDArray[np.float64], target: float
) -> OperatingPoint:
    """The lowest threshold at which so large a share of the accepted weight is right.

    One more example of the largest weight is counted as accepted and wrong, since the lowest of
    many thresholds is one that luck favoured. Where none is that precise, the highest of the most
    precise ones; where no answer was right, nothing is accepted.

    Args:
        confidence: (n,) float32; -inf (no candidate) is never accepted.
        right: (n,) whether the answer is.
        weights: (n,) of the examples.
        target: the share.
    """
    there = np.isfinite(confidence)
    scores, places = np.unique(confidence[there], return_inverse=True)
    taken, good = (
        np.cumsum(np.bincount(places, part[there], len(scores))[::-1])[::-1]
        for part in (weights, np.where(right, weights, 0.0))
    )
    precision = good / (taken + weights.max(initial=0.0))
    enough = np.flatnonzero(precision >= target)
    if len(enough):
        return OperatingPoint(_half_way(scores, int(enough[0])))
    unkept = f"a precision of {target:g} cannot be promised by so few photographs"
    if not good.any():
        return OperatingPoint(
            np.inf, f"{unkept}: no held-out answer was right; nothing is accepted"
        )
    most = precision.max()
    best = int(np.flatnonzero(precision >= most - 1e-12)[-1])
    return OperatingPoint(_half_way(scores, best), f"{unkept}: {most:.3f} is the most")


def bounded_threshold(confidence: NDArray[Any], bank: NDArray[Any], most: float) -> OperatingPoint:
    """The lowest threshold that accepts at most such a share of photographs like the bank's.

    Of b held-out ones it accepts a, with (a + 1) / (b + 1) at most the share: that is what a
    further one is accepted with (Vovk, Gammerman and Shafer, "Algorithmic learning in a random
    world", 2005, chapter 2). A bank too small for any a has none accepted.

    Args:
        confidence: (n,) float32 of all examples; thresholds lie half-way between them.
        bank: (b,) of those without a landmark, at least one.
        most: the share.
    """
    allowed = int(most * (len(bank) + 1) + 1e-9) - 1
    unkept = ""
    if allowed < 0:
        unkept = (
            f"{len(bank):,} photographs without a landmark are too few to bound false accepts by"
            f" {most:g}: {least_false_accepts(len(bank)):.2g} is the least"
        )
    return OperatingPoint(accepting(confidence, bank, max(allowed, 0)), unkept)


def tolerated(bank: int, share: float) -> int:
    """How many of so many bank photographs may be accepted before they speak against the share.

    No more are in nine of ten banks of which it is true; nor more than :data:`LARGEST`, since a
    handful can hardly speak against anything.
    """
    from scipy.stats import binom

    silent = int(binom.ppf(TELLING, bank, share))
    return max(min(silent, int(max(share, LARGEST) * (bank + 1) + 1e-9) - 1), 0)


def accepting(confidence: NDArray[Any], bank: NDArray[Any], allowed: int) -> float:
    """The lowest threshold that accepts no more than so many of the bank; half-way between two
    of all examples' confidences."""
    scores = np.unique(confidence[np.isfinite(confidence)])
    accepted = len(bank) - np.searchsorted(np.sort(bank), scores)
    return _half_way(scores, int(np.searchsorted(-accepted, -allowed)))


def _half_way(scores: NDArray[Any], chosen: int) -> float:
    """The threshold that accepts rising scores from the chosen one up."""
    if chosen == 0:
        return -np.inf
    if chosen == len(scores):
        return float(np.nextafter(scores[-1], np.float32(np.inf)))
    return float((np.float64(scores[chosen - 1]) + np.float64(scores[chosen])) / 2)
