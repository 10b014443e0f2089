"""Principal axes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from retrieval.storage.files import atomic_write, read_tensors

LEAST_VARIANCE: Final = 1e-4
"""A direction's variance counts as at least this share of the largest one's."""
TINY: Final = 1e-12


@dataclass(frozen=True)
class Projection:
    """Local descriptors on their leading principal directions.

    Attributes:
        mean: (d,) float32.
        axes: (d, k) float32, orthogonal columns, the one of the largest variance first.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    def apply(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d) descriptors to (n, k)."""
        return np.asarray((descriptors - self.mean) @ self.axes, dtype=np.float32)

    def save(self, path: Path) -> None:
        atomic_write(path, save({"mean": self.mean, "axes": self.axes}))

    @classmethod
    def load(cls, path: Path) -> Projection:
        """The inverse of ``save``; RunError where the file is missing or damaged."""
        found = read_tensors(path, ("mean", "axes"))
        return cls(found["mean"], found["axes"])


def learn_projection(
    descriptors: NDArray[np.float32], dimension: int, whiten: bool = False
) -> Projection:
    """The PCA of (n, d) descriptors to ``dimension`` numbers, at most d; signs are settled.

    The axes are of unit length, or so long that every number varies by one.
    """
    mean = descriptors.mean(axis=0, dtype=np.float64)
    centred = descriptors - mean.astype(np.float32)
    covariance = (centred.T @ centred) / np.float32(max(len(centred), 1))
    variances, axes = leading_eigenvectors(covariance.astype(np.float64), dimension)
    axes = with_settled_signs(axes)
    if whiten:
        # Directions in which hardly anything was seen stay short: they would be noise blown up.
        axes = axes / np.sqrt(np.maximum(variances, LEAST_VARIANCE * variances[0] + TINY))
    return Projection(mean.astype(np.float32), np.ascontiguousarray(axes, dtype=np.float32))


def leading_eigenvectors(
    symmetric: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ``count`` largest eigenvalues (k,), descending, and their eigenvectors (d, k).

    scikit-learn's PCA finds the same axes, but divides by n − 1, keeps other precisions and turns
    signs by another rule: what was built with these would have to be built anew.
    """
    values, vectors = np.linalg.eigh(symmetric)
    return values[::-1][:count], vectors[:, ::-1][:, :count]


def with_settled_signs(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns turned so that their largest number is positive, whatever the linear algebra does."""
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    settled: NDArray[np.float64] = axes * np.sign(largest)
    return settled
