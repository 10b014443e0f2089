"""The figures that systems are compared by, vectorised over photographs.

Landmarks are integer codes throughout, -1 for none. What is right is a :class:`Truth`, since a
photograph may show several landmarks, or none. Figures are fractions; one that has no meaning on
the photographs given (a false-accept rate where every photograph shows a landmark) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.types import Flags, Integers, Reals

BINS = 10
"""Of probabilities, of equal width."""


@dataclass(frozen=True)
class Truth:
    """The landmarks that each of n photographs shows, as pairs.

    Attributes:
        count: n.
        photographs: (t,) int64 positions of photographs.
        landmarks: (t,) int64 codes. A negative code is a landmark without one, which no answer
            equals; its photograph is a landmark photograph all the same.
    """

    count: int
    photographs: Integers
    landmarks: Integers

    @classmethod
    def of_codes(cls, codes: Integers) -> Truth:
        """At most one landmark a photograph: (n,) codes, -1 where it shows none."""
        codes = np.asarray(codes, np.int64)
        shown = np.flatnonzero(codes != -1)
        return cls(len(codes), shown, codes[shown])

    @property
    def has_landmark(self) -> Flags:
        """(n,) whether a photograph shows any landmark."""
        flags = np.zeros(self.count, np.bool_)
        flags[self.photographs] = True
        return flags

    def holds(self, codes: Integers) -> Flags:
        """Whether each photograph shows a landmark: (n,) or (n, c) codes, likewise shaped."""
        codes = np.asarray(codes, np.int64)
        named = self.landmarks >= 0
        pairs = self.photographs[named], self.landmarks[named]
        base = 1 + max(codes.max(initial=0), pairs[1].max(initial=0))
        own = np.arange(self.count).reshape(-1, *[1] * (codes.ndim - 1))
        known = np.isin(own * base + codes, pairs[0] * base + pairs[1])
        held: Flags = np.logical_and(known, codes >= 0)
        return held


def global_average_precision(
    ids: Sequence[str], predicted: Integers, confidence: Reals, truth: Truth
) -> float:
    """GAP, also known as micro average precision, as the landmark challenges define it.

    All answers are pooled and walked through by falling confidence; precision is summed where an
    answer is right and divided by the number of photographs that show a landmark. An answer to a
    photograph that shows none lowers the precision of all below it. (Weyand et al., "Google
    Landmarks Dataset v2", CVPR 2020, equation 1; Perronnin et al., CVPR 2009.)

    Args:
        ids: (n,) of the photographs; equal confidences are walked through by ascending id, then
            by ascending landmark.
        predicted: (n,) landmark codes, negative where there is no answer.
        confidence: (n,) only their order matters; not looked at where there is no answer.
        truth: of the same photographs.

    Returns:
        0 to 1; 0 where no photograph shows a landmark.

    Raises:
        ValueError: lengths differ, or an answer's confidence is NaN.
    """
    predicted, confidence = np.asarray(predicted, np.int64), np.asarray(confidence)
    if not len(ids) == len(predicted) == len(confidence) == truth.count:
        raise ValueError("ids, predictions, confidences and truth differ in length")
    order = by_confidence(ids, predicted, confidence)
    photographs = int(truth.has_landmark.sum())
    if not photographs:
        return 0.0
    right = truth.holds(predicted)[order]
    places = np.flatnonzero(right) + 1
    return float((np.arange(1, len(places) + 1) / places).sum() / photographs)


def by_confidence(ids: Sequence[str], predicted: Integers, confidence: Reals) -> Integers:
    """(a,) photographs with an answer, in the order in which GAP walks through them.

    Raises:
        ValueError: an answer's confidence is NaN.
    """
    answered = np.flatnonzero(np.asarray(predicted) >= 0)
    surest = -np.asarray(confidence, np.float64)[answered]
    if np.isnan(surest).any():
        raise ValueError("an answer's confidence is not a number")
    names = np.asarray(ids, dtype=str)[answered]
    return answered[np.lexsort((predicted[answered], names, surest))]


def top_k_accuracy(candidates: Integers, truth: Truth, k: int) -> float:
    """Share of landmark photographs with a right one among the first k of (n, c) candidates."""
    shown = truth.has_landmark
    if not shown.any():
        return float("nan")
    found: Flags = np.logical_or.reduce(truth.holds(candidates[:, :k]), axis=1)
    return float(found[shown].mean())


def rejection_auc(confidence: Reals, has_landmark: Flags) -> float:
    """Chance that a landmark photograph is given more confidence than one without, ties half.

    By the sum of ranks (Mann and Whitney, 1947), equal confidences sharing their mean rank.

    Args:
        confidence: (n,), -inf where there was no candidate.
        has_landmark: (n,).
    """
    if not 0 < has_landmark.sum() < len(has_landmark):
        return float("nan")
    _, places, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    shown, none = int(has_landmark.sum()), int((~has_landmark).sum())
    return float((ranks[has_landmark].sum() - shown * (shown + 1) / 2) / (shown * none))


def false_accept_rate(accepted: Flags, has_landmark: Flags) -> float:
    """Share of the photographs without a landmark that one was named for."""
    none: Flags = np.logical_not(has_landmark)
    return float(accepted[none].mean()) if none.any() else float("nan")


def false_accepts_at(
    confidence: Reals, right: Flags, has_landmark: Flags, found: float = 0.9
) -> float:
    """Share of photographs without a landmark accepted, where enough landmarks are named right.

    Args:
        confidence: (n,) of the best candidates, -inf where there is none.
        right: (n,) whether the best candidate is right.
        has_landmark: (n,).
        found: share of landmark photographs to be named right; the threshold is the highest at
            which they are.

    Returns:
        0 to 1; NaN where no threshold names as many right, or every photograph shows a landmark.
    """
    needed = math.ceil(found * int(has_landmark.sum()) - 1e-9)
    sure = np.sort(confidence[right & has_landmark])[::-1]
    if not 0 < needed <= len(sure) or has_landmark.all():
        return float("nan")
    return float((confidence[~has_landmark] >= sure[needed - 1]).mean())


def precision(right: Flags, answered: Flags) -> float:
    """Share of the photographs answered that are answered right; NaN without answers."""
    return float(right[answered].mean()) if answered.any() else float("nan")


def precision_at_share(right: Flags, accepted: Flags, has_landmark: Flags, share: float) -> float:
    """Precision of the accepted answers if another share of photographs showed a landmark.

    What is accepted among landmark photographs, and among the others, stays as it was measured;
    only their numbers are re-weighted.

    Args:
        right: (n,) whether the best candidate is right.
        accepted: (n,) whether a landmark was named.
        has_landmark: (n,).
        share: 0 to 1, of landmark photographs; 0.017 in the test of Google Landmarks v2.

    Returns:
        0 to 1; NaN where nothing would be accepted, or one kind of photograph is missing.
    """
    if not 0 < has_landmark.sum() < len(has_landmark):
        return float("nan")
    named = share * float((right & accepted)[has_landmark].mean())
    taken = share * float(accepted[has_landmark].mean())
    taken += (1 - share) * float(accepted[~has_landmark].mean())
    return named / taken if taken else float("nan")


@dataclass(frozen=True)
class Reliability:
    """Probability promised against share right, in bins of equal width.

    Attributes:
        promised: (b,) mean probability of each bin that is not empty.
        right: (b,) share of its answers that are right.
        count: (b,) answers in it.
        error: expected calibration error, the mean gap weighted by count; NaN without answers.
    """

    promised: NDArray[np.float64]
    right: NDArray[np.float64]
    count: Integers
    error: float


def reliability(probability: Reals, right: Flags) -> Reliability:
    """Does an answer given with probability p turn out right in a share p of the cases?

    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.)

    Args:
        probability: (a,) of the answers, 0 to 1.
        right: (a,).
    """
    probability = np.asarray(probability, np.float64)
    if not probability.size:
        return Reliability(np.empty(0), np.empty(0), np.empty(0, np.int64), float("nan"))
    bin_of = np.clip((probability * BINS).astype(np.int64), 0, BINS - 1)
    count = np.bincount(bin_of, minlength=BINS)
    used = count > 0
    promised = np.bincount(bin_of, probability)[np.flatnonzero(used)] / count[used]
    share = np.bincount(bin_of, right)[np.flatnonzero(used)] / count[used]
    error = float(np.average(np.abs(promised - share), weights=count[used]))
    return Reliability(promised, share, count[used], error)


def average_precisions(hits: Flags, relevant: Integers, k: int = 100) -> NDArray[np.float64]:
    """Average precision of each query's first k results, as Google Landmarks retrieval has it.

    Precision is summed at the hits and divided by the number of hits there could have been,
    min(relevant, k).

    Args:
        hits: (q, r) whether the result at each rank is relevant and not a repeat of one above
            it; see :func:`first_occurrences`. A query without results is a row without hits.
        relevant: (q,) how many relevant items there are.
        k: ranks that count.

    Returns:
        (q,) of 0 to 1; 0 where nothing is relevant.
    """
    hits = hits[:, :k]
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    possible = np.maximum(np.minimum(relevant, k), 1)
    average: NDArray[np.float64] = (precision * hits).sum(axis=1) / possible
    return average


def mean_average_precision(hits: Flags, relevant: Integers, k: int = 100) -> float:
    """Mean over queries of :func:`average_precisions`; NaN without queries."""
    return float(average_precisions(hits, relevant, k).mean()) if len(hits) else float("nan")


def first_ranks(hits: Flags) -> Integers:
    """(q,) rank of the first hit, counted from 1; 0 where there is none.

    The share of queries with a rank of 1 to k is recall@k as metric learning has it: whether
    anything relevant stands among the first k (Jegou, Douze and Schmid, PAMI 2011).
    """
    if not hits.shape[1]:
        return np.zeros(len(hits), np.int64)
    ranks: Integers = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
    return ranks


def first_occurrences(items: Integers) -> Flags:
    """Which of (q, r) ranked items did not stand further up in their row; pads (< 0) never."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    new = np.ones(items.shape, np.bool_)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty(items.shape, np.bool_)
    np.put_along_axis(first, order, new, axis=1)
    return first & (items >= 0)


