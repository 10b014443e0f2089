"""Spatial verification: do two photographs' local features lie as one thing seen twice would?

Features are matched by their descriptors, a model of the view's change is estimated robustly from
the matches, and those that fit it (the inliers) are counted: Philbin et al., "Object retrieval
with large vocabularies and fast spatial matching" (CVPR 2007), section 4. There are three
estimators behind one interface, matches in, a homography or none out:

* "affine", the paper's own: the position, scale and angle of a single match are a similarity, so
  that every match is tried and nothing is drawn by lot; the best is refined to an affine model. It
  finds what few inliers hold together among many wrong matches, where samples of four fail.
* "magsac", MAGSAC++ by OpenCV (Barath et al., CVPR 2020), and "poselib", LO-RANSAC by PoseLib: a
  full homography. They need no scales and angles, which some learned features do not have.

No estimator's own inliers are trusted: they are counted anew from its model, and models that no
camera could have made are refused.

Everything here is a function of its arguments alone, to the bit, and may run in any number of
threads: codes are compared in whole numbers, matches have a settled order, and the estimators
that draw do so from a fixed state.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.errors import ConfigError
from retrieval.index.neighbours import Neighbours
from retrieval.local.features import Codes, LocalFeatures
from retrieval.types import Flags, Integers, StrictModel, Vectors

Matrix = NDArray[np.float64]

LEAST_PAIRS: Final = 8
"""Fewer matches are not tried: OpenCV's USAC has crashed on them, and chance fits a handful."""
COARSE: Final = 2.0
"""A single match's similarity is rough: its inliers may miss by this many times the tolerance."""
ROUNDS: Final = 6
"""Least-squares fits, at most, that refine a similarity to an affine model."""
LEAST_BREADTH: Final = 0.5
"""Across the line that fits them best, inliers spread by at least this many times the tolerance."""
MOST_CONDITION: Final = 1e12
"""Of a model in pixels; those of real pairs have some 1e5."""
MOST_STRETCH: Final = 10.0
"""Where inliers lie, a model may stretch or shrink lengths by no more."""


class VerificationConfig(StrictModel):
    """How neighbours are verified and re-ranked; the defaults were chosen on gallery photographs.

    Attributes:
        top: the first this many neighbours of a query are verified.
        matching: which nearest neighbours among descriptors are matches: "mutual" ones, those that
            pass the "ratio" test, or those that do "both".
        ratio: the nearest descriptor is at most this times as far as the second nearest (Lowe,
            IJCV 2004, section 7.1).
        estimator: of the model; see above. "poselib" needs the extra "verification".
        tolerance: how far an inlier may lie from where the model puts it, in pixels of the
            photograph as described, in both directions.
        iterations: of "magsac" and "poselib", at most.
        min_inliers: a model with fewer is none.
        weight: the most that inliers add to a similarity.
        half: inliers from ``min_inliers`` on that add half of ``weight``.
        early_exit: share of the queries whose answer is plain that verification may give another
            one: these are then not verified (:mod:`retrieval.index.early_exit`), and their local
            features not described; ``None``: every query is verified.
    """

    top: int = Field(50, ge=1, le=2048)
    matching: Literal["mutual", "ratio", "both"] = "both"
    ratio: float = Field(0.95, ge=1e-2, le=1.0)
    estimator: Literal["affine", "magsac", "poselib"] = "affine"
    tolerance: float = Field(8.0, ge=1e-3, le=1000.0)
    iterations: int = Field(1000, ge=1, le=100_000)
    min_inliers: int = Field(5, ge=4, le=100_000)
    weight: float = Field(0.5, ge=0.0, le=1e3)
    half: float = Field(4.0, ge=1e-3, le=1e6)
    early_exit: float | None = Field(None, ge=1e-4, le=0.5)


@dataclass(frozen=True)
class Verification:
    """What one pair of photographs has in common.

    Attributes:
        homography: (3, 3) float64 from the query's pixels to the gallery photograph's, of unit
            Frobenius norm and positive at the inliers; None where there is no acceptable model.
        pairs: (i, 2) int64 positions of the inliers among the query's and the gallery
            photograph's features, best match first; none without a model.
    """

    homography: Matrix | None
    pairs: Integers

    @property
    def inliers(self) -> int:
        """How many matches fit the model."""
        return len(self.pairs)


