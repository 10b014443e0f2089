"""Confidences to probabilities: curves through held-out scores.

* ``platt`` (J. Platt, "Probabilistic outputs for support vector machines", 1999): a logistic curve,
  with targets drawn in from 0 and 1 by the number of examples (his section 2.2), so that perfectly
  separated scores do not become certainties. It rises strictly.
* ``temperature`` (Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2):
  the same without an offset, for confidences that are log-odds already.
* ``isotonic`` (Zadrozny and Elkan, KDD 2002): the steps that fit best and never fall, between
  which probabilities are interpolated; for many examples. Its flat parts make equals of
  confidences that differ, which photographs are ranked by all the same.

A curve through answers of one kind alone, or through fewer than ``LEAST_OF_EACH`` of either, would
be the curve's form and not the photographs' doing: then there is none, and no probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.types import Flags, StrictModel, Vectors

LEAST_SLOPE: Final = 1e-3
"""Per standard deviation of the scores, where they tell nothing or mislead."""

LEAST_OF_EACH: Final = 30
"""Right answers, and wrong ones, that a curve is learnt from."""


class CalibrationConfig(StrictModel):
    """The curve.

    Attributes:
        kind: its form.
        landmark_share: of the photographs that will be asked, those that show a landmark. Fewer
            than half, by default: most queries show none, and a probability that is too low
            misleads nobody.
    """

    kind: Literal["platt", "temperature", "isotonic"] = "platt"
    landmark_share: float = Field(default=0.25, ge=0.01, le=0.99)


@dataclass(frozen=True)
class Platt:
    """``1 / (1 + exp(-(slope * confidence + offset)))`` with a positive slope."""

    slope: float
    offset: float

    @classmethod
    def fit(
        cls,
        confidence: NDArray[np.floating[Any]],
        right: Flags,
        weights: Any,
        shifted: bool = True,
    ) -> Platt:
        """Learn the curve.

        Args:
            confidence: (n,) held-out scores; infinite ones (no candidate at all) are left out.
            right: (n,) whether the answer was.
            weights: (n,) of the examples.
            shifted: whether there is an offset.
        """
        from sklearn.linear_model import LogisticRegression

        scores, right, weights = _finite(confidence, right, weights)
        if not len(scores):
            return cls(1.0, 0.0)
        centre, spread = scores.mean() if shifted else 0.0, scores.std() or 1.0
        target = _drawn_in(right)
        scaled = ((scores - centre) / spread)[:, None]
        # A soft target is one example of each kind, weighted.
        logistic = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000, fit_intercept=shifted).fit(
            np.concatenate([scaled, scaled]),
            np.repeat([1, 0], len(scores)),
            np.concatenate([weights * target, weights * (1.0 - target)]),
        )
        slope = max(float(logistic.coef_[0, 0]), LEAST_SLOPE)
        intercept = float(logistic.intercept_[0]) if shifted else 0.0
        offset = intercept - slope * centre / spread
        return cls(float(slope / spread), float(offset))

    def probability(self, confidence: NDArray[np.floating[Any]]) -> Vectors:
        """(n,) float32; 0 for a confidence of -inf.

        Rounding to float32 makes equals of confidences that differ far up the curve, so photographs
        are ranked by confidence rather than by this.
        """
        exponent = np.clip(-(self.slope * confidence.astype(np.float64) + self.offset), -700, 700)
        return np.where(np.isneginf(confidence), 0.0, 1.0 / (1.0 + np.exp(exponent))).astype(
            np.float32
        )


@dataclass(frozen=True)
class Isotonic:
    """Probabilities interpolated between knots.

    Attributes:
        confidences: rising.
        probabilities: never falling.
    """

    confidences: tuple[float, ...]
    probabilities: tuple[float, ...]

    @classmethod
    def fit(cls, confidence: NDArray[np.floating[Any]], right: Flags, weights: Any) -> Isotonic:
        """Learn the knots; arguments as for :meth:`Platt.fit`."""
        from sklearn.isotonic import IsotonicRegression

        scores, right, weights = _finite(confidence, right, weights)
        if not len(scores):
            return cls((0.0,), (0.5,))
        steps = IsotonicRegression().fit(scores, _drawn_in(right), weights)
        return cls(tuple(steps.X_thresholds_.tolist()), tuple(steps.y_thresholds_.tolist()))

    def probability(self, confidence: NDArray[np.floating[Any]]) -> Vectors:
        """(n,) float32; 0 for a confidence of -inf."""
        found = np.interp(confidence.astype(np.float64), self.confidences, self.probabilities)
        return np.where(np.isneginf(confidence), 0.0, found).astype(np.float32)


@dataclass(frozen=True)
class NoCurve:
    """No probabilities: too few answers were there to learn them from.

    Attributes:
        right: held-out answers that were right.
        wrong: those that were not, photographs without a landmark among them.
    """

    right: int
    wrong: int

    def probability(self, confidence: NDArray[np.floating[Any]]) -> Vectors:
        """(n,) NaN."""
        return np.full(confidence.shape, np.nan, np.float32)

    def __str__(self) -> str:
        return (
            f"no probabilities: {self.right:,} right and {self.wrong:,} wrong held-out answers are"
            f" too few to learn them from ({LEAST_OF_EACH} of each are needed)"
        )


Curve = Platt | Isotonic | NoCurve


def fit_curve(
    config: CalibrationConfig,
    confidence: NDArray[np.floating[Any]],
    right: Flags,
    weights: Any,
) -> Curve:
    """The curve of a config's form; arguments as for :meth:`Platt.fit`."""
    there = right[np.isfinite(confidence)]
    counts = int(there.sum()), int((~there).sum())
    if min(counts) < LEAST_OF_EACH:
        return NoCurve(*counts)
    if config.kind == "isotonic":
        return Isotonic.fit(confidence, right, weights)
    return Platt.fit(confidence, right, weights, shifted=config.kind == "platt")


def _finite(
    confidence: NDArray[np.floating[Any]], right: Flags, weights: Any
) -> tuple[NDArray[np.float64], Flags, NDArray[np.float64]]:
    """The examples that have a candidate."""
    finite = np.isfinite(confidence)
    scores = confidence[finite].astype(np.float64)
    return scores, right[finite], np.asarray(weights, np.float64)[finite]


def _drawn_in(right: Flags) -> NDArray[np.float64]:
    """Platt's targets."""
    high = (right.sum() + 1.0) / (right.sum() + 2.0)
    low = 1.0 / ((~right).sum() + 2.0)
    target: NDArray[np.float64] = np.where(right, high, low)
    return target
