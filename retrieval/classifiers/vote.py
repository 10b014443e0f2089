"""The nearest neighbours' vote, corrected by a bank of photographs without a landmark.

A landmark's vote is, unless another is asked for (:func:`weigh`), the p-norm of its neighbours'
similarities to the query, which many agreeing neighbours raise but which stays in the units of a
similarity, so that corrections can be taken off it: the mean similarity of the voting rows to
their nearest bank photographs (rows that resemble everything vote less), and the query's own (a
query that resembles the bank is trusted less). The idea of lowering a score by the similarity to
photographs without a landmark is Henkel and Singer's, "Supporting large-scale image recognition
with out-of-domain samples", 2020, section 3.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.classifiers.arrays import load_fitted, require_rows, save_fitted
from retrieval.classifiers.base import FOLDS, HeldOut, Scores, stratified_folds
from retrieval.descriptors.representation import Representation
from retrieval.index.gallery import Gallery, GalleryChange, bank_similarity
from retrieval.index.neighbours import Neighbours
from retrieval.index.searcher import Searcher
from retrieval.types import Integers, StrictModel, Vectors

FILE: Final = "knn.safetensors"
BLOCK: Final = 1 << 20
"""Neighbours voted over at a time: about 100 MB of working memory."""


class MajorityVote(StrictModel):
    """Every neighbour has one vote; the value is the share of the k."""

    kind: Literal["majority"] = "majority"


class WeightedVote(StrictModel):
    """Every neighbour votes with its similarity; the value is their sum over k."""

    kind: Literal["weighted"] = "weighted"


class PoweredVote(StrictModel):
    """The p-norm of the similarities: ``power`` 1 sums them, a large one takes the best alone."""

    kind: Literal["powered"] = "powered"
    power: float = Field(default=4.0, ge=1.0, le=20.0)


class SoftmaxVote(StrictModel):
    """Every neighbour has its share of a softmax over the k similarities."""

    kind: Literal["softmax"] = "softmax"
    temperature: float = Field(default=0.1, ge=1e-3, le=1e3)


class RankedVote(StrictModel):
    """Every neighbour votes with the inverse of its rank, as a share of all these."""

    kind: Literal["ranked"] = "ranked"


class TopVote(StrictModel):
    """The sum of a landmark's few largest similarities, over so many."""

    kind: Literal["top"] = "top"
    few: int = Field(default=3, ge=1, le=2047)


Vote = Annotated[
    MajorityVote | WeightedVote | PoweredVote | SoftmaxVote | RankedVote | TopVote,
    Field(discriminator="kind"),
]


class VoteConfig(StrictModel):
    """The vote's constants; defaults chosen on held-out gallery and bank photographs.

    Attributes:
        k: neighbours that vote. At most 2,047, since held-out search takes one more and FAISS
            stops at 2,048 on a GPU.
        vote: how the neighbours' votes make a landmark's value.
        counts: power of a landmark's photographs in the gallery, relative to the mean over
            landmarks, that its value is divided by; 0 lets large landmarks outvote small ones.
        bank_neighbours: bank photographs that a correction is the mean similarity to.
        row_correction: how much of the voting rows' correction is taken off.
        query_correction: how much of the query's correction is taken off.
        held_out: at most this many gallery (and bank) photographs are held out.
    """

    kind: Literal["knn"] = "knn"
    k: int = Field(default=50, ge=1, le=2047)
    vote: Vote = PoweredVote()
    counts: float = Field(default=0.0, ge=0.0, le=1.0)
    bank_neighbours: int = Field(default=10, ge=1, le=2047)
    row_correction: float = Field(default=0.5, ge=0.0, le=100.0)
    query_correction: float = Field(default=1.5, ge=0.0, le=100.0)
    held_out: int = Field(default=5_000, ge=1, le=10_000_000)


