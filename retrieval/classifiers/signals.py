"""What beside a classifier's scores speaks for its answer, or against it.

Every signal is a number a photograph, and rises as the answer grows likelier, but for the
similarity to the bank. They are taken from the photograph's neighbours, whichever classifier it is
that answers:

* ``confidence``: the answer's own value;
* ``margin``: how far the runner-up's value lies below;
* ``agreement``: the similarities of the first few neighbours that show the answer, over their
  number;
* ``tail``: how far out of the ordinary the answer's best similarity is. The largest similarities
  of photographs that do not show it, gallery and bank, are the tail of what chance brings; their
  excess over the smallest of them is taken as exponential, which is the limit law of excesses of
  light-tailed scores (Pickands, "Statistical inference using extreme order statistics", 1975), and
  the signal is minus the logarithm of the chance of as large a one. The idea of judging a match by
  the extreme values of non-matches is Scheirer et al.'s, "Meta-recognition", TPAMI 2011;
* ``bank``: the mean similarity to the nearest photographs without a landmark;
* ``nearest``: the answer's best similarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.classifiers.base import Flags, Gallery, HeldOut, Integers, Scores, Vectors
from retrieval.descriptors.representation import Representation
from retrieval.index.neighbours import Neighbours

SIGNALS: Final = ("confidence", "margin", "agreement", "tail", "bank", "nearest")
SIGNS: Final = (1.0, 1.0, 1.0, 1.0, -1.0, 1.0)
"""Whether each speaks for the answer, or against it."""
FROM_SCORES: Final = 2
"""Of these, so many need the scores alone."""
NEAR: Final = 50
"""Neighbours looked at."""
AGREEING: Final = 10
"""Of these, so many may agree."""
BANK: Final = 10
"""Bank photographs looked at."""
TAIL: Final = 20
"""Similarities that make the tail."""
LEAST_EXCESS: Final = 1e-2
"""Copies of one photograph, or one alone, are no tail to be measured by."""


@dataclass(frozen=True)
class Signals:
    """The surroundings of q photographs.

    Attributes:
        codes: (q, k) int64 the neighbours' landmarks, -1 where there is none.
        similarities: (q, k) float32, falling; -inf where there is none.
        bank: (q, b) float32 similarities of the nearest bank photographs; b may be 0.
    """

    codes: Integers
    similarities: Vectors
    bank: Vectors

    @classmethod
    def of(
        cls,
        gallery: Gallery,
        queries: Representation | Vectors,
        neighbours: Neighbours | None = None,
    ) -> Self:
        """Look around q photographs.

        Args:
            gallery: where, and in its bank.
            queries: the photographs.
            neighbours: theirs, if there are just as many as are looked at; else they are searched.
        """
        if neighbours is None or neighbours.rows.shape[1] != NEAR:
            neighbours = gallery.searcher.search(queries, NEAR)
        return cls._around(gallery, queries, neighbours)

    @classmethod
    def held_out(cls, galleries: Sequence[Gallery], held: HeldOut) -> tuple[Self, Self]:
        """Of held-out gallery photographs and bank photographs, each without itself, in the one
        gallery in which it was held out."""
        own: list[Self] = []
        banks: list[Self] = []
        places, bank_places = [], []
        for one in galleries:
            here = _eligible(one.eligible, held.rows)
            bank_here = _eligible(one.bank_eligible, held.bank_rows)
            rows, bank_rows = held.rows[here], held.bank_rows[bank_here]
            near = one.neighbours_of(rows, NEAR)
            bank_near = one.neighbours_of_bank(bank_rows, NEAR)
            own.append(cls._around(one, one.descriptors[rows], near))
            banks.append(cls._around(one, one.bank[bank_rows], bank_near, bank_rows))
            places.append(here)
            bank_places.append(bank_here)
        return cls._joined(own, places), cls._joined(banks, bank_places)

    @classmethod
    def _joined(cls, parts: Sequence[Self], places: Sequence[Integers]) -> Self:
        """Parts put back where their photographs stood."""
        order = np.argsort(np.concatenate(places))
        return cls(
            np.concatenate([part.codes for part in parts])[order],
            np.concatenate([part.similarities for part in parts])[order],
            np.concatenate([part.bank for part in parts])[order],
        )

    @classmethod
    def _around(
        cls,
        gallery: Gallery,
        queries: Representation | Vectors,
        neighbours: Neighbours,
        bank_own: Integers | None = None,
    ) -> Self:
        """Of queries with their neighbours; (q,) their own bank rows are not to be found."""
        bank = np.zeros((len(queries), 0), np.float32)
        if gallery.bank_searcher is not None:
            count = min(BANK, len(gallery.bank_searcher))
            bank = gallery.bank_searcher.search(queries, count, own=bank_own).similarities
        rows = neighbours.rows
        codes = np.where(rows >= 0, gallery.codes[rows], -1)
        return cls(codes, neighbours.similarities, bank)


def _eligible(eligible: Flags | None, rows: Integers) -> Integers:
    """Positions of the held-out rows that a gallery holds out."""
    return np.arange(len(rows)) if eligible is None else np.flatnonzero(eligible[rows])


def signal_matrix(scores: Scores, signals: Signals | None, least: float) -> NDArray[np.float64]:
    """(q, 6) what speaks for each query's first candidate, by ``SIGNALS``.

    Args:
        scores: of q queries.
        evidence: of the same; without it, what needs it is 0.
        least: the runner-up's value where there is none, at most the best one's.

    Returns:
        rows of a query without candidate are 0.
    """
    found = np.zeros((len(scores), len(SIGNALS)))
    there = scores.best >= 0
    values = scores.values.astype(np.float64)
    second = values[:, 1] if values.shape[1] > 1 else np.full(len(values), -np.inf)
    second = np.where(np.isneginf(second), np.minimum(least, values[:, 0]), second)
    found[there, 0] = values[there, 0]
    found[there, 1] = values[there, 0] - second[there]
    if signals is None:
        return found
    own = signals.codes == scores.best[:, None]
    similar = np.where(signals.codes >= 0, signals.similarities, -1.0).astype(np.float64)
    agreeing = np.where(own, np.maximum(similar, 0.0), 0.0)[:, :AGREEING]
    # A landmark that is not among the neighbours is no more similar than the last of them.
    last = similar.min(axis=1, initial=1.0) if similar.shape[1] else np.zeros(len(similar))
    match = np.where(own.any(axis=1), np.where(own, similar, -1.0).max(axis=1, initial=-1.0), last)
    others = np.concatenate(
        [np.where(own | (signals.codes < 0), -np.inf, similar), signals.bank], axis=1
    )
    found[there, 2] = agreeing.sum(axis=1)[there] / AGREEING
    found[there, 3] = _surprise(match, others)[there]
    known = np.isfinite(signals.bank)
    total = np.where(known, signals.bank, 0.0).sum(axis=1, dtype=np.float64)
    found[there, 4] = (total / np.maximum(known.sum(axis=1), 1))[there]
    found[there, 5] = match[there]
    return found


def _surprise(match: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """(q,) excess of the match over the tail of (q, n) other similarities, in mean excesses."""
    tail = -np.sort(-others, axis=1)[:, :TAIL]
    there = np.isfinite(tail)
    floor = np.maximum(np.where(there, tail, np.inf).min(axis=1, initial=np.inf), 0.0)
    floor[~there.any(axis=1)] = 0.0
    excess = np.where(there, np.maximum(tail - floor[:, None], 0.0), 0.0).sum(axis=1)
    excess /= np.maximum(there.sum(axis=1) - 1, 1)
    surprise: NDArray[np.float64] = (match - floor) / np.maximum(excess, LEAST_EXCESS)
    return surprise
