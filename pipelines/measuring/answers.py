"""Every classifier's answers to a described table, judged in batches, and how good each is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.report.measured import ClassifierResult
from pipelines.report.page import NEIGHBOURS
from retrieval.classifiers.rejection import Rejection
from retrieval.descriptors.representation import Representation
from retrieval.evaluation.intervals import Outcomes, intervals
from retrieval.evaluation.metrics import (
    Truth,
    average_precisions,
    false_accepts_at,
    first_ranks,
    gallery_hits,
    precision,
    precision_at_share,
    recognition_metrics,
    reliability,
)
from retrieval.index.expansion import Members, rerank_by_label
from retrieval.index.neighbours import Neighbours
from retrieval.system import System
from retrieval.types import Flags, Integers, Vectors

BATCH: Final = 4096  # queries judged at once
CANDIDATES: Final = 5  # kept of each answer
RANKED: Final = 100  # gallery photographs that mAP@100 looks at
DEEP: Final = 1000  # and those that mAP does
RECALLS: Final = (1, 10, 100)


@dataclass(frozen=True)
class ClassifierAnswers:
    """One classifier's answers to n rows, and how good the ranking is by them.

    A row that failed has no candidate, a confidence of -inf, and a probability of NaN.
    """

    candidates: Integers
    confidence: Vectors
    probability: Vectors
    accepted: Flags
    average_precision: NDArray[np.float64]

    @classmethod
    def blank(cls, n: int) -> ClassifierAnswers:
        return cls(
            np.full((n, CANDIDATES), -1),
            np.full(n, -np.inf, np.float32),
            np.full(n, np.nan, np.float32),
            np.zeros(n, np.bool_),
            np.zeros(n),
        )


@dataclass(frozen=True)
class Ranking:
    """The nearest gallery photographs of n rows, and how good the ranking is; failed rows found
    nothing."""

    near: Neighbours
    average_precision: NDArray[np.float64]
    whole_precision: NDArray[np.float64]
    first_rank: Integers

    @classmethod
    def blank(cls, n: int) -> Ranking:
        near = Neighbours(
            np.full((n, NEIGHBOURS), -1), np.full((n, NEIGHBOURS), -np.inf, np.float32)
        )
        return cls(near, np.zeros(n), np.zeros(n), np.zeros(n, np.int64))

    def figures(self, shown: Flags) -> dict[str, float]:
        """The figures that all classifiers share, over the rows that show a landmark."""
        first = self.first_rank[shown]
        return {
            "map100": _mean(self.average_precision[shown]),
            "map": _mean(self.whole_precision[shown]),
            **{f"recall{k}": _mean((first > 0) & (first <= k)) for k in RECALLS},
        }


def judge_rows(
    system: System, descriptors: Representation, rows: Integers, truth_codes: Integers
) -> tuple[Ranking, dict[str, ClassifierAnswers]]:
    """Search and judge photographs in batches, so that memory holds a few figures a row.

    Args:
        system: the loaded run.
        descriptors: of the described rows.
        rows: (ok,) these rows' places among all n.
        truth_codes: (n,) the landmarks that all rows show.

    Returns:
        the ranking, and each classifier's answers, of all n rows.
    """
    ranking = Ranking.blank(len(truth_codes))
    answers = {name: ClassifierAnswers.blank(len(truth_codes)) for name in system.classifiers}
    codes = np.asarray(system.gallery.codes)
    members = Members.of(codes)
    wanted = max(classifier.neighbours for classifier in system.classifiers.values())
    for start in range(0, len(rows), BATCH):
        block, here = descriptors[start : start + BATCH], rows[start : start + BATCH]
        truth = Truth.of_codes(truth_codes[here])
        # One search serves both; the classifiers see what they would have asked for.
        near = system.neighbours(block, max(RANKED, wanted))
        ranked = near.first(RANKED)
        for name, judgement in system.judge(block, near.first(wanted)).items():
            of, scores = answers[name], judgement.scores
            candidates = scores.candidates[:, :CANDIDATES]
            of.candidates[here, : candidates.shape[1]] = candidates
            of.confidence[here] = scores.confidence
            of.probability[here] = judgement.probability
            of.accepted[here] = judgement.accepted
            by_label = rerank_by_label(
                ranked, members, scores.best, judgement.accepted, block.vectors,
                system.gallery.searcher.vectors,
            )  # fmt: skip
            hits, relevant = gallery_hits(by_label.rows, codes, truth)
            of.average_precision[here] = average_precisions(hits, relevant, RANKED)
        ranking.near.rows[here] = near.rows[:, :NEIGHBOURS]
        ranking.near.similarities[here] = near.similarities[:, :NEIGHBOURS]
        hits, relevant = gallery_hits(ranked.rows, codes, truth)
        ranking.average_precision[here] = average_precisions(hits, relevant, RANKED)
        ranking.first_rank[here] = first_ranks(hits)
        ranking.whole_precision[here] = _whole_precisions(system, block, truth, codes)
    return ranking, answers


def _whole_precisions(
    system: System, block: Representation, truth: Truth, codes: Integers
) -> NDArray[np.float64]:
    """(q,) average precision over :data:`DEEP` ranks, of the queries that show a landmark.

    A search of its own: where words propose neighbours too, a deeper search has others to choose
    from, and classifiers would not see what they see in use.
    """
    precisions = np.zeros(truth.count)
    shown = truth.photographs
    if shown.size:
        rows = system.neighbours(block[shown], DEEP).rows
        hits, relevant = gallery_hits(rows, codes, Truth.of_codes(truth.landmarks))
        precisions[shown] = average_precisions(hits, relevant, len(codes))
    return precisions


def result_of(
    name: str,
    answers: ClassifierAnswers,
    rejection: Rejection,
    ids: Sequence[str],
    truth: Truth,
    ranking: Mapping[str, float],
    share: float | None,
) -> ClassifierResult:
    """A classifier's answers with their figures.

    Args:
        name: of the classifier.
        answers: to n rows.
        rejection: that accepted them.
        ids: (n,) of the rows.
        truth: of the rows.
        ranking: the figures that all classifiers share.
        share: of landmark photographs, for which precision is given too, or ``None``.
    """
    best = answers.candidates[:, 0]
    shown, right, answered = truth.has_landmark, truth.holds(best), best >= 0
    given = answered & np.isfinite(answers.probability)
    figures = {
        **recognition_metrics(ids, answers.candidates, answers.confidence, answers.accepted, truth),
        **ranking,
        "map100_by_label": _mean(answers.average_precision[shown]),
        "false_accepts_at_90": false_accepts_at(answers.confidence, right, shown),
        "precision": precision(right, answers.accepted),
        "precision_at_full_coverage": precision(right, answered),
        "calibration_error": reliability(answers.probability[given], right[given]).error,
    }
    if share is not None:
        figures["precision_at_share"] = precision_at_share(right, answers.accepted, shown, share)
    none = ~shown
    surprises = rejection.surprises(int(none.sum()), int(answers.accepted[none].sum()))
    return ClassifierResult(
        name,
        answers.candidates,
        answers.confidence,
        answers.probability,
        answers.accepted,
        float(rejection.threshold),
        figures,
        intervals(Outcomes.of(ids, best, answers.confidence, answers.accepted, truth)),
        caveats=[*rejection.notes, *surprises],
    )


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else math.nan
