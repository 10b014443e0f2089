"""Why this landmark, or none: a classifier's value taken apart, and what would change it.

For the first candidate and the runner-up: the terms that add up to the value, the neighbours that
voted, and for a linear classifier its score split over the places of the photograph. Beside them
the threshold, and by how much each signal, or how many neighbours, would have to differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.classifiers.base import Classifier, Judgement
from retrieval.classifiers.centroid import CentroidClassifier
from retrieval.classifiers.ensemble import EnsembleClassifier
from retrieval.classifiers.network import NetworkClassifier
from retrieval.classifiers.rejection import Rejection, SignalModel
from retrieval.classifiers.signals import SIGNALS, Signals, signal_matrix
from retrieval.classifiers.svm import SvmClassifier
from retrieval.classifiers.vote import VoteClassifier
from retrieval.descriptors.representation import Representation
from retrieval.explain.shares import Side, towards
from retrieval.explain.split import Split
from retrieval.index.neighbours import Neighbours

CASES: Final = 2
"""Candidates that are looked at: the first, and the runner-up."""
ABSENT: Final = 100
"""Neighbours that are left out at most, to see what would be answered."""
RANGES: Final = {
    "margin": (0.0, np.inf), "agreement": (0.0, 1.0), "bank": (-1.0, 1.0), "nearest": (-1.0, 1.0)
}  # fmt: skip
"""What signals can be, where they are bounded."""


@dataclass(frozen=True)
class Term:
    """Something that adds to a value."""

    name: str
    value: float


@dataclass(frozen=True)
class Voter:
    """A neighbour that votes.

    Attributes:
        row: of the gallery.
        rank: among the neighbours, from 1.
        similarity: to the photograph; what it votes by.
        bonus: what verification added to that.
        weight: its vote.
        share: of its landmark's votes.
        correction: its similarity to photographs without a landmark.
    """

    row: int
    rank: int
    similarity: float
    bonus: float
    weight: float
    share: float
    correction: float


@dataclass(frozen=True)
class Case:
    """What speaks for one landmark.

    Attributes:
        code: of the landmark.
        value: the classifier's.
        terms: what that adds up from; of an ensemble its members' own values, which a learnt
            fusion makes it of; none for a classifier that is not taken apart.
        voters: its neighbours, nearest first; none for a classifier without a vote.
        score: what the places add to the classifier's linear score (an SVM's margin or a head's
            logit, with the bias in the constant, the similarity to a mean); ``None`` for any other
            classifier.
    """

    code: int
    value: float
    terms: tuple[Term, ...] = ()
    voters: tuple[Voter, ...] = ()
    score: Side | None = None


@dataclass(frozen=True)
class SignalRow:
    """What a signal does to the confidence.

    Attributes:
        name: as of :data:`retrieval.classifiers.signals.SIGNALS`; or ``offset``.
        value: of this photograph.
        added: to the confidence; NaN where trees make that.
        needed: the value at which, with all else as it is, the verdict would turn; NaN where it
            can have none such.
    """

    name: str
    value: float
    added: float
    needed: float


@dataclass(frozen=True)
class Verdict:
    """What one classifier says.

    Attributes:
        name: of the classifier.
        kind: of the classifier.
        accepted: whether the first candidate is the answer; none otherwise.
        confidence: what is compared with the threshold.
        threshold: the least confidence that is accepted.
        probability: that the first candidate is right; NaN where there is none.
        cases: the first candidate's, and the runner-up's if there is one.
        signals: what the confidence was made of, where it is not the value alone.
        changes: what would have had to differ for the verdict to turn, in words.
    """

    name: str
    kind: str
    accepted: bool
    confidence: float
    threshold: float
    probability: float
    cases: tuple[Case, ...]
    signals: tuple[SignalRow, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True)
class _Scored:
    """A landmark that a classifier has a value for, and what that was made of.

    Attributes:
        code: of the landmark.
        value: the classifier's.
        query: the photograph.
        neighbours: its.
        split: its descriptor taken apart, or ``None``.
    """

    code: int
    value: float
    query: Representation
    neighbours: Neighbours
    split: Split | None


def verdict(
    name: str,
    classifier: Classifier,
    rejection: Rejection,
    query: Representation,
    neighbours: Neighbours,
    signals: Signals | None,
    split: Split | None,
) -> Verdict:
    """What a classifier says of one photograph, taken apart.

    Args:
        name: of the classifier.
        classifier: fitted.
        rejection: of the classifier.
        query: one photograph.
        neighbours: its, as many as the classifier looks at.
        signals: its surroundings, where the rejection looks at them.
        split: its descriptor taken apart, or ``None``.
    """
    scores = classifier.scores(query, neighbours)
    judged = rejection.judge(scores, signals)
    codes = [int(code) for code in scores.candidates[0][:CASES] if code >= 0]
    case = CASES_OF.get(type(classifier), _plain)
    cases = tuple(
        case(classifier, _Scored(code, float(value), query, neighbours, split))
        for code, value in zip(codes, scores.values[0], strict=False)
    )
    confidence = float(judged.scores.confidence[0])
    gap = confidence - rejection.threshold
    rows: tuple[SignalRow, ...] = ()
    model = rejection.model
    if model is not None and cases:
        found = signal_matrix(scores, signals, model.least)[0]
        rows = _signal_rows(model, found, gap)
    accepted = bool(judged.accepted[0])
    changes = []
    if cases and np.isfinite(gap):
        word = "fall" if accepted else "rise"
        changes.append(
            f"the confidence would have to {word} by {abs(gap):.3f}, from {confidence:.3f} to"
            f" {rejection.threshold:.3f}"
        )
    if isinstance(classifier, VoteClassifier) and cases:
        changes += _of_vote(classifier, rejection, query, neighbours, accepted, gap, cases)
    if isinstance(classifier, SvmClassifier) and cases and model is None:
        changes += _of_svm(cases, accepted, gap)
    return Verdict(
        name, classifier.kind, accepted, confidence, rejection.threshold,
        float(judged.probability[0]), cases, rows, tuple(changes),
    )  # fmt: skip


def _signal_rows(
    model: SignalModel, found: NDArray[np.float64], gap: float
) -> tuple[SignalRow, ...]:
    """The signals that a model looks at, of (6,) of them."""
    if model.trees is not None:  # what these add is no sum
        pairs = zip(SIGNALS, found, strict=True)
        return tuple(SignalRow(name, float(value), np.nan, np.nan) for name, value in pairs)
    rows = []
    for name, value, weight in zip(SIGNALS, found, model.weights, strict=True):
        if weight:
            needed = float(value - gap / weight)
            low, high = RANGES.get(name, (-np.inf, np.inf))
            turns = needed if low <= needed <= high else np.nan
            rows.append(SignalRow(name, float(value), float(weight * value), turns))
    return (*rows, SignalRow("offset", np.nan, model.offset, np.nan))


def _plain(classifier: Classifier, scored: _Scored) -> Case:
    """Of a classifier that is not linear in the descriptor."""
    return Case(scored.code, scored.value)


def _by_vote(classifier: VoteClassifier, scored: _Scored) -> Case:
    neighbours = scored.neighbours
    ballot = classifier.ballot(scored.query, neighbours)
    (group,) = np.flatnonzero(ballot.landmarks == scored.code)
    terms = (
        Term("its neighbours' votes", float(ballot.votes[group])),
        Term("these resemble photographs of none", float(ballot.by_rows[group])),
        Term("the photograph resembles some of none", ballot.by_query),
    )
    own = np.flatnonzero(ballot.codes == scored.code)
    total = float(ballot.weights[own].sum())
    bonus = neighbours.bonus
    voters = tuple(
        Voter(
            row=int(neighbours.rows[0, place]),
            rank=int(place) + 1,
            similarity=float(neighbours.similarities[0, place]),
            bonus=0.0 if bonus is None else float(bonus[0, place]),
            weight=float(ballot.weights[place]),
            share=float(ballot.weights[place]) / total if total else 0.0,
            correction=float(ballot.corrections[place]),
        )
        for place in own
    )
    return Case(scored.code, scored.value, terms, voters)


def _by_svm(classifier: SvmClassifier, scored: _Scored) -> Case:
    config, code, value = classifier.config, scored.code, scored.value
    margins = classifier.margins(scored.query.vectors)[0].astype(np.float64)
    bank = -config.bank_weight * margins[-1] if np.isfinite(margins[-1]) else 0.0
    gained = classifier.gained(scored.neighbours, code)
    terms = [Term("its margin", float(margins[code]))]
    if config.verified:
        terms.append(Term("its photographs were verified", gained))
    against = value - float(margins[code]) - gained - bank
    terms.append(Term("what speaks for other landmarks, and for none", against))
    if config.bank_weight:
        terms.append(Term("the margin of none besides", bank))
    score = None if scored.split is None else margin_split(classifier, scored.split, code)
    return Case(code, value, tuple(terms), score=score)


def margin_split(classifier: SvmClassifier, split: Split, code: int) -> Side:
    """A landmark's margin by places, the bias in the constant."""
    scaled = split.scaled(classifier.scale.astype(np.float64)).unit()
    side = towards(scaled, classifier.weights[code])
    return replace(side, constant=side.constant + float(classifier.biases[code]))


