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

A photograph and altered views of it (cropped, turned, mirrored, in another light) are matching
pairs that need no labels, and that a gallery of few photographs a landmark has enough of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from safetensors.numpy import save

from retrieval.errors import ConfigError
from retrieval.passes import one_pass
from retrieval.storage.files import atomic_write, read_tensors
from retrieval.threads import in_threads, one_thread_a_product
from retrieval.types import Flags, Integers, Labels, StrictModel, Vectors, unit_rows
from retrieval.vectors.projection import leading_eigenvectors, with_settled_signs

FILE: Final = "whitening.safetensors"
SAME: Final = 1e-14
"""A variance of unit rows that is mere rounding of float32."""
EXACT_LIMIT: Final = 4096
"""Largest side of a covariance or Gram matrix that is decomposed in full."""
MOST_DIRECTIONS: Final = 2048
"""Pairs are looked at along this many principal directions at most: the rest is all but noise."""

BLOCK: Final = 64
"""Descriptors that a thread whitens at a time."""
COLUMNS: Final = 4096
"""Numbers of all descriptors that are in float64 at a time."""


class WhiteningConfig(StrictModel):
    """How descriptors are whitened.

    Attributes:
        dimension: numbers kept; fewer if fewer photographs were seen.
        power: exponent of the eigenvalues of all photographs' covariance; with pairs, of
            the one after what differs within pairs was whitened (Radenović et al. have 0).
        shrinkage: share of the mean eigenvalue mixed into each, 0 to 1, against overfitting; with
            pairs, of the covariance of their differences.
        learnt_on: ``all`` photographs alike, or besides by the differences within ``pairs`` of one
            landmark's, each photograph counting alike.
        views: altered views of each viewed photograph, described for their differences, which count
            as much as the landmarks' pairs where there are both; 0: none.
        viewed: photographs, at most, that views are described of; drawn by the seed.
    """

    dimension: int = Field(256, ge=1, le=65_536)
    power: float = Field(-0.5, ge=-1.0, le=0.0)
    shrinkage: float = Field(0.0, ge=0.0, le=1.0)
    learnt_on: Literal["all", "pairs"] = "all"
    views: int = Field(0, ge=0, le=100)
    viewed: int = Field(500, ge=2, le=10_000_000)

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        if not self.views:
            values.pop("viewed", None)  # so that runs without views are as they were
        return values


@dataclass(frozen=True)
class AugmentedRows:
    """Altered views of some of the photographs that a whitening is learnt from.

    Attributes:
        rows: (m, d) unit rows, their descriptors.
        of: (m,) int64 the place of each one's photograph among those.
    """

    rows: Vectors
    of: Integers


@dataclass(frozen=True)
class Whitening:
    """A learnt whitening: ``unit((x − mean) · projection)``.

    Attributes:
        mean: (d,) float32.
        projection: (d, k) float32, columns scaled by the eigenvalues' power.
    """

    mean: Vectors
    projection: Vectors

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
        views: AugmentedRows | None = None,
    ) -> Whitening:
        """Learn from (n, d) unit rows, their n labels for pairs, and augmented copies if any.

        Raises:
            ConfigError: fewer than two rows, rows that are all the same, or too few pairs.
        """
        if len(descriptors) < 2:
            raise ConfigError("whitening needs at least two photographs to learn from")
        with one_thread_a_product():
            learnt = cls._fit(descriptors, config, seed, labels, views)
        one_pass()
        return learnt

    @classmethod
    def _fit(
        cls,
        descriptors: Vectors,
        config: WhiteningConfig,
        seed: int,
        labels: Labels | None,
        views: AugmentedRows | None,
    ) -> Whitening:
        mean = descriptors.mean(axis=0, dtype=np.float64)
        centred = descriptors - mean.astype(np.float32)
        if views is not None:
            views = AugmentedRows(views.rows - mean.astype(np.float32), views.of)
        if config.learnt_on == "pairs" or views is not None:
            scaled = _learnt_on_pairs(centred, labels, views, config, seed)
        else:
            scaled = _learnt_on_all(centred, config, seed)
        # In the order in which it is saved and loaded: another one is rounded in another way.
        return cls(mean.astype(np.float32), np.ascontiguousarray(scaled, dtype=np.float32))

    def apply(self, descriptors: Vectors) -> Vectors:
        """(n, d) rows to (n, k) float32 unit rows."""
        blocks = [descriptors[i : i + BLOCK] for i in range(0, len(descriptors), BLOCK)]
        found = list(in_threads(self._applied, blocks))
        if not found:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _applied(self, descriptors: Vectors) -> Vectors:
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


def _learnt_on_all(centred: Vectors, config: WhiteningConfig, seed: int) -> NDArray[np.float64]:
    directions, eigenvalues = _varied_directions(centred, config.dimension, seed)
    average = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64))
    average /= len(centred) * min(centred.shape)
    softened = (1 - config.shrinkage) * eigenvalues + config.shrinkage * average
    scaled: NDArray[np.float64] = directions * softened**config.power
    return scaled


def _learnt_on_pairs(
    centred: Vectors,
    labels: Labels | None,
    views: AugmentedRows | None,
    config: WhiteningConfig,
    seed: int,
) -> NDArray[np.float64]:
    """Radenović et al., section 3.4, within the space that photographs and views span."""
    known = centred if views is None else np.concatenate([centred, views.rows])
    rows, back = _coordinates(known, seed)
    scatters = []
    if config.learnt_on == "pairs":
        scatters.append(_within(rows[: len(centred)], _landmark_codes(labels, len(centred))))
    if views is not None:
        codes = np.concatenate([np.arange(len(centred)), views.of])
        scatters.append(_within(rows, codes))
    values, axes = np.linalg.eigh(np.mean(scatters, axis=0))
    softened = (1 - config.shrinkage) * values + config.shrinkage * values.mean()
    if softened[0] <= softened[-1] * 1e-9:
        more = "photographs a landmark" if views is None else "photographs with views (viewed)"
        raise ConfigError(
            f"whitening on pairs has too few differences for {len(values)} directions: give it"
            f" some whitening.shrinkage (0.1, say) or more {more}"
        )
    alike = axes * softened**-0.5
    spread_alike = (rows[: len(centred)] @ alike).astype(np.float32)
    turn, spread = _varied_directions(spread_alike, config.dimension, seed)
    return with_settled_signs(back(alike @ (turn * spread**config.power)))


