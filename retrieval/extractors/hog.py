"""Histograms of oriented gradients over the whole photograph.

Dalal and Triggs, "Histograms of oriented gradients for human detection" (CVPR 2005), as
scikit-image computes them: gradient orientations weighted by magnitude, pooled in cells,
normalised over blocks of cells (L2-Hys).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import cv2
import numpy as np
from pydantic import Field, model_validator
from skimage.feature import hog

from retrieval.extractors.base import Classical, Photograph, StrictModel, VectorExtractor, Vectors


class HogConfig(StrictModel):
    """A HoG descriptor of a photograph brought to a square.

    Attributes:
        side: of the square, in pixels (the aspect ratio is given up, so that cells correspond).
        cell: side of a cell, in pixels.
        block: side of a normalisation block, in cells.
        orientations: bins over half a turn.
    """

    kind: Literal["hog"] = "hog"
    side: int = Field(160, ge=16, le=1024)
    cell: int = Field(20, ge=4)
    block: int = Field(2, ge=1)
    orientations: int = Field(9, ge=2, le=36)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.side < self.cell * self.block:
            raise ValueError("side must hold at least one block of cells (cell * block)")
        return self


@dataclass(frozen=True)
class HogExtractor(Classical, VectorExtractor):
    """See :class:`HogConfig`."""

    config: HogConfig

    @property
    def dimension(self) -> int:
        config = self.config
        blocks = config.side // config.cell - config.block + 1
        return blocks**2 * config.block**2 * config.orientations

    @property
    def longest_side(self) -> int:
        # Decoded at up to twice the square, so that shrinking to it averages real pixels.
        return 2 * self.config.side

    def identity(self) -> dict[str, Any]:
        return self.config.model_dump()

    def features(self, photographs: Sequence[Photograph]) -> list[Vectors]:
        return [self._one(photograph) for photograph in photographs]

    def _one(self, photograph: Photograph) -> Vectors:
        config = self.config
        grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
        square = cv2.resize(grey, (config.side, config.side), interpolation=cv2.INTER_AREA)
        values = hog(
            square,
            orientations=config.orientations,
            pixels_per_cell=(config.cell, config.cell),
            cells_per_block=(config.block, config.block),
            block_norm="L2-Hys",
        )
        return np.asarray(values, dtype=np.float32)
