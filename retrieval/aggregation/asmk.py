"""ASMK*: a binary code for each visual word of a photograph.

Tolias, Avrithis and Jégou, "To aggregate or not to aggregate: selective match kernels for image
search" (ICCV 2013), section 4: for each word, the residuals of all the descriptors assigned to it
are summed, so that repeated structures count once, and the sum is kept as the signs of its numbers.
The kernel that compares two photographs is in :mod:`retrieval.index.inverted_file`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.aggregation.words import WordMaker, Words
from retrieval.types import StrictModel
from retrieval.vectors.clustering import WordFinder

BITS: Final = 64
"""Signs in one number of a code."""


class AsmkConfig(StrictModel):
    """The kernel's constants.

    Attributes:
        words: size of the codebook, learnt on the gallery and the bank.
        assignments: words that each descriptor is assigned to, in the gallery as in queries, so
            that a gallery photograph which is held out is described as a query would be.
        alpha: power of a word's similarity.
        threshold: a word whose similarity (−1 to 1) is not above it does not count.
        idf: weigh words by how rare they are in the gallery.
    """

    kind: Literal["asmk"] = "asmk"
    words: int = Field(8192, ge=1, le=1_000_000)
    assignments: int = Field(2, ge=1, le=64)
    alpha: float = Field(3.0, ge=1e-3, le=10.0)
    threshold: float = Field(0.0, ge=-1.0, lt=1.0)
    idf: bool = True


@dataclass(frozen=True)
class Asmk(WordMaker):
    """Local features to words with binary codes, (m, ⌈d / 64⌉) uint64."""

    config: AsmkConfig

    def _of_one(
        self, descriptors: NDArray[np.float32], finder: WordFinder, assignments: int
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        return binarised(descriptors, finder, assignments)

    def _none(self, finder: WordFinder) -> Words:
        codes = np.zeros((0, -(-finder.centroids.shape[1] // BITS)), np.uint64)
        return Words(np.zeros(1, np.int64), np.zeros(0, np.int32), codes)


def binarised(
    descriptors: NDArray[np.float32], finder: WordFinder, assignments: int
) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """One photograph's words, ascending, and the signs of their aggregated residuals.

    Args:
        descriptors: (n, d); n may be 0.
        finder: of the words.
        assignments: words for each descriptor.

    Returns:
        (u,) words and (u, ⌈d / 64⌉) codes; bits beyond d are nought.
    """
    from scipy.sparse import csr_array

    nearest = finder.nearest(descriptors, assignments)
    owners, places = np.nonzero(nearest >= 0)
    flat = nearest[owners, places]
    order = np.argsort(flat, kind="stable")
    words, begins = np.unique(flat[order], return_index=True)
    ends = np.append(begins, len(flat))
    # A sparse product, which needs no copy of the descriptors for each of their words.
    ones = np.ones(len(flat), dtype=np.float32)
    member = csr_array((ones, owners[order], ends), shape=(len(words), len(descriptors)))
    counts = np.diff(ends)[:, None].astype(np.float32)
    signs = member @ descriptors > counts * finder.centroids[words]
    padded = np.zeros((len(words), -(-signs.shape[1] // BITS) * BITS), np.bool_)
    padded[:, : signs.shape[1]] = signs
    codes = np.packbits(padded, axis=1, bitorder="little").view("<u8")
    return words.astype(np.int32), codes.astype(np.uint64)
