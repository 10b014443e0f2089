"""What two photographs share: their similarity split over pairs of places, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.explain.grid import Grid
from retrieval.explain.split import Matrix, Split


@dataclass(frozen=True)
class PieceShares:
    """What pieces of one kind add to a similarity or a margin.

    Attributes:
        kind: ``places``, ``cells``, ``features`` or ``lines``.
        marks: (n, 4) where they lie, as :class:`retrieval.explain.split.Pieces` has it.
        values: (n,) what each adds.
    """

    kind: str
    marks: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One photograph's places.

    Attributes:
        grid: its places.
        values: (cells,) what each adds.
        constant: ``values.sum() + constant`` is the whole.
        pieces: the same by the pieces that the descriptor was made of.
    """

    grid: Grid
    values: Matrix
    constant: float
    pieces: tuple[PieceShares, ...]

    @property
    def map(self) -> Matrix:
        """(rows, columns)."""
        return self.values.reshape(self.grid.rows, self.grid.columns)


@dataclass(frozen=True)
class Shares:
    """A similarity split.

    Attributes:
        similarity: of the two descriptors.
        pairs: (places of the query, places of the gallery photograph) float64.
        constant: ``pairs.sum() + constant`` is the similarity; other than nought only where a
            descriptor has numbers without a place.
        query, gallery: each photograph's places against the whole of the other.
    """

    similarity: float
    pairs: Matrix
    constant: float
    query: Side
    gallery: Side

    def partners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each place of the query the gallery's with the largest share, and the reverse."""
        return self.pairs.argmax(axis=1), self.pairs.argmax(axis=0)


def shares(query: Split, gallery: Split) -> Shares:
    """The inner product of two descriptors, split over pairs of places."""
    one, other = query.placed, gallery.placed
    whole, theirs = query.total, gallery.total
    constant = query.constant @ theirs + whole @ gallery.constant
    constant -= query.constant @ gallery.constant
    return Shares(
        similarity=float(whole @ theirs),
        pairs=one @ other.T,
        constant=float(constant),
        query=towards(query, theirs),
        gallery=towards(gallery, whole),
    )


def towards(split: Split, direction: NDArray[np.floating]) -> Side:
    """A linear function of a descriptor, as a similarity or an SVM's margin is, by places.

    Args:
        split: of the descriptor.
        direction: (d,) its weights.
    """
    wide = direction.astype(np.float64)
    pieces = tuple(PieceShares(one.kind, one.marks, one.towards(wide)) for one in split.pieces)
    return Side(split.grid, split.towards(wide), float(split.constant @ wide), pieces)


def mixed(parts: Sequence[tuple[float, Shares]]) -> Shares:
    """A weighted sum of similarities of the same two photographs."""
    sides = [
        Side(
            grid=each[0][1].grid,
            values=np.sum([weight * one.values for weight, one in each], axis=0),
            constant=sum(weight * one.constant for weight, one in each),
            pieces=tuple(
                PieceShares(part.kind, part.marks, weight * part.values)
                for weight, one in each
                for part in one.pieces
            ),
        )
        for each in (
            [(weight, one.query) for weight, one in parts],
            [(weight, one.gallery) for weight, one in parts],
        )
    ]
    return Shares(
        sum(weight * one.similarity for weight, one in parts),
        np.sum([weight * one.pairs for weight, one in parts], axis=0),
        sum(weight * one.constant for weight, one in parts),
        *sides,
    )
