"""How far figures would have moved with other queries: bootstrap intervals and paired tests.

Queries are drawn anew with replacement, as many as there are (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993, chapters 13 and 16). A query drawn twice counts as two, each
with the same answer; in GAP they stand one after the other. Everything is seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from retrieval.evaluation.metrics import Truth, by_confidence
from retrieval.types import Flags, Integers, Reals

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
BLOCK: Final = 4_000_000
"""Integers held at a time, of resamples by queries."""


@dataclass(frozen=True)
class Outcomes:
    """One system's answers to n queries, as far as its figures depend on them.

    Attributes:
        order: (a,) the queries that were answered, as GAP walks through them.
        right: (n,) whether the best candidate is right.
        shown: (n,) whether the query shows a landmark.
        accepted: (n,) whether a landmark was named.
        confidence: (n,) of the best candidate.
    """

    order: Integers
    right: Flags
    shown: Flags
    accepted: Flags
    confidence: Reals

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        predicted: Integers,
        confidence: Reals,
        accepted: Flags,
        truth: Truth,
    ) -> Outcomes:
        """From the arguments of :func:`retrieval.evaluation.metrics.recognition_metrics`."""
        return cls(
            by_confidence(ids, predicted, confidence),
            truth.holds(predicted),
            truth.has_landmark,
            np.asarray(accepted, np.bool_),
            np.asarray(confidence),
        )


@dataclass(frozen=True)
class Difference:
    """A figure of one system less the same of another.

    Attributes:
        value: the difference.
        interval: it lies in with 95 % confidence.
        p: two-sided chance of a difference as large where there is none.
    """

    value: float
    interval: tuple[float, float]
    p: float


def intervals(outcomes: Outcomes) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of :data:`FIGURES`, by their names; NaN where undefined."""
    found = _resampled([outcomes], list(FIGURES))[0]
    return {name: _middle(values) for name, values in found.items()}


def paired_differences(system: Outcomes, against: Outcomes) -> dict[str, Difference]:
    """GAP and top-1 of a system less another's on the same queries, drawn anew for both alike.

    The chance is twice the share of resamples in which the difference has the other sign, or is
    zero; never below two out of all.

    Raises:
        ValueError: they are not of as many queries.
    """
    if not np.array_equal(system.shown, against.shown):
        raise ValueError("the systems were not asked the same queries")
    names = ["gap", "top1"]
    ones = np.ones((1, len(system.shown)), np.int64)
    ours, theirs = _resampled([system, against], names)
    differences = {}
    for name in names:
        value = float((FIGURES[name](system, ones) - FIGURES[name](against, ones))[0])
        drawn = ours[name] - theirs[name]
        drawn = drawn[~np.isnan(drawn)]
        below, above = (drawn <= 0).sum() + 1, (drawn >= 0).sum() + 1
        p = min(1.0, 2 * float(min(below, above)) / (len(drawn) + 1))
        differences[name] = Difference(value, _middle(drawn), p)
    return differences


def _resampled(systems: Sequence[Outcomes], names: Sequence[str]) -> list[dict[str, Reals]]:
    """(resamples,) of each figure for each system, all from the same draws."""
    n = len(systems[0].shown)
    random = np.random.default_rng(0)
    parts: list[dict[str, list[Reals]]] = [{name: [] for name in names} for _ in systems]
    step = max(1, BLOCK // max(n, 1))
    for start in range(0, RESAMPLES if n else 0, step):
        counts = _drawn(random, n, min(step, RESAMPLES - start))
        for part, system in zip(parts, systems, strict=True):
            for name in names:
                part[name].append(FIGURES[name](system, counts))
    empty = np.empty(0)
    return [{name: np.concatenate([empty, *part[name]]) for name in names} for part in parts]


def _drawn(random: np.random.Generator, n: int, resamples: int) -> Integers:
    """(resamples, n) how often each of n queries is drawn in n draws."""
    drawn = random.integers(0, n, (resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=resamples * n).reshape(resamples, n)


def _middle(values: Reals) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def _gap(outcomes: Outcomes, counts: Integers) -> Reals:
    """(b,) GAP where query i stands counts[:, i] times; 0 where no landmark was drawn."""
    drawn = counts[:, outcomes.order]
    right = outcomes.right[outcomes.order]
    drawn_right = drawn[:, right]
    seen = (np.cumsum(drawn, axis=1) - drawn)[:, right]
    found = np.cumsum(drawn_right, axis=1) - drawn_right
    total = np.zeros(len(counts))
    for copy in range(1, int(drawn_right.max(initial=0)) + 1):
        total += ((found + copy) / (seen + copy) * (drawn_right >= copy)).sum(axis=1)
    gap: Reals = total / np.maximum(counts[:, outcomes.shown].sum(axis=1), 1)
    return gap


def _share(of: Flags, among: Flags, counts: Integers) -> Reals:
    """(b,) share of the queries among some that are of others; NaN where none was drawn."""
    total = counts[:, among].sum(axis=1)
    found = np.where(total > 0, counts[:, among & of].sum(axis=1), np.nan)
    share: Reals = found / np.maximum(total, 1)
    return share


def _top1(outcomes: Outcomes, counts: Integers) -> Reals:
    return _share(outcomes.right, outcomes.shown, counts)


def _false_accepts(outcomes: Outcomes, counts: Integers) -> Reals:
    return _share(outcomes.accepted, ~outcomes.shown, counts)


def _rejection_auc(outcomes: Outcomes, counts: Integers) -> Reals:
    """(b,) as :func:`retrieval.evaluation.metrics.rejection_auc`."""
    order = np.argsort(outcomes.confidence, kind="stable")
    ordered = outcomes.confidence[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    drawn = counts[:, order]
    shown, none = (
        np.add.reduceat(drawn * kind[order], starts, axis=1)
        for kind in (outcomes.shown, ~outcomes.shown)
    )
    # A landmark beats the others below it, and half of those beside it.
    won = (shown * (np.cumsum(none, axis=1) - none / 2)).sum(axis=1)
    pairs = shown.sum(axis=1) * none.sum(axis=1)
    auc: Reals = np.where(pairs > 0, won, np.nan) / np.maximum(pairs, 1)
    return auc


FIGURES: Final[dict[str, Callable[[Outcomes, Integers], Reals]]] = {
    "gap": _gap,
    "top1": _top1,
    "rejection_auc": _rejection_auc,
    "false_accept_rate": _false_accepts,
}
"""What intervals are given of; each from outcomes and (b, n) how often each query was drawn."""
