"""What a classifier is: descriptors and their neighbours in, ranked landmarks with scores out.

A classifier is made by ``fit`` from a gallery, and is then frozen. Its ``confidence`` must be
comparable across photographs, since global average precision pools them all (Weyand et al.,
"Google Landmarks Dataset v2", 2020, eq. 1). Whether to answer at all, and with what probability,
is decided by :mod:`retrieval.classifiers.rejection` from scores of photographs that the classifier
has not seen: :class:`HeldOut`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Protocol, Self

import numpy as np

from retrieval.descriptors.representation import Representation
from retrieval.index.gallery import Gallery, GalleryChange
from retrieval.index.neighbours import Neighbours
from retrieval.types import Flags, Integers, Vectors

FOLDS: Final = 10
"""Parts that gallery and bank are dealt into, unless a config says otherwise."""
PARTS: Final = 5
"""Parts that held-out photographs are dealt into."""


@dataclass(frozen=True)
class Scores:
    """Ranked landmarks of every query.

    Attributes:
        candidates: (q, c) int64 landmark codes, best first; -1 pads.
        values: (q, c) float32, descending, comparable across queries; -inf pads.
    """

    candidates: Integers
    values: Vectors

    def __len__(self) -> int:
        return len(self.candidates)

    @classmethod
    def blank(cls, count: int, width: int) -> Self:
        """No candidate for any of so many queries, in arrays to be filled."""
        return cls(
            np.full((count, width), -1, np.int64), np.full((count, width), -np.inf, np.float32)
        )

    @classmethod
    def top(cls, values: Vectors, count: int) -> Self:
        """The best of (q, l) values of every landmark; equal ones in the landmarks' order.

        A value of -inf is no candidate.
        """
        count = min(count, values.shape[1])
        best = np.argpartition(-values, count - 1, axis=1)[:, :count]
        best.sort(axis=1)
        found = np.take_along_axis(values, best, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        found = np.take_along_axis(found, order, axis=1)
        best = np.take_along_axis(best, order, axis=1)
        return cls(np.where(np.isneginf(found), -1, best), found.astype(np.float32))

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Self:
        """Queries after queries, ranked as deep as the deepest."""
        whole = cls.blank(sum(map(len, parts)), max(part.values.shape[1] for part in parts))
        start = 0
        for part in parts:
            here = slice(start, start + len(part)), slice(part.values.shape[1])
            whole.candidates[here], whole.values[here] = part.candidates, part.values
            start += len(part)
        return whole

    def at(self, queries: Flags | Integers) -> Scores:
        """Those of some of the queries."""
        return Scores(self.candidates[queries], self.values[queries])

    @property
    def best(self) -> Integers:
        """(q,) the first candidate, -1 for a query without one."""
        return self.candidates[:, 0]

    @property
    def confidence(self) -> Vectors:
        """(q,) the first candidate's value, -inf for a query without one."""
        return self.values[:, 0]


@dataclass(frozen=True)
class Judgement:
    """Scores with what :class:`retrieval.classifiers.rejection.Rejection` makes of them.

    Attributes:
        scores: the ranked landmarks of q queries.
        probability: (q,) float32, that the first candidate is right; 0 without a candidate. All NaN
            where held-out photographs were too few to learn probabilities from.
        accepted: (q,) bool, whether it is the answer; "none" otherwise.
    """

    scores: Scores
    probability: Vectors
    accepted: Flags


@dataclass(frozen=True)
class HeldOut:
    """Scores of photographs by a classifier that has not seen them.

    Attributes:
        rows: (g,) int64 the gallery photographs scored; those that are their landmark's only one
            are not among them, since without them their landmark cannot be answered.
        truth: (g,) int64 their landmarks' codes.
        gallery: their scores.
        bank_rows: (b,) int64 the bank photographs scored.
        bank: their scores.
    """

    rows: Integers
    truth: Integers
    gallery: Scores
    bank_rows: Integers
    bank: Scores

    @property
    def correct(self) -> Flags:
        """(g,) whether the first candidate is the photograph's landmark."""
        correct: Flags = self.gallery.best == self.truth
        return correct

    @classmethod
    def joined(cls, parts: Sequence[HeldOut]) -> Self:
        """Photographs of which each is in one of the parts, by row."""
        rows = np.concatenate([part.rows for part in parts])
        bank_rows = np.concatenate([part.bank_rows for part in parts])
        order, bank_order = np.argsort(rows), np.argsort(bank_rows)
        return cls(
            rows[order],
            np.concatenate([part.truth for part in parts])[order],
            Scores.joined([part.gallery for part in parts]).at(order),
            bank_rows[bank_order],
            Scores.joined([part.bank for part in parts]).at(bank_order),
        )

    def parts(self, seed: int) -> tuple[Integers, Integers]:
        """(g,) and (b,) which of ``PARTS`` each photograph is dealt into, for cross-fitting:
        so that none is judged by a model fitted to it."""
        rng = np.random.default_rng(seed)
        gallery = deal(self.truth, PARTS, rng)
        return gallery, deal(np.zeros(len(self.bank_rows), np.int64), PARTS, rng)

    def at(self, gallery: Flags, bank: Flags) -> HeldOut:
        """Those of some of the (g,) gallery and (b,) bank photographs."""
        return HeldOut(
            self.rows[gallery],
            self.truth[gallery],
            self.gallery.at(gallery),
            self.bank_rows[bank],
            self.bank.at(bank),
        )


