"""Harris corners at the scales at which they are most blob-like, with RootSIFT descriptors.

Mikolajczyk and Schmid, "Scale & affine invariant interest point detectors" (IJCV 2004), section
3.2, in its simplified form: at each of several scales, corners are maxima of Harris's measure of
the scale-adapted second moment matrix (equations 1 and 2); a corner is kept where the normalised
Laplacian (equation 3) at its place is larger than at the scales below and above.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.local.base import ClassicalDetector
from retrieval.local.features import LocalFeatures, encode, no_features
from retrieval.local.patches import directions, root_sift_at, to_grey
from retrieval.types import Photograph, StrictModel

DIMENSION: Final = 128
MIN_SIDE: Final = 16
FIRST: Final = 1.5
"""Sigma of the first scale in pixels: below it, corners are mostly noise."""
FACTOR: Final = 1.25
"""From one scale to the next."""
SHARE: Final = 0.7
"""Sigma of the derivatives over that of the window that gathers them."""
ALPHA: Final = 0.05
"""Harris's weight of the squared trace: edges count against corners."""
TURNED_BY: Final = 4.5
"""Width of the square whose gradients give the direction, in keypoint sizes."""


class HarrisConfig(StrictModel):
    """How corners are found.

    Attributes:
        size: longest side of the photograph in pixels.
        keypoints: the strongest this many are kept.
        upright: take every corner as upright, as buildings mostly are, rather than turning its
            patch to its main gradient.
        threshold: least Harris measure, of grey levels in 0 to 1; lower finds more corners in
            flat photographs.
        levels: scales at which corners are sought, each a quarter above the last.
    """

    kind: Literal["harris"] = "harris"
    size: int = Field(512, ge=MIN_SIDE, le=8192)
    keypoints: int = Field(800, ge=1, le=100_000)
    upright: bool = True
    threshold: float = Field(1e-8, ge=0.0, le=1.0)
    levels: int = Field(10, ge=1, le=24)


class HarrisDetector(ClassicalDetector[HarrisConfig]):
    """See :class:`HarrisConfig`."""

    dimension = DIMENSION

    def detect(self, photograph: Photograph) -> LocalFeatures:
        return detect(photograph, self.config)


def detect(photograph: Photograph, config: HarrisConfig) -> LocalFeatures:
    """Harris-Laplace corners of one (h, w, 3) RGB photograph, strongest first.

    ``scales`` of the result are twice the sigma at which each was found, as SIFT's are.
    """
    size = (photograph.shape[0], photograph.shape[1])
    if min(size) < MIN_SIDE:
        return no_features(DIMENSION, size)
    grey = to_grey(photograph)
    points, sizes, strength = corners(grey, config.threshold, config.levels)
    order = np.lexsort([sizes, points[:, 0], points[:, 1], -strength])[: config.keypoints]
    if not len(order):
        return no_features(DIMENSION, size)
    points, sizes = points[order], sizes[order]
    angles = np.zeros(len(points), dtype=np.float32)
    if not config.upright:
        angles = directions(grey, points, sizes * np.float32(TURNED_BY))
    return LocalFeatures(points, sizes, angles, encode(root_sift_at(grey, points, sizes, angles)),
                         size)  # fmt: skip


def corners(
    grey: NDArray[np.uint8], threshold: float, levels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Points (n, 2), keypoint sizes (n,) and Harris measures (n,) of an (h, w) photograph."""
    image = grey.astype(np.float32) / np.float32(255)
    sigmas = [FIRST * FACTOR**level for level in range(-1, levels + 1)]
    laplacians = [_laplacian(image, sigma) for sigma in sigmas]
    found = []
    for level in range(1, levels + 1):
        measure = harris(image, sigmas[level])
        x, y, at = _maxima(measure, threshold)
        below, here, above = (laplacians[level + i][at] for i in (-1, 0, 1))
        keep = (here > below) & (here > above)
        points = np.column_stack([x, y])[keep]
        sizes = np.full(len(points), 2 * sigmas[level], dtype=np.float32)
        found.append((points, sizes, measure[at][keep]))
    points, sizes, strength = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return points, sizes, strength


def harris(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Harris's measure (h, w) of the second moments gathered by a Gaussian of ``sigma``."""
    inner = SHARE * sigma
    smooth = _blurred(image, inner)
    across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=1, scale=0.5 * inner)
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=1, scale=0.5 * inner)
    xx, yy, xy = (_blurred(a * b, sigma) for a, b in ((across, across), (down, down),
                                                      (across, down)))  # fmt: skip
    measure: NDArray[np.float32] = xx * yy - xy * xy - ALPHA * (xx + yy) ** 2
    return measure


def _laplacian(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """The scale-normalised Laplacian's size (h, w)."""
    found = cv2.Laplacian(_blurred(image, sigma), cv2.CV_32F, ksize=1, scale=sigma**2)
    return np.abs(np.asarray(found, dtype=np.float32))


def _maxima(
    measure: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], Any]:
    """x and y of the local maxima above a threshold, refined by parabolas, and their pixels."""
    highest = cv2.dilate(measure, np.ones((3, 3), np.uint8))
    at = (measure == highest) & (measure > threshold)
    at[[0, -1]] = at[:, [0, -1]] = False
    y, x = np.nonzero(at)
    centre = measure[y, x]
    place = []
    for axis, before, after in (
        (x, measure[y, x - 1], measure[y, x + 1]),
        (y, measure[y - 1, x], measure[y + 1, x]),
    ):
        bend = before - 2 * centre + after
        shift = 0.5 * (before - after) / np.where(bend < 0, bend, -np.inf)
        place.append((axis + shift).astype(np.float32))
    return place[0], place[1], (y, x)


def _blurred(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, dtype=np.float32)
