"""A linear support vector machine on the descriptors, one landmark against the rest.

Every landmark has a separator trained by scikit-learn's LinearSVC; photographs without a landmark
are among the rest of each, and have a separator of their own. What each is trained on depends on
the gallery's size, by one rule:

* up to :attr:`SvmConfig.most_rows` rows and :attr:`SvmConfig.most_work` rows times landmarks:
  its own rows against all the others;
* above: its own rows (at most ``most_positives`` of them, at random) against at most
  ``bank_negatives`` bank photographs and ``random_negatives`` gallery rows, which all landmarks
  share, and the ``hard_negatives`` rows of other landmarks that the index finds nearest to the
  mean of its own. So time grows with the number of landmarks alone, and memory hardly at all.

Photographs are scored against every landmark's separator by a blocked matrix product, which costs
less than searching a gallery that has many photographs a landmark; no neighbours are needed.

Whitening makes all dimensions vary alike, which suits similarities but not a machine whose penalty
then lets it lean on weak dimensions as on strong ones. So every dimension is multiplied by a power
of its standard deviation over the gallery, and rows are brought back to unit length, before
training and scoring; after a whitening that is not quite full this puts the strong ones first.

LinearSVC solves the primal problem here (``dual=False``): that solver (Lin, Weng and Keerthi,
"Trust region Newton method for large-scale logistic regression", 2008) draws no random numbers,
so that the result is the same whatever the number of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.classifiers.arrays import load_fitted, require_rows, save_fitted
from retrieval.classifiers.base import (
    FOLDS,
    Folds,
    HeldOut,
    Scores,
    cross_fitted,
    stratified_folds,
)
from retrieval.descriptors.representation import Representation
from retrieval.devices import cores
from retrieval.errors import RunError
from retrieval.index.gallery import Gallery, GalleryChange
from retrieval.index.neighbours import Neighbours
from retrieval.types import Flags, Integers, StrictModel, Vectors, unit_rows

FILE: Final = "svm.safetensors"
MARGINS: Final = 1 << 23
"""Margins computed at a time: 32 MB."""
SAMPLE: Final = 50_000
"""Rows that the dimensions' standard deviations are taken over."""
SEARCHED: Final = 1 << 10
"""Landmarks whose hard negatives are searched at a time."""

Separator = tuple[NDArray[Any], float]
"""Weight (d,) and bias."""


class SvmConfig(StrictModel):
    """The machine's constants; defaults chosen on held-out gallery and bank photographs.

    Attributes:
        penalty: LinearSVC's C.
        emphasis: power of the dimensions' standard deviations that they are multiplied by.
        temperature: of the comparison with other landmarks and the bank; see
            :meth:`SvmClassifier.scores`.
        bank_weight: how much of the bank's margin is taken off a photograph's values besides: the
            more, the later come photographs like the bank's. It helps good descriptors; with
            weak ones right answers resemble the bank too.
        verified: how much margin a landmark gains for the largest bonus that verification gave
            one of its photographs among the neighbours, as a multiple of that bonus; 0 leaves
            neighbours unlooked at.
        k: neighbours looked at for that.
        candidates: landmarks ranked for a photograph.
        folds: parts that gallery and bank are dealt into at most, each held out in turn.
        held_out: at most this many gallery (and bank) photographs are held out.
        most_rows, most_work, most_positives, bank_negatives, random_negatives, hard_negatives:
            the rule of this module's docstring.
    """

    kind: Literal["svm"] = "svm"
    penalty: float = Field(default=1.0, ge=1e-6, le=1e6)
    emphasis: float = Field(default=1.0, ge=0.0, le=10.0)
    temperature: float = Field(default=1.0, ge=1e-3, le=1e3)
    bank_weight: float = Field(default=0.0, ge=0.0, le=1e3)
    verified: float = Field(default=0.0, ge=0.0, le=1e3)
    k: int = Field(default=50, ge=1, le=2047)
    candidates: int = Field(default=10, ge=1, le=1000)
    folds: int = Field(default=FOLDS, ge=2, le=1000)
    held_out: int = Field(default=5_000, ge=1, le=10_000_000)
    most_rows: int = Field(default=50_000, ge=0, le=10_000_000)
    most_work: int = Field(default=10_000_000, ge=0, le=2**40)
    most_positives: int = Field(default=500, ge=1, le=10_000_000)
    bank_negatives: int = Field(default=500, ge=0, le=10_000_000)
    random_negatives: int = Field(default=1000, ge=1, le=10_000_000)
    hard_negatives: int = Field(default=500, ge=0, le=1024)

    def trains_on_all(self, rows: int, landmarks: int) -> bool:
        """Whether every landmark's separator is trained on all rows of gallery and bank."""
        return rows <= self.most_rows and rows * landmarks <= self.most_work


