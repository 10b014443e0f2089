"""Known changes of view recovered, guards against bad models, and re-ranking."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.index import verification
from retrieval.index.neighbours import Neighbours
from retrieval.index.verification import (
    Descriptors,
    Verification,
    VerificationConfig,
    count_inliers,
    fit_of,
    match,
    rerank,
    verify,
)
from retrieval.local.features import LocalFeatures
from retrieval.local.sift import SiftConfig, detect
from tests.photographs import blank, picture

Matrix = NDArray[np.float64]

ESTIMATORS = ("affine", "magsac", "poselib")
HOMOGRAPHY_ESTIMATORS = ("magsac", "poselib")
SIZE = (480, 360)


def matched(
    query: LocalFeatures, gallery: LocalFeatures, options: VerificationConfig
) -> NDArray[np.int64]:
    return match(query, Descriptors.of(query.codes), gallery, options)


def config(estimator: str = "affine", **options: Any) -> VerificationConfig:
    if estimator == "poselib":
        pytest.importorskip("poselib", reason='needs the extra "verification"')
    return VerificationConfig(**{"estimator": estimator, "tolerance": 4.0, **options})


def moved(model: Matrix, points: NDArray[Any]) -> Matrix:
    """Points one by one through a model, from its definition."""
    ends = [model @ np.array([x, y, 1.0]) for x, y in points]
    return np.array([end[:2] / end[2] for end in ends]).reshape(-1, 2)


def similarity(scale: float, degrees: float, right: float = 0.0, down: float = 0.0) -> Matrix:
    a, b = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[a, -b, right], [b, a, down], [0.0, 0.0, 1.0]])


SHIFT = similarity(1.0, 0.0, 35.0, -20.0)
ZOOM = similarity(1.6, 0.0, -90.0, -60.0)
TURN = similarity(0.8, 30.0, 120.0, 10.0)
SLANT = np.array([[0.9, 0.15, 12.0], [-0.08, 1.1, 5.0], [0.0, 0.0, 1.0]])
TILT = np.array([[1.0, 0.06, -8.0], [0.04, 0.95, 10.0], [4e-4, 2e-4, 1.0]])
MODELS = {"shift": SHIFT, "zoom": ZOOM, "turn": TURN, "slant": SLANT, "tilt": TILT}


def scattered(count: int, seed: int = 0) -> LocalFeatures:
    """Features at random places, told apart by their codes."""
    random = np.random.default_rng(seed)
    points = random.uniform((0, 0), SIZE, (count, 2)).astype(np.float32)
    codes = random.integers(-127, 128, (count, 32)).astype(np.int8)
    ones = np.ones(count, dtype=np.float32)
    return LocalFeatures(points, ones, np.zeros(count, dtype=np.float32), codes, SIZE)


def seen_through(
    model: Matrix, one: LocalFeatures, outliers: float = 0.0, noise: float = 0.5
) -> LocalFeatures:
    """The same features through a model, with its scales and angles; the last ones anywhere."""
    random = np.random.default_rng(1)
    step = 1e-3
    points = moved(model, one.points)
    across = (moved(model, one.points + np.array([step, 0.0])) - points) / step
    scales, angles = np.linalg.norm(across, axis=1), np.arctan2(across[:, 1], across[:, 0])
    points += random.normal(0.0, noise, points.shape)
    wrong = slice(len(one) - round(outliers * len(one)), None)
    points[wrong] = random.uniform((0, 0), SIZE, points[wrong].shape)
    scales[wrong] = random.uniform(0.5, 2.0, scales[wrong].shape)
    return replace(
        one,
        points=points.astype(np.float32),
        scales=scales.astype(np.float32),
        angles=angles.astype(np.float32),
    )


def at(points: NDArray[Any]) -> LocalFeatures:
    return replace(scattered(len(points)), points=points.astype(np.float32))


def only(query: LocalFeatures, gallery: LocalFeatures, options: VerificationConfig) -> Verification:
    (found,) = verify(query, [gallery], options)
    return found


def same(one: Sequence[Verification], other: Sequence[Verification]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a.pairs, b.pairs)
        and (a.homography is None) == (b.homography is None)
        and (a.homography is None or np.array_equal(a.homography, b.homography))
        for a, b in zip(one, other, strict=True)
    )


def off_by(found: Verification, truth: Matrix, points: NDArray[Any]) -> float:
    assert found.homography is not None
    away = moved(found.homography, points) - moved(truth, points)
    return float(np.linalg.norm(away, axis=1).max())


@pytest.mark.parametrize("outliers", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["shift", "zoom", "turn", "slant"])
def test_a_known_change_of_view_is_found_among_outliers(
    name: str, estimator: str, outliers: float
) -> None:
    query = scattered(150)
    gallery = seen_through(MODELS[name], query, outliers)
    found = only(query, gallery, config(estimator))
    right = 150 - round(outliers * 150)
    assert off_by(found, MODELS[name], query.points) < 4.0
    assert found.inliers >= 0.97 * right
    # Some outliers lie right by chance; all that is called an inlier lies where the model says.
    assert (found.pairs[:, 0] < right).mean() > 0.95
    assert (found.pairs[:, 0] == found.pairs[:, 1]).all()


@pytest.mark.parametrize("outliers", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("estimator", HOMOGRAPHY_ESTIMATORS)
def test_a_tilted_plane_is_found_among_outliers(estimator: str, outliers: float) -> None:
    query = scattered(150)
    found = only(query, seen_through(TILT, query, outliers), config(estimator))
    assert off_by(found, TILT, query.points) < 3.0
    assert found.inliers >= 0.97 * (150 - round(outliers * 150))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", MODELS)
def test_a_warped_photograph_is_recognised(name: str, estimator: str) -> None:
    photograph = picture(3, 300, 400)
    warped = cv2.warpPerspective(photograph, MODELS[name], (400, 300))
    upright = name != "turn"
    detector = SiftConfig(keypoints=300, upright=upright)
    query, gallery = (detect(one, detector) for one in (photograph, warped))
    found = only(query, gallery, config(estimator, tolerance=8.0))
    assert found.inliers >= 20
    # A tilt is more than an affine model can say, but not by much over this photograph.
    seen = query.points[found.pairs[:, 0]]
    assert off_by(found, MODELS[name], seen) < (8.5 if estimator == "affine" else 3.0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_different_photographs_have_next_to_nothing_in_common(estimator: str) -> None:
    detector = SiftConfig(keypoints=200)
    query, *others = (detect(picture(seed, 300, 400), detector) for seed in range(40, 46))
    assert count_inliers(query, others, config(estimator)).max() < 10
    assert count_inliers(query, [query], config(estimator))[0] > 100


def test_few_inliers_among_many_outliers_are_held_together_by_their_scales() -> None:
    query = scattered(120)
    gallery = seen_through(ZOOM, query, 0.9)
    assert set(range(12)) <= set(only(query, gallery, config()).pairs[:, 0].tolist())
    without = replace(gallery, scales=np.ones_like(gallery.scales))
    assert only(query, without, config()).inliers < 12


def test_shrinking_everything_to_a_spot_gathers_no_inliers() -> None:
    """Wrong matches that all end in one small place, with scales to fit, against fewer right."""
    query = scattered(60)
    gallery = seen_through(SHIFT, query)
    spot = np.array([[200 + 2 * (i % 7), 100 + 2 * (i // 7)] for i in range(40)])
    gallery.points[20:], gallery.scales[20:] = spot, 0.01
    assert set(range(20)) <= set(only(query, gallery, config()).pairs[:, 0].tolist())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_same_bits_in_any_thread_and_company(estimator: str) -> None:
    options = config(estimator)
    query = scattered(80)
    gallery = [seen_through(model, query, 0.4) for model in MODELS.values()] + [scattered(60, 9)]
    alone = [only(query, one, options) for one in gallery]
    assert sum(one.inliers > 0 for one in alone) >= 4
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.setRNGSeed(7)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: verify(query, gallery, options), range(8)):
                assert same(found, alone)
    finally:
        cv2.setNumThreads(before)
    assert count_inliers(query, gallery, options).tolist() == [one.inliers for one in alone]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_fewer_than_eight_features_are_nothing(estimator: str, count: int) -> None:
    query, few = scattered(40), scattered(count)
    for one, other in ((query, few), (few, query), (few, few)):
        found = only(one, other, config(estimator, min_inliers=4))
        assert (found.inliers, found.homography, found.pairs.shape) == (0, None, (0, 2))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_eight_features_are_enough(estimator: str) -> None:
    query = scattered(8)
    assert only(query, seen_through(SHIFT, query), config(estimator)).inliers == 8


def test_photographs_without_a_keypoint_go_through() -> None:
    detector = SiftConfig(keypoints=100)
    empty, full = detect(blank(), detector), detect(picture(1), detector)
    assert len(empty) == 0
    assert count_inliers(empty, [full, empty], config()).tolist() == [0, 0]
    assert count_inliers(full, [empty, full], config())[0] == 0
    assert verify(full, [], config()) == []
    assert count_inliers(full, [], config()).shape == (0,)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("places", [1, 3, 7])
def test_a_place_counts_once(estimator: str, places: int) -> None:
    """A hundred features in a handful of places are a handful of matches: too few."""
    spots = scattered(places, seed=5).points
    query = at(spots[np.arange(100) % places] + 0.01)
    assert len(matched(query, query, config(estimator))) == places
    assert only(query, query, config(estimator)).inliers == 0
    # Many places on one side only.
    for one, other in ((query, scattered(100)), (scattered(100), query)):
        assert len(matched(one, other, config(estimator))) == places


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_points_on_a_line_fix_no_model(estimator: str) -> None:
    along = np.arange(60) * 7.0
    random = np.random.default_rng(0)
    for wobble in (0.0, 0.5):
        line = np.column_stack([along, 20 + 0.5 * along]) + random.normal(0, wobble, (60, 2))
        assert only(at(line), at(line + 5.0), config(estimator)).inliers == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "model",
    [
        np.diag([-1.0, 1.0, 1.0]),
        similarity(0.03, 0.0, 100.0, 100.0),
        similarity(40.0, 0.0),
        np.array([[1.0, 0.0, 0.0], [0.0, 0.02, 50.0], [0.0, 0.0, 1.0]]),
        np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    ],
    ids=["mirrored", "tiny", "huge", "squashed", "singular"],
)
def test_what_no_camera_could_see_is_refused(model: Matrix, estimator: str) -> None:
    query = scattered(60)
    found = only(query, seen_through(model, query, noise=0.0), config(estimator))
    assert (found.inliers, found.homography) == (0, None)


@pytest.mark.parametrize(
    "model",
    [
        np.full((3, 3), np.nan),
        np.full((3, 3), np.inf),
        np.zeros((3, 3)),
        np.ones((3, 3)),
        np.diag([1.0, 1.0, 0.0]),
        np.diag([-1.0, 1.0, 1.0]),
        None,
    ],
)
def test_an_estimators_nonsense_is_no_model(
    model: Matrix | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(verification.ESTIMATORS, "magsac", lambda matches, options: model)
    query = scattered(30)
    found = only(query, query, config("magsac"))
    assert (found.homography, found.inliers) == (None, 0)


def test_inliers_are_counted_from_the_model_whatever_its_sign_and_norm() -> None:
    query = scattered(40)
    gallery = seen_through(TILT, query, 0.25, noise=0.0)
    start, end = query.points.astype(np.float64), gallery.points.astype(np.float64)
    for factor in (1.0, -3.0, 1e-9):
        model, inside = fit_of(factor * TILT, start, end, 2.0)
        assert inside[:30].all()
        assert inside.sum() < 35
        np.testing.assert_allclose(model, TILT / np.linalg.norm(TILT), atol=1e-12)


def test_an_inlier_fits_in_both_directions() -> None:
    start = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    shrunk = start / 10.0
    # Half a pixel off in the smaller photograph is five in the larger.
    end = shrunk + np.array([[0.0, 0.0], [0.5, 0.0], [0.1, 0.0]])
    shrink = np.diag([0.1, 0.1, 1.0])
    assert fit_of(shrink, start, end, 2.0)[1].tolist() == [True, False, True]
    assert fit_of(np.linalg.inv(shrink), end, start, 2.0)[1].tolist() == [True, False, True]


def test_what_lies_beyond_the_horizon_is_no_inlier() -> None:
    model = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.01, 0.0, 1.0]])
    start = np.array([[0.0, 0.0], [50.0, 20.0], [10.0, 90.0], [-200.0, 30.0]])
    assert fit_of(model, start, moved(model, start), 1.0)[1].tolist() == [True, True, True, False]


def slow_match(
    query: LocalFeatures, gallery: LocalFeatures, options: VerificationConfig
) -> set[tuple[int, int]]:
    """The matches of features in places of their own, one by one."""
    found = set()
    apart = [
        [float(((a.astype(float) - b.astype(float)) ** 2).sum()) ** 0.5 for b in gallery.codes]
        for a in query.codes
    ]
    for i, row in enumerate(apart):
        j = row.index(min(row))
        column = [apart[other][j] for other in range(len(apart))]
        rest = [value for other, value in enumerate(row) if other != j]
        mutual = column.index(min(column)) == i
        clear = not rest or row[j] < options.ratio * min(rest)
        if (mutual or options.matching == "ratio") and (clear or options.matching == "mutual"):
            found.add((i, j))
    return found


@pytest.mark.parametrize("matching", ["mutual", "ratio", "both"])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("sizes", [(30, 40), (12, 1), (1, 12)])
def test_matches_are_those_of_the_definition(
    matching: str, kind: type, sizes: tuple[int, int]
) -> None:
    random = np.random.default_rng(4)
    query, gallery = (
        replace(scattered(n), codes=random.integers(0, 90, (n, 3)).astype(kind)) for n in sizes
    )
    options = config(matching=matching, ratio=0.8)
    found = matched(query, gallery, options)
    wanted = slow_match(query, gallery, options)
    assert set(map(tuple, found.tolist())) <= wanted
    # Of several query features that match one of the gallery, one is kept.
    assert {j for _, j in found.tolist()} == {j for _, j in wanted}
    assert len(found) == len({j for _, j in wanted})


def test_the_best_match_comes_first_and_keeps_its_place() -> None:
    query = scattered(3)
    codes = np.array([[0, 0], [60, 0], [0, 90]], dtype=np.uint8)
    near = np.array([[3, 0], [61, 0], [0, 92]], dtype=np.uint8)
    query = replace(query, codes=codes)
    gallery = replace(scattered(3, seed=2), codes=near)
    options = config(matching="mutual")
    assert matched(query, gallery, options).tolist() == [[1, 1], [2, 2], [0, 0]]
    twins = replace(gallery, points=gallery.points[[0, 1, 1]] + np.float32(0.01))
    assert matched(query, twins, options).tolist() == [[1, 1], [0, 0]]


def test_the_longest_codes_are_compared_exactly() -> None:
    """Bytes at their limits, 128 a code, that differ by one in one number."""
    far = np.full((2, 128), 255, dtype=np.uint8)
    far[1, 0] = 254
    query = replace(scattered(1), codes=far[1:])
    gallery = replace(scattered(2), codes=far)
    assert match(
        query, Descriptors.of(query.codes), gallery, config(matching="mutual")
    ).tolist() == [[0, 1]]


def test_poselib_is_missed_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "poselib", None)
    with pytest.raises(ConfigError, match="verification") as caught:
        verify(scattered(9), [], VerificationConfig(estimator="poselib"))
    assert "\n" not in str(caught.value)


def neighbours(rows: list[list[int]], similarities: list[list[float]]) -> Neighbours:
    return Neighbours(np.array(rows, np.int64), np.array(similarities, np.float32))


RULES = VerificationConfig(top=3, min_inliers=5, weight=0.5, half=4.0)


def test_the_bonus_of_inliers() -> None:
    before = neighbours([[7, 3, 5, 2]], [[0.9, 0.8, 0.7, 0.6]])
    after = rerank(before, np.array([[4, 8, 20, 99]]), RULES)
    # 4 are too few, 8 are four from the least on, 20 sixteen; the fourth column is not looked at.
    np.testing.assert_allclose(after.similarities, [[0.7 + 0.4, 0.8 + 0.25, 0.9, 0.6]], rtol=1e-6)
    assert after.rows.tolist() == [[5, 3, 7, 2]]
    assert after.similarities.dtype == np.float32
    assert before.rows.tolist() == [[7, 3, 5, 2]]


def test_equals_go_by_row_and_missing_ones_stay_last() -> None:
    before = neighbours(
        [[4, 9, 1, -1], [-1, -1, -1, -1]], [[0.5, 0.5, 0.25, -np.inf], [-np.inf] * 4]
    )
    inliers = np.array([[0, 0, 8, 50], [9, 9, 9, 9]])
    after = rerank(before, inliers, RULES.model_copy(update={"top": 4}))
    assert after.rows.tolist() == [[1, 4, 9, -1], [-1] * 4]
    assert after.similarities.tolist() == [[0.5, 0.5, 0.5, -np.inf], [-np.inf] * 4]


@st.composite
def searches(draw: st.DrawFn) -> tuple[Neighbours, NDArray[np.int64]]:
    queries, k = draw(st.integers(0, 4)), draw(st.integers(0, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = np.array([random.permutation(20)[:k] for _ in range(queries)], np.int64)
    rows = rows.reshape(queries, k)
    similarities = -np.sort(-random.integers(-2, 3, (queries, k)) / 4, axis=1).astype(np.float32)
    for query, found in enumerate(random.integers(0, k + 1, queries)):
        rows[query, found:], similarities[query, found:] = -1, -np.inf
    verified = draw(st.integers(0, k))
    return Neighbours(rows, similarities), random.integers(0, 30, (queries, verified))


@given(searches(), st.integers(1, 8))
def test_reranking_rules(search: tuple[Neighbours, NDArray[np.int64]], top: int) -> None:
    before, inliers = search
    after = rerank(before, inliers, RULES.model_copy(update={"top": top}))
    for query in range(len(before)):
        old = dict(zip(before.rows[query].tolist(), before.similarities[query], strict=True))
        rows, scores = after.rows[query].tolist(), after.similarities[query]
        assert sorted(rows) == sorted(before.rows[query].tolist())
        places = [(row < 0, -score, row) for row, score in zip(rows, scores, strict=True)]
        assert places == sorted(places)
        columns = before.rows[query].tolist()
        for row, score in zip(rows, scores, strict=True):
            column = columns.index(row)
            seen = row >= 0 and column < min(top, inliers.shape[1])
            if seen and inliers[query, column] >= RULES.min_inliers:
                assert old[row] < score < old[row] + RULES.weight
            else:
                assert score == old[row]