NOTHING: Final = Verification(None, np.zeros((0, 2), dtype=np.int64))


def require_estimator(config: VerificationConfig) -> None:
    """Raise ConfigError where the estimator is not installed; worth a call before long work."""
    if config.estimator == "poselib":
        _poselib()


def verify(
    query: LocalFeatures, gallery: Sequence[LocalFeatures], config: VerificationConfig
) -> list[Verification]:
    """The query against each of some gallery photographs, in their order.

    Scales may be in any unit; they are all one where features have none, and angles all zero for
    upright features. Codes are all of one type and length.

    Raises ConfigError where the estimator is not installed.
    """
    require_estimator(config)
    prepared = Descriptors.of(query.codes)
    return [_verify(query, prepared, other, config) for other in gallery]


def count_inliers(
    query: LocalFeatures, gallery: Sequence[LocalFeatures], config: VerificationConfig
) -> Integers:
    """(k,) the inliers of the query with each of ``gallery``, as :func:`verify` has them."""
    found = verify(query, gallery, config)
    return np.fromiter((one.inliers for one in found), np.int64, len(found))


def rerank(neighbours: Neighbours, inliers: Integers, config: VerificationConfig) -> Neighbours:
    """Neighbours by similarity plus a bonus for inliers.

    The bonus is ``weight * n / (n + half)`` with n the inliers from ``min_inliers`` on: bounded,
    since from some dozens on more inliers say little more, and never negative: a pair without
    inliers may be the same building by night or from behind, so that it keeps its similarity and
    is only ever overtaken by neighbours that were confirmed.

    Args:
        neighbours: of q queries, k each.
        inliers: (q, c) of their first c <= k columns. Columns from ``config.top`` on are not
            looked at, nor those of rows -1.

    Returns:
        Descending, ties by row, rows of -1 last. The similarities are what a vote is to take.
    """
    columns = min(config.top, inliers.shape[1])
    beyond = np.maximum(inliers[:, :columns] - config.min_inliers + 1, 0).astype(np.float32)
    bonus = np.zeros_like(neighbours.similarities)
    bonus[:, :columns] = np.float32(config.weight) * beyond / (beyond + np.float32(config.half))
    scores = neighbours.similarities + bonus
    order = np.lexsort((neighbours.rows, -scores, neighbours.rows < 0), axis=1)
    return Neighbours(
        np.take_along_axis(neighbours.rows, order, axis=1),
        np.take_along_axis(scores, order, axis=1),
        np.take_along_axis(bonus, order, axis=1),
    )


@dataclass(frozen=True)
class Descriptors:
    """Codes as floats: sums of products of bytes are whole numbers that float32 holds exactly."""

    values: Vectors
    squares: Vectors

    @classmethod
    def of(cls, codes: Codes) -> Descriptors:
        values = codes.astype(np.float32)
        return cls(values, np.einsum("nd,nd->n", values, values))

    def compared(self, other: Descriptors) -> Vectors:
        """(n, m) squared distances, each less the square of the own descriptor's length."""
        products = self.values @ (other.values * np.float32(-2.0)).T
        products += other.squares
        return products