@dataclass(frozen=True)
class SvmClassifier:
    """A fitted machine.

    Attributes:
        config: its constants.
        scale: (d,) float32 what the dimensions are multiplied by.
        weights: (l + 1, d) float32, a row a landmark and one for the bank.
        biases: (l + 1,) float32; -inf for a landmark without rows, and for an empty bank.
        codes: (n,) int64 landmark code of every gallery row.
    """

    kind: ClassVar[str] = "svm"
    config: SvmConfig
    scale: Vectors
    weights: Vectors
    biases: Vectors
    codes: Integers

    @property
    def neighbours(self) -> int:
        return self.config.k if self.config.verified else 0

    @classmethod
    def fit(cls, config: SvmConfig, gallery: Gallery, seed: int = 0) -> Self:
        """Train on all of gallery and bank."""
        rows, bank_rows = np.arange(len(gallery.codes)), np.arange(len(gallery.bank))
        return cls(config, *_train(config, gallery, rows, bank_rows, seed), gallery.codes)

    @classmethod
    def held_out(cls, config: SvmConfig, gallery: Gallery, seed: int = 0) -> HeldOut:
        """Scores of photographs by machines trained without them, one machine a fold."""
        chosen = stratified_folds(gallery, config.folds, config.held_out, seed)
        width = min(config.candidates, len(gallery.landmarks))
        near = _verified_neighbours(config, gallery, chosen)
        asked = gallery.vectors[chosen.rows], gallery.bank_vectors[chosen.bank_rows]

        def fit(rows: Integers, bank_rows: Integers) -> Callable[[bool, Flags], Scores]:
            fitted = cls(config, *_train(config, gallery, rows, bank_rows, seed), gallery.codes)

            def score(bank: bool, own: Flags) -> Scores:
                found = near[bank]
                return fitted._rank(np.asarray(asked[bank][own]), found and found.at(own))

            return score

        return cross_fitted(chosen, gallery, width, fit)

    def scores(self, queries: Representation | Vectors, neighbours: Neighbours) -> Scores:
        """Rank landmarks by margin.

        A candidate's value is its margin m against a soft maximum of what speaks against it: the
        other candidates' margins, the bank's, and the margin of -1 that a landmark out of the
        question has, m - t log(sum of exp(r / t) over these rivals r), t the temperature. That is
        t times the log-odds of a softmax over the margins; it rises with m, so the ranking stays
        that of the margins, and unlike a margin it compares photographs. ``bank_weight`` times
        the bank's margin is then taken off all of a photograph's values, where there is a bank:
        in the soft maximum a bank that is far from winning hardly counts.

        Args:
            queries: (q, d) unit rows.
            neighbours: theirs, verified; not looked at unless ``verified`` is set.

        Returns:
            (q, min(candidates, landmarks)) candidates.
        """
        return self._rank(Representation.of(queries).vectors, neighbours)

    def margins(self, queries: Vectors) -> Vectors:
        """(q, l + 1) of (q, d) unit rows: every landmark's, and last the bank's."""
        margins: Vectors = scaled(queries, self.scale) @ self.weights.T + self.biases
        return margins

    def save(self, folder: Path) -> None:
        """Write ``svm.safetensors``: scale, weights, biases and the constants behind them."""
        arrays = {"scale": self.scale, "weights": self.weights, "biases": self.biases}
        save_fitted(folder / FILE, arrays, self.config)

    @classmethod
    def load(cls, folder: Path, gallery: Gallery) -> Self:
        arrays, config = load_fitted(folder / FILE, SvmConfig)
        expected = (len(gallery.landmarks) + 1, gallery.vectors.shape[1])
        if arrays["weights"].shape != expected:
            raise RunError(
                f"{folder / FILE} is of {len(arrays['weights']) - 1} landmarks, the gallery has "
                f"{len(gallery.landmarks)}: fit the classifiers again"
            )
        return cls(config, arrays["scale"], arrays["weights"], arrays["biases"], gallery.codes)

    @classmethod
    def updated(cls, folder: Path, gallery: Gallery, change: GalleryChange, seed: int) -> Self:
        """Separators stay as they are; of new landmarks they are trained, as of all when fitting,
        by the scale of then."""
        arrays, config = load_fitted(folder / FILE, SvmConfig)
        scale, places = arrays["scale"], change.places(gallery.landmarks)
        require_rows(folder / FILE, len(arrays["weights"]) - 1, len(change.landmarks), "landmarks")
        # The bank's separator stays the last.
        weights, biases = (arrays[name][np.append(places, -1)] for name in ("weights", "biases"))
        new = np.flatnonzero(places < 0)
        if len(new):
            rows, bank_rows = np.arange(len(gallery.codes)), np.arange(len(gallery.bank))
            seen = _TrainingRows(config, gallery, rows, bank_rows, scale, seed)
            weights[new], biases[new] = seen.separators(new)
        return cls(config, scale, weights, biases, gallery.codes)

    def gained(self, neighbours: Neighbours, code: int) -> float:
        """The margin that a landmark gains by one photograph's verified neighbours."""
        if not self.config.verified or neighbours.bonus is None:
            return 0.0
        shape = 1, len(self.weights) - 1
        return float(self._gained(neighbours.rows, neighbours.bonus, shape)[0, code])

    def _gained(self, rows: Integers, bonus: Vectors, shape: tuple[int, ...]) -> Vectors:
        """(q, l) the margin that each landmark gains by its verified photographs."""
        gained = np.zeros(shape, np.float32)
        query, place = np.nonzero(rows[:, : self.config.k] >= 0)
        landmark = self.codes[rows[query, place]]
        np.maximum.at(gained, (query, landmark), bonus[query, place])
        return gained * np.float32(self.config.verified)

    def _rank(self, queries: Vectors, neighbours: Neighbours | None) -> Scores:
        width = min(self.config.candidates, len(self.weights) - 1)
        scores = Scores.blank(len(queries), width)
        step = max(1, MARGINS // len(self.weights))
        for start in range(0, len(queries), step):
            here = slice(start, start + step)
            margins = self.margins(queries[here])
            landmarks, bank = margins[:, :-1], margins[:, -1]
            if self.config.verified and neighbours is not None and neighbours.bonus is not None:
                landmarks = landmarks + self._gained(
                    neighbours.rows[here], neighbours.bonus[here], landmarks.shape
                )
            top = Scores.top(landmarks, width)
            against = np.stack([bank, np.full_like(bank, -1.0)], axis=1)
            scores.candidates[here] = top.candidates
            scores.values[here] = contrast(top.values, against, self.config.temperature)
            if np.isfinite(self.biases[-1]):
                scores.values[here] -= np.float32(self.config.bank_weight) * bank[:, None]
        scores.candidates[np.isneginf(scores.values)] = -1
        return scores


def _verified_neighbours(
    config: SvmConfig, gallery: Gallery, chosen: Folds
) -> tuple[Neighbours | None, Neighbours | None]:
    """Of the held-out gallery photographs, each without itself, and of the bank's."""
    if not config.verified:
        return None, None
    return (
        gallery.neighbours_of(chosen.rows, config.k),
        gallery.neighbours_of_bank(chosen.bank_rows, config.k),
    )


def contrast(margins: Vectors, against: NDArray[Any], temperature: float) -> Vectors:
    """Margins against a soft maximum of their rivals; see :meth:`SvmClassifier.scores`.

    Args:
        margins: (q, c) the best landmarks' margins, falling; -inf where there is none.
        against: (q, r) further rivals, at least one of them finite.
        temperature: the smaller, the more the strongest rival alone counts.

    Returns:
        (q, c) float32, falling.
    """
    everything = (
        np.concatenate([margins.astype(np.float64), against.astype(np.float64)], axis=1)
        / temperature
    )
    everything -= everything.max(axis=1, keepdims=True)
    odds = np.exp(everything)
    own = odds[:, : margins.shape[1]]
    rivals = np.maximum(odds.sum(axis=1, keepdims=True) - own, np.finfo(float).tiny)
    with np.errstate(divide="ignore"):
        values = temperature * (everything[:, : margins.shape[1]] - np.log(rivals))
    contrasted: Vectors = values.astype(np.float32)
    return contrasted


def _train(
    config: SvmConfig, gallery: Gallery, rows: Integers, bank_rows: Integers, seed: int
) -> tuple[Vectors, Vectors, Vectors]:
    """Scale, weights and biases from some rows of gallery and bank (ascending)."""
    scale, wanted = _scale(config, gallery, rows, seed), np.arange(len(gallery.landmarks) + 1)
    seen = _TrainingRows(config, gallery, rows, bank_rows, scale, seed)
    return scale, *seen.separators(wanted)


def _scale(config: SvmConfig, gallery: Gallery, rows: Integers, seed: int) -> Vectors:
    """(d,) float32, at most 1; from at most ``SAMPLE`` rows."""
    sample = np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLE])
    deviation = gallery.vectors[sample].std(axis=0, dtype=np.float64)
    if not deviation.any():  # one photograph, or copies of one
        return np.ones(len(deviation), np.float32)
    scale: Vectors = ((deviation / deviation.max()) ** config.emphasis).astype(np.float32)
    return scale


