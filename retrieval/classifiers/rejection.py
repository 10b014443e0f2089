"""Whether to answer or to say "none", and how sure to be; settled on held-out photographs only.

What an answer's confidence is: the classifier's own (``threshold``), one signal of
:mod:`retrieval.classifiers.signals` in its place (``margin``, ``agreement``, ``evt``), or the
log-odds of a logistic model over all of them, learnt on the held-out photographs (``learnt``), or
of boosted trees (``boosted``). All compare photographs, so that global average precision may gain
by it.

The threshold is the one that maximises the mean of two shares: of the held-out gallery photographs
that are answered right (accepted, and right), and of the held-out bank photographs that are
rejected. Both count alike however many there are of each, since the sizes of gallery and bank say
nothing about what will be asked; ``landmark_share`` says otherwise. No more of the bank is accepted
than ``tolerance`` lets expect: of a small bank that may be a larger share, since it tells less, and
more care than it calls for would leave landmarks unanswered. Without a bank, each held-out gallery
photograph stands for one of none as well, by the best of the landmarks that it does not show: what
would be answered if its own were not in the gallery. Without held-out gallery photographs, all of
the bank is rejected. The same balance weighs the examples that a learnt confidence is learnt from;
those of the probabilities have a share of their own
(:class:`retrieval.classifiers.calibration.CalibrationConfig`). An operating point may be asked for
instead: the lowest threshold at which so large a share of answers is right, or at which no more of
the bank is accepted. Where held-out photographs are too few to promise it, the threshold is the
most careful one, and :attr:`Rejection.unkept` says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from retrieval.classifiers.base import PARTS, HeldOut, Judgement, Scores
from retrieval.classifiers.calibration import (
    CalibrationConfig,
    Curve,
    Isotonic,
    NoCurve,
    Platt,
    fit_curve,
)
from retrieval.classifiers.signals import FROM_SCORES, SIGNALS, SIGNS, Signals, signal_matrix
from retrieval.classifiers.thresholds import (
    OperatingPoint,
    accepting,
    best_threshold,
    bounded_threshold,
    precise_threshold,
    tolerated,
)
from retrieval.classifiers.trees import TIES, Trees
from retrieval.errors import ConfigError
from retrieval.index.gallery import Gallery
from retrieval.storage.files import read_json, reading, write_json
from retrieval.types import Flags, StrictModel

FILE: Final = "rejection.json"
ALONE: Final = {"margin": "margin", "agreement": "agreement", "evt": "tail"}
"""The signals that are confidences by themselves, by the kinds of rejection."""
logger = logging.getLogger(__name__)


class RejectionConfig(StrictModel):
    """When to say none.

    Attributes:
        kind: what the confidence is; see the module's docstring.
        target_precision: the share of answers to be right, or ``None``.
        max_false_accepts: the share of photographs without a landmark that may be answered, or
            ``None``; without either the threshold is the balanced one.
        landmark_share: of the photographs that will be asked, those that show a landmark.
        tolerance: the share of photographs like the bank's that the balanced threshold may accept
            (see :func:`tolerated`); photographs of none from elsewhere are accepted two to three
            times as often.
    """

    kind: Literal["threshold", "margin", "agreement", "evt", "learnt", "boosted"] = "threshold"
    target_precision: float | None = Field(default=None, ge=1e-6, lt=1.0)
    max_false_accepts: float | None = Field(default=None, ge=0.0, lt=1.0)
    landmark_share: float = Field(default=0.5, ge=1e-6, le=1.0 - 1e-6)
    tolerance: float = Field(default=0.05, ge=1e-6, le=1.0)

    @property
    def needs_signals(self) -> bool:
        """Whether more than scores is looked at."""
        return self.kind not in ("threshold", "margin")

    @model_validator(mode="after")
    def _one_point(self) -> Self:
        if self.target_precision is not None and self.max_false_accepts is not None:
            raise ValueError("target_precision and max_false_accepts: give one of them")
        return self


THRESHOLD: Final = RejectionConfig()
PLATT: Final = CalibrationConfig()


class SignalModel(StrictModel):
    """A confidence made of signals.

    Attributes:
        weights: of each signal.
        offset: added to their weighted sum.
        least: see :func:`retrieval.classifiers.signals.signals`.
        trees: whose log-odds is the confidence, if there are any; the sum then settles ties.
    """

    weights: list[float]
    offset: float
    least: float
    trees: Trees | None = None

    @property
    def needs_signals(self) -> bool:
        return self.trees is not None or any(self.weights[FROM_SCORES:])

    def confidence(self, found: NDArray[np.float64]) -> NDArray[np.float64]:
        """(q,) of (q, 6) signals."""
        total: NDArray[np.float64] = found @ np.array(self.weights) + self.offset
        return total if self.trees is None else self.trees.log_odds(found) + TIES * total

    def applied(self, scores: Scores, signals: Signals | None) -> Scores:
        """Scores whose confidence is the model's; the runners-up keep their distances."""
        return _with_confidence(scores, self.confidence(signal_matrix(scores, signals, self.least)))


