"""SIFT keypoints with RootSIFT descriptors.

Lowe, "Distinctive image features from scale-invariant keypoints" (IJCV 2004), by OpenCV; and
Arandjelović and Zisserman, "Three things everyone should know to improve object retrieval" (CVPR
2012): the square root of the L1-normalised descriptor, so that the Euclidean distance compares
histograms by Hellinger's kernel.
"""

from __future__ import annotations

import math
import threading
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.local.base import ClassicalDetector
from retrieval.local.features import LocalFeatures, encode, no_features
from retrieval.types import Photograph, StrictModel, unit_rows

DIMENSION: Final = 128
MIN_SIDE: Final = 16
"""Smaller photographs hold no keypoint that could be described."""


class SiftConfig(StrictModel):
    """How keypoints are found.

    Attributes:
        size: longest side of the photograph in pixels.
        keypoints: the strongest this many are kept.
        upright: take every keypoint as upright, as buildings mostly are, rather than turning its
            patch to its main gradient: more distinctive, not invariant to rotation.
        contrast: OpenCV's contrast threshold; lower finds more keypoints in flat photographs.
        root: RootSIFT rather than SIFT descriptors.
    """

    kind: Literal["sift"] = "sift"
    size: int = Field(512, ge=MIN_SIDE, le=8192)
    keypoints: int = Field(800, ge=1, le=100_000)
    upright: bool = True
    contrast: float = Field(0.02, ge=0.0, le=1.0)
    root: bool = True


class SiftDetector(ClassicalDetector[SiftConfig]):
    """See :class:`SiftConfig`."""

    dimension = DIMENSION

    def detect(self, photograph: Photograph) -> LocalFeatures:
        return detect(photograph, self.config)


_detectors = threading.local()


def detect(photograph: Photograph, config: SiftConfig) -> LocalFeatures:
    """RootSIFT features of one (h, w, 3) RGB photograph, strongest first.

    The order is settled by (response, y, x, angle), whatever OpenCV's threads did.
    """
    size = (photograph.shape[0], photograph.shape[1])
    if min(size) < MIN_SIDE:
        return no_features(DIMENSION, size)
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    detector = _detector(config)
    if config.upright:
        found = _upright(detector.detect(grey, None), config.keypoints)
        keypoints, raw = detector.compute(grey, found) if found else ((), None)
    else:
        keypoints, raw = detector.detectAndCompute(grey, None)
    if raw is None or not len(keypoints):
        return no_features(DIMENSION, size)
    return _sorted(keypoints, np.asarray(raw, dtype=np.float32), config, size)


def normalised(raw: NDArray[np.float32], root: bool) -> NDArray[np.float32]:
    """(n, 128) SIFT descriptors as OpenCV gives them, to unit SIFT or RootSIFT rows."""
    return root_sift(raw) if root else unit_rows(raw)


def root_sift(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 128) non-negative SIFT descriptors to unit RootSIFT rows."""
    sums = np.maximum(raw.sum(axis=1, keepdims=True), 1e-12)
    rooted: NDArray[np.float32] = np.sqrt(raw / sums)
    return rooted


def _detector(config: SiftConfig) -> Any:
    """One detector a thread: OpenCV's is not safe to share."""
    known: dict[SiftConfig, Any] = _detectors.__dict__.setdefault("known", {})
    if config not in known:
        # Upright keypoints lose their twins of other orientations: ask for some more.
        wanted = config.keypoints * 3 // 2 if config.upright else config.keypoints
        known[config] = cv2.SIFT.create(nfeatures=wanted, contrastThreshold=config.contrast)
    return known[config]


def _upright(keypoints: Any, wanted: int) -> list[Any]:
    """The strongest keypoints, one for each place and scale, with their angle set to nought."""
    kept: dict[tuple[float, float, float], Any] = {}
    for keypoint in sorted(keypoints, key=_strength):
        kept.setdefault((*keypoint.pt, keypoint.size), keypoint)
    chosen = list(kept.values())[:wanted]
    for keypoint in chosen:
        keypoint.angle = 0.0
    return chosen


def _strength(keypoint: Any) -> tuple[float, float, float, float]:
    return (-keypoint.response, keypoint.pt[1], keypoint.pt[0], keypoint.angle)


def _sorted(
    keypoints: Any, raw: NDArray[np.float32], config: SiftConfig, size: tuple[int, int]
) -> LocalFeatures:
    order = sorted(range(len(keypoints)), key=lambda i: _strength(keypoints[i]))[: config.keypoints]
    chosen = [keypoints[i] for i in order]
    return LocalFeatures(
        points=np.array([keypoint.pt for keypoint in chosen], dtype=np.float32),
        scales=np.array([keypoint.size for keypoint in chosen], dtype=np.float32),
        angles=np.array([math.radians(keypoint.angle) for keypoint in chosen], dtype=np.float32),
        codes=encode(normalised(raw[order], config.root)),
        size=size,
    )
