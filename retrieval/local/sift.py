"""SIFT keypoints with RootSIFT descriptors.

Lowe, "Distinctive image features from scale-invariant keypoints" (IJCV 2004), by OpenCV; and
Arandjelović and Zisserman, "Three things everyone should know to improve object retrieval" (CVPR
2012): the square root of the L1-normalised descriptor, so that the Euclidean distance compares
histograms by Hellinger's kernel.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.frontend import Shared
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


@dataclass(frozen=True)
class SiftDetector(ClassicalDetector[SiftConfig]):
    """See :class:`SiftConfig`.

    Attributes:
        paired: whether another frontend is the same but for ``upright``, and the first of them
            describes for both (:data:`retrieval.frontend.Shared`).
    """

    paired: bool = False
    dimension = DIMENSION

    def detect(self, photograph: Photograph) -> LocalFeatures:
        return detect(photograph, self.config)

    def prepare(
        self, photographs: Sequence[Photograph], shared: Shared | None = None
    ) -> list[LocalFeatures]:
        """Their features: nothing is left to be done on a device."""
        if shared is None or not self.paired:
            return self.features(photographs)
        both = self.config.model_copy(update={"upright": True})
        if both not in shared:
            shared[both] = [detect_both(one, both) for one in photographs]
        return [found[self.config.upright] for found in shared[both]]

    def start(
        self, prepared: list[LocalFeatures], shared: Shared | None = None
    ) -> Callable[[], list[LocalFeatures]]:
        return lambda: prepared


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


def detect_both(photograph: Photograph, config: SiftConfig) -> dict[bool, LocalFeatures]:
    """:func:`detect` with ``upright`` and without: keypoints are found once, and described in one
    call, for which OpenCV makes one pyramid."""
    size = (photograph.shape[0], photograph.shape[1])
    configs = {upright: config.model_copy(update={"upright": upright}) for upright in (True, False)}
    if min(size) < MIN_SIDE:
        return {upright: no_features(DIMENSION, size) for upright in configs}
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    detector = _detector(configs[True])
    turned = detector.detect(grey, None)
    if not any(_octave(one) < 0 for one in turned):
        # OpenCV would begin the pyramid for given keypoints with the octave of theirs.
        return {upright: detect(photograph, own) for upright, own in configs.items()}
    turned = sorted(turned, key=_strength)
    # Copies: what is upright loses its angle.
    upright = _upright([cv2.KeyPoint(*_parts(one)) for one in turned], config.keypoints)
    turned = turned[: config.keypoints]
    keypoints, raw = detector.compute(grey, [*upright, *turned])
    rows = np.asarray(raw, dtype=np.float32)
    many = len(upright)
    return {
        True: _sorted(keypoints[:many], rows[:many], configs[True], size),
        False: _sorted(keypoints[many:], rows[many:], configs[False], size),
    }


def _octave(keypoint: Any) -> int:
    """Of the pyramid, -1 for the enlarged photograph; OpenCV packs it into a byte."""
    byte = int(keypoint.octave) & 255
    return byte - 256 if byte > 127 else byte


def _parts(keypoint: Any) -> tuple[Any, ...]:
    x, y = keypoint.pt
    return (x, y, keypoint.size, keypoint.angle, keypoint.response, keypoint.octave)


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
