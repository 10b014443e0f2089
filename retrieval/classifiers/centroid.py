"""The nearest class mean: each landmark is the mean of its photographs.

A landmark's value is the cosine of the query to its mean, which is brought to unit length (Mensink
et al., "Distance-based image classification", TPAMI 2013, whose metric the whitening is), less the
corrections of :mod:`retrieval.classifiers.vote`: means and queries that resemble photographs
without a landmark are trusted less. Nothing is searched but the bank, and a landmark costs one row
however many photographs it has.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.classifiers.arrays import load_fitted, require_rows, save_fitted
from retrieval.classifiers.base import FOLDS, HeldOut, Scores, stratified_folds
from retrieval.classifiers.vote import mean_without
from retrieval.descriptors.representation import Representation
from retrieval.errors import RunError
from retrieval.index.gallery import Gallery, GalleryChange, bank_similarity
from retrieval.index.neighbours import Neighbours
from retrieval.index.searcher import Searcher
from retrieval.types import Integers, StrictModel, Vectors

FILE: Final = "centroid.safetensors"
SIMILARITIES: Final = 1 << 23
"""Similarities computed at a time: 32 MB."""
ROWS: Final = 1 << 16
"""Photographs summed at a time."""


class CentroidConfig(StrictModel):
    """The constants; defaults chosen on held-out gallery and bank photographs.

    Attributes:
        bank_neighbours: bank photographs that a correction is the mean similarity to.
        mean_correction: how much of the mean's correction is taken off.
        query_correction: how much of the query's correction is taken off.
        candidates: landmarks ranked for a photograph.
        held_out: at most this many gallery (and bank) photographs are held out.
    """

    kind: Literal["centroid"] = "centroid"
    bank_neighbours: int = Field(default=10, ge=1, le=2047)
    mean_correction: float = Field(default=0.25, ge=0.0, le=100.0)
    query_correction: float = Field(default=1.0, ge=0.0, le=100.0)
    candidates: int = Field(default=10, ge=1, le=1000)
    held_out: int = Field(default=5_000, ge=1, le=10_000_000)


@dataclass(frozen=True)
class CentroidClassifier:
    """The landmarks' means.

    Attributes:
        config: the constants.
        means: (l, d) float32 unit rows; zeros for a landmark without photographs.
        corrections: (l,) float32 mean similarity of each to its nearest bank photographs; +inf
            for a landmark without photographs, which is never named.
        bank_searcher: the bank's index, by vectors alone, as means have no visual words; None where
            the bank is empty.
    """

    kind: ClassVar[str] = "centroid"
    config: CentroidConfig
    means: Vectors
    corrections: Vectors
    bank_searcher: Searcher | None

    @property
    def neighbours(self) -> int:
        return 0

    @classmethod
    def fit(cls, config: CentroidConfig, gallery: Gallery, seed: int = 0) -> Self:
        """Take the means. Nothing is random: no seed is used."""
        means, bank = _unit(_sums(gallery)), _by_vectors(gallery.bank_searcher)
        corrections = bank_similarity(means, bank, config.bank_neighbours)
        return cls(config, means, _never_empty(corrections, means), bank)

    @classmethod
    def held_out(cls, config: CentroidConfig, gallery: Gallery, seed: int = 0) -> HeldOut:
        """Leave-one-out scores: a photograph is no part of its landmark's mean, nor a bank
        photograph of any correction."""
        fitted = cls.fit(config, gallery, seed)
        chosen = stratified_folds(gallery, FOLDS, config.held_out, seed)
        sums = _sums(gallery)
        truth = gallery.codes[chosen.rows]
        queries = np.array(gallery.vectors[chosen.rows], np.float32)
        without = _unit(sums[truth] - queries)
        own = np.einsum("ij,ij->i", queries, without)
        corrections = bank_similarity(without, fitted.bank_searcher, config.bank_neighbours)
        own -= config.mean_correction * _never_empty(corrections, without)
        asked = bank_similarity(queries, fitted.bank_searcher, config.bank_neighbours)
        scores = fitted._rank(queries, asked, truth=truth, own=own)
        return chosen.held_out(gallery, scores, fitted._bank_held_out(gallery, chosen.bank_rows))

    def scores(self, queries: Representation | Vectors, neighbours: Neighbours) -> Scores:
        """Rank landmarks by their means' similarity, corrected.

        Args:
            queries: q photographs, searched for in the bank.
            neighbours: not looked at.

        Returns:
            (q, min(candidates, landmarks)) candidates.
        """
        asked = bank_similarity(queries, self.bank_searcher, self.config.bank_neighbours)
        return self._rank(Representation.of(queries).vectors, asked)

    def save(self, folder: Path) -> None:
        """Write ``centroid.safetensors``: means, corrections and the constants."""
        arrays = {"means": self.means, "corrections": self.corrections}
        save_fitted(folder / FILE, arrays, self.config)

    @classmethod
    def load(cls, folder: Path, gallery: Gallery) -> Self:
        arrays, config = load_fitted(folder / FILE, CentroidConfig)
        if arrays["means"].shape != (len(gallery.landmarks), gallery.vectors.shape[1]):
            raise RunError(
                f"{folder / FILE} is of {len(arrays['means'])} landmarks, the gallery has "
                f"{len(gallery.landmarks)}: fit the classifiers again"
            )
        return cls(
            config, arrays["means"], arrays["corrections"], _by_vectors(gallery.bank_searcher)
        )

    @classmethod
    def updated(cls, folder: Path, gallery: Gallery, change: GalleryChange, seed: int) -> Self:
        """The mean of each landmark that a photograph came to or went from is taken anew, which is
        what fitting would do."""
        arrays, config = load_fitted(folder / FILE, CentroidConfig)
        require_rows(folder / FILE, len(arrays["means"]), len(change.landmarks), "landmarks")
        means = arrays["means"][change.places(gallery.landmarks)]
        touched = change.touched(gallery)
        rows = np.flatnonzero(np.isin(gallery.codes, touched))
        means[touched] = _unit(_sums(gallery, rows)[touched])
        bank = _by_vectors(gallery.bank_searcher)
        corrections = bank_similarity(means, bank, config.bank_neighbours)
        return cls(config, means, _never_empty(corrections, means), bank)

    def _bank_held_out(self, gallery: Gallery, rows: Integers) -> Scores:
        """Scores of bank photographs, each with itself left out of the bank."""
        n = self.config.bank_neighbours
        if self.bank_searcher is None or not len(rows):
            return Scores.blank(0, min(self.config.candidates, len(self.means)))
        queries = gallery.bank[rows]
        near = self.bank_searcher.search(queries, n + 1)
        asked = mean_without(near, np.arange(len(rows))[:, None], rows, n)[:, 0]
        near = self.bank_searcher.search(self.means, n + 1)
        return self._rank(queries.vectors, asked, near=near, rows=rows)

    def _rank(
        self,
        queries: Vectors,
        asked: Vectors,
        *,
        truth: Integers | None = None,
        own: Vectors | None = None,
        near: Neighbours | None = None,
        rows: Integers | None = None,
    ) -> Scores:
        """Rank landmarks for (q, d) queries of (q,) bank similarity ``asked``.

        Held-out gallery photographs come with (q,) ``truth`` and the value ``own`` of that
        landmark; bank photographs with the ``near`` ones of the means and their own bank ``rows``.
        """
        places = np.arange(len(self.means))[None]
        parts = []
        step = max(1, SIMILARITIES // len(self.means))
        for start in range(0, max(len(queries), 1), step):
            here = slice(start, start + step)
            corrections = self.corrections[None]
            if near is not None and rows is not None:
                among = np.broadcast_to(places, (len(rows[here]), len(self.means)))
                corrections = mean_without(near, among, rows[here], self.config.bank_neighbours)
                corrections = _never_empty(corrections.T, self.means).T
            values = queries[here] @ self.means.T - self.config.mean_correction * corrections
            if truth is not None and own is not None:
                values[np.arange(len(values)), truth[here]] = own[here]
            values -= self.config.query_correction * asked[here, None]
            parts.append(Scores.top(values, self.config.candidates))
        return Scores.joined(parts)


def _by_vectors(searcher: Searcher | None) -> Searcher | None:
    return None if searcher is None else replace(searcher, inverted=None)


def _sums(gallery: Gallery, rows: Integers | None = None) -> NDArray[np.float64]:
    """(l, d) sums of the landmarks' photographs, or of some rows, ascending."""
    rows = np.arange(len(gallery.codes)) if rows is None else rows
    ordered = rows[np.argsort(gallery.codes[rows], kind="stable")]
    codes = gallery.codes[ordered]
    sums = np.zeros((len(gallery.landmarks), gallery.vectors.shape[1]))
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    # One photograph after the other, whatever the blocks: so sums have the same bits.
    for start, end in itertools.pairwise([*starts, len(codes)]):
        for at in range(start, end, ROWS):
            own = gallery.vectors[ordered[at : min(at + ROWS, end)]]
            if at > start:
                own = np.concatenate([sums[codes[start]][None], own])
            sums[codes[start]] = own.sum(axis=0, dtype=np.float64)
    return sums


def _unit(sums: NDArray[np.float64]) -> Vectors:
    """Rows brought to unit length; what is no more than rounding is left as zeros."""
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    means: Vectors = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), 0.0)
    return means.astype(np.float32)


def _never_empty(corrections: Vectors, means: Vectors) -> Vectors:
    """(l, ...) corrections, infinite where there is no mean."""
    corrections[~means.any(axis=1)] = np.inf
    return corrections