def scaled(descriptors: Vectors, scale: Vectors) -> Vectors:
    """(n, d) rows with their dimensions multiplied by (d,) scale, and of unit length again."""
    return unit_rows(descriptors * scale)


@dataclass(frozen=True)
class _TrainingRows:
    """What separators are trained on.

    Attributes:
        config: of the classifier.
        gallery: whose photographs they part.
        rows, bank_rows: those that are seen, ascending.
        scale: (d,) as of :func:`_scale`.
        seed: of what is drawn.
    """

    config: SvmConfig
    gallery: Gallery
    rows: Integers
    bank_rows: Integers
    scale: Vectors
    seed: int

    def separators(self, wanted: Integers) -> tuple[Vectors, Vectors]:
        """Weights and biases of wanted landmarks, by code, ascending; the bank's code is one more
        than the last landmark's."""
        landmarks, everything = len(self.gallery.landmarks), len(self.rows) + len(self.bank_rows)
        if self.config.trains_on_all(everything, landmarks):
            return _stacked(self._on_all(wanted))
        return _stacked(self._on_some(wanted))

    def _scaled(self, descriptors: Vectors) -> Vectors:
        return scaled(descriptors, self.scale)

    def _on_all(self, wanted: Integers) -> list[Separator]:
        gallery, none = self.gallery, len(self.gallery.landmarks)
        descriptors = np.concatenate(
            [gallery.vectors[self.rows], gallery.bank_vectors[self.bank_rows]]
        )
        descriptors = self._scaled(descriptors).astype(np.float64)
        codes = np.concatenate([gallery.codes[self.rows], np.full(len(self.bank_rows), none)])
        with ThreadPoolExecutor(cores()) as threads:
            return list(
                threads.map(
                    lambda code: separator(descriptors, codes == code, self.config.penalty), wanted
                )
            )

    def _on_some(self, wanted: Integers) -> list[Separator]:
        config, gallery, rng = self.config, self.gallery, np.random.default_rng(self.seed)
        shared = np.sort(rng.permutation(self.rows)[: config.random_negatives])
        bank_rows = np.sort(rng.permutation(self.bank_rows)[: config.bank_negatives])
        bank = self._scaled(gallery.bank_vectors[bank_rows])
        descriptors, codes = self._scaled(gallery.vectors[shared]), gallery.codes[shared]
        shuffled = rng.permutation(self.rows)
        shuffled = shuffled[np.argsort(gallery.codes[shuffled], kind="stable")]
        bounds = np.searchsorted(gallery.codes[shuffled], np.arange(len(gallery.landmarks) + 1))
        own = [
            np.sort(shuffled[start:end][: config.most_positives])
            for start, end in itertools.pairwise(bounds)
        ]
        allowed = np.zeros(len(gallery.codes), np.bool_)
        allowed[self.rows] = True

        def one(code: int, hard: Integers) -> Separator:
            picked = np.concatenate([own[code], np.setdiff1d(hard, shared)])
            near = self._scaled(gallery.vectors[picked])
            chosen = [near, descriptors[codes != code], bank]
            parts = np.concatenate(chosen).astype(np.float64)
            return separator(parts, np.arange(len(parts)) < len(own[code]), config.penalty)

        found: list[Separator] = []
        with ThreadPoolExecutor(cores()) as threads:
            known = wanted[wanted < len(own)]
            for start in range(0, len(known), SEARCHED):
                block = known[start : start + SEARCHED]
                hard = _hard_negatives(config, gallery, own, block, allowed)
                found += threads.map(one, block, hard)
        if len(known) < len(wanted):
            both = np.concatenate([bank, descriptors]).astype(np.float64)
            found.append(separator(both, np.arange(len(both)) < len(bank), config.penalty))
        return found