class Expectation(StrictModel):
    """What became of the held-out photographs at the threshold.

    Attributes:
        shown: photographs of a landmark.
        right: of those, answered right.
        none: photographs of none.
        accepted: of those, answered.
    """

    shown: int
    right: int
    none: int
    accepted: int

    @property
    def certainty(self) -> float:
        """The highest probability that so many right answers can speak for (rule of succession)."""
        return (self.right + 1.0) / (self.right + 2.0)

    def surprise(self, none: int, accepted: int) -> str:
        """What to do where more photographs of none are answered than were expected to be; empty
        where chance may have it so (Fisher's exact test, 5 %)."""
        from scipy.stats import hypergeom

        both = self.none + none, self.accepted + accepted
        if hypergeom.sf(accepted - 1, both[0], both[1], none) > 0.05:
            return ""
        return (
            f"{_share(accepted, none)} of the test's photographs of none were answered, more than"
            f" the {self.none:,} held out let expect: photographs of their kind belong among those"
            " of none"
        )

    def __str__(self) -> str:
        return (
            f"of photographs that it had not seen, {_share(self.right, self.shown)} of those with a"
            f" landmark were answered right, {_share(self.accepted, self.none)} of those with none"
            " were answered"
        )


def _share(part: int, whole: int) -> str:
    """A share in per cent with its interval of 95 % (Jeffreys)."""
    from scipy.stats import beta

    if not whole:
        return "an unknown share"
    low, high = beta.ppf([0.025, 0.975], part + 0.5, whole - part + 0.5)
    return f"{part / whole:.0%} (between {low:.0%} and {high:.0%})"


class _SavedRejection(StrictModel):
    """What rejection.json holds; without a threshold every candidate is accepted, or nothing."""

    threshold: float | None
    nothing: bool = False
    expected: Expectation | None = None
    unkept: str = ""
    slope: float | None = None
    offset: float | None = None
    isotonic: list[list[float]] | None = None
    too_few: list[int] | None = None
    model: SignalModel | None = None

    def curve(self) -> Curve:
        """The curve of whichever form there is."""
        if self.too_few is not None:
            right, wrong = self.too_few
            return NoCurve(right, wrong)
        if self.isotonic is not None:
            confidences, probabilities = map(tuple, self.isotonic)
            return Isotonic(confidences, probabilities)
        if self.slope is None or self.offset is None:
            raise ValueError("no curve")
        return Platt(self.slope, self.offset)