@dataclass(frozen=True)
class VoteClassifier:
    """A fitted vote.

    Attributes:
        config: its constants.
        codes: (n,) int64 landmark code of every gallery row.
        bank_searcher: the bank's index, None where it is empty.
        row_corrections: (n,) float32 mean similarity of every gallery row to its nearest bank
            photographs; zeros without a bank.
    """

    kind: ClassVar[str] = "knn"
    config: VoteConfig
    codes: Integers
    bank_searcher: Searcher | None
    row_corrections: Vectors

    @property
    def neighbours(self) -> int:
        return self.config.k

    @classmethod
    def fit(cls, config: VoteConfig, gallery: Gallery, seed: int = 0) -> Self:
        """Search the bank for every gallery row. The vote has nothing random: no seed is used."""
        corrections = gallery.bank_similarities(config.bank_neighbours)
        return cls(config, gallery.codes, gallery.bank_searcher, corrections)

    @classmethod
    def held_out(cls, config: VoteConfig, gallery: Gallery, seed: int = 0) -> HeldOut:
        """Leave-one-out scores: a photograph never votes on itself, nor a bank photograph on
        itself as bank, neither in its own correction nor in that of the rows voting on it."""
        fitted = cls.fit(config, gallery, seed)
        chosen = stratified_folds(gallery, FOLDS, config.held_out, seed)
        found = gallery.neighbours_of(chosen.rows, config.k)
        scores = fitted._vote(
            found, fitted.row_corrections[found.rows], fitted.row_corrections[chosen.rows]
        )
        return chosen.held_out(gallery, scores, fitted._bank_held_out(gallery, chosen.bank_rows))

    def scores(self, queries: Representation | Vectors, neighbours: Neighbours) -> Scores:
        """Let the first k of the given neighbours vote.

        Args:
            queries: q photographs, searched for in the bank.
            neighbours: theirs in the gallery; fewer than k columns are what there is.

        Returns:
            min(k, columns) candidates a query, ties settled by the best single similarity, then
            by the landmarks' order.
        """
        own = bank_similarity(queries, self.bank_searcher, self.config.bank_neighbours)
        return self._vote(neighbours, self.row_corrections[neighbours.rows], own)

    def save(self, folder: Path) -> None:
        """Write ``knn.safetensors``: the corrections, and the constants they were made with."""
        arrays = {"row_corrections": self.row_corrections}
        save_fitted(folder / FILE, arrays, self.config)

    @classmethod
    def load(cls, folder: Path, gallery: Gallery) -> Self:
        arrays, config = load_fitted(folder / FILE, VoteConfig)
        corrections = arrays["row_corrections"]
        require_rows(folder / FILE, len(corrections), len(gallery.codes), "rows")
        return cls(config, gallery.codes, gallery.bank_searcher, corrections)

    @classmethod
    def updated(cls, folder: Path, gallery: Gallery, change: GalleryChange, seed: int) -> Self:
        """Rows that are left keep their corrections, by the bank of then; new ones get theirs."""
        arrays, config = load_fitted(folder / FILE, VoteConfig)
        before = arrays["row_corrections"]
        require_rows(folder / FILE, len(before), len(change.left), "rows")
        new = gallery.descriptors[change.kept :]
        found = bank_similarity(new, gallery.bank_searcher, config.bank_neighbours)
        corrections = np.concatenate([before[change.left], found])
        return cls(config, gallery.codes, gallery.bank_searcher, corrections)

    def _bank_held_out(self, gallery: Gallery, rows: Integers) -> Scores:
        """Scores of bank photographs, each with itself left out of the bank."""
        k, n = self.config.k, self.config.bank_neighbours
        if self.bank_searcher is None or not len(rows):
            return Scores(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        queries = gallery.bank[rows]
        found = gallery.neighbours_of_bank(rows, k)
        near = self.bank_searcher.search(queries, n + 1)
        own = mean_without(near, np.arange(len(rows))[:, None], rows, n)[:, 0]
        voters, places = np.unique(np.maximum(found.rows, 0), return_inverse=True)
        near = self.bank_searcher.search(gallery.descriptors[voters], n + 1)
        corrections = mean_without(near, places.reshape(found.rows.shape), rows, n)
        return self._vote(found, corrections, own)

    def _vote(self, found: Neighbours, corrections: Vectors, own: Vectors) -> Scores:
        """Vote in blocks; corrections: (q, >= k) of the voters, own: (q,) of the queries."""
        k = min(self.config.k, found.rows.shape[1])
        step = max(1, BLOCK // max(k, 1))
        parts = [
            self._vote_block(
                Neighbours(
                    found.rows[start : start + step, :k],
                    found.similarities[start : start + step, :k],
                ),
                corrections[start : start + step, :k],
                own[start : start + step],
            )
            for start in range(0, max(len(found.rows), 1), step)
        ]
        return Scores.joined(parts)

    @functools.cached_property
    def _sizes(self) -> NDArray[np.float64]:
        """(l,) each landmark's photographs, relative to the mean of those that have any."""
        sizes = np.bincount(self.codes)
        relative: NDArray[np.float64] = sizes / sizes[sizes > 0].mean()
        return relative

    def ballot(self, query: Representation, neighbours: Neighbours) -> Ballot:
        """How one photograph's neighbours vote, term by term."""
        k = min(self.config.k, neighbours.rows.shape[1])
        found = neighbours.first(k)
        own = bank_similarity(query, self.bank_searcher, self.config.bank_neighbours)
        corrections = self.row_corrections[found.rows]
        groups, weights, votes, penalty = self._counted(found, corrections)
        return Ballot(
            codes=np.where(found.rows[0] >= 0, self.codes[found.rows[0]], -1),
            weights=weights[0],
            corrections=corrections[0],
            landmarks=groups.code,
            votes=votes,
            by_rows=-self.config.row_correction * penalty,
            by_query=-self.config.query_correction * float(own[0]),
        )

    def _counted(
        self, found: Neighbours, corrections: Vectors
    ) -> tuple[Groups, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Neighbours by landmark, (q, k) what each votes, and (g,) the landmarks' votes and mean
        corrections."""
        rows, similarities = found.rows, found.similarities
        groups = Groups.gather(np.where(rows >= 0, self.codes[rows], -1))
        weights = weigh(self.config.vote, similarities, groups)
        total = groups.total(weights)
        penalty = groups.total(weights * corrections) / np.maximum(total, np.finfo(float).tiny)
        values = total
        if isinstance(self.config.vote, PoweredVote):
            values = total ** (1.0 / self.config.vote.power)
        if self.config.counts:
            values = values / self._sizes[groups.code] ** self.config.counts
        return groups, weights, values, penalty

    def _vote_block(self, found: Neighbours, corrections: Vectors, own: Vectors) -> Scores:
        groups, _, votes, penalty = self._counted(found, corrections)
        values = votes - self.config.row_correction * penalty
        values -= self.config.query_correction * own[groups.query].astype(np.float64)
        return groups.ranked(values.astype(np.float32), groups.largest(found.similarities))


@dataclass(frozen=True)
class Ballot:
    """One photograph's vote: a landmark's value is ``votes + by_rows + by_query``.

    Attributes:
        codes: (k,) the neighbours' landmarks, -1 where there is none.
        weights: (k,) what each neighbour votes.
        corrections: (k,) each neighbour's similarity to the bank.
        landmarks: (g,) the landmarks voted for, ascending.
        votes: (g,) their votes together.
        by_rows: (g,) what is taken off, for neighbours that resemble the bank.
        by_query: what is taken off all, where the photograph itself does.
    """

    codes: Integers
    weights: NDArray[np.float64]
    corrections: Vectors
    landmarks: Integers
    votes: NDArray[np.float64]
    by_rows: NDArray[np.float64]
    by_query: float


def weigh(vote: Vote, similarities: Vectors, groups: Groups) -> NDArray[np.float64]:
    """What each neighbour's vote weighs; a landmark's value is their sum (powered: its root).

    Args:
        vote: its kind and constants.
        similarities: (q, k) falling along a row, -inf where there is no neighbour.
        groups: the same neighbours by landmark.

    Returns:
        (q, k), at least 0.
    """
    positive = np.maximum(similarities.astype(np.float64), 0.0)
    there = ~np.isneginf(similarities)
    if isinstance(vote, PoweredVote):
        powered: NDArray[np.float64] = positive**vote.power
        return powered
    if isinstance(vote, TopVote):
        return np.where(groups.places() < vote.few, positive, 0.0) / vote.few
    if isinstance(vote, MajorityVote | WeightedVote):
        count = np.maximum(there.sum(axis=1, keepdims=True), 1)
        evenly: NDArray[np.float64] = (
            there if isinstance(vote, MajorityVote) else positive
        ) / count
        return evenly
    if isinstance(vote, RankedVote):
        weights = there / np.arange(1.0, similarities.shape[1] + 1)
    else:
        nearest = np.where(there, similarities, -1.0).max(axis=1, keepdims=True, initial=-1.0)
        weights = np.exp((similarities.astype(np.float64) - nearest) / vote.temperature)
    shares: NDArray[np.float64] = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    return shares


@dataclass(frozen=True)
class Groups:
    """The neighbours of q queries, gathered by the landmark that they show.

    Attributes:
        shape: (q, k) of the neighbours.
        order: (v,) positions in the flattened neighbours, group by group; within a group as they
            stood, so by falling similarity. Neighbours without a landmark are left out.
        starts: (g,) where in ``order`` each group begins.
        query: (g,) the groups' queries, ascending.
        code: (g,) the groups' landmarks, ascending within a query.
    """

    shape: tuple[int, int]
    order: Integers
    starts: Integers
    query: Integers
    code: Integers

    @classmethod
    def gather(cls, codes: Integers) -> Groups:
        """Group (q, k) landmark codes, negative where there is no neighbour."""
        q, k = codes.shape
        order = np.argsort(codes, axis=1, kind="stable") + np.arange(q)[:, None] * k
        order = order.ravel()[np.take(codes, order.ravel()) >= 0]
        query, code = order // max(k, 1), np.take(codes, order)
        new = (np.diff(query, prepend=-1) != 0) | (np.diff(code, prepend=-1) != 0)
        starts = np.flatnonzero(new)
        return cls((q, k), order, starts, query[starts], code[starts])

    def places(self) -> Integers:
        """(q, k) how many of its landmark stand before each neighbour; k for one without."""
        places = np.full(self.shape[0] * self.shape[1], self.shape[1], np.int64)
        lengths = np.diff(self.starts, append=len(self.order))
        places[self.order] = np.arange(len(self.order)) - np.repeat(self.starts, lengths)
        return places.reshape(self.shape)

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(g,) sums of (q, k) values."""
        if not len(self.starts):
            return np.zeros(0)
        sums: NDArray[np.float64] = np.add.reduceat(np.take(values, self.order), self.starts)
        return sums

    def most(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(g,) largest of (q, k) values."""
        if not len(self.starts):
            return np.zeros(0)
        most: NDArray[np.float64] = np.maximum.reduceat(np.take(values, self.order), self.starts)
        return most

    def largest(self, similarities: Vectors) -> Vectors:
        """(g,) largest of (q, k) similarities, which fall along a row."""
        best: Vectors = np.take(similarities, self.order[self.starts])
        return best

    def ranked(self, values: Vectors, best: Vectors) -> Scores:
        """Order each query's groups by value, then by best, both falling, then by landmark."""
        q, k = self.shape
        order = np.lexsort((self.code, -best, -values, self.query))
        query = self.query[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        candidates = np.full((q, max(k, 1)), -1, np.int64)
        ranked = np.full((q, max(k, 1)), -np.inf, np.float32)
        candidates[query, place] = self.code[order]
        ranked[query, place] = values[order]
        return Scores(candidates, ranked)


def mean_without(near: Neighbours, places: Integers, own: Integers, n: int) -> Vectors:
    """Mean similarity to the n nearest bank photographs but for one.

    Args:
        near: (u, n + 1) the nearest bank photographs of u descriptors.
        places: (q, k) which of the u descriptors is meant.
        own: (q,) the bank row left out for all of a query's descriptors.

    Returns:
        (q, k) float32; 0 where no bank photograph is left.
    """
    total = np.zeros(places.shape)
    count = np.zeros(places.shape, np.int64)
    for rows, similarities in zip(near.rows.T, near.similarities.T, strict=True):
        row = rows[places]
        counted = (row >= 0) & (row != own[:, None]) & (count < n)
        total += np.where(counted, similarities[places], 0.0)
        count += counted
    return (total / np.maximum(count, 1)).astype(np.float32)
