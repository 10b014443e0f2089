"""Histograms of oriented gradients over the whole photograph.

Dalal and Triggs, "Histograms of oriented gradients for human detection" (CVPR 2005), as
scikit-image computes them: gradient orientations weighted by magnitude, pooled in cells,
normalised over blocks of cells (L2-Hys). Small cells see the windows of a facade, large ones its
outline; several grids are put side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from skimage.feature import hog

from retrieval.descriptors.base import VectorExtractor
from retrieval.frontend import Classical
from retrieval.types import Photograph, StrictModel, Vectors, unit_rows


class HogConfig(StrictModel):
    """A HoG descriptor of a photograph brought to a square.

    Attributes:
        side: of the square, in pixels (the aspect ratio is given up, so that cells correspond).
        cells: side of a cell, in pixels; a grid for each, all of one weight.
        block: side of a normalisation block, in cells.
        orientations: bins over half a turn.
    """

    kind: Literal["hog"] = "hog"
    side: int = Field(160, ge=16, le=1024)
    # YAML and JSON know lists alone.
    cells: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field(
        (20,), min_length=1, strict=False
    )
    block: int = Field(2, ge=1, le=256)
    orientations: int = Field(9, ge=2, le=36)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.side < max(self.cells) * self.block:
            raise ValueError("side must hold at least one block of the largest cells")
        if len(set(self.cells)) < len(self.cells):
            raise ValueError("cells must differ from each other")
        return self


@dataclass(frozen=True)
class HogExtractor(Classical, VectorExtractor):
    """See :class:`HogConfig`."""

    config: HogConfig

    @property
    def dimension(self) -> int:
        config = self.config
        blocks = sum((config.side // cell - config.block + 1) ** 2 for cell in config.cells)
        return blocks * config.block**2 * config.orientations

    @property
    def longest_side(self) -> int:
        # Decoded at up to twice the square, so that shrinking to it averages real pixels.
        return 2 * self.config.side

    def identity(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def features(self, photographs: Sequence[Photograph]) -> list[Vectors]:
        return [self._one(photograph) for photograph in photographs]

    def _one(self, photograph: Photograph) -> Vectors:
        side = self.config.side
        grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
        square = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
        grids = [self._grid(square, cell) for cell in self.config.cells]
        return np.concatenate([unit_rows(grid[None])[0] for grid in grids])

    def _grid(self, square: NDArray[Any], cell: int) -> NDArray[np.float64]:
        values = hog(
            square,
            orientations=self.config.orientations,
            pixels_per_cell=(cell, cell),
            cells_per_block=(self.config.block, self.config.block),
            block_norm="L2-Hys",
        )
        return np.asarray(values, dtype=np.float64)
