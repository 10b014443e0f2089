"""Fisher vectors: how the local features would shift a mixture of Gaussians towards themselves.

Perronnin, Sánchez and Mensink, "Improving the Fisher kernel for large-scale image classification"
(ECCV 2010), equations 17 to 22, with Sánchez et al., "Image classification with the Fisher vector"
(IJCV 2013): local descriptors are projected by PCA, since the mixture's covariances are diagonal;
the gradients of the log-likelihood by the means and the standard deviations are divided by the
root of their Fisher information, then each number is replaced by its signed power, and the whole
is brought to unit length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save

from retrieval.aggregation.codebook import nearest_words
from retrieval.local.features import LocalFeatures
from retrieval.local.sampling import require_enough, sample_descriptors
from retrieval.passes import one_pass
from retrieval.storage.files import atomic_write, read_tensors
from retrieval.threads import in_threads
from retrieval.types import StrictModel, Vectors, unit_rows
from retrieval.vectors.clustering import train_kmeans
from retrieval.vectors.projection import TINY, Projection, learn_projection

FILE: Final = "mixture.safetensors"
SAMPLES_PER_WORD: Final = 1_000
NEGLIGIBLE: Final = 1e-4
"""Posteriors below this are taken as nought, as the IJCV paper's appendix has it."""

ITERATIONS: Final = 30
"""Of expectation maximisation at most: the last changes are of no use to the vectors."""
LEAST_GAIN: Final = 1e-3
"""Of the mean log-likelihood by an iteration that is followed by another."""
LEAST_VARIANCE: Final = 1e-5
"""Added to every variance."""
BLOCK: Final = 4_096
"""Rows that a thread takes at a time."""

Moments = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


class FisherConfig(StrictModel):
    """How local features are aggregated.

    Attributes:
        words: Gaussians in the mixture, learnt on the gallery and the bank.
        projected: numbers that local descriptors are projected to by PCA.
        deviations: whether the gradients by the standard deviations stand beside those by the
            means.
        power: exponent of the signed power normalisation; 1 leaves the numbers as they are.
    """

    kind: Literal["fisher"] = "fisher"
    words: int = Field(64, ge=1, le=4096)
    projected: int = Field(64, ge=1, le=1024)
    deviations: bool = True
    power: float = Field(0.5, ge=1e-3, le=1.0)


@dataclass(frozen=True)
class Mixture:
    """A mixture of w Gaussians with diagonal covariances over d numbers.

    Attributes:
        weights: (w,) float32, summing to one.
        means: (w, d) float32.
        deviations: (w, d) float32 standard deviations.
    """

    weights: NDArray[np.float32]
    means: NDArray[np.float32]
    deviations: NDArray[np.float32]

    def log_joint(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, w) logarithms of the Gaussians' densities at (n, d) rows times their weights, but
        for the power of 2π that all have."""
        precision = 1.0 / self.deviations**2
        scaled = self.means * precision
        constant = np.log(self.weights) - np.log(self.deviations).sum(axis=1)
        constant -= 0.5 * (self.means * scaled).sum(axis=1)
        logs: NDArray[np.float32] = (
            np.hstack([rows, rows**2]) @ np.hstack([scaled, -0.5 * precision]).T
        )
        logs += constant
        return logs

    def posteriors(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, w) shares of the Gaussians in each of (n, d) rows."""
        shares, total = _shares(self.log_joint(rows))
        shares[shares < NEGLIGIBLE * total] = 0.0
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def expected(self, rows: NDArray[np.float32]) -> tuple[Moments, float]:
        """The moments of (n, d) rows by their posteriors, and their log-likelihood but for a
        constant."""
        logs = self.log_joint(rows)
        highest = logs.max(axis=1, keepdims=True)
        shares, total = _shares(logs)
        shares /= total
        likelihood = (np.log(total) + highest).sum(dtype=np.float64)
        return _moments(shares, rows), float(likelihood)


