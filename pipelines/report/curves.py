"""The numbers behind the plots, and the tables of confusions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.report.measured import ClassifierResult, Measured
from retrieval.evaluation.metrics import Reliability, reliability

# Points kept of a curve: more than a screen's pixels only make the page heavier.
MAX_POINTS: Final = 400

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A curve, and the point at which the system works where there is one."""

    x: Floats
    y: Floats
    chosen: tuple[float, float] | None = None


def precision_recall(measured: Measured, result: ClassifierResult) -> Curve:
    """Precision against recall over all answers, ranked by confidence in one list.

    This is the curve that GAP averages over: the threshold does not cut it, photographs without a
    landmark push the precision down, and recall is over all landmark photographs, failed ones
    included.
    """
    order = _by_confidence(measured, result)
    right = measured.best_is_right(result)[order]
    total = int(measured.with_landmark.sum())
    if not order.size or not total:
        return Curve(np.empty(0), np.empty(0))
    found = np.cumsum(right)
    keep = _thinned(order.size)
    return Curve((found / total)[keep], (found / np.arange(1, order.size + 1))[keep])


def rejection(measured: Measured, result: ClassifierResult) -> Curve:
    """Landmark photographs named right against others accepted, as the threshold sinks.

    Both are shares of all photographs of their kind. The chosen point is counted from what the
    classifier accepted, whatever its rule.
    """
    order = _by_confidence(measured, result)
    positives = int(measured.with_landmark.sum())
    negatives = int((~measured.with_landmark).sum())
    if not order.size or not positives or not negatives:
        return Curve(np.empty(0), np.empty(0))
    right = np.cumsum(measured.best_is_right(result)[order])
    false = np.cumsum(~measured.with_landmark[order])
    # Photographs of equal confidence are accepted together: only the last of each stands.
    confidence = result.confidence[order]
    last = np.append(confidence[1:] != confidence[:-1], True)
    x = np.concatenate(([0.0], false[last] / negatives))
    y = np.concatenate(([0.0], right[last] / positives))
    chosen = (
        float(result.accepted[~measured.with_landmark].mean()),
        float(measured.named_right(result)[measured.with_landmark].mean()),
    )
    keep = _thinned(x.size)
    return Curve(x[keep], y[keep], chosen)


def calibration(measured: Measured, result: ClassifierResult) -> Reliability:
    """Over every photograph that was described, with a landmark or not; the answer is the best
    candidate, accepted or not."""
    rows = result.answered & np.isfinite(result.probability)
    return reliability(result.probability[rows], measured.best_is_right(result)[rows])


def answered_confidences(
    measured: Measured, result: ClassifierResult
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Confidences of the landmark photographs, and of the others; those without one left out."""
    finite = np.isfinite(result.confidence)
    return (
        result.confidence[finite & measured.with_landmark],
        result.confidence[finite & ~measured.with_landmark],
    )


@dataclass(frozen=True)
class Confusion:
    """A wrong answer that keeps coming back.

    Attributes:
        truth: the landmark shown, ``None`` where there is none.
        answer: the landmark named instead.
        counts: how often, for each classifier.
        of: how many photographs of ``truth`` there are.
    """

    truth: str | None
    answer: str
    counts: tuple[int, ...]
    of: int


def confused_landmarks(measured: Measured, limit: int) -> list[Confusion]:
    """The pairs (landmark shown, another one taken for it), most frequent first.

    Counted on the best candidate, accepted or not, as top-1 accuracy is.
    """
    rows = measured.with_landmark
    chosen = [
        rows & (result.best >= 0) & ~measured.best_is_right(result) for result in _all(measured)
    ]
    return _most_frequent(measured, chosen, limit)


def false_accepts(measured: Measured, limit: int) -> list[Confusion]:
    """The landmarks that photographs of none are taken for, most frequent first."""
    rows = ~measured.with_landmark
    return _most_frequent(measured, [rows & result.accepted for result in _all(measured)], limit)


def per_landmark(measured: Measured) -> pd.DataFrame:
    """A row for each landmark of gallery and test, by id.

    Columns: landmark, name, gallery and queries (photographs); and of each classifier
    ``<name>_top1`` and ``<name>_named`` (queries whose best candidate is right, and of these the
    accepted), ``<name>_false_accepts`` (photographs of none that it is named for).
    """
    landmarks = pd.Index(sorted({*measured.landmarks, *filter(None, measured.truth)}))
    of_code = landmarks.get_indexer(pd.Index(measured.landmarks))
    shown = landmarks.get_indexer(pd.Index([one or "" for one in measured.truth]))

    def tally(places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(places, minlength=len(landmarks))

    columns: dict[str, object] = {
        "landmark": landmarks,
        "name": [measured.display(one) for one in landmarks],
        "gallery": tally(of_code[measured.gallery_codes]),
        "queries": tally(shown[measured.with_landmark]),
    }
    for result in measured.results:
        false = result.accepted & ~measured.with_landmark
        columns[f"{result.name}_top1"] = tally(shown[measured.best_is_right(result)])
        columns[f"{result.name}_named"] = tally(shown[measured.named_right(result)])
        columns[f"{result.name}_false_accepts"] = tally(of_code[result.best[false]])
    return pd.DataFrame(columns)


def worst_landmarks(measured: Measured, limit: int) -> list[dict[str, Any]]:
    """The landmarks that the answering classifier misses most, by share and then by number.

    Those that it always names right are left out.
    """
    table = per_landmark(measured)
    named = table[f"{measured.answer}_named"]
    missed = table.assign(missed=table["queries"] - named)[table["queries"] > named]
    missed = missed.assign(share=missed["missed"] / missed["queries"])
    order = ["share", "missed", "landmark"]
    worst = missed.sort_values(order, ascending=[False, False, True]).head(limit)
    return [
        {
            "name": row["name"],
            "gallery": int(row["gallery"]),
            "queries": int(row["queries"]),
            "named": [int(row[f"{result.name}_named"]) for result in measured.results],
        }
        for row in worst.to_dict("records")
    ]


def _all(measured: Measured) -> list[ClassifierResult]:
    return list(measured.results)


def _most_frequent(
    measured: Measured, chosen: list[NDArray[np.bool_]], limit: int
) -> list[Confusion]:
    tallies = [
        Counter(
            (measured.truth[row], int(result.best[row])) for row in np.flatnonzero(rows).tolist()
        )
        for result, rows in zip(measured.results, chosen, strict=True)
    ]
    of = Counter(measured.truth)
    pairs = {pair for tally in tallies for pair in tally}
    confusions = [
        Confusion(
            truth,
            measured.landmarks[code],
            tuple(tally[truth, code] for tally in tallies),
            of[truth],
        )
        for truth, code in pairs
    ]
    confusions.sort(key=lambda one: (-sum(one.counts), one.truth or "", one.answer))
    return confusions[:limit]


def _by_confidence(measured: Measured, result: ClassifierResult) -> NDArray[np.int64]:
    """Rows with an answer, most confident first, ties by id as in GAP."""
    rows = np.flatnonzero((result.best >= 0) & np.isfinite(result.confidence))
    ids = np.asarray(measured.ids, dtype=str)[rows]
    return rows[np.lexsort((ids, -result.confidence[rows].astype(np.float64)))]


def _thinned(size: int) -> NDArray[np.int64]:
    """At most MAX_POINTS positions out of ``size``, the first and the last among them."""
    if size <= MAX_POINTS:
        return np.arange(size)
    return np.unique(np.linspace(0, size - 1, MAX_POINTS).round().astype(np.int64))