def _by_centroid(classifier: CentroidClassifier, scored: _Scored) -> Case:
    code, value, split = scored.code, scored.value, scored.split
    likeness = float(scored.query.vectors[0] @ classifier.means[code])
    correction = -classifier.config.mean_correction * float(classifier.corrections[code])
    terms = (
        Term("its photographs' mean is as similar", likeness),
        Term("that mean resembles photographs of none", correction),
        Term("the photograph resembles some of none", value - likeness - correction),
    )
    score = None if split is None else towards(split, classifier.means[code])
    return Case(code, value, terms, score=score)


def _by_network(classifier: NetworkClassifier, scored: _Scored) -> Case:
    code, value, head = scored.code, scored.value, classifier.head
    with torch.inference_mode():
        row = torch.from_numpy(np.array(scored.query.vectors)).to(head.weight.device)
        logit = float(head(row)[0, classifier.codes.tolist().index(code)])
    terms = [Term("its logit", logit)]
    if head.config.kind != "sigmoid":  # of which the value is the logit
        terms.append(Term("what speaks for other landmarks, and for none", value - logit))
    score = None if scored.split is None else head_split(classifier, scored.split, code)
    return Case(code, value, tuple(terms), score=score)


def head_split(classifier: NetworkClassifier, split: Split, code: int) -> Side | None:
    """A landmark's logit by places, the bias in the constant; ``None`` of a head with a hidden
    layer, which is not linear in the embedding."""
    head, place = classifier.head, classifier.codes.tolist().index(code)
    if head.hidden is not None:
        return None
    row = torch.from_numpy(split.total.astype(np.float32)[None]).to(head.weight.device)
    # The derivative is the landmark's weights: of several centres those of the nearest.
    (slopes,) = torch.autograd.grad(head(row.requires_grad_())[0, place], row)
    side = towards(split, slopes[0].cpu().numpy())
    bias = 0.0 if head.bias is None else float(head.bias[place].detach())
    return replace(side, constant=side.constant + bias)