def _coordinates(
    known: Vectors, seed: int
) -> tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], NDArray[np.float64]]]:
    """(n, k) coordinates of (n, d) rows along the principal directions of their span, and what
    brings (k, j) directions of coordinates back to (d, j).

    With fewer rows than numbers all is told by the rows' products with each other: the principal
    directions themselves, the largest matrix by far, are not made.
    """
    n, d = known.shape
    if n >= d or n > EXACT_LIMIT:
        span, _ = _varied_directions(known, MOST_DIRECTIONS, seed)
        return known @ span, span.__matmul__
    values, vectors = leading_eigenvectors(_gram(known), MOST_DIRECTIONS)
    kept = _varied(values / n)
    lengths, vectors = np.sqrt(values[kept]), vectors[:, kept]
    return vectors * lengths, lambda along: _transposed(known, vectors / lengths @ along)


def _landmark_codes(labels: Labels | None, photographs: int) -> Integers:
    """(n,) numbers of the landmarks, -1 where there is none.

    Raises:
        ConfigError: no landmark has two photographs.
    """
    names = np.asarray([None] * photographs if labels is None else labels, object)
    codes = pd.factorize(names)[0]
    if not (np.bincount(codes[codes >= 0], minlength=1) > 1).any():
        raise ConfigError(
            "whitening on pairs needs a landmark with two photographs, and there is none: take"
            " whitening.learnt_on: all"
        )
    return codes


def _within(rows: NDArray[np.float64], codes: Integers) -> NDArray[np.float64]:
    """(d, d) covariance of the differences between rows of one code, its trace 1.

    The sum over a code's m (m − 1) / 2 pairs is m times that over its rows' differences from their
    mean, so that no pair is listed; here each code's sum is divided by m. Rows of code -1, and a
    code's only row, tell nothing.
    """
    counts = np.bincount(codes[codes >= 0])
    paired = (codes >= 0) & (counts[codes] > 1)
    rows, codes = rows[paired], codes[paired]
    means = np.zeros((len(counts), rows.shape[1]))
    np.add.at(means, codes, rows)
    differences = rows - (means / np.maximum(counts, 1)[:, None])[codes]
    scatter = differences.T @ differences
    total = float(np.trace(scatter))
    if total <= SAME * len(rows):
        raise ConfigError(
            "whitening on pairs has nothing to learn where those of a landmark are all the same"
        )
    normalised: NDArray[np.float64] = scatter / total
    return normalised


def _varied_directions(
    centred: Vectors, most: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal directions and eigenvalues, at most so many, along which the rows differ.

    Raises:
        ConfigError: there is none.
    """
    wanted = min(most, *centred.shape)
    directions, eigenvalues = _principal_directions(centred, wanted, seed)
    kept = _varied(eigenvalues)
    return directions[:, kept], eigenvalues[kept]


def _varied(eigenvalues: NDArray[np.float64]) -> Flags:
    """Which directions differ: those without variance (fewer photographs than numbers) would be
    noise blown up."""
    kept: Flags = eigenvalues > max(eigenvalues[0] * 1e-9, SAME)
    if not kept.any():
        raise ConfigError("whitening has nothing to learn from photographs that all look alike")
    return kept


def _principal_directions(
    centred: Vectors, wanted: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leading eigenvectors (d, k) and eigenvalues (k,) of the covariance of (n, d) centred rows.

    The smaller of covariance and Gram matrix is decomposed in full where it is small enough, and
    by a randomised range finder (Halko et al., 2011) where it is not. Signs are settled, so that
    the result does not hang on the linear algebra library's whim.
    """
    from sklearn.utils.extmath import randomized_svd

    n, d = centred.shape
    if min(n, d) > EXACT_LIMIT:
        _, singular, rows = randomized_svd(
            centred, wanted, n_oversamples=32, n_iter=4, random_state=seed
        )
        directions = rows.T.astype(np.float64)
        eigenvalues = singular.astype(np.float64) ** 2 / n
    elif n < d:
        values, vectors = leading_eigenvectors(_gram(centred), wanted)
        eigenvalues = np.maximum(values, 0) / n
        directions = _transposed(centred, vectors)
        directions /= np.maximum(np.linalg.norm(directions, axis=0), 1e-12)
    else:
        values, directions = leading_eigenvectors(_gram(centred.T) / n, wanted)
        eigenvalues = np.maximum(values, 0)
    return with_settled_signs(directions), eigenvalues


def _gram(rows: Vectors) -> NDArray[np.float64]:
    """(n, n) products of (n, d) rows, in float64: some columns at a time, which are copied."""
    total = np.zeros((len(rows), len(rows)))
    for start in range(0, rows.shape[1], COLUMNS):
        wide = rows[:, start : start + COLUMNS].astype(np.float64)
        total += wide @ wide.T
    return total


def _transposed(rows: Vectors, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(d, k) of ``rows.T @ vectors`` in float64: some columns at a time, which are copied."""
    return np.concatenate(
        [
            rows[:, start : start + COLUMNS].T.astype(np.float64) @ vectors
            for start in range(0, rows.shape[1], COLUMNS)
        ]
    )