def gallery_hits(rows: Integers, codes: Integers, truth: Truth) -> tuple[Flags, Integers]:
    """What :func:`average_precisions` needs to rate a search of a labelled gallery.

    Args:
        rows: (q, r) gallery rows found, -1 where there is none.
        codes: (n,) the gallery rows' landmarks.
        truth: of the q queries; every gallery photograph of a landmark shown is relevant.

    Returns:
        (q, r) hits and (q,) how many rows are relevant.
    """
    found = np.where(rows >= 0, codes[rows], -1) if len(codes) else np.full_like(rows, -1)
    hits = truth.holds(found) & first_occurrences(rows)
    known = truth.landmarks >= 0
    sizes = np.bincount(codes, minlength=1 + int(truth.landmarks.max(initial=0)))
    relevant = np.bincount(
        truth.photographs[known],
        weights=sizes[truth.landmarks[known]],
        minlength=truth.count,
    )
    return hits, relevant.astype(np.int64)


def recognition_metrics(
    ids: Sequence[str],
    candidates: Integers,
    confidence: Reals,
    accepted: Flags,
    truth: Truth,
) -> dict[str, float]:
    """The figures of one classifier.

    Args:
        ids: (q,) of the photographs.
        candidates: (q, c) landmark codes, best first, -1 pads; a photograph that failed has none.
        confidence: (q,) of the first candidates. GAP pools them all, whatever the threshold.
        accepted: (q,) whether the first candidate was the answer, rather than "none".
        truth: of the same photographs.

    Returns:
        ``gap``, ``top1``, ``top5``, ``rejection_auc`` and ``false_accept_rate``.
    """
    shown = truth.has_landmark
    return {
        "gap": global_average_precision(ids, candidates[:, 0], confidence, truth),
        "top1": top_k_accuracy(candidates, truth, 1),
        "top5": top_k_accuracy(candidates, truth, 5),
        "rejection_auc": rejection_auc(confidence, shown),
        "false_accept_rate": false_accept_rate(accepted, shown),
    }
