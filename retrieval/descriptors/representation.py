"""What is known of photographs once they are described: vectors, and what their local features
became where a system keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.aggregation.words import Words
from retrieval.local.compression import CompressedFeatures
from retrieval.local.features import LocalFeatures
from retrieval.storage.files import write_arrays
from retrieval.types import Vectors

VECTORS: Final = "descriptors"
CALIBRATION: Final = "calibration"
WORDS: Final = "words."
KEPT: Final = "kept."


class KeptFeatures(Protocol):
    """Photographs' local features, kept to verify by: :class:`CompressedFeatures`, or ones that
    are described when they are asked for."""

    @property
    def bytes_per_row(self) -> float: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice | NDArray[Any]) -> Self: ...
    def one(self, row: int) -> LocalFeatures: ...
    def arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]: ...
    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self: ...


@dataclass(frozen=True)
class Representation:
    """n photographs, described.

    Attributes:
        vectors: (n, d) float32 unit rows, possibly memory-mapped; zeros for a photograph in which
            there was nothing to describe.
        words: their visual words, or ``None`` where the system has none.
        kept: their local features, or ``None`` where the system keeps none.
        calibration: (n, p, e) their vectors by each describer of a cross-fit, which is fitted
            without one part of the photographs, or ``None`` where there is none.
    """

    vectors: Vectors
    words: Words | None = None
    kept: KeptFeatures | None = None
    calibration: Vectors | None = None

    def __post_init__(self) -> None:
        for part in (self.words, self.kept, self.calibration):
            if part is not None and len(part) != len(self.vectors):
                raise ValueError(f"{len(part)} photographs beside {len(self.vectors)} vectors")

    @classmethod
    def of(cls, rows: Representation | Vectors) -> Representation:
        """Bare vectors as descriptors; descriptors as they are."""
        return rows if isinstance(rows, Representation) else cls(rows)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Representation:
        """Some of the photographs, in the order asked for, read into memory."""
        return Representation(
            np.ascontiguousarray(self.vectors[rows], dtype=np.float32),
            None if self.words is None else self.words[rows],
            None if self.kept is None else self.kept[rows],
            None if self.calibration is None else np.asarray(self.calibration[rows], np.float32),
        )

    @classmethod
    def joined(cls, parts: Sequence[Representation]) -> Representation:
        """Photographs after photographs; at least one part."""
        words = [part.words for part in parts if part.words is not None]
        kept = [part.kept for part in parts if part.kept is not None]
        calibration = [part.calibration for part in parts if part.calibration is not None]
        return cls(
            np.concatenate([part.vectors for part in parts]),
            Words.joined(words) if words else None,
            type(kept[0]).joined(kept) if kept else None,
            np.concatenate(calibration) if calibration else None,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays, for a shard."""
        found = {VECTORS: np.asarray(self.vectors)}
        if self.words is not None:
            found |= self.words.arrays(WORDS)
        if self.kept is not None:
            found |= self.kept.arrays(KEPT)
        if self.calibration is not None:
            found[CALIBRATION] = np.asarray(self.calibration)
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Representation:
        """The inverse of ``arrays``."""
        return cls(
            arrays[VECTORS],
            Words.from_arrays(arrays, WORDS) if f"{WORDS}starts" in arrays else None,
            CompressedFeatures.from_arrays(arrays, KEPT) if f"{KEPT}starts" in arrays else None,
            arrays.get(CALIBRATION),
        )


def write_descriptors(
    folder: Path, blocks: Callable[[], Iterable[Representation | KeptFeatures]]
) -> None:
    """Write photographs that come block by block into arrays that can be mapped.

    Args:
        folder: where they go; :meth:`Representation.from_arrays` takes what is read there.
        blocks: gives the photographs, at least one block and twice over: to count, and to write.
    """
    totals: dict[str, int] = {}
    forms: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    for block in blocks():
        for name, array in block.arrays().items():
            # Photographs' starts are one more than photographs, once for all of them.
            many = len(array) - 1 if name.endswith("starts") else len(array)
            totals[name] = totals.get(name, int(name.endswith("starts"))) + many
            forms[name] = array.dtype, (totals[name], *array.shape[1:])
    write_arrays(folder, forms, _joined_starts(block.arrays() for block in blocks()))


def _joined_starts(blocks: Iterable[dict[str, NDArray[Any]]]) -> Iterator[dict[str, NDArray[Any]]]:
    """Blocks whose starts go on where the block before ended, and are written once."""
    ends: dict[str, int] = {}
    for block in blocks:
        for name in [name for name in block if name.endswith("starts")]:
            shifted = block[name] + ends.get(name, 0)
            block[name] = shifted[1:] if name in ends else shifted
            ends[name] = int(shifted[-1])
        yield block
