"""SURF: blobs found and described with box filters on an integral image.

Bay, Ess, Tuytelaars and Van Gool, "Speeded-up robust features (SURF)" (CVIU 2008), by mahotas. Its
keypoints are always turned to their main direction: mahotas knows no upright SURF. They follow a
change of scale less well than SIFT's.
"""

from __future__ import annotations

from typing import Final, Literal

import cv2
import numpy as np
from mahotas.features.surf import surf
from numpy.typing import NDArray
from pydantic import Field

from retrieval.local.base import ClassicalDetector
from retrieval.local.features import LocalFeatures, encode, no_features
from retrieval.types import Photograph, StrictModel, unit_rows

DIMENSION: Final = 64
MIN_SIDE: Final = 16
"""Smaller photographs hold no blob that could be described."""
MARGIN: Final = 32
"""mahotas finds nothing this near to the border: photographs get one, of their outermost pixels."""
OCTAVES: Final = 4
SCALES: Final = 4
"""Box filters in an octave, as in the paper."""


class SurfConfig(StrictModel):
    """How blobs are found.

    Attributes:
        size: longest side of the photograph in pixels.
        keypoints: the strongest this many are kept.
        threshold: least determinant of the Hessian, of grey levels in 0 to 255; lower finds more
            blobs in flat photographs.
    """

    kind: Literal["surf"] = "surf"
    size: int = Field(512, ge=MIN_SIDE, le=8192)
    keypoints: int = Field(800, ge=1, le=100_000)
    threshold: float = Field(10.0, ge=1e-6, le=1e9)


class SurfDetector(ClassicalDetector[SurfConfig]):
    """See :class:`SurfConfig`."""

    dimension = DIMENSION

    def detect(self, photograph: Photograph) -> LocalFeatures:
        return detect(photograph, self.config)


def detect(photograph: Photograph, config: SurfConfig) -> LocalFeatures:
    """SURF features of one (h, w, 3) RGB photograph, strongest first.

    ``scales`` of the result are twice SURF's, which are sigmas.
    """
    size = (photograph.shape[0], photograph.shape[1])
    if min(size) < MIN_SIDE:
        return no_features(DIMENSION, size, signed=True)
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    framed = cv2.copyMakeBorder(grey, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REPLICATE)
    found = surf(framed, OCTAVES, SCALES, 1, config.threshold, config.keypoints)
    found[:, :2] -= MARGIN
    found = found[((found[:, :2] >= 0) & (found[:, :2] <= np.array(size) - 1)).all(axis=1)]
    y, x, scale, score, _, angle = found[:, :6].T
    order = np.lexsort([angle, scale, x, y, -score])
    rows: NDArray[np.float32] = found[order].astype(np.float32)
    return LocalFeatures(
        points=rows[:, [1, 0]],
        scales=2 * rows[:, 2],
        # mahotas turns from x against y.
        angles=-rows[:, 5] % np.float32(2 * np.pi),
        codes=encode(unit_rows(rows[:, 6:]), signed=True),
        size=size,
    )
