"""Occlusion: how far a number falls where a patch of the photograph is greyed.

Zeiler and Fergus, "Visualizing and understanding convolutional networks" (ECCV 2014), section 3.2.
It asks nothing of the extractor but descriptors, so that it holds for every system.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.descriptors.describer import Describer
from retrieval.errors import ExplainError
from retrieval.explain.grid import Grid
from retrieval.explain.splitting import grid_of
from retrieval.explain.targets import Target
from retrieval.photographs.decoding import shrink
from retrieval.types import Photograph

REDUCED: Final = 0.5
"""A network sees the photographs at this share of their size: there are many of them."""
WINDOW: Final = 64
"""Photographs that are made at a time."""


def occlusion(
    describer: Describer, photograph: Photograph, target: Target, grid: Grid | None = None
) -> tuple[Grid, NDArray[np.float64], float]:
    """The cells, (cells,) how far the target falls without each, and its value.

    Args:
        describer: any.
        photograph: (h, w, 3).
        target: what is looked at.
        grid: of patches; by default that of the shares.
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
        some = [without(small, grid, cell) for cell in range(start, min(start + WINDOW, len(grid)))]
        rows = describer.describe(some).vectors
        # Without anything to describe nothing is left of the target.
        there = np.linalg.norm(rows, axis=1) > 0
        falls[start : start + len(some)] = value - np.where(there, target.of(rows), 0.0)
    return grid, falls, value


def without(photograph: Photograph, grid: Grid, cells: int | NDArray[np.int64]) -> Photograph:
    """A photograph with some of its cells in its mean colour."""
    height, width = photograph.shape[:2]
    greyed = photograph.copy()
    mean = photograph.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    for left, top, right, bottom in grid.boxes[np.atleast_1d(cells)]:
        rows = slice(round(top * height), round(bottom * height))
        greyed[rows, round(left * width) : round(right * width)] = mean
    return greyed