def match(
    query: LocalFeatures, prepared: Descriptors, gallery: LocalFeatures, config: VerificationConfig
) -> Integers:
    """(m, 2) positions of matching features, best first; ``prepared`` are the query's descriptors.

    A place (a pixel) of either photograph is in one match at most, its best: features of the same
    place with several orientations say the same thing, and repeated points make estimators fail.
    """
    if not len(query) or not len(gallery):
        return NOTHING.pairs
    found = prepared.compared(Descriptors.of(gallery.codes))
    own = np.arange(len(query))
    nearest = found.argmin(axis=1)
    least = found[own, nearest]
    quality = least + prepared.squares
    kept = np.ones(len(query), dtype=np.bool_)
    if config.matching != "mutual":
        found[own, nearest] = np.inf
        second = found.min(axis=1) + prepared.squares
        kept = quality < np.float32(config.ratio**2) * second
        quality = quality / np.maximum(second, 1.0)
    if config.matching != "ratio":
        # Of few columns: where both are asked for, of those alone that are far from the second.
        asked = np.flatnonzero(kept)
        found[own, nearest] = least
        columns = found[:, nearest[asked]] + prepared.squares[:, None]
        kept[asked] = columns.argmin(axis=0) == asked
    order = np.flatnonzero(kept)
    order = order[np.argsort(quality[order], kind="stable")]
    order = order[_first_of_each_place(query.points[order])]
    order = order[_first_of_each_place(gallery.points[nearest[order]])]
    return np.stack([order, nearest[order]], axis=1).astype(np.int64)


def _first_of_each_place(points: Vectors) -> Integers:
    """Positions of the first point in every pixel, ascending."""
    pixels = np.rint(points).astype(np.int64)
    first: Integers = np.unique(pixels[:, 0] << 32 | pixels[:, 1], return_index=True)[1]
    first.sort()
    return first


def _verify(
    query: LocalFeatures, prepared: Descriptors, gallery: LocalFeatures, config: VerificationConfig
) -> Verification:
    if min(len(query), len(gallery)) < LEAST_PAIRS:
        return NOTHING
    pairs = match(query, prepared, gallery, config)
    if len(pairs) < LEAST_PAIRS:
        return NOTHING
    matches = _Matches.of(query, gallery, pairs)
    model = ESTIMATORS[config.estimator](matches, config)
    if model is None:
        return NOTHING
    model, inside = fit_of(model, matches.start, matches.end, config.tolerance)
    start, end = matches.start[inside], matches.end[inside]
    if len(start) < config.min_inliers or not _plausible(model, start, end, config.tolerance):
        return NOTHING
    return Verification(model, pairs[inside])


def fit_of(model: Matrix, start: Matrix, end: Matrix, tolerance: float) -> tuple[Matrix, Flags]:
    """A model at its norm and sign, and (m,) which pairs of points it carries onto each other.

    A pair is an inlier where both the model and its inverse end within ``tolerance`` pixels, on
    the side of the horizon where most pairs are; the sign makes that side positive. A model that
    is not finite, or cannot be inverted, has no inliers.
    """
    none = np.zeros(len(start), dtype=np.bool_)
    if not np.isfinite(model).all() or np.linalg.cond(model) > MOST_CONDITION:
        return model, none
    behind = start @ model[2, :2] + model[2, 2] < 0
    front = ~behind
    if 2 * behind.sum() > len(behind):
        model, front = -model, behind
    model = model / np.linalg.norm(model)
    inverse = np.linalg.inv(model).astype(np.float64)
    forth = _transferred(model, start) - end
    back = _transferred(inverse, end) - start
    worst = np.maximum((forth**2).sum(axis=1), (back**2).sum(axis=1))
    return model, front & (worst < tolerance**2)


def _transferred(model: Matrix, points: Matrix) -> Matrix:
    """(m, 2) points through a model; those at its horizon as far off as makes no difference."""
    ends = points @ model[:, :2].T + model[:, 2]
    depth = ends[:, 2:]
    moved: Matrix = ends[:, :2] / np.where(np.abs(depth) < 1e-12, 1e-12, depth)
    return moved


def _plausible(model: Matrix, start: Matrix, end: Matrix, tolerance: float) -> bool:
    """Whether the inliers span an area on both sides, and are neither mirrored nor squashed."""
    if min(_breadth(start), _breadth(end)) < LEAST_BREADTH * tolerance:
        return False  # on a line, which any number of models would fit
    # The derivative at each inlier: how its surroundings are turned, stretched and slanted.
    depth = (start @ model[2, :2] + model[2, 2])[:, None, None]
    image = _transferred(model, start)
    derivative = (model[:2, :2] - image[:, :, None] * model[2, :2]) / depth
    stretch = np.linalg.svd(derivative, compute_uv=False)
    return bool(
        (np.linalg.det(derivative) > 0).all()
        and stretch.max() <= MOST_STRETCH
        and stretch.min() >= 1.0 / MOST_STRETCH
    )


