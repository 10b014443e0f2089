"""RootSIFT on a regular grid at several scales: every part of a photograph speaks.

Bosch, Zisserman and Muñoz, "Image classification using random forests and ferns" (ICCV 2007),
section 2.1: descriptors of patches of several widths around the points of one grid, and none of
patches with too little contrast.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.local.base import ClassicalDetector
from retrieval.local.features import LocalFeatures, encode, no_features
from retrieval.local.patches import WIDTH, directions, root_sift_at, to_grey
from retrieval.types import Photograph, StrictModel

DIMENSION: Final = 128
MIN_WIDTH: Final = 8.0

Width = Annotated[float, Field(ge=MIN_WIDTH, le=1024.0)]


class DenseConfig(StrictModel):
    """Where descriptors are taken.

    Attributes:
        size: longest side of the photograph in pixels.
        step: between the points of the grid, in pixels.
        scales: widths of the patches around them, in pixels.
        keypoints: at most; a longer list is thinned evenly.
        upright: take every patch as upright, as buildings mostly are, rather than turning it to
            its main gradient.
        min_contrast: patches whose mean gradient is below this are left out, in grey levels (of
            255) a pixel; a photograph of nothing has no features.
    """

    kind: Literal["dense"] = "dense"
    size: int = Field(384, ge=16, le=8192)
    step: int = Field(8, ge=1, le=1024)
    scales: tuple[Width, ...] = Field((16.0, 24.0, 36.0), min_length=1, max_length=16, strict=False)
    keypoints: int = Field(2000, ge=1, le=100_000)
    upright: bool = True
    min_contrast: float = Field(2.0, ge=0.0, le=255.0)


class DenseDetector(ClassicalDetector[DenseConfig]):
    """See :class:`DenseConfig`."""

    dimension = DIMENSION

    def detect(self, photograph: Photograph) -> LocalFeatures:
        return detect(photograph, self.config)


def detect(photograph: Photograph, config: DenseConfig) -> LocalFeatures:
    """Dense RootSIFT of one (h, w, 3) RGB photograph, patches of most contrast first.

    ``scales`` of the result are the patches' widths.
    """
    size = (photograph.shape[0], photograph.shape[1])
    grey = to_grey(photograph)
    points, widths, contrast = _patches(grey, config)
    if not len(points):
        return no_features(DIMENSION, size)
    angles = np.zeros(len(points), dtype=np.float32)
    if not config.upright:
        angles = directions(grey, points, widths)
    codes = encode(root_sift_at(grey, points, widths / np.float32(WIDTH), angles))
    order = np.lexsort([widths, points[:, 0], points[:, 1], -contrast])
    order = order[codes[order].any(axis=1)]
    return LocalFeatures(points[order], widths[order], angles[order], codes[order], size)


def grid(size: tuple[int, int], width: float, step: int) -> NDArray[np.float32]:
    """(n, 2) points around which patches lie inside a (height, width) photograph.

    The grid is centred, so that a photograph turned or mirrored has the same points turned or
    mirrored.
    """
    axes = []
    for side in size:
        count = max(int((side - width) // step) + 1, 0)
        axes.append((side - 1 - (count - 1) * step) / 2 + step * np.arange(count))
    y, x = np.meshgrid(*axes, indexing="ij")
    return np.column_stack([x.ravel(), y.ravel()]).astype(np.float32)


def _patches(
    grey: NDArray[np.uint8], config: DenseConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Points (n, 2), widths (n,) and contrasts (n,) of the patches that are worth describing."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0).astype(np.float32)
    strength = cv2.magnitude(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=1, scale=0.5),
        cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=1, scale=0.5),
    )
    found = []
    for width in config.scales:
        points = grid(grey.shape, width, config.step)
        side = round(width)
        means = cv2.blur(strength, (side, side))
        x, y = np.rint(points).astype(int).T
        contrast = means[y, x]
        keep = (contrast >= config.min_contrast) & (contrast > 0)
        widths = np.full(keep.sum(), width, dtype=np.float32)
        found.append((points[keep], widths, contrast[keep]))
    points, widths, contrast = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if len(points) > config.keypoints:
        even = (np.arange(config.keypoints) * len(points)) // config.keypoints
        points, widths, contrast = points[even], widths[even], contrast[even]
    return points, widths, contrast