def _shares(logs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(n, w) exponentials of logarithms, a row's largest one 1, in their place; and (n, 1) sums."""
    logs -= logs.max(axis=1, keepdims=True)
    shares = np.exp(logs, out=logs)
    return shares, shares.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Fisher:
    """See :class:`FisherConfig`; projection and mixture are ``None`` until ``fit``."""

    config: FisherConfig
    local_dimension: int
    projection: Projection | None = field(default=None, repr=False)
    mixture: Mixture | None = field(default=None, repr=False)

    @property
    def dimension(self) -> int:
        kept = min(self.config.projected, self.local_dimension)
        return (2 if self.config.deviations else 1) * self.config.words * kept

    @property
    def fitted(self) -> bool:
        return self.mixture is not None

    def fit(self, features: Sequence[LocalFeatures], seed: int, device: str) -> Fisher:
        sample = sample_descriptors(features, self.config.words * SAMPLES_PER_WORD, seed)
        require_enough(sample, self.config.words)
        projection = learn_projection(sample, min(self.config.projected, self.local_dimension))
        projected = projection.apply(sample)
        return replace(
            self,
            projection=projection,
            mixture=learn_mixture(projected, self.config.words, seed, device),
        )

    def aggregate(self, features: Sequence[LocalFeatures]) -> Vectors:
        if self.projection is None or self.mixture is None:
            raise RuntimeError("the mixture is not learnt yet: call fit first")
        rows = np.zeros((len(features), self.dimension), dtype=np.float32)
        for row, found in zip(rows, in_threads(self._aggregated, features), strict=True):
            row[:] = found
        return rows

    def _aggregated(self, one: LocalFeatures) -> NDArray[np.float32] | float:
        """Of one photograph; 0 where there is nothing."""
        assert self.projection is not None
        assert self.mixture is not None
        if not len(one):
            return 0.0
        return fisher_vector(self.projection.apply(one.descriptors), self.mixture, self.config)

    def save(self, folder: Path) -> None:
        assert self.projection is not None
        assert self.mixture is not None
        arrays = {
            "mean": self.projection.mean,
            "axes": self.projection.axes,
            "weights": self.mixture.weights,
            "means": self.mixture.means,
            "deviations": self.mixture.deviations,
        }
        atomic_write(folder / FILE, save(arrays))

    def restored(self, folder: Path) -> Fisher:
        names = ("mean", "axes", "weights", "means", "deviations")
        found = read_tensors(folder / FILE, names)
        mean, axes, *mixture = (found[name] for name in names)
        return replace(self, projection=Projection(mean, axes), mixture=Mixture(*mixture))


def learn_mixture(rows: NDArray[np.float32], words: int, seed: int, device: str) -> Mixture:
    """Fit a mixture to (n, d) rows by expectation maximisation, from k-means' centroids.

    As scikit-learn's GaussianMixture of diagonal covariances does, but a block of rows at a time
    on every core, in float32 with sums in float64.
    """
    centroids = train_kmeans(rows, words, seed=seed, device=device)
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    mixture = _of_moments(in_threads(partial(_counted, centroids), blocks))
    before = -np.inf
    for _ in range(ITERATIONS):
        found = list(in_threads(mixture.expected, blocks))
        likelihood = sum(one for _, one in found) / len(rows)
        mixture = _of_moments(moments for moments, _ in found)
        one_pass()
        if likelihood - before < LEAST_GAIN:
            break
        before = likelihood
    return mixture


def _counted(centroids: NDArray[np.float32], rows: NDArray[np.float32]) -> Moments:
    """The moments of rows that are each given to the nearest centroid alone."""
    shares = np.zeros((len(rows), len(centroids)), dtype=np.float32)
    shares[np.arange(len(rows)), nearest_words(rows, centroids)] = 1.0
    return _moments(shares, rows)


def _moments(shares: NDArray[np.float32], rows: NDArray[np.float32]) -> Moments:
    """(w,), (w, d) and (w, d) sums of (n, w) shares, of rows, and of their squares by shares."""
    found = shares.T @ np.hstack([rows, rows**2])
    first, second = np.hsplit(found.astype(np.float64), 2)
    return shares.sum(axis=0, dtype=np.float64), first, second


def _of_moments(blocks: Iterable[Moments]) -> Mixture:
    """The likeliest mixture of the moments of all rows, which come block by block."""
    counts, first, second = (sum(parts) for parts in zip(*blocks, strict=True))
    counts = counts + TINY
    means = first / counts[:, None]
    variances = np.maximum(second / counts[:, None] - means**2, 0.0) + LEAST_VARIANCE
    found = counts / counts.sum(), means, np.sqrt(variances)
    return Mixture(*(one.astype(np.float32) for one in found))


def fisher_vector(
    rows: NDArray[np.float32], mixture: Mixture, config: FisherConfig
) -> NDArray[np.float32]:
    """The Fisher vector of one photograph's (n, d) projected descriptors, n at least 1.

    Returns:
        (words * d,) float32 of unit length, gradients by the means, word after word; twice as many
        with those by the standard deviations behind them.
    """
    shares = mixture.posteriors(rows)
    total = shares.sum(axis=0)[:, None]
    first = shares.T @ rows
    by_means = (first - total * mixture.means) / mixture.deviations
    root = np.sqrt(mixture.weights)[:, None] * np.float32(len(rows))
    parts = [by_means / root]
    if config.deviations:
        second = shares.T @ (rows**2)
        spread = second - 2.0 * mixture.means * first + total * mixture.means**2
        by_deviations = spread / mixture.deviations**2 - total
        parts.append(by_deviations / (root * np.sqrt(np.float32(2.0))))
    flat = np.concatenate([part.ravel() for part in parts])[None]
    vector: NDArray[np.float32] = unit_rows(np.sign(flat) * np.abs(flat) ** config.power)[0]
    return vector
