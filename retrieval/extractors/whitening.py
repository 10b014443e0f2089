"""PCA whitening of descriptors to a chosen size.

Jégou and Chum, "Negative evidences and co-occurences in image retrieval" (ECCV 2012): descriptors
are centred, projected on their leading principal directions, each direction is scaled by a power
of its eigenvalue (−1/2 whitens, 0 only rotates; in between trusts weak directions less, which
helps where few photographs were seen), and rows are brought back to unit length.

Where landmarks are known, what differs between photographs of one landmark can be scaled down
instead: Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation"
(TPAMI 2019), section 3.4, after Mikolajczyk and Matas (ICCV 2007). The covariance of the
differences within matching pairs is whitened, and the principal directions of all photographs in
that space are kept, scaled by a power of their eigenvalues as above.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save
from sklearn.utils.extmath import randomized_svd

from retrieval.errors import ConfigError
from retrieval.extractors.base import Labels, StrictModel, Vectors, unit_rows
from retrieval.index.store import atomic_write, read_tensors

FILE: Final = "whitening.safetensors"
SAME: Final = 1e-14
"""A variance of unit rows that is mere rounding of float32."""
EXACT_LIMIT: Final = 4096
"""Largest side of a covariance or Gram matrix that is decomposed in full."""
MOST_DIRECTIONS: Final = 2048
"""Pairs are looked at along this many principal directions at most: the rest is all but noise."""


class WhiteningConfig(StrictModel):
    """How descriptors are whitened.

    Attributes:
        dimension: numbers kept; fewer if fewer photographs were seen.
        power: exponent of the eigenvalues of all photographs' covariance; where pairs teach, of
            the one after what differs within pairs was whitened (Radenović et al. have 0).
        shrinkage: share of the mean eigenvalue mixed into each, 0 to 1, against overfitting; where
            pairs teach, of the covariance of their differences.
        learnt_on: ``all`` photographs alike, or besides by the differences within ``pairs`` of one
            landmark's, each photograph counting alike.
    """

    dimension: int = Field(256, ge=1)
    power: float = Field(-0.5, ge=-1.0, le=0.0)
    shrinkage: float = Field(0.0, ge=0.0, le=1.0)
    learnt_on: Literal["all", "pairs"] = "all"


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
    def fit(
        cls,
        descriptors: Vectors,
        config: WhiteningConfig,
        seed: int = 0,
        labels: Labels | None = None,
    ) -> Whitening:
        """Learn from (n, d) unit rows, with their n labels where pairs teach.

        Raises:
            ConfigError: fewer than two rows, rows that are all the same, or too few pairs.
        """
        if len(descriptors) < 2:
            raise ConfigError("whitening needs at least two photographs to learn from")
        mean = descriptors.mean(axis=0, dtype=np.float64)
        centred = descriptors - mean.astype(np.float32)
        if config.learnt_on == "pairs":
            scaled = _learnt_on_pairs(centred, labels, config, seed)
        else:
            scaled = _learnt_on_all(centred, config, seed)
        # In the order in which it is saved and loaded: another one is rounded in another way.
        return cls(mean.astype(np.float32), np.ascontiguousarray(scaled, dtype=np.float32))

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


def taught_by(ids: Iterable[str]) -> NDArray[np.bool_]:
    """(n,) which photographs' labels teach a whitening on pairs: four of five, told by their ids.

    Among those that taught it a landmark's photographs lie nearer together than new ones do, so
    thresholds and probabilities have to be fitted on the others.
    """
    digests = (hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest() for one in ids)
    return np.array([digest[0] % 5 != 0 for digest in digests], dtype=bool)


def teaching_labels(table: pd.DataFrame) -> Labels:
    """The landmarks of an image table's photographs whose labels teach: :func:`taught_by`."""
    told = table["landmark"].notna() & taught_by(table["id"])
    labels: list[str | None] = table["landmark"].astype(object).where(told, None).tolist()
    return labels


def _learnt_on_all(centred: Vectors, config: WhiteningConfig, seed: int) -> NDArray[np.float64]:
    directions, eigenvalues = _varied_directions(centred, config.dimension, seed)
    average = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64))
    average /= len(centred) * min(centred.shape)
    softened = (1 - config.shrinkage) * eigenvalues + config.shrinkage * average
    scaled: NDArray[np.float64] = directions * softened**config.power
    return scaled


def _learnt_on_pairs(
    centred: Vectors, labels: Labels | None, config: WhiteningConfig, seed: int
) -> NDArray[np.float64]:
    """Radenović et al., section 3.4, within the space that the photographs span.

    The sum over a landmark's m (m − 1) / 2 pairs is m times that over its photographs' differences
    from their mean, so that no pair is listed; here each landmark's sum is divided by m.
    """
    span, _ = _varied_directions(centred, MOST_DIRECTIONS, seed)
    differences, freedom = _from_landmark_means(centred @ span, labels)
    values, axes = np.linalg.eigh(differences.T @ differences / freedom)
    softened = (1 - config.shrinkage) * values + config.shrinkage * values.mean()
    if softened[0] <= max(softened[-1] * 1e-9, SAME):
        raise ConfigError(
            f"whitening on pairs has {freedom} differences for {len(values)} directions: give it"
            " some whitening.shrinkage (0.1, say) or more photographs a landmark"
        )
    alike = span @ (axes * softened**-0.5)
    turn, spread = _varied_directions((centred @ alike).astype(np.float32), config.dimension, seed)
    return _settled(alike @ (turn * spread**config.power))


def _from_landmark_means(
    rows: NDArray[np.float64], labels: Labels | None
) -> tuple[NDArray[np.float64], int]:
    """Rows of landmarks with several, less their landmark's mean; and how many are independent.

    Raises:
        ConfigError: no landmark has two.
    """
    codes = pd.factorize(np.asarray([None] * len(rows) if labels is None else labels, object))[0]
    counts = np.bincount(codes[codes >= 0], minlength=1)
    paired = (codes >= 0) & (counts[codes] > 1)
    if not paired.any():
        raise ConfigError(
            "whitening on pairs needs a landmark with two photographs, and there is none: take"
            " whitening.learnt_on: all"
        )
    rows, codes = rows[paired], codes[paired]
    means = np.zeros((len(counts), rows.shape[1]))
    np.add.at(means, codes, rows)
    means /= counts[:, None]
    return rows - means[codes], len(rows) - len(np.unique(codes))


def _varied_directions(
    centred: Vectors, most: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal directions and eigenvalues, at most so many, along which the rows differ.

    Raises:
        ConfigError: there is none.
    """
    wanted = min(most, *centred.shape)
    directions, eigenvalues = _principal_directions(centred, wanted, seed)
    # Directions without variance (fewer photographs than numbers) would be noise blown up.
    kept = eigenvalues > max(eigenvalues[0] * 1e-9, SAME)
    if not kept.any():
        raise ConfigError("whitening has nothing to learn from photographs that all look alike")
    return directions[:, kept], eigenvalues[kept]


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
    return _settled(directions), eigenvalues


def _settled(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns whose largest number is positive."""
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
    settled: NDArray[np.float64] = directions * np.sign(largest)
    return settled


def _gram(rows: Vectors) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    product: NDArray[np.float64] = wide @ wide.T
    return product