def _by_members(classifier: EnsembleClassifier, scored: _Scored) -> Case:
    """What each member's own value is: these do not add up, the fusion is learnt."""
    terms = []
    for name, member in classifier.members.items():
        scores = member.scores(scored.query, scored.neighbours)
        place = np.flatnonzero(scores.candidates[0] == scored.code)
        own = float(scores.values[0, place[0]]) if len(place) else -np.inf
        terms.append(Term(f"{name} by itself", own))
    return Case(scored.code, scored.value, tuple(terms))


CASES_OF: Final[dict[type[Any], Callable[..., Case]]] = {
    VoteClassifier: _by_vote,
    SvmClassifier: _by_svm,
    CentroidClassifier: _by_centroid,
    NetworkClassifier: _by_network,
    EnsembleClassifier: _by_members,
}
"""The classifiers that are taken apart; of any other a case has its value alone."""
SPLITS: Final[dict[type[Any], tuple[str, Callable[..., Side | None]]]] = {
    SvmClassifier: ("margin", margin_split),
    NetworkClassifier: ("logit", head_split),
}
"""What of a classifier's own is split over places, and what does it."""


def _of_vote(
    classifier: VoteClassifier,
    rejection: Rejection,
    query: Representation,
    neighbours: Neighbours,
    accepted: bool,
    gap: float,
    cases: Sequence[Case],
) -> list[str]:
    """What of the vote would have to differ."""
    first = cases[0]
    told = []
    if rejection.model is None and np.isfinite(gap) and classifier.config.query_correction:
        near = -first.terms[2].value / classifier.config.query_correction
        needed = near + gap / classifier.config.query_correction
        if needed <= 1:
            word = "more" if gap > 0 else "less"
            told.append(
                f"it would have to resemble photographs of none {word}: {needed:.3f} and not"
                f" {near:.3f}"
            )
    if accepted and not rejection.needs_signals:
        told += _without_voters(classifier, rejection, query, neighbours, first)
    return told


def _without_voters(
    classifier: VoteClassifier,
    rejection: Rejection,
    query: Representation,
    neighbours: Neighbours,
    first: Case,
) -> list[str]:
    """How many of its nearest neighbours would have to be absent, none coming in their place."""
    places = [voter.rank - 1 for voter in first.voters]
    for count in range(1, min(len(places), ABSENT) + 1):
        kept = np.delete(np.arange(neighbours.rows.shape[1]), places[:count])
        bonus = None if neighbours.bonus is None else neighbours.bonus[:, kept]
        fewer = Neighbours(neighbours.rows[:, kept], neighbours.similarities[:, kept], bonus)
        judged: Judgement = rejection.judge(classifier.scores(query, fewer))
        same = int(judged.scores.best[0]) == first.code
        if not (same and judged.accepted[0]):
            then = "none" if not judged.accepted[0] else "another landmark"
            which = "its nearest neighbour" if count == 1 else f"its nearest {count} neighbours"
            return [f"without {which} of {len(places)} the answer would be {then}"]
    return []


def _of_svm(cases: Sequence[Case], accepted: bool, gap: float) -> list[str]:
    """At which margin the verdict would turn, all others as they are."""
    margin = cases[0].terms[0].value
    if not np.isfinite(gap):
        return []
    way = "below" if accepted else "at least"
    return [f"its margin would have to be {way} {margin - gap:.3f}, and is {margin:.3f}"]