def _hard_negatives(
    config: SvmConfig,
    gallery: Gallery,
    own: Sequence[Integers],
    block: Integers,
    allowed: Flags,
) -> list[Integers]:
    """For each landmark of a block, the rows of others nearest to the mean of its own."""
    count = config.hard_negatives
    if not count:
        return [np.empty(0, np.int64) for _ in block]
    # A landmark without rows has a mean of zeros; what is found for it is not used.
    means = np.stack([gallery.vectors[own[code]].sum(axis=0, dtype=np.float64) for code in block])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    # Twice as many as wanted, since the landmark's own rows come first.
    found = gallery.searcher.index.search(means.astype(np.float32), 2 * count).rows
    usable = (found >= 0) & allowed[found] & (gallery.codes[found] != block[:, None])
    return [rows[use][:count] for rows, use in zip(found, usable, strict=True)]


def separator(descriptors: NDArray[np.float64], own: Flags, penalty: float) -> Separator:
    """Weight (d,) and bias that part own rows of (n, d) from the others.

    Without own rows the bias is -inf, so that nothing is ever on their side; without others it
    is 1, the margin of a row on the right side.
    """
    from sklearn.svm import LinearSVC

    nothing = np.zeros(descriptors.shape[1])
    if not own.any():
        return nothing, -np.inf
    if own.all():
        return nothing, 1.0
    machine = LinearSVC(C=penalty, dual=False, tol=1e-4).fit(descriptors, own)
    return machine.coef_[0], float(machine.intercept_[0])


def _stacked(found: Sequence[Separator]) -> tuple[Vectors, Vectors]:
    weights = np.stack([weight for weight, _ in found]).astype(np.float32)
    return weights, np.array([bias for _, bias in found], np.float32)