@dataclass(frozen=True)
class Rejection:
    """A threshold on the confidence, and the curve that makes a probability of it.

    Attributes:
        threshold: the least confidence that is accepted; -inf accepts every candidate, inf none.
        curve: confidences to probabilities.
        model: what makes the confidence, or ``None`` where it is the classifier's own.
        unkept: why the operating point that was asked for cannot be promised; empty where it is,
            or where none was asked for.
        expected: what became of the held-out photographs; ``None`` for a run of a version that did
            not count them.
    """

    threshold: float
    curve: Curve
    model: SignalModel | None = None
    unkept: str = ""
    expected: Expectation | None = None

    @classmethod
    def fit(
        cls,
        held_out: HeldOut,
        config: RejectionConfig = THRESHOLD,
        calibration: CalibrationConfig | None = PLATT,
    ) -> Rejection:
        """Choose threshold and curve on photographs that the classifier has not seen.

        Raises:
            ConfigError: false accepts are to be bounded, and there is no bank to see them by.
        """
        if not len(held_out.bank):
            if config.max_false_accepts is not None:
                raise ConfigError(
                    "rejection.max_false_accepts: needs photographs without a landmark (none.csv)"
                )
            logger.warning(
                "no photographs without a landmark were given: gallery photographs whose landmark"
                " is left out stand for them, and no probabilities are given (landmarks data bank"
                " makes such photographs)"
            )
            held_out = _of_other_landmarks(held_out)
            calibration = None
        gallery, bank = held_out.gallery.confidence, held_out.bank.confidence
        if not len(gallery):
            logger.warning(
                "no landmark has two photographs: the threshold for answering is chosen "
                "on the bank alone"
            )
        right = np.concatenate([held_out.correct, np.zeros(len(bank), np.bool_)])
        confidence = np.concatenate([gallery, bank])
        weights = _shares(held_out, config.landmark_share)
        curve: Curve = NoCurve(int(held_out.correct.sum()), 0)
        if calibration is not None:
            asked = _shares(held_out, calibration.landmark_share)
            curve = fit_curve(calibration, confidence, right, asked)
        if config.target_precision is not None:
            point = precise_threshold(confidence, right, weights, config.target_precision)
        elif config.max_false_accepts is not None:
            point = bounded_threshold(confidence, bank, config.max_false_accepts)
        else:
            # A wrong answer costs nothing beyond itself, unless only the gallery can speak.
            cost = np.where(right, 0.0, weights)
            if len(bank):
                cost[: len(gallery)] = 0.0
            balanced = best_threshold(confidence, np.where(right, weights, -cost))
            if len(bank):
                allowed = tolerated(len(bank), config.tolerance)
                balanced = max(balanced, accepting(confidence, bank, allowed))
            point = OperatingPoint(balanced)
        answered = confidence >= point.threshold
        count = len(gallery)
        expected = Expectation(
            shown=count,
            right=int((answered & right).sum()),
            none=len(bank),
            accepted=int(answered[count:].sum()),
        )
        return cls(point.threshold, curve, unkept=point.unkept, expected=expected)

    @property
    def notes(self) -> list[str]:
        """What to expect of the answers, and the caveats, a line each."""
        return [str(self.expected)] * (self.expected is not None) + self.caveats

    @property
    def caveats(self) -> list[str]:
        """What a reader of the answers has to know of threshold and probabilities, a line each."""
        unkept = [f"promise not kept: {self.unkept}"] if self.unkept else []
        return unkept + ([str(self.curve)] if isinstance(self.curve, NoCurve) else [])

    def surprises(self, none: int, accepted: int) -> list[str]:
        """What so many answers to a test's photographs of none tell against what was expected."""
        told = "" if self.expected is None else self.expected.surprise(none, accepted)
        return [told] * bool(told)

    @property
    def needs_signals(self) -> bool:
        """Whether ``judge`` must be given signals."""
        return self.model is not None and self.model.needs_signals

    def judge(self, scores: Scores, signals: Signals | None = None) -> Judgement:
        """Probability and acceptance of each query's first candidate.

        The scores of the judgement have the confidence that was judged.
        """
        if self.model is not None:
            scores = self.model.applied(scores, signals)
        confidence = scores.confidence
        accepted = (confidence >= self.threshold) & (scores.best >= 0)
        probability = self.curve.probability(confidence)
        if self.expected is not None:
            probability = probability * np.float32(self.expected.certainty)
        return Judgement(scores, probability, accepted)

    def save(self, folder: Path) -> None:
        """Write ``rejection.json``."""
        saved: dict[str, Any] = {
            "threshold": self.threshold if np.isfinite(self.threshold) else None,
            "nothing": self.threshold == np.inf,
            "unkept": self.unkept,
            "expected": None if self.expected is None else self.expected.model_dump(),
        }
        if isinstance(self.curve, NoCurve):
            saved["too_few"] = [self.curve.right, self.curve.wrong]
        elif isinstance(self.curve, Platt):
            saved |= {"slope": self.curve.slope, "offset": self.curve.offset}
        else:
            knots = [self.curve.confidences, self.curve.probabilities]
            saved["isotonic"] = [list(each) for each in knots]
        if self.model is not None:
            saved["model"] = self.model.model_dump()
        write_json(folder / FILE, saved)

    @classmethod
    def load(cls, folder: Path) -> Rejection:
        """Read what ``save`` wrote.

        Raises:
            RunError: it is missing or damaged.
        """
        with reading(folder / FILE):
            saved = _SavedRejection.model_validate(read_json(folder / FILE))
            threshold = saved.threshold
            if threshold is None:
                threshold = np.inf if saved.nothing else -np.inf
            return cls(threshold, saved.curve(), saved.model, saved.unkept, saved.expected)


