"""Visual words that two photographs share (bags of words, ASMK*): which features carry them.

What a word adds to the similarity is exact (:meth:`InvertedFile.common`); it is shared evenly among
the features that are assigned to it, in either photograph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.aggregation.words import Words
from retrieval.descriptors.local_branch import LocalBranch
from retrieval.explain.aggregation import boxes_of
from retrieval.explain.grid import Grid
from retrieval.explain.shares import PieceShares, Shares, Side
from retrieval.index.inverted_file import InvertedFile
from retrieval.local.features import LocalFeatures


@dataclass(frozen=True)
class WordedFeatures:
    """A photograph's local features with their words.

    Attributes:
        grid: of the photograph.
        boxes: (n, 4) where the features lie, in shares of the sides.
        nearest: (n, a) int64 the words that each is assigned to; -1 pads.
        words: the same gathered, one photograph.
    """

    grid: Grid
    boxes: NDArray[np.float64]
    nearest: NDArray[np.int64]
    words: Words

    @classmethod
    def of(cls, branch: LocalBranch, features: LocalFeatures, grid: Grid) -> WordedFeatures:
        """By a branch that has words; the grid is the photograph's."""
        assert branch.words is not None
        assert branch.words.finder is not None
        (short,) = [features] if branch.reducer is None else branch.reducer.reduce([features])
        many = branch.words.config.assignments
        return cls(
            grid,
            boxes_of(features),
            branch.words.finder.nearest(short.descriptors, many),
            branch.words.words([short], many),
        )

    def carried(self, words: NDArray[np.int32], added: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, w) what each feature has of what (w,) words add."""
        member = (self.nearest[:, :, None] == words).sum(axis=1).astype(np.float64)
        carried: NDArray[np.float64] = member / np.maximum(member.sum(axis=0), 1.0) * added
        return carried


def word_shares(inverted: InvertedFile, query: WordedFeatures, gallery: WordedFeatures) -> Shares:
    """The similarity by words, split over pairs of places."""
    words, added = inverted.common(query.words, gallery.words)
    ones = np.ones(len(words))
    spreads = [one.grid.spread(one.boxes) for one in (query, gallery)]
    one, other = (
        spread @ each.carried(words, ones)
        for spread, each in zip(spreads, (query, gallery), strict=True)
    )
    sides = []
    for spread, each in zip(spreads, (query, gallery), strict=True):
        values = each.carried(words, added).sum(axis=1)
        pieces = (PieceShares("features", each.boxes, values),)
        sides.append(Side(each.grid, spread @ values, 0.0, pieces))
    return Shares(float(added.sum()), one * added @ other.T, 0.0, *sides)
