"""Confidences to probabilities, by Platt scaling.

J. Platt, "Probabilistic outputs for support vector machines", 1999: a logistic curve through
held-out scores, with targets drawn in from 0 and 1 by the number of examples (his section 2.2), so
that perfectly separated scores do not become certainties. The curve rises strictly, so the order
of photographs, and with it global average precision, stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

LEAST_SLOPE: Final = 1e-3
"""Per standard deviation of the scores, where they tell nothing or mislead."""


@dataclass(frozen=True)
class Platt:
    """``1 / (1 + exp(-(slope * confidence + offset)))`` with a positive slope."""

    slope: float
    offset: float

    @classmethod
    def fit(
        cls, confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_], weights: Any
    ) -> Platt:
        """Learn the curve.

        Args:
            confidence: (n,) held-out scores; infinite ones (no candidate at all) are left out.
            right: (n,) whether the answer was.
            weights: (n,) of the examples.
        """
        finite = np.isfinite(confidence)
        scores = confidence[finite].astype(np.float64)
        right, weights = right[finite], np.asarray(weights, np.float64)[finite]
        if not len(scores):
            return cls(1.0, 0.0)
        centre, spread = scores.mean(), scores.std() or 1.0
        high = (right.sum() + 1.0) / (right.sum() + 2.0)
        low = 1.0 / ((~right).sum() + 2.0)
        target = np.where(right, high, low)
        scaled = ((scores - centre) / spread)[:, None]
        # A soft target is one example of each kind, weighted.
        logistic = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(
            np.concatenate([scaled, scaled]),
            np.repeat([1, 0], len(scores)),
            np.concatenate([weights * target, weights * (1.0 - target)]),
        )
        slope = max(float(logistic.coef_[0, 0]), LEAST_SLOPE)
        offset = float(logistic.intercept_[0]) - slope * centre / spread
        return cls(float(slope / spread), float(offset))

    def probability(self, confidence: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """(n,) float32; 0 for a confidence of -inf.

        Rounding to float32 makes equals of confidences that differ far up the curve, so photographs
        are ranked by confidence rather than by this.
        """
        exponent = np.clip(-(self.slope * confidence.astype(np.float64) + self.offset), -700, 700)
        return np.where(np.isneginf(confidence), 0.0, 1.0 / (1.0 + np.exp(exponent))).astype(
            np.float32
        )
