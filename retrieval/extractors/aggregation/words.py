"""Photographs as sparse sets of visual words, each word with a value.

Large codebooks (thousands of words) leave most words of a photograph empty, so what is kept is
which words it has, and for each either a weight (bag of words) or a binary code (ASMK*).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Words:
    """The visual words of n photographs, photograph after photograph.

    Attributes:
        starts: (n + 1,) int64 where each photograph's words begin.
        words: (m,) int32, ascending and distinct within a photograph.
        values: (m,) float32 weights, or (m, b) uint64 binary codes.
    """

    starts: NDArray[np.int64]
    words: NDArray[np.int32]
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: slice | NDArray[Any]) -> Words:
        """Some of the photographs, in the order asked for."""
        chosen = np.arange(len(self))[rows]
        counts = np.diff(self.starts)[chosen]
        places = ranges(self.starts[chosen], counts)
        return Words(
            np.concatenate(([0], np.cumsum(counts))), self.words[places], self.values[places]
        )

    @classmethod
    def of(cls, each: Sequence[tuple[NDArray[np.int32], NDArray[Any]]], empty: Words) -> Words:
        """Photographs with their words and values, one pair each.

        Args:
            each: (words, values) of each photograph.
            empty: the words of no photograph, which tell the form of the values.
        """
        counts = [len(words) for words, _ in each]
        return cls(
            np.concatenate(([0], np.cumsum(counts, dtype=np.int64))),
            np.concatenate([empty.words, *(words for words, _ in each)]),
            np.concatenate([empty.values, *(values for _, values in each)]),
        )

    @classmethod
    def joined(cls, parts: Sequence[Words]) -> Words:
        """Photographs after photographs; at least one part."""
        counts = np.concatenate([np.diff(part.starts) for part in parts])
        return cls(
            np.concatenate(([0], np.cumsum(counts))),
            np.concatenate([part.words for part in parts]),
            np.concatenate([part.values for part in parts]),
        )

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """As arrays, for a shard."""
        return {
            f"{prefix}starts": self.starts,
            f"{prefix}words": self.words,
            f"{prefix}values": self.values,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Words:
        """The inverse of ``arrays``."""
        return cls(*(arrays[f"{prefix}{name}"] for name in ("starts", "words", "values")))


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``starts[i], starts[i] + 1, … starts[i] + counts[i] - 1`` for each i, one after another."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    places: NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return places
