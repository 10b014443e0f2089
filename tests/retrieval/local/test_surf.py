"""SURF by mahotas: the layout of its rows, its order, and how it follows a turn."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.local.surf import SurfConfig, detect
from tests.features import assert_threads_change_nothing
from tests.photographs import blank, picture
from tests.warps import following, textured

CONFIG = SurfConfig()


def test_a_blob_is_found_at_its_place() -> None:
    y, x = np.mgrid[:120, :140]
    blob = 30 + 200 * np.exp(-((x - 80) ** 2 + (y - 50) ** 2) / (2 * 4.0**2))
    features = detect(np.repeat(blob[:, :, None], 3, axis=2).astype(np.uint8), CONFIG)
    np.testing.assert_allclose(features.points[0], (80, 50), atol=1.5)
    assert 4 < features.scales[0] < 9


def test_larger_blobs_have_larger_scales() -> None:
    y, x = np.mgrid[:120, :140]
    scales = []
    for sigma in (3.0, 4.0, 5.0):
        blob = 30 + 200 * np.exp(-((x - 80) ** 2 + (y - 50) ** 2) / (2 * sigma**2))
        image = np.repeat(blob[:, :, None], 3, axis=2).astype(np.uint8)
        scales.append(float(detect(image, CONFIG).scales[0]))
    assert scales == sorted(set(scales))


@pytest.mark.parametrize(
    ("degrees", "scale", "found", "right"),
    # Its box filters follow a turn less well than SIFT's Gaussians, and a change of scale badly.
    [(30, 1.0, 0.45, 0.45), (90, 1.0, 0.7, 0.6), (0, 0.8, 0.3, 0.35)],
)
def test_turned_blobs_follow(degrees: float, scale: float, found: float, right: float) -> None:
    followed = following(lambda one: detect(one, CONFIG), degrees, scale)
    assert followed.found > found
    assert followed.right > right
    assert followed.matches > 40
    assert followed.ratio == pytest.approx(scale, rel=0.1)
    assert followed.turn == pytest.approx(-degrees, abs=4)


def test_the_strongest_come_first() -> None:
    photograph = textured(0)
    more, fewer = (detect(photograph, SurfConfig(keypoints=n)) for n in (400, 50))
    assert 40 < len(fewer) <= 50 < len(more)
    np.testing.assert_array_equal(fewer.points, more.points[: len(fewer)])
    np.testing.assert_array_equal(fewer.codes, more.codes[: len(fewer)])


def test_descriptors_are_signed_and_of_unit_length() -> None:
    features = detect(textured(0), CONFIG)
    assert features.codes.dtype == np.int8
    assert features.codes.shape[1] == 64
    assert (features.codes < 0).any()
    # A number above a half is clipped.
    lengths = np.linalg.norm(features.descriptors, axis=1)
    assert (np.abs(lengths - 1) < 0.02).mean() > 0.8
    assert lengths.min() > 0.8
    assert features.angles.min() >= 0
    assert features.angles.max() <= 2 * np.pi


def test_blobs_near_the_border_are_found() -> None:
    features = detect(textured(0), CONFIG)
    near = np.minimum(features.points, [[359, 299]] - features.points).min(axis=1)
    assert near.min() >= 0
    assert (near < 15).any()


def test_a_lower_threshold_finds_more() -> None:
    counts = [len(detect(textured(1), SurfConfig(threshold=t))) for t in (1.0, 50.0, 500.0)]
    assert counts[0] > counts[1] > counts[2]


def test_threads_change_nothing() -> None:
    photographs = [textured(seed, 150, 200) for seed in range(3)]
    assert_threads_change_nothing(lambda one: detect(one, CONFIG), photographs)


@pytest.mark.parametrize(
    "photograph", [blank(), blank(2, 2), picture(1, 15, 400), picture(1, 400, 3)],
    ids=["blank", "tiny", "low", "narrow"],
)  # fmt: skip
def test_nothing_to_find(photograph: np.ndarray) -> None:
    features = detect(photograph, CONFIG)
    assert len(features) == 0
    assert features.codes.shape == (0, 64)
    assert features.codes.dtype == np.int8
    assert features.size == photograph.shape[:2]
