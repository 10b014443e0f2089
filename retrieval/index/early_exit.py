"""Queries whose answer is plain before any neighbour is verified.

A query's lead is by how much its nearest neighbour is more similar than the nearest photograph of
any other landmark, and than the nearest of none. From some lead on, verification hardly ever makes
another answer: that lead is learnt on photographs of gallery and bank that are held out. A query
that leads by as much is not verified, and its nearest neighbour counts as one that many inliers
confirmed, so that its confidence compares with those of queries that were.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from retrieval.index.neighbours import Neighbours, VectorIndex
from retrieval.storage.files import read_json, reading, write_json
from retrieval.types import Flags, Integers, StrictModel, Vectors

FILE: Final = "early_exit.json"
PLENTY: Final = 1 << 20
"""Inliers that a nearest neighbour is credited with: as good as the whole bonus."""


class SavedExit(StrictModel):
    """What early_exit.json holds.

    Attributes:
        least: the lead from which a query is not verified; ``None``: every query is.
        held_out: photographs that it was learnt on.
        exits: of these, those that lead by as much.
        others: of those, the ones that verification gives another answer.
    """

    least: float | None
    held_out: int
    exits: int
    others: int

    def save(self, folder: Path) -> None:
        """Write ``early_exit.json``."""
        write_json(folder / FILE, self.model_dump())

    @classmethod
    def load(cls, folder: Path) -> SavedExit:
        """Read what ``save`` wrote.

        Raises:
            RunError: it is missing or damaged.
        """
        with reading(folder / FILE):
            return cls.model_validate(read_json(folder / FILE))


@dataclass(frozen=True)
class EarlyExit:
    """Decides which queries are not verified.

    Attributes:
        least: the lead from which a query is not.
        codes: (n,) landmarks of the gallery's rows.
        bank: index of the photographs of none, or ``None`` where there are none.
    """

    least: float
    codes: Integers
    bank: VectorIndex | None

    def plain(self, queries: Vectors, near: Neighbours, bank_own: Integers | None = None) -> Flags:
        """(q,) which of the queries with such neighbours need not be verified."""
        found: Flags = self.lead(queries, near, bank_own) >= self.least
        return found

    def lead(self, queries: Vectors, near: Neighbours, bank_own: Integers | None = None) -> Vectors:
        """(q,) leads; -inf without a neighbour. ``bank_own``: the queries' own rows in the bank."""
        bank = None
        if self.bank is not None:
            wanted = 1 if bank_own is None else min(2, len(self.bank))
            found = self.bank.search(queries, wanted)
            if bank_own is not None:
                hidden = np.where(found.rows == bank_own[:, None], -np.inf, found.similarities)
                bank = hidden.max(axis=1, initial=-np.inf)
            else:
                bank = found.similarities[:, 0]
        return leads(near, self.codes, bank)


def leads(near: Neighbours, codes: Integers, bank: Vectors | None) -> Vectors:
    """(q,) by how much the nearest neighbour is more similar than any of another landmark.

    Args:
        near: (q, k) neighbours, most similar first.
        codes: (n,) landmarks of the rows.
        bank: (q,) similarities of the nearest photographs of none, if there are any.
    """
    if not near.rows.shape[1]:
        return np.full(len(near), -np.inf, np.float32)
    there = near.rows >= 0
    shown = np.where(there, codes[near.rows], -1)
    similar = np.where(there, near.similarities, -np.inf)
    other = np.where(shown != shown[:, :1], similar, -np.inf).max(axis=1)
    # One that is not among the neighbours is no more similar than the last of them.
    rival = np.maximum(other, np.where(there, similar, np.inf).min(axis=1))
    if bank is not None:
        rival = np.maximum(rival, bank)
    lead: Vectors = np.where(there[:, 0], similar[:, 0] - rival, -np.inf).astype(np.float32)
    return lead


def least_lead(lead: Vectors, same: Flags, tolerated: float) -> SavedExit:
    """The least lead from which at most so large a share of (n,) photographs gets other answers.

    Args:
        lead: of photographs that were held out.
        same: whether verification answers as the nearest neighbour has it.
        tolerated: share of those with at least that lead; one is counted beside those that were
            seen, so that a few photographs alone prove nothing.
    """
    order = np.argsort(-lead, kind="stable")
    others = np.cumsum(~same[order])
    count = np.arange(1, len(order) + 1)
    fits = (others + 1) / (count + 1) <= tolerated
    # Equal leads go together.
    fits[:-1] &= lead[order][:-1] > lead[order][1:]
    fits &= np.isfinite(lead[order])
    if not fits.any():
        return SavedExit(least=None, held_out=len(lead), exits=0, others=0)
    last = int(np.flatnonzero(fits)[-1])
    return SavedExit(
        least=float(lead[order][last]), held_out=len(lead), exits=last + 1, others=int(others[last])
    )
