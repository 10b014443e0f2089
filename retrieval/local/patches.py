"""RootSIFT of patches that another detector chose, and the direction that each is turned to.

Lowe, "Distinctive image features from scale-invariant keypoints" (IJCV 2004), section 5 (the
direction) and section 6 (the descriptor, by OpenCV).
"""

from __future__ import annotations

import threading
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from retrieval.local.sift import root_sift
from retrieval.types import Photograph

WIDTH: Final = 6.0
"""A SIFT descriptor's four cells span this many times OpenCV's keypoint size (three each)."""
BASE: Final = 1.6
"""OpenCV's blur of the first level of a SIFT pyramid, in pixels …"""
LAYERS: Final = 3
"""… and its levels in an octave."""
BINS: Final = 36
SAMPLES: Final = 15
"""Gradients are looked up on a lattice of this many rows and columns over a patch."""

_describers = threading.local()


def to_grey(photograph: Photograph) -> NDArray[np.uint8]:
    """(h, w, 3) RGB to (h, w)."""
    return np.asarray(cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def root_sift_at(
    grey: NDArray[np.uint8],
    points: NDArray[np.float32],
    sizes: NDArray[np.float32],
    angles: NDArray[np.float32],
) -> NDArray[np.float32]:
    """RootSIFT of given keypoints.

    Args:
        grey: (h, w) photograph.
        points: (n, 2) x and y in pixels, n at least 1.
        sizes: (n,) OpenCV's keypoint sizes (twice the keypoint's sigma); see :data:`WIDTH`.
        angles: (n,) radians, from x towards y.

    Returns:
        (n, 128) float32 unit rows in the order given; zeros where the patch is flat.
    """
    # Each patch is read from the level of the pyramid whose blur suits its size, as if SIFT had
    # found it there; patches smaller than that of the first level are read from the first.
    levels = np.maximum(np.rint(LAYERS * np.log2(sizes / (2 * BASE))).astype(int), 0)
    octaves = np.maximum(levels - 1, 0) // LAYERS
    packed = octaves | (levels - octaves * LAYERS) << 8
    degrees = np.degrees(angles) % 360
    keypoints = [
        cv2.KeyPoint(float(x), float(y), float(size), float(angle), 1.0, int(octave))
        for (x, y), size, angle, octave in zip(points, sizes, degrees, packed, strict=True)
    ]
    _, raw = _describer().compute(grey, keypoints)
    return root_sift(np.asarray(raw, dtype=np.float32))


def directions(
    grey: NDArray[np.uint8], points: NDArray[np.float32], widths: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The main gradient direction around each point.

    The peak of a histogram of gradient directions, weighted by their strength and by a Gaussian,
    smoothed, and refined by a parabola through its neighbours.

    Args:
        grey: (h, w) photograph.
        points: (n, 2) x and y in pixels.
        widths: (n,) of the square that is looked at, in pixels.

    Returns:
        (n,) radians, from x towards y, in 0 to 2 pi.
    """
    smooth = cv2.GaussianBlur(grey, (0, 0), BASE).astype(np.float32)
    across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=1)
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=1)
    strength, direction = cv2.cartToPolar(across, down)
    offset = (np.arange(SAMPLES, dtype=np.float32) + 0.5) / SAMPLES - 0.5
    dy, dx = np.meshgrid(offset, offset, indexing="ij")
    x = np.rint(points[:, :1] + widths[:, None] * dx.reshape(1, -1)).astype(int)
    y = np.rint(points[:, 1:] + widths[:, None] * dy.reshape(1, -1)).astype(int)
    inside = (x >= 0) & (x < grey.shape[1]) & (y >= 0) & (y < grey.shape[0])
    x, y = x.clip(0, grey.shape[1] - 1), y.clip(0, grey.shape[0] - 1)
    weights = strength[y, x] * inside * np.exp(-8 * (dx**2 + dy**2)).reshape(1, -1)
    place = direction[y, x] * (BINS / (2 * np.pi))
    lower = np.floor(place)
    share = place - lower
    first = np.arange(len(points))[:, None] * BINS
    cells = [first + (lower.astype(int) + i) % BINS for i in (0, 1)]
    counted = np.bincount(
        np.concatenate([cell.ravel() for cell in cells]),
        np.concatenate([(weights * (1 - share)).ravel(), (weights * share).ravel()]),
        minlength=len(points) * BINS,
    )
    return _peaks(np.asarray(counted, dtype=np.float64).reshape(-1, BINS))


def _peaks(histograms: NDArray[np.float64]) -> NDArray[np.float32]:
    """The directions of the highest peaks of (n, BINS) circular histograms."""
    near = np.roll(histograms, 1, axis=1) + np.roll(histograms, -1, axis=1)
    far = np.roll(histograms, 2, axis=1) + np.roll(histograms, -2, axis=1)
    smooth = (6 * histograms + 4 * near + far) / 16
    rows, peak = np.arange(len(smooth)), smooth.argmax(axis=1)
    before, at, after = (smooth[rows, (peak + i) % BINS] for i in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1.0), 0.0)
    angles: NDArray[np.float32] = (((peak + shift) % BINS) * (2 * np.pi / BINS)).astype(np.float32)
    return angles


def _describer() -> Any:
    """One a thread: OpenCV's is not safe to share."""
    if not hasattr(_describers, "sift"):
        _describers.sift = cv2.SIFT.create(nOctaveLayers=LAYERS, sigma=BASE)
    return _describers.sift