def fit_rejection(
    held_out: HeldOut,
    galleries: Sequence[Gallery],
    config: RejectionConfig = THRESHOLD,
    calibration: CalibrationConfig = PLATT,
    seed: int = 0,
) -> tuple[Rejection, HeldOut]:
    """A rejection of the config's kind.

    Args:
        held_out: scores of photographs that the classifier has not seen.
        galleries: in which they were held out.
        config: the kind, and the operating point.
        calibration: the probabilities' curve.
        seed: of the parts in which a learnt model is cross-fitted.

    Returns:
        the rejection, and the held-out scores with the confidences that it was settled on: of
        each photograph by a model that was fitted without it.

    Raises:
        ConfigError: as :meth:`Rejection.fit`.
    """
    if config.kind == "threshold":
        return Rejection.fit(held_out, config, calibration), held_out
    values = np.concatenate([held_out.gallery.values.ravel(), held_out.bank.values.ravel()])
    least = float(values[np.isfinite(values)].min(initial=0.0))
    signals: tuple[Signals | None, Signals | None] = None, None
    if config.needs_signals:
        signals = Signals.held_out(galleries, held_out)
    if config.kind in ALONE:
        chosen = [float(one == ALONE[config.kind]) for one in SIGNALS]
        model = SignalModel(weights=chosen, offset=0.0, least=least)
        judged = replace(
            held_out,
            gallery=model.applied(held_out.gallery, signals[0]),
            bank=model.applied(held_out.bank, signals[1]),
        )
    else:
        found = (signal_matrix(held_out.gallery, signals[0], least),
                 signal_matrix(held_out.bank, signals[1], least))  # fmt: skip
        model, judged = _learnt(held_out, found, config, least, seed)
    return replace(Rejection.fit(judged, config, calibration), model=model), judged


def _of_other_landmarks(held_out: HeldOut) -> HeldOut:
    """Held-out gallery photographs as the bank too, each by the best landmark it does not show."""
    scores, others = held_out.gallery, held_out.gallery.candidates != held_out.truth[:, None]
    values = np.where(others, scores.values, np.float32(-np.inf))
    found = Scores.top(values, 1) if values.size else Scores.blank(len(scores), 1)
    there = np.isfinite(found.values[:, 0])
    return replace(held_out, bank_rows=held_out.rows[there], bank=found.at(np.flatnonzero(there)))


