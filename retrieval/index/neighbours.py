"""Which rows of a gallery are nearest, and how near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Neighbours:
    """The nearest gallery rows of each query, most similar first, ties by row.

    ``rows`` (q, k) int64 are positions in the index, -1 where there is none; ``similarities``
    (q, k) float32 are inner products, -inf where there is none. Where neighbours were verified,
    ``bonus`` (q, k) float32 is what their inliers added to their similarities, else ``None``.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    bonus: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, queries: slice | NDArray[Any]) -> Neighbours:
        """Those of some of the queries."""
        bonus = None if self.bonus is None else self.bonus[queries]
        return Neighbours(self.rows[queries], self.similarities[queries], bonus)

    def first(self, k: int) -> Neighbours:
        """The k nearest."""
        bonus = None if self.bonus is None else self.bonus[:, :k]
        return Neighbours(self.rows[:, :k], self.similarities[:, :k], bonus)


class VectorIndex(Protocol):
    """What finds the nearest of n rows, whichever engine it asks."""

    def __len__(self) -> int: ...

    @property
    def dimension(self) -> int: ...

    @property
    def bytes_per_row(self) -> int: ...

    @property
    def most_neighbours(self) -> int: ...

    def search(self, queries: NDArray[np.float32], k: int) -> Neighbours: ...
