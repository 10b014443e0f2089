"""Rows to index, as blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from retrieval.errors import RunError
from retrieval.types import Vectors
from retrieval.vectors.checked import checked_rows
from retrieval.vectors.gpu import ROWS_PER_BLOCK

Blocks = Vectors | Iterable[Vectors]


class RowBlocks:
    """Descriptors as blocks of bounded size, whether given as one array or as many."""

    def __init__(self, descriptors: Blocks) -> None:
        if iter(descriptors) is descriptors:
            raise TypeError("blocks are read more than once: give a list or a store, no generator")
        self._arrays = (descriptors,) if isinstance(descriptors, np.ndarray) else descriptors

    def blocks(self, shard: int | None = None) -> Iterator[tuple[int, Vectors]]:
        """Each block with the position of its first row; none has rows of two shards."""
        first = 0
        for array in self._arrays:
            start = 0
            while start < len(array):
                left = ROWS_PER_BLOCK if shard is None else shard - (first + start) % shard
                stop = start + min(ROWS_PER_BLOCK, left)
                yield first + start, array[start:stop]
                start = stop
            first += len(array)

    def count(self) -> int:
        return sum(len(array) for array in self._arrays)

    def dimension(self) -> int:
        for array in self._arrays:
            return int(array.shape[1])
        raise RunError("there are no descriptors to index: no photograph of the gallery was read")

    def sample(self, most: int, seed: int) -> Vectors:
        """At most ``most`` rows drawn from the seed, the same however the rows are blocked."""
        count = self.count()
        if count <= most:
            chosen = np.arange(count)
        else:
            drawn = np.random.default_rng(seed).choice(count, most, replace=False, shuffle=False)
            chosen = np.sort(drawn)
        sample = np.empty((len(chosen), self.dimension()), dtype=np.float32)
        for start, block in self.blocks():
            here = slice(*np.searchsorted(chosen, (start, start + len(block))))
            sample[here] = checked_rows(block[chosen[here] - start], sample.shape[1], start)
        return sample
