"""A gallery: labelled photographs with a bank of photographs without a landmark, to be searched."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np

from retrieval.descriptors.representation import Representation
from retrieval.descriptors.trained_head import TrainedHead
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.neighbours import Neighbours, VectorIndex
from retrieval.index.searcher import Searcher
from retrieval.types import Flags, Integers, Vectors

ROWS: Final = 1 << 10
"""Photographs searched for in the bank at a time."""


@dataclass(frozen=True)
class Gallery:
    """The labelled photographs, the bank of photographs without a landmark, and their indices.

    Attributes:
        descriptors: n photographs, possibly memory-mapped.
        codes: (n,) int64, each row's landmark as a position in ``landmarks``.
        landmarks: the landmarks' ids, ascending; one may have no row (its photographs removed).
        bank: m photographs without a landmark; m may be 0.
        searcher: of the gallery; row ids are positions.
        bank_searcher: of the bank; ``None`` where that is empty.
        eligible: (n,) which photographs taught nothing of what describes them; those alone are held
            out. ``None``: all.
        bank_eligible: (m,) likewise.
        head: of a trained network, for the classifier ``network``.

    Raises:
        ValueError: the parts do not belong together.
    """

    descriptors: Representation
    codes: Integers
    landmarks: list[str]
    bank: Representation
    searcher: Searcher
    bank_searcher: Searcher | None = None
    eligible: Flags | None = None
    bank_eligible: Flags | None = None
    head: TrainedHead | None = None
    _searched: dict[tuple[bool, int, bytes], Neighbours] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    _bank_similarities: dict[int, Vectors] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not len(self.descriptors) == len(self.codes) == len(self.searcher):
            raise ValueError(
                f"{len(self.descriptors)} descriptors, {len(self.codes)} codes and an index of "
                f"{len(self.searcher)} rows are not one gallery"
            )
        if len(self.bank) != len(self.bank_searcher or ()):
            raise ValueError(f"the bank's index is not of its {len(self.bank)} rows")
        if len(self.codes) and not 0 <= self.codes.min() <= self.codes.max() < len(self.landmarks):
            raise ValueError(f"codes are not positions in {len(self.landmarks)} landmarks")

    @classmethod
    def of(
        cls,
        vectors: Vectors,
        codes: Integers,
        landmarks: list[str],
        bank: Vectors,
        index: VectorIndex,
    ) -> Self:
        """A gallery of vectors alone, (n, d) of photographs and (m, d) of the bank; the latter is
        searched exactly."""
        exact = Searcher(FaissIndex.build(bank, IndexConfig()), bank) if len(bank) else None
        known, none = Representation(vectors), Representation(bank)
        return cls(known, codes, landmarks, none, Searcher(index, vectors), exact)

    @property
    def vectors(self) -> Vectors:
        """(n, d) float32 unit rows."""
        return self.descriptors.vectors

    @property
    def bank_vectors(self) -> Vectors:
        """(m, d) float32 unit rows."""
        return self.bank.vectors

    def neighbours_of(self, rows: Integers, k: int) -> Neighbours:
        """The k nearest rows of each of (g,) gallery rows, itself left out."""
        return self._found(False, rows, k)

    def neighbours_of_bank(self, rows: Integers, k: int) -> Neighbours:
        """The k nearest gallery rows of each of (b,) bank rows."""
        return self._found(True, rows, k)

    def bank_similarities(self, n: int) -> Vectors:
        """(n,) each row's :func:`bank_similarity`, looked for once: there may be millions."""
        if n not in self._bank_similarities:
            found = bank_similarity(self.descriptors, self.bank_searcher, n)
            self._bank_similarities[n] = found
        return self._bank_similarities[n]

    def _found(self, bank: bool, rows: Integers, k: int) -> Neighbours:
        # Whatever holds photographs out holds out the same ones, and verifying them takes long.
        key = bank, k, rows.tobytes()
        if key not in self._searched:
            self._searched[key] = (
                self.searcher.search(self.bank[rows], k, bank_own=rows)
                if bank
                else self.searcher.search(self.descriptors[rows], k, own=rows)
            )
        return self._searched[key]


def bank_similarity(
    queries: Representation | Vectors, bank_searcher: Searcher | None, n: int
) -> Vectors:
    """(q,) mean similarity of q photographs to their n nearest bank photographs; 0 without."""
    similarity = np.zeros(len(queries), np.float32)
    if bank_searcher is None:
        return similarity
    # Nothing is verified in the bank: the most bulky part need not be read.
    n, asked = min(n, len(bank_searcher)), replace(Representation.of(queries), kept=None)
    for start in range(0, len(queries), ROWS):
        near = bank_searcher.search(asked[start : start + ROWS], n)
        similarity[start : start + ROWS] = near.similarities.mean(axis=1, dtype=np.float64)
    return similarity


@dataclass(frozen=True)
class GalleryChange:
    """What became of a gallery: some rows are left, in their order, and new ones come after them.

    Attributes:
        codes: (n,) int64, each row's landmark before.
        landmarks: by these codes, before.
        left: (n,) which rows are left.
    """

    codes: Integers
    landmarks: list[str]
    left: Flags

    @property
    def kept(self) -> int:
        """How many rows are left: those of the gallery now begin with them."""
        return int(self.left.sum())

    def places(self, landmarks: list[str]) -> Integers:
        """(l,) the codes that landmarks of now had before; -1 for a new one."""
        before = {landmark: code for code, landmark in enumerate(self.landmarks)}
        return np.array([before.get(one, -1) for one in landmarks], dtype=np.int64)

    def touched(self, gallery: Gallery) -> Integers:
        """The codes, now, of landmarks that a photograph came to or went from."""
        went = {self.landmarks[code] for code in np.unique(self.codes[~self.left])}
        gone = [code for code, one in enumerate(gallery.landmarks) if one in went]
        return np.union1d(gallery.codes[self.kept :], np.array(gone, dtype=np.int64))
