"""Harris-Laplace corners: where they are, at which scale, and how they follow a turn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from retrieval.local.features import LocalFeatures
from retrieval.local.harris import HarrisConfig, corners, detect, harris
from tests.features import assert_threads_change_nothing
from tests.photographs import blank, picture
from tests.warps import following, textured, warped

TURNED = HarrisConfig(upright=False)


def test_the_measure_is_that_of_the_second_moments() -> None:
    image = textured(1)[:40, :50, 0].astype(np.float32) / 255
    smooth = cv2.GaussianBlur(image, (0, 0), 1.4)
    dy, dx = np.gradient(smooth)
    found = harris(image, 2.0)
    xx, yy, xy = (cv2.GaussianBlur(1.4**2 * one, (0, 0), 2.0) for one in (dx**2, dy**2, dx * dy))
    y, x = 20, 25
    moments = np.array([[xx[y, x], xy[y, x]], [xy[y, x], yy[y, x]]])
    expected = np.linalg.det(moments) - 0.05 * np.trace(moments) ** 2
    assert found[y, x] == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("sigma", [3.0, 5.0, 8.0])
def test_a_blob_is_found_at_its_scale(sigma: float) -> None:
    """A Gaussian blob's normalised Laplacian is largest at its own sigma."""
    y, x = np.mgrid[:120, :140]
    blob = 30 + 200 * np.exp(-((x - 70.3) ** 2 + (y - 50) ** 2) / (2 * sigma**2))
    points, sizes, strength = corners(np.rint(blob).astype(np.uint8), 1e-6, 10)
    best = strength.argmax()
    np.testing.assert_allclose(points[best], (70.3, 50), atol=0.3)
    assert abs(np.log(sizes[best] / (2 * sigma))) < np.log(1.25)


def test_an_edge_has_no_corner_and_a_window_has() -> None:
    wall = np.full((100, 120), 40, np.uint8)
    wall[:, 60:] = 200
    assert len(corners(wall, 1e-7, 10)[0]) == 0
    wall[45:55, 25:35] = 200
    points, _, _ = corners(wall, 1e-7, 10)
    assert len(points)
    assert (np.abs(points - (29.5, 49.5)) < 12).all()


@pytest.mark.parametrize(
    ("degrees", "scale", "found", "right"),
    [(30, 1.0, 0.8, 0.85), (90, 1.0, 0.95, 0.95), (0, 0.6, 0.4, 0.7)],
)
def test_turned_corners_follow(degrees: float, scale: float, found: float, right: float) -> None:
    followed = following(lambda one: detect(one, TURNED), degrees, scale)
    assert followed.found > found
    assert followed.right > right
    assert followed.matches > 60
    assert followed.ratio == pytest.approx(scale, rel=0.1)
    # The matrix turns against the clock, with y downwards: angles fall.
    assert followed.turn == pytest.approx(-degrees, abs=4)


def test_upright_corners_do_not_survive_a_quarter_turn() -> None:
    assert following(lambda one: detect(one, HarrisConfig()), 90, 1.0).right < 0.1


def test_the_strongest_come_first() -> None:
    more, fewer = (detect(textured(2), HarrisConfig(keypoints=n)) for n in (300, 40))
    assert len(fewer) == 40 < len(more)
    np.testing.assert_array_equal(fewer.points, more.points[:40])
    np.testing.assert_array_equal(fewer.codes, more.codes[:40])
    points, _, strength = corners(np.ascontiguousarray(textured(2)[:, :, 0]), 1e-8, 10)
    by_place = {tuple(point): one for point, one in zip(points, strength, strict=True)}
    order = [by_place[tuple(point)] for point in more.points]
    assert order == sorted(order, reverse=True)


def test_more_levels_find_larger_corners() -> None:
    small, large = (detect(textured(1), HarrisConfig(levels=n)).scales for n in (3, 12))
    assert small.max() == pytest.approx(2 * 1.5 * 1.25**2)
    assert large.max() > 3 * small.max()


def test_a_lower_threshold_finds_more() -> None:
    counts = [
        len(detect(textured(1), HarrisConfig(threshold=t, keypoints=5000)))
        for t in (1e-8, 1e-5, 1e-3)
    ]
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("upright", [True, False])
def test_threads_change_nothing(upright: bool) -> None:
    config = HarrisConfig(upright=upright, keypoints=100)
    photographs = [warped(textured(0), turn, 1.0)[0] for turn in (0, 20)]
    assert_threads_change_nothing(lambda one: detect(one, config), photographs)


@pytest.mark.parametrize(
    "photograph", [blank(), blank(2, 2), picture(1, 15, 400), picture(1, 400, 3)],
    ids=["blank", "tiny", "low", "narrow"],
)  # fmt: skip
def test_nothing_to_find(photograph: np.ndarray) -> None:
    features: LocalFeatures = detect(photograph, TURNED)
    assert len(features) == 0
    assert features.codes.shape == (0, 128)
    assert features.codes.dtype == np.uint8
    assert features.size == photograph.shape[:2]
