"""A descriptor as a sum over pieces of the photograph, exactly.

Pooling, power normalisation and unit length are not linear. Each is written as a factor that the
whole photograph sets, times what every piece adds: GeM's channel is the mean of a^p times (that
mean)^(1/p - 1), a number's signed power is the number times its size^(a - 1). With these factors
held, everything up to the descriptor is linear, and whitening's matrix folds in. It is one choice
among several, and the shares add up exactly (Zhu, Yang and Chen, "Visual explanation for deep
metric learning", IEEE TIP 2021, for average and max pooling).

What whitening takes off (its mean) is taken off every piece evenly, so that a share of nought is
that of an average piece. What no place can be told for (a class token) stays a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from retrieval.explain.grid import Grid

Kind = Literal["places", "cells", "features", "lines"]
Matrix = NDArray[np.float64]
TINY = 1e-12


@dataclass(frozen=True)
class Pieces:
    """Pieces of one kind, and what each adds to a descriptor.

    Attributes:
        kind: places of feature maps, cells of HoG, local features, or lines.
        values: (n, k) float64, dense or sparse; numbers ``start`` to ``start + k`` of the
            descriptor.
        start: see ``values``.
        spread: (cells, n) how much of each piece lies in each cell of the grid.
        marks: (n, 4) shares of the photograph's sides: left, top, right, bottom of a box, or a
            line's two ends.
    """

    kind: Kind
    values: Any
    start: int
    spread: Matrix
    marks: Matrix

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def columns(self) -> slice:
        """Which numbers of the descriptor they add to."""
        return slice(self.start, self.start + self.values.shape[1])

    def towards(self, direction: Matrix) -> Matrix:
        """(n,) inner products of what each adds with a (d,) direction."""
        return np.asarray(self.values @ direction[self.columns]).ravel()


@dataclass(frozen=True)
class Split:
    """A descriptor taken apart: the sum over all pieces, and a constant.

    Attributes:
        grid: of the photograph.
        pieces: of every kind that it has.
        constant: (d,) what no place can be told for.
    """

    grid: Grid
    pieces: tuple[Pieces, ...]
    constant: Matrix

    @property
    def total(self) -> Matrix:
        """(d,) the descriptor."""
        total = self.constant.copy()
        for one in self.pieces:
            total[one.columns] += np.asarray(one.values.sum(axis=0)).ravel()
        return total

    @property
    def placed(self) -> Matrix:
        """(cells, d) what the places of the photograph add."""
        placed = np.zeros((len(self.grid), len(self.constant)))
        for one in self.pieces:
            placed[:, one.columns] += one.spread @ one.values
        return placed

    def towards(self, direction: Matrix) -> Matrix:
        """(cells,) inner products of what each place adds with a (d,) direction."""
        found = np.zeros(len(self.grid))
        for one in self.pieces:
            found += one.spread @ one.towards(direction)
        return found

    def scaled(self, factor: float | Matrix) -> Split:
        """With all numbers multiplied, alike or by (d,) factors."""
        each = np.broadcast_to(np.asarray(factor, np.float64), self.constant.shape)
        pieces = [replace(one, values=_times(one.values, each[one.columns])) for one in self.pieces]
        return replace(self, pieces=tuple(pieces), constant=self.constant * each)

    def unit(self) -> Split:
        """Brought to unit length."""
        return self.scaled(1.0 / max(float(np.linalg.norm(self.total)), TINY))

    def through(
        self, matrix: NDArray[Any], mean: NDArray[Any] | None = None, bias: Any = 0.0
    ) -> Split:
        """The descriptor x as ``(x - mean) @ matrix + bias``.

        Args:
            matrix: (d, k).
            mean: (d,) taken evenly off the pieces that make a number; where none does, off the
                constant.
            bias: (k,) added evenly to all pieces; to the constant where there are none.
        """
        wide = matrix.astype(np.float64)
        taken = np.zeros(len(wide)) if mean is None else mean.astype(np.float64)
        made = np.zeros(len(wide))
        for one in self.pieces:
            made[one.columns] += len(one)
        count = sum(map(len, self.pieces))
        bias = np.broadcast_to(np.asarray(bias, np.float64), wide.shape[1:])
        constant = (self.constant - np.where(made > 0, 0.0, taken)) @ wide
        pieces = []
        for one in self.pieces:
            part = wide[one.columns]
            each = (taken / np.maximum(made, 1.0))[one.columns]
            values = np.asarray(one.values @ part) - each @ part + bias / count
            pieces.append(replace(one, values=values, start=0))
        return replace(self, pieces=tuple(pieces), constant=constant if count else constant + bias)


def joined(splits: Sequence[Split]) -> Split:
    """Descriptors of one photograph side by side."""
    starts = np.cumsum([0, *(len(one.constant) for one in splits)])
    pieces = [
        replace(one, start=int(one.start + start))
        for split, start in zip(splits, starts, strict=False)
        for one in split.pieces
    ]
    return Split(splits[0].grid, tuple(pieces), np.concatenate([one.constant for one in splits]))


def of_places(grid: Grid, values: Matrix) -> Split:
    """A descriptor of which (d, rows, columns) are what each cell of the grid adds."""
    flat = np.ascontiguousarray(values.reshape(len(values), -1).T)
    pieces = Pieces("places", flat, 0, np.eye(len(grid)), grid.boxes)
    return Split(grid, (pieces,), np.zeros(len(values)))


def of_nowhere(grid: Grid, values: NDArray[Any]) -> Split:
    """A (d,) descriptor of which no place can be told."""
    return Split(grid, (), values.astype(np.float64))


def powered(split: Split, power: float) -> Split:
    """Every number replaced by its signed power."""
    size = np.abs(split.total)
    return split.scaled(np.where(size > 0, np.maximum(size, 1e-300) ** (power - 1.0), 0.0))


def _times(values: Any, factors: Matrix) -> Any:
    if issparse(values):
        return csr_array(values.multiply(factors[None]))
    return values * factors