def _breadth(points: Matrix) -> float:
    """The standard deviation of (m, 2) points across the line that fits them best."""
    return float(np.sqrt(max(np.linalg.eigvalsh(np.cov(points.T))[0], 0.0)))


@dataclass(frozen=True)
class _Matches:
    """Matched features, best first.

    Attributes:
        start, end: (m, 2) float64, points of the query and of the gallery photograph.
        change: (m,) complex128, how the one's scale and angle become the other's.
    """

    start: Matrix
    end: Matrix
    change: NDArray[np.complex128]

    @classmethod
    def of(cls, query: LocalFeatures, gallery: LocalFeatures, pairs: Integers) -> _Matches:
        one, other = pairs.T
        growth = gallery.scales[other].astype(np.float64) / query.scales[one]
        turn = gallery.angles[other].astype(np.float64) - query.angles[one]
        return cls(
            query.points[one].astype(np.float64),
            gallery.points[other].astype(np.float64),
            growth * np.exp(1j * turn),
        )


def _affine(matches: _Matches, config: VerificationConfig) -> Matrix | None:
    """Every match's own similarity is tried; the best is refined to an affine model."""
    inside = _of_best_similarity(matches, COARSE * config.tolerance)
    best, most = None, 0
    for _ in range(ROUNDS):
        known = np.column_stack([matches.start[inside], np.ones(inside.sum())])
        solved = np.linalg.lstsq(known, matches.end[inside], rcond=None)[0]
        model = np.vstack([solved.T, [0.0, 0.0, 1.0]])
        inside = fit_of(model, matches.start, matches.end, config.tolerance)[1]
        if inside.sum() <= most:
            break
        best, most = model, int(inside.sum())
    return best


def _of_best_similarity(matches: _Matches, tolerance: float) -> Flags:
    """(m,) the matches that agree with the match that most agree with; the best on a tie."""
    start = matches.start @ np.array([1.0, 1j])
    end = matches.end @ np.array([1.0, 1j])
    turned = matches.change[:, None] * start
    misses = np.abs(turned - np.diagonal(turned)[:, None] - end + end[:, None])
    inside: Flags = misses < tolerance * np.minimum(1.0, np.abs(matches.change))[:, None]
    best: Flags = inside[inside.sum(axis=1).argmax()]
    return best


def _magsac(matches: _Matches, config: VerificationConfig) -> Matrix | None:
    params = cv2.UsacParams()
    # As findHomography would have it with USAC_MAGSAC, which itself draws afresh at every call.
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.sampler = cv2.SAMPLING_UNIFORM
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    params.loIterations = 10
    params.loSampleSize = 50
    params.final_polisher = cv2.NONE_POLISHER
    params.threshold = config.tolerance
    params.maxIterations = config.iterations
    params.confidence = 0.999
    params.randomGeneratorState = 1
    params.isParallel = False
    try:
        model, _ = cv2.findHomography(matches.start, matches.end, params)
    except cv2.error:
        return None
    return None if model is None else np.asarray(model, dtype=np.float64)


def _lo_ransac(matches: _Matches, config: VerificationConfig) -> Matrix | None:
    options = {
        "max_reproj_error": config.tolerance,
        "max_iterations": config.iterations,
        "min_iterations": min(100, config.iterations),
        "success_prob": 0.999,
        "seed": 1,
    }
    model, _ = _poselib().estimate_homography(matches.start, matches.end, options)
    return np.asarray(model, dtype=np.float64)


def _poselib() -> Any:
    try:
        return importlib.import_module("poselib")
    except ImportError as error:
        raise ConfigError(
            'estimator: poselib is not installed; install the extra "verification" '
            "(pip install 'landmark-retrieval[verification]') or set it to magsac"
        ) from error


Estimator = Callable[[_Matches, VerificationConfig], Matrix | None]
ESTIMATORS: Final[dict[str, Estimator]] = {
    "affine": _affine,
    "magsac": _magsac,
    "poselib": _lo_ransac,
}
