"""RootSIFT: its order, its angles, and photographs with nothing in them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from retrieval.local.features import LocalFeatures
from retrieval.local.sift import SiftConfig, detect, root_sift
from tests.photographs import blank, picture
from tests.warps import following

CONFIG = SiftConfig(keypoints=60)


def same(one: LocalFeatures, other: LocalFeatures) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("points", "scales", "angles", "codes")
    )


@pytest.mark.parametrize("upright", [True, False])
def test_the_strongest_come_first(upright: bool) -> None:
    config = SiftConfig(keypoints=60, upright=upright)
    photograph = picture(1)
    features = detect(photograph, config)
    assert 0 < len(features) <= 60
    assert features.size == (96, 128)
    # Fewer keypoints are the beginning of more.
    fewer = detect(photograph, SiftConfig(keypoints=20, upright=upright))
    np.testing.assert_array_equal(fewer.points[:20], features.points[: len(fewer)])
    found = cv2.SIFT.create(contrastThreshold=0.02).detect(
        cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY), None
    )
    response = {keypoint.pt: keypoint.response for keypoint in found}
    order = [response[(float(x), float(y))] for x, y in features.points]
    assert order == sorted(order, reverse=True)


def test_upright_keypoints_have_no_angle_and_no_twin() -> None:
    features = detect(picture(1), SiftConfig(keypoints=1000))
    turned = detect(picture(1), SiftConfig(keypoints=1000, upright=False))
    assert (features.angles == 0).all()
    places = np.column_stack([features.points, features.scales])
    assert len(np.unique(places, axis=0)) == len(features)
    assert len(turned) > len(features)
    assert np.ptp(turned.angles) > 1
    assert turned.angles.max() <= 2 * np.pi + 1e-6


def test_upright_descriptors_are_opencv_s_with_the_angle_at_nought() -> None:
    features = detect(picture(1), CONFIG)
    grey = cv2.cvtColor(picture(1), cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT.create(contrastThreshold=0.02)
    keypoints = list({(*k.pt, k.size): k for k in sift.detect(grey, None)}.values())
    for keypoint in keypoints:
        keypoint.angle = 0.0
    keypoints, raw = sift.compute(grey, keypoints)
    by_place = {(*k.pt, k.size): row for k, row in zip(keypoints, root_sift(raw), strict=True)}
    for point, scale, row in zip(
        features.points, features.scales, features.descriptors, strict=True
    ):
        expected = by_place[(float(point[0]), float(point[1]), float(scale))]
        np.testing.assert_allclose(row, np.minimum(expected, 255 / 512), atol=1 / 1024 + 1e-6)


@pytest.mark.parametrize("upright", [True, False])
def test_threads_change_nothing(upright: bool) -> None:
    config = SiftConfig(keypoints=60, upright=upright)
    photographs = [picture(seed) for seed in range(4)] * 4
    alone = [detect(photograph, config) for photograph in photographs[:4]] * 4
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda one: detect(one, config), photographs))
    finally:
        cv2.setNumThreads(before)
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_root_sift_is_the_root_of_shares() -> None:
    raw = np.random.default_rng(0).integers(0, 200, size=(5, 128)).astype(np.float32)
    rooted = root_sift(raw)
    np.testing.assert_allclose(np.linalg.norm(rooted, axis=1), 1, atol=1e-6)
    # Hellinger's kernel of the histograms is the dot product of their roots.
    shares = raw / raw.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        rooted[0] @ rooted[1], np.sqrt(shares[0] * shares[1]).sum(), rtol=1e-5
    )
    np.testing.assert_array_equal(root_sift(np.zeros((1, 128), np.float32)), 0)


def test_descriptors_are_of_about_unit_length() -> None:
    lengths = np.linalg.norm(detect(picture(1), CONFIG).descriptors, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=0.02)


@pytest.mark.parametrize(
    "photograph",
    [blank(), blank(2, 2), picture(1, 15, 400), picture(1, 400, 3), picture(1)[:, :1].repeat(1, 1)],
    ids=["blank", "tiny", "low", "narrow", "line"],
)
def test_nothing_to_find(photograph: np.ndarray) -> None:
    features = detect(photograph, CONFIG)
    assert len(features) == 0
    assert features.points.shape == (0, 2)
    assert features.codes.shape == (0, 128)
    assert features.size == photograph.shape[:2]


def test_a_lower_contrast_finds_more() -> None:
    faint = (picture(1) // 8 + 100).astype(np.uint8)
    counts = [
        len(detect(faint, SiftConfig(keypoints=1000, contrast=contrast)))
        for contrast in (0.005, 0.02, 0.2)
    ]
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize(("degrees", "scale"), [(30, 1.0), (90, 1.0), (0, 0.6)])
def test_turned_keypoints_follow(degrees: float, scale: float) -> None:
    followed = following(lambda one: detect(one, SiftConfig(upright=False)), degrees, scale)
    assert followed.found > 0.7
    assert followed.right > 0.9
    assert followed.ratio == pytest.approx(scale, rel=0.05)
    assert followed.turn == pytest.approx(-degrees, abs=3)


def test_upright_keypoints_do_not_survive_a_quarter_turn() -> None:
    followed = following(lambda one: detect(one, SiftConfig()), 90, 1.0)
    assert followed.found > 0.7
    assert followed.right < 0.05
