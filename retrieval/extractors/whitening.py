"""PCA whitening of descriptors to a chosen size.

Jégou and Chum, "Negative evidences and co-occurences in image retrieval" (ECCV 2012): descriptors
are centred, projected on their leading principal directions, each direction is scaled by a power
of its eigenvalue (−1/2 whitens, 0 only rotates; in between trusts weak directions less, which
helps where few photographs were seen), and rows are brought back to unit length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save
from sklearn.utils.extmath import randomized_svd

from retrieval.errors import ConfigError
from retrieval.extractors.base import StrictModel, Vectors, unit_rows
from retrieval.index.store import atomic_write, read_tensors

FILE: Final = "whitening.safetensors"
SAME: Final = 1e-14
"""A variance of unit rows that is mere rounding of float32."""
EXACT_LIMIT: Final = 4096
"""Largest side of a covariance or Gram matrix that is decomposed in full."""


class WhiteningConfig(StrictModel):
    """How descriptors are whitened.

    Attributes:
        dimension: numbers kept; fewer if fewer photographs were seen.
        power: exponent of the eigenvalues.
        shrinkage: share of the mean eigenvalue mixed into each, 0 to 1, against overfitting.
    """

    dimension: int = Field(256, ge=1)
    power: float = Field(-0.5, ge=-1.0, le=0.0)
    shrinkage: float = Field(0.0, ge=0.0, le=1.0)


@dataclass(frozen=True)
class Whitening:
    """A learnt whitening: ``unit((x − mean) · projection)``.

    Attributes:
        mean: (d,) float32.
        projection: (d, k) float32, columns scaled by the eigenvalues' power.
    """

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    @property
    def dimension(self) -> int:
        return int(self.projection.shape[1])

    @classmethod
    def fit(cls, descriptors: Vectors, config: WhiteningConfig, seed: int = 0) -> Whitening:
        """Learn from (n, d) unit rows.

        Raises:
            ConfigError: fewer than two rows, or rows that are all the same.
        """
        if len(descriptors) < 2:
            raise ConfigError("whitening needs at least two photographs to learn from")
        mean = descriptors.mean(axis=0, dtype=np.float64)
        centred = descriptors - mean.astype(np.float32)
        wanted = min(config.dimension, *centred.shape)
        directions, eigenvalues = _principal_directions(centred, wanted, seed)
        # Directions without variance (fewer photographs than numbers) would be noise blown up.
        kept = eigenvalues > max(eigenvalues[0] * 1e-9, SAME)
        if not kept.any():
            raise ConfigError("whitening has nothing to learn from photographs that all look alike")
        directions, eigenvalues = directions[:, kept], eigenvalues[kept]
        average = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64))
        average /= len(centred) * min(centred.shape)
        softened = (1 - config.shrinkage) * eigenvalues + config.shrinkage * average
        scaled = (directions * softened**config.power).astype(np.float32)
        # In the order in which it is saved and loaded: another one is rounded in another way.
        return cls(mean.astype(np.float32), np.ascontiguousarray(scaled))

    def apply(self, descriptors: Vectors) -> Vectors:
        """(n, d) rows to (n, k) float32 unit rows."""
        return unit_rows((descriptors - self.mean) @ self.projection)

    def save(self, folder: Path) -> None:
        atomic_write(folder / FILE, save({"mean": self.mean, "projection": self.projection}))

    @classmethod
    def load(cls, folder: Path) -> Whitening:
        """The inverse of ``save``.

        Raises:
            RunError: the file is missing or damaged.
        """
        arrays = read_tensors(folder / FILE, ("mean", "projection"))
        return cls(arrays["mean"], arrays["projection"])


def _principal_directions(
    centred: Vectors, wanted: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leading eigenvectors (d, k) and eigenvalues (k,) of the covariance of (n, d) centred rows.

    The smaller of covariance and Gram matrix is decomposed in full where it is small enough, and
    by a randomised range finder (Halko et al., 2011) where it is not. Signs are settled, so that
    the result does not hang on the linear algebra library's whim.
    """
    n, d = centred.shape
    if min(n, d) > EXACT_LIMIT:
        _, singular, rows = randomized_svd(
            centred, wanted, n_oversamples=32, n_iter=4, random_state=seed
        )
        directions = rows.T.astype(np.float64)
        eigenvalues = singular.astype(np.float64) ** 2 / n
    elif n < d:
        values, vectors = np.linalg.eigh(_gram(centred))
        values, vectors = values[::-1][:wanted], vectors[:, ::-1][:, :wanted]
        eigenvalues = np.maximum(values, 0) / n
        directions = centred.T.astype(np.float64) @ vectors
        directions /= np.maximum(np.linalg.norm(directions, axis=0), 1e-12)
    else:
        values, vectors = np.linalg.eigh(_gram(centred.T) / n)
        eigenvalues = np.maximum(values[::-1][:wanted], 0)
        directions = vectors[:, ::-1][:, :wanted]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
    return directions * np.sign(largest), eigenvalues


def _gram(rows: Vectors) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    product: NDArray[np.float64] = wide @ wide.T
    return product
