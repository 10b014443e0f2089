"""RootSIFT at given places, and directions, against what OpenCV's SIFT finds for itself."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from retrieval.local.patches import directions, root_sift_at
from retrieval.local.sift import root_sift
from tests.warps import textured

GREY = np.ascontiguousarray(textured(0)[:, :, 0])


def arrays(keypoints: list[cv2.KeyPoint]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([one.pt for one in keypoints], np.float32),
        np.array([one.size for one in keypoints], np.float32),
        np.radians([one.angle for one in keypoints]).astype(np.float32),
    )


def test_descriptors_are_those_of_sift_at_the_same_places() -> None:
    """Though only place and size are told: the level of the pyramid follows from the size."""
    sift = cv2.SIFT.create()
    keypoints = [one for one in sift.detect(GREY, None) if one.size > 4]
    keypoints, raw = sift.compute(GREY, keypoints)
    found = root_sift_at(GREY, *arrays(list(keypoints)))
    likeness = (found * root_sift(raw)).sum(axis=1)
    assert len(keypoints) > 100
    assert np.median(likeness) > 0.995
    assert (likeness > 0.9).mean() > 0.95


@pytest.mark.parametrize("size", [3.0, 6.0, 12.0])
def test_a_patch_is_six_sizes_wide(size: float) -> None:
    """What lies well outside it does not matter, and what lies at its edge does."""
    whole = GREY[:240, :240]
    place = np.array([[120, 120]], np.float32), np.array([size], np.float32)

    def seen(half: float) -> np.ndarray:
        cut = np.full_like(whole, 120)
        at = slice(120 - round(half), 121 + round(half))
        cut[at, at] = whole[at, at]
        return root_sift_at(cut, *place, np.zeros(1, np.float32))[0]

    expected = seen(119)
    assert seen(6.5 * size) @ expected > 0.995
    assert seen(1.5 * size) @ expected < 0.97


def test_directions_are_those_of_sift() -> None:
    keypoints = [one for one in cv2.SIFT.create().detect(GREY, None) if one.size > 4]
    # Where SIFT gives a keypoint several directions, none of them is the main one.
    places = [one.pt for one in keypoints]
    points, sizes, angles = arrays([one for one in keypoints if places.count(one.pt) == 1])
    found = directions(GREY, points, 4.5 * sizes)
    apart = np.degrees(np.abs(np.angle(np.exp(1j * (found - angles)))))
    assert np.median(apart) < 6
    assert (apart < 20).mean() > 0.8


@pytest.mark.parametrize("degrees", [0, 37, 90, 200, 359])
def test_a_slope_has_its_direction(degrees: float) -> None:
    y, x = np.mgrid[:60, :60] - 30.0
    slope = 128 + 2 * (x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees)))
    found = directions(
        slope.clip(0, 255).astype(np.uint8), np.array([[30, 30]], np.float32),
        np.array([30], np.float32),
    )  # fmt: skip
    apart = (np.degrees(found[0]) - degrees + 180) % 360 - 180
    assert abs(apart) < 3
