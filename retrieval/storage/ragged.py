"""Photographs with any number of things each, one photograph after another in a few long arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """The things of n photographs; a subclass adds the arrays, a row a thing.

    Attributes:
        starts: (n + 1,) int64 where each photograph's things begin.
    """

    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: slice | NDArray[Any]) -> Self:
        """Some of the photographs, in the order asked for."""
        chosen = np.arange(len(self))[rows]
        counts = np.diff(self.starts)[chosen]
        places = ranges(self.starts[chosen], counts)
        return type(self)(starts_of(counts), *(column[places] for column in self.columns))

    @property
    def columns(self) -> list[NDArray[Any]]:
        """The arrays but ``starts``."""
        return [getattr(self, one.name) for one in fields(self)[1:]]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Photographs after photographs; at least one part."""
        counts = np.concatenate([np.diff(part.starts) for part in parts])
        columns = zip(*(part.columns for part in parts), strict=True)
        return cls(starts_of(counts), *map(np.concatenate, columns))

    def arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """As arrays, for a shard."""
        return {f"{prefix}{one.name}": getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Self:
        """The inverse of ``arrays``."""
        return cls(*(arrays[f"{prefix}{one.name}"] for one in fields(cls)))


def starts_of(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """(n + 1,) where each of n photographs' things begin, and the last end."""
    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``starts[i], starts[i] + 1, … starts[i] + counts[i] - 1`` for each i, one after another."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    places: NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return places
