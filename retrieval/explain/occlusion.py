"""Occlusion: how far a number falls where a patch of the photograph is greyed.

Zeiler and Fergus, "Visualizing and understanding convolutional networks" (ECCV 2014), section 3.2.
It asks nothing of the extractor but descriptors, so that it holds for every system.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from retrieval.descriptors.describer import Describer
from retrieval.errors import ExplainError
from retrieval.explain.grid import Grid
from retrieval.explain.splitting import grid_of
from retrieval.explain.targets import Target
from retrieval.photographs.decoding import shrink
from retrieval.types import Photograph

PATCH: Final = 3
"""Cells along a patch, which is moved by one: a single cell is hardly missed, since networks' last
maps look far beyond it."""
SOFT: Final = 1 / 3
"""Deviation of a Gaussian that edges are softened by, in cells: a hard one would be something to
describe."""
REDUCED: Final = 0.5
"""A network sees the photographs at this share of their size: there are many of them."""
WINDOW: Final = 64
"""Photographs that are made at a time."""


def occlusion(
    describer: Describer, photograph: Photograph, target: Target, grid: Grid | None = None
) -> tuple[Grid, NDArray[np.float64], float]:
    """The cells, (cells,) how far the target falls without the patch about each, and its value.

    Args:
        describer: any.
        photograph: (h, w, 3).
        target: what is looked at.
        grid: of the patches' middles; by default that of the shares.
    """
    longest = describer.longest_side
    small = shrink(photograph, round(longest * REDUCED) if describer.frontend.batched else longest)
    grid = grid or grid_of(describer, photograph)
    (whole,) = describer.describe([small]).vectors
    if not whole.any():
        raise ExplainError("occlusion: there is nothing to describe at the reduced size")
    value = float(target.of(whole[None])[0])
    falls = np.zeros(len(grid))
    for start in range(0, len(grid), WINDOW):
        here = range(start, min(start + WINDOW, len(grid)))
        some = [without(small, grid, patch(grid, cell)) for cell in here]
        rows = describer.describe(some).vectors
        # Without anything to describe nothing is left of the target.
        there = np.linalg.norm(rows, axis=1) > 0
        falls[start : start + len(some)] = value - np.where(there, target.of(rows), 0.0)
    return grid, falls, value


def patch(grid: Grid, cell: int) -> NDArray[np.int64]:
    """The cells about one, :data:`PATCH` along each side, fewer at the borders."""
    row, column = np.divmod(np.arange(len(grid)), grid.columns)
    away = np.maximum(np.abs(row - cell // grid.columns), np.abs(column - cell % grid.columns))
    return np.flatnonzero(away <= PATCH // 2)


def without(photograph: Photograph, grid: Grid, cells: NDArray[Any]) -> Photograph:
    """A photograph with some of its cells, by number or as flags, in its mean colour."""
    height, width = photograph.shape[:2]
    chosen = np.zeros(len(grid), np.float32)
    chosen[cells] = 1
    laid = chosen.reshape(grid.rows, grid.columns)
    mask = cv2.resize(laid, (width, height), interpolation=cv2.INTER_NEAREST)
    cell = max(height / grid.rows, width / grid.columns)
    mask = cv2.GaussianBlur(mask, (0, 0), SOFT * cell)[..., None]
    mean = photograph.mean(axis=(0, 1), dtype=np.float32)
    return np.asarray((photograph * (1 - mask) + mean * mask).round(), np.uint8)
