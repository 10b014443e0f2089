"""Which photographs the report shows: every kind of outcome, picked the same way every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.report.measured import ClassifierResult, Measured


@dataclass(frozen=True)
class Group:
    """Photographs with the same outcome.

    Attributes:
        key: an anchor in the page.
        title: what they have in common.
        lead: a sentence on how they were counted and picked.
        total: how many there are.
        of: out of how many photographs.
        rows: the test rows that are shown.
    """

    key: str
    title: str
    lead: str
    total: int
    of: int
    rows: Sequence[int]


def groups(measured: Measured, limit: int) -> list[Group]:
    """The galleries of the report, at most ``limit`` photographs each.

    A landmark photograph is right where the final answer names its landmark: the right candidate,
    accepted. Photographs that failed are listed apart.
    """
    shown = measured.with_landmark & measured.ok
    right = np.stack([measured.named_right(result) for result in measured.results])
    confidence = measured.answering.confidence
    of = int(measured.with_landmark.sum())
    several = len(measured.results) > 1
    both = "Both" if len(measured.results) == 2 else "All"

    found = [
        _group(
            "all-right",
            f"{both} right" if several else "Right",
            "A spread from the surest to the least sure.",
            _spread(shown & right.all(axis=0), confidence, limit),
            int((shown & right.all(axis=0)).sum()),
            of,
        )
    ]
    for number, result in enumerate(measured.results if several else ()):
        only = shown & right[number] & (right.sum(axis=0) == 1)
        found.append(
            _group(
                f"only-{number + 1}",
                f"Only {result.name} right",
                f"Those first that {result.name} was surest of.",
                _surest(only, result.confidence, limit),
                int(only.sum()),
                of,
            )
        )
    wrong = shown & ~right.any(axis=0)
    found.append(
        _group(
            "all-wrong",
            f"{both} wrong" if several else "Wrong",
            f"Another landmark named, or none; those first that {measured.answer} was surest of.",
            _surest(wrong, confidence, limit),
            int(wrong.sum()),
            of,
        )
    )
    false = ~measured.with_landmark & measured.answering.accepted
    found.append(
        _group(
            "false-accepts",
            "False accepts",
            f"Photographs of no landmark that {measured.answer} named one for, the surest first.",
            _surest(false, confidence, limit),
            int(false.sum()),
            int((~measured.with_landmark).sum()),
        )
    )
    return found


def verdict(measured: Measured, result: ClassifierResult, row: int) -> str:
    """One of "right", "wrong" and "missed" (a landmark photograph answered with none)."""
    if measured.answered_right(result)[row]:
        return "right"
    return "wrong" if result.accepted[row] else "missed"


def _group(key: str, title: str, lead: str, rows: list[int], total: int, of: int) -> Group:
    return Group(key, title, lead, total, of, rows)


def _surest(rows: NDArray[np.bool_], confidence: NDArray[np.float32], limit: int) -> list[int]:
    found = np.flatnonzero(rows)
    order = np.argsort(-confidence[found].astype(np.float64), kind="stable")
    return [int(row) for row in found[order[:limit]]]


def _spread(rows: NDArray[np.bool_], confidence: NDArray[np.float32], limit: int) -> list[int]:
    """Evenly spaced over the ranking by confidence, both ends among them."""
    ranked = _surest(rows, confidence, int(rows.sum()))
    if len(ranked) <= limit:
        return ranked
    return [ranked[at] for at in np.linspace(0, len(ranked) - 1, limit).round().astype(int)]
