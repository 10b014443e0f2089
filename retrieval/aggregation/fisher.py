"""Fisher vectors: how the local features would shift a mixture of Gaussians towards themselves.

Perronnin, Sánchez and Mensink, "Improving the Fisher kernel for large-scale image classification"
(ECCV 2010), equations 17 to 22, with Sánchez et al., "Image classification with the Fisher vector"
(IJCV 2013): local descriptors are projected by PCA, since the mixture's covariances are diagonal;
the gradients of the log-likelihood by the means and the standard deviations are divided by the
root of their Fisher information, then each number is replaced by its signed power, and the whole
is brought to unit length.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save

from retrieval.local.features import LocalFeatures
from retrieval.local.sampling import require_enough, sample_descriptors
from retrieval.storage.files import atomic_write, read_tensors
from retrieval.types import StrictModel, Vectors, unit_rows
from retrieval.vectors.clustering import train_kmeans
from retrieval.vectors.projection import Projection, learn_projection

FILE: Final = "mixture.safetensors"
SAMPLES_PER_WORD: Final = 1_000
NEGLIGIBLE: Final = 1e-4
"""Posteriors below this are taken as nought, as the IJCV paper's appendix has it."""


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

    def posteriors(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, w) shares of the Gaussians in each of (n, d) rows."""
        precision = 1.0 / self.deviations**2
        squares = (
            (rows**2) @ precision.T
            - 2.0 * rows @ (self.means * precision).T
            + (self.means**2 * precision).sum(axis=1)
        )
        logs = np.log(self.weights) - np.log(self.deviations).sum(axis=1) - 0.5 * squares
        logs -= logs.max(axis=1, keepdims=True)
        shares = np.exp(logs)
        shares /= shares.sum(axis=1, keepdims=True)
        shares[shares < NEGLIGIBLE] = 0.0
        normed: NDArray[np.float32] = shares / shares.sum(axis=1, keepdims=True)
        return normed


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
        for row, one in zip(rows, features, strict=True):
            if len(one):
                row[:] = fisher_vector(
                    self.projection.apply(one.descriptors), self.mixture, self.config
                )
        return rows

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
    """Fit a mixture to (n, d) rows by expectation maximisation, from k-means' centroids."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(
        words,
        covariance_type="diag",
        means_init=train_kmeans(rows, words, seed=seed, device=device),
        # Its own start would be one more k-means, whose means the given ones replace anyway.
        init_params="random_from_data",
        max_iter=30,
        tol=1e-3,
        reg_covar=1e-5,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # max_iter is where it is meant to stop: the last changes are of no use to the vectors.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows)
    return Mixture(
        model.weights_.astype(np.float32),
        model.means_.astype(np.float32),
        np.sqrt(model.covariances_).astype(np.float32),
    )


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