def _shares(held_out: HeldOut, share: float) -> NDArray[np.float64]:
    """(g + b,) weights of which those of the gallery sum to the share, the bank's to the rest."""
    counts = len(held_out.rows), len(held_out.bank_rows)
    each = share / max(counts[0], 1), (1.0 - share) / max(counts[1], 1)
    return np.repeat(each, counts)


def _learnt(
    held_out: HeldOut,
    found: tuple[NDArray[np.float64], NDArray[np.float64]],
    config: RejectionConfig,
    least: float,
    seed: int,
) -> tuple[SignalModel, HeldOut]:
    """A model over (g, 6) and (b, 6) signals, and the confidences by cross-fitted ones."""
    parts = np.concatenate(held_out.parts(seed))
    everything = np.concatenate(found)
    candidates = np.concatenate([held_out.gallery.best, held_out.bank.best]) >= 0
    right = np.concatenate([held_out.correct, np.zeros(len(held_out.bank_rows), np.bool_)])
    weights = _shares(held_out, config.landmark_share)

    def fitted(on: Flags) -> SignalModel:
        by, offset = _logistic(everything[on], right[on], weights[on])
        grown = config.kind == "boosted"
        trees = Trees.fit(everything[on], right[on], weights[on]) if grown else None
        return SignalModel(weights=by.tolist(), offset=offset, least=least, trees=trees)

    model, *folds = [fitted(candidates & (parts != part)) for part in (-1, *range(PARTS))]
    if any(one.trees is None for one in (model, *folds)):
        # What the threshold is chosen by has to be of the model's kind.
        model, *folds = (one.model_copy(update={"trees": None}) for one in (model, *folds))
    confidence = np.full(len(right), -np.inf)
    for part, one in enumerate(folds):
        own = (parts == part) & candidates
        confidence[own] = one.confidence(everything[own])
    count = len(held_out.rows)
    return model, replace(
        held_out,
        gallery=_with_confidence(held_out.gallery, confidence[:count]),
        bank=_with_confidence(held_out.bank, confidence[count:]),
    )


def _logistic(
    found: NDArray[np.float64], right: Flags, weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Weights of (n, 6) signals as they are, and an offset: the confidence alone where all answers
    are right, or none.

    No weight has the wrong sign: held-out photographs lack one of their landmark's photographs,
    themselves, and a gallery of few would have it that agreement speaks against an answer.
    """
    from scipy.optimize import minimize

    if right.all() or not right.any():
        return np.eye(len(SIGNALS))[0], 0.0
    centre, spread = found.mean(axis=0), found.std(axis=0)
    inputs = (found - centre) / np.where(spread < 1e-9, 1.0, spread) * SIGNS
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    weights = weights * (len(weights) / weights.sum())
    sign = np.where(right, 1.0, -1.0)

    def loss(by: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = sign * (inputs @ by)
        wrong = weights * sign * np.exp(-np.logaddexp(0.0, odds))
        penalty = np.append(by[:-1], 0.0)
        return weights @ np.logaddexp(0.0, -odds) + penalty @ penalty / 2, penalty - wrong @ inputs

    bounds = [(0.0, None)] * len(SIGNALS) + [(None, None)]
    best: Any = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds).x
    by = best[:-1] * SIGNS / np.where(spread < 1e-9, 1.0, spread)
    return by, float(best[-1] - by @ centre)


def _with_confidence(scores: Scores, confidence: NDArray[np.float64]) -> Scores:
    """Scores whose first values are others; the runners-up keep their distances."""
    here = scores.best >= 0
    values = scores.values.copy()
    shift = confidence[here] - values[here, 0]
    values[here] = values[here] + shift[:, None].astype(np.float32)
    values[here, 0] = confidence[here]
    return Scores(scores.candidates, values)
