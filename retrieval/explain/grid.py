"""Places of a photograph: one coarse grid, whatever the pieces are that a descriptor is made of.

Cells of feature maps at several scales, keypoints, lines and HoG's cells are all laid on the same
grid. What a piece adds is shared among the cells that it covers by the area in each, so that sums
stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.types import Reals

CELLS: Final = 14
"""Cells along a photograph's longer side: the last map of most networks at 448 pixels."""
STEPS: Final = 8
"""A line is laid on the grid at this many places along it."""
NARROW: Final = 1e-6
"""What a box is widened to, as a share of the photograph's side."""


@dataclass(frozen=True)
class Grid:
    """Equal cells of a photograph, row by row from the top left.

    Attributes:
        rows, columns: how many.
    """

    rows: int
    columns: int

    @classmethod
    def of(cls, size: tuple[int, int], cells: int = CELLS) -> Grid:
        """Nearly square cells for a (height, width), ``cells`` along the longer side."""
        longest = max(size)
        rows, columns = (max(1, round(cells * side / longest)) for side in size)
        return cls(rows, columns)

    def __len__(self) -> int:
        return self.rows * self.columns

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(cells, 4) left, top, right, bottom of every cell, as shares of the sides."""
        row, column = np.divmod(np.arange(len(self)), self.columns)
        return np.column_stack(
            [column / self.columns, row / self.rows,
             (column + 1) / self.columns, (row + 1) / self.rows]
        )  # fmt: skip

    def maps(self, values: Reals) -> NDArray[np.float64]:
        """(..., h, w) of a map that covers the photograph to (..., rows, columns), sums kept."""
        down = _overlap(values.shape[-2], self.rows)
        across = _overlap(values.shape[-1], self.columns)
        laid: NDArray[np.float64] = down @ values.astype(np.float64) @ across.T
        return laid

    def spread(self, boxes: Reals) -> NDArray[np.float64]:
        """(cells, n) how much of each of (n, 4) boxes lies in each cell; columns sum to 1.

        What lies beyond the photograph is cut off; a box outside counts where it is nearest.
        """
        boxes = boxes.astype(np.float64)
        low, high = np.clip(boxes[:, :2], 0, 1 - NARROW), np.clip(boxes[:, 2:], NARROW, 1)
        high = np.maximum(high, low + NARROW)
        across = _shares(low[:, 0], high[:, 0], self.columns)
        down = _shares(low[:, 1], high[:, 1], self.rows)
        laid: NDArray[np.float64] = down[:, None] * across[None]
        return laid.reshape(len(self), len(boxes))

    def spread_lines(self, lines: Reals) -> NDArray[np.float64]:
        """(cells, n) likewise of (n, 4) lines from (x, y) to (x, y)."""
        laid = np.zeros((len(self), len(lines)))
        for step in (np.arange(STEPS) + 0.5) / STEPS:
            points = lines[:, :2] + step * (lines[:, 2:] - lines[:, :2])
            laid += self.spread(np.hstack([points, points])) / STEPS
        return laid


def _overlap(parts: int, cells: int) -> NDArray[np.float64]:
    """(cells, parts) how much of each of equal parts of a side lies in each of equal cells."""
    edges = np.arange(parts + 1) / parts
    return _shares(edges[:-1], edges[1:], cells)


def _shares(low: Reals, high: Reals, cells: int) -> NDArray[np.float64]:
    """(cells, n) how much of each interval within 0 to 1 lies in each of equal cells."""
    edges = np.arange(cells + 1)[:, None] / cells
    inside = np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])
    inside = np.maximum(inside, 0.0)
    shares: NDArray[np.float64] = inside / inside.sum(axis=0)
    return shares
