"""Photographs for training: decoded once where memory allows."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.photographs.decoding import read_photograph
from retrieval.types import Photograph


class Photographs:
    """Photographs by their row, safe to read from several threads.

    Args:
        sources: paths.
        longest_side: what they are shrunk to.
        memory: bytes of photographs that are kept at most; the rest is read again each time.
    """

    def __init__(self, sources: Sequence[str], longest_side: int, memory: int):
        self._sources = sources
        self._longest_side = longest_side
        self._left = memory
        self._kept: dict[int, Photograph] = {}

    def read(self, row: int) -> Photograph:
        """(h, w, 3) uint8.

        Raises:
            DecodeError: it cannot be read.
        """
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        photograph = read_photograph(self._sources[row], self._longest_side)
        # Two threads may both think that there is room: the cap is a soft one.
        if photograph.nbytes <= self._left:
            self._left -= photograph.nbytes
            self._kept[row] = photograph
        return photograph
