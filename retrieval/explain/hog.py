"""HoG taken apart: every number belongs to one cell of one grid."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array

from retrieval.descriptors.hog import HogExtractor
from retrieval.explain.grid import Grid
from retrieval.explain.split import Pieces, Split, joined
from retrieval.types import Photograph, unit_rows


def of_hog(extractor: HogExtractor, photograph: Photograph, grid: Grid) -> Split:
    """A cell counts in every block that it lies in; a block's normalisation is a factor."""
    config = extractor.config
    vector = unit_rows(extractor.features([photograph])[0][None])[0].astype(np.float64)
    splits, start = [], 0
    for side in config.cells:
        many = config.side // side
        blocks = many - config.block + 1
        # skimage's order: blocks by row and column, their cells likewise, orientations.
        row, column, down, across, _ = np.indices(
            (blocks, blocks, config.block, config.block, config.orientations)
        ).reshape(5, -1)
        cell = (row + down) * many + column + across
        numbers = np.arange(len(cell))
        values = coo_array(
            (vector[start : start + len(cell)], (cell, numbers)), (many**2, len(cell))
        ).tocsr()
        # What is left of the square beyond the last whole cell is in none.
        boxes = Grid(many, many).boxes * (many * side / config.side)
        pieces = Pieces("cells", values, 0, grid.spread(boxes), boxes)
        splits.append(Split(grid, (pieces,), np.zeros(len(cell))))
        start += len(cell)
    return joined(splits)