class Classifier(Protocol):
    """Descriptors and neighbours to landmarks; made by a class method ``fit``, then frozen."""

    kind: ClassVar[str]

    @property
    def neighbours(self) -> int:
        """How many neighbours ``scores`` looks at; further columns are ignored."""
        ...

    def scores(self, queries: Representation | Vectors, neighbours: Neighbours) -> Scores:
        """Rank landmarks for q photographs, whose neighbours in the gallery are given."""
        ...

    def save(self, folder: Path) -> None:
        """Write what ``fit`` learnt, as arrays and JSON."""
        ...

    @classmethod
    def load(cls, folder: Path, gallery: Gallery) -> Self:
        """Read what ``save`` wrote.

        Raises:
            RunError: it is missing, damaged, or was fitted to another gallery.
        """
        ...

    @classmethod
    def updated(cls, folder: Path, gallery: Gallery, change: GalleryChange, seed: int) -> Self:
        """What ``save`` wrote, for a gallery that has changed a little since, without fitting it
        anew as a whole.

        Args:
            folder: of the classifier that was fitted to the gallery before.
            gallery: as it is now.
            change: between the two.
            seed: of everything random.

        Raises:
            RunError: it is missing, damaged, or was fitted to another gallery than that before.
        """
        ...


@dataclass(frozen=True)
class Folds:
    """Which photographs are held out, and together with which others.

    Attributes:
        rows: (g,) int64 gallery rows, ascending.
        folds: (g,) int64 their folds.
        bank_rows: (b,) int64 bank rows, ascending.
        bank_folds: (b,) int64 their folds.
    """

    rows: Integers
    folds: Integers
    bank_rows: Integers
    bank_folds: Integers

    def held_out(self, gallery: Gallery, scores: Scores, bank_scores: Scores) -> HeldOut:
        """Their scores beside what they show."""
        return HeldOut(self.rows, gallery.codes[self.rows], scores, self.bank_rows, bank_scores)


def stratified_folds(gallery: Gallery, folds: int, limit: int, seed: int) -> Folds:
    """Spread gallery and bank over folds, evenly within every landmark.

    There are no more folds than the median landmark has photographs (of those with several), but
    at least two. So most landmarks lack a photograph in every fold; with more folds, those that
    happen to lack none would be favoured over the very landmark that was held out.

    At most ``limit`` photographs of each are held out, taken fold by fold, so that with a large
    gallery they all lie in the first fold and a classifier that must be trained anew for each
    fold is trained anew once. A landmark's only photograph is never held out, nor one that the
    network which described the gallery was trained on. Every classifier
    that is given the same numbers holds out the same photographs.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(gallery.codes, minlength=len(gallery.landmarks))
    if (counts > 1).any():
        folds = min(folds, max(2, int(np.median(counts[counts > 1]))))
    if gallery.eligible is not None:
        # Of a part of the photographs as large a share of all is held out together.
        folds = max(2, round(folds * float(gallery.eligible.mean())))
    fold = deal(gallery.codes, folds, rng)
    fold[counts[gallery.codes] < 2] = -1
    bank_fold = deal(np.zeros(len(gallery.bank), np.int64), folds, rng)
    if gallery.eligible is not None:
        fold[~gallery.eligible] = -1
    if gallery.bank_eligible is not None:
        bank_fold[~gallery.bank_eligible] = -1
    rows = _first(fold, limit, rng)
    if len(rows) == limit:  # a fold beyond them would cost a training for the bank alone
        bank_fold[~np.isin(bank_fold, fold[rows])] = -1
    bank_rows = _first(bank_fold, limit, rng)
    return Folds(rows, fold[rows], bank_rows, bank_fold[bank_rows])


def deal(codes: Integers, folds: int, rng: np.random.Generator) -> Integers:
    """(n,) a fold for each row: each code's rows, shuffled, are dealt out from a random start."""
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    ordered = codes[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    lengths = np.diff(starts, append=len(ordered))
    turn = np.arange(len(ordered)) - np.repeat(starts, lengths)
    turn += np.repeat(rng.integers(folds, size=len(starts)), lengths)
    spread = np.empty(len(codes), np.int64)
    spread[order] = turn % folds
    return spread


def _first(fold: Integers, limit: int, rng: np.random.Generator) -> Integers:
    """Up to ``limit`` rows, ascending, of the lowest folds, at random within a fold; not of -1."""
    rows = rng.permutation(len(fold))
    rows = rows[np.argsort(fold[rows], kind="stable")]
    return np.sort(rows[fold[rows] >= 0][:limit])


def cross_fitted(
    chosen: Folds,
    gallery: Gallery,
    width: int,
    fit: Callable[[Integers, Integers], Callable[[bool, Flags], Scores]],
) -> HeldOut:
    """Scores of the chosen photographs, fold by fold, by models fitted without them.

    Args:
        chosen: what is held out.
        gallery: that it is of.
        width: candidates of each photograph.
        fit: from rows of gallery and bank to what scores some of the chosen gallery (False) or
            bank (True) photographs.
    """
    scores = Scores.blank(len(chosen.rows), width), Scores.blank(len(chosen.bank_rows), width)
    for fold in np.unique(np.concatenate([chosen.folds, chosen.bank_folds])):
        own = chosen.folds == fold, chosen.bank_folds == fold
        score = fit(
            np.setdiff1d(np.arange(len(gallery.codes)), chosen.rows[own[0]]),
            np.setdiff1d(np.arange(len(gallery.bank)), chosen.bank_rows[own[1]]),
        )
        for bank, here in enumerate(own):
            found, into = score(bool(bank), here), scores[bank]
            into.candidates[here], into.values[here] = found.candidates, found.values
    return chosen.held_out(gallery, *scores)
