"""From which lead on queries need no verification, learnt on photographs that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from retrieval.classifiers.base import HeldOut
from retrieval.index.early_exit import EarlyExit, SavedExit, least_lead
from retrieval.index.gallery import Gallery
from retrieval.types import Flags, Integers, Vectors


def fit_early_exit(
    held: HeldOut, threshold: float, galleries: Sequence[Gallery], tolerated: float
) -> SavedExit:
    """The least lead from which queries are not verified.

    Args:
        held: scores of photographs that the answering classifier has not seen, verified, as they
            were judged.
        threshold: the least confidence that is accepted.
        galleries: in which they were held out.
        tolerated: as of :func:`retrieval.index.early_exit.least_lead`.
    """
    answers = (
        np.where(one.confidence >= threshold, one.best, -1) for one in (held.gallery, held.bank)
    )
    answer, bank_answer = answers
    lead, same = [], []
    for gallery in galleries:
        here = _held_in(gallery.eligible, held.rows)
        bank_here = _held_in(gallery.bank_eligible, held.bank_rows)
        for bank, of, said in (
            (False, held.rows[here], answer[here]),
            (True, held.bank_rows[bank_here], bank_answer[bank_here]),
        ):
            led, nearest = _unverified(gallery, of, bank)
            lead.append(led)
            same.append(nearest == said)
    return least_lead(np.concatenate(lead), np.concatenate(same), tolerated)


def with_exit(gallery: Gallery, least: float) -> Gallery:
    """The gallery, in which queries that lead by so much are not verified."""
    return replace(gallery, searcher=replace(gallery.searcher, early_exit=_exit(gallery, least)))


def _exit(gallery: Gallery, least: float) -> EarlyExit:
    bank = gallery.bank_searcher
    return EarlyExit(least, gallery.codes, None if bank is None else bank.index)


def _unverified(gallery: Gallery, rows: Integers, bank: bool) -> tuple[Vectors, Integers]:
    """The leads of some gallery or bank rows, and their nearest neighbours' landmarks."""
    searcher = gallery.searcher
    verification = searcher.config.verification
    assert verification is not None
    bare = replace(searcher, config=searcher.config.model_copy(update={"verification": None}))
    asked = (gallery.bank if bank else gallery.descriptors)[rows]
    near = bare.search(asked, verification.top, own=None if bank else rows)
    lead = _exit(gallery, np.inf).lead(asked.vectors, near, rows if bank else None)
    nearest = near.rows[:, 0]
    return lead, np.where(nearest >= 0, gallery.codes[nearest], -1)


def _held_in(eligible: Flags | None, rows: Integers) -> Integers:
    """Positions of the held-out rows that a gallery holds out."""
    return np.arange(len(rows)) if eligible is None else np.flatnonzero(eligible[rows])
