"""Whether to answer or to say "none", and how sure to be; settled on held-out photographs only.

The threshold is the one that maximises the mean of two shares: of the held-out gallery photographs
that are answered right (accepted, and right), and of the held-out bank photographs that are
rejected. Both count alike however many there are of each, since the sizes of gallery and bank say
nothing about what will be asked. Without a bank the share of gallery photographs is maximised that
are accepted where right and rejected where wrong; without held-out gallery photographs, all of the
bank is rejected. The same balance weighs the examples that probabilities are learnt from.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from retrieval.classifiers.base import HeldOut, Judgement, Scores
from retrieval.classifiers.calibration import Platt
from retrieval.errors import RunError
from retrieval.extractors.base import StrictModel
from retrieval.index.store import read_json, write_json

FILE: Final = "rejection.json"

logger = logging.getLogger(__name__)


class _Saved(StrictModel):
    """What rejection.json holds; no threshold accepts whatever has a candidate."""

    threshold: float | None
    slope: float
    offset: float


@dataclass(frozen=True)
class Rejection:
    """A threshold on the confidence, and the curve that makes a probability of it.

    Attributes:
        threshold: the least confidence that is accepted; -inf accepts every candidate.
        platt: the curve.
    """

    threshold: float
    platt: Platt

    @classmethod
    def fit(cls, held_out: HeldOut) -> Rejection:
        """Choose threshold and curve on photographs that the classifier has not seen."""
        gallery, bank = held_out.gallery.confidence, held_out.bank.confidence
        if not len(bank):
            logger.warning(
                "no photographs without a landmark were given: the threshold for answering "
                "is chosen on the gallery alone, and will accept too much"
            )
        if not len(gallery):
            logger.warning(
                "no landmark has two photographs: the threshold for answering is chosen "
                "on the bank alone"
            )
        right = np.concatenate([held_out.correct, np.zeros(len(bank), np.bool_)])
        confidence = np.concatenate([gallery, bank])
        weights = np.concatenate([_shares(len(gallery)), _shares(len(bank))])
        # A wrong answer costs nothing beyond itself, unless only the gallery can speak.
        cost = np.where(right, 0.0, weights)
        if len(bank):
            cost[: len(gallery)] = 0.0
        threshold = best_threshold(confidence, np.where(right, weights, -cost))
        return cls(threshold, Platt.fit(confidence, right, weights))

    def judge(self, scores: Scores) -> Judgement:
        """Probability and acceptance of each query's first candidate."""
        confidence = scores.confidence
        accepted = (confidence >= self.threshold) & (scores.best >= 0)
        return Judgement(scores, self.platt.probability(confidence), accepted)

    def save(self, folder: Path) -> None:
        """Write ``rejection.json``."""
        threshold = self.threshold if np.isfinite(self.threshold) else None
        saved = _Saved(threshold=threshold, slope=self.platt.slope, offset=self.platt.offset)
        write_json(folder / FILE, saved.model_dump())

    @classmethod
    def load(cls, folder: Path) -> Rejection:
        """Read what ``save`` wrote.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            saved = _Saved.model_validate(read_json(folder / FILE))
        except ValidationError:
            raise RunError(f"{folder / FILE} is damaged: fit the classifiers again") from None
        threshold = -np.inf if saved.threshold is None else saved.threshold
        return cls(threshold, Platt(saved.slope, saved.offset))


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
    if chosen == 0:
        return -np.inf
    if chosen == len(scores):
        return float(np.nextafter(scores[-1], np.float32(np.inf)))
    return float((np.float64(scores[chosen - 1]) + np.float64(scores[chosen])) / 2)


def _shares(count: int) -> NDArray[np.float64]:
    """Weights that sum to one half, so that gallery and bank count alike."""
    return np.full(count, 0.5 / max(count, 1))
