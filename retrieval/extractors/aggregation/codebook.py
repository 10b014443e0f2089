"""Visual words: centroids of local descriptors, learnt by k-means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from retrieval.devices import CPU
from retrieval.errors import ConfigError
from retrieval.extractors.local.features import LocalFeatures
from retrieval.index.faiss_index import train_kmeans, train_many_words
from retrieval.index.store import atomic_write, read_tensors

SAMPLES_PER_WORD: Final = 1_000
"""Local descriptors that k-means sees for each word: more changes little and costs memory."""
MOST_SAMPLES: Final = 150_000
"""Local descriptors that a codebook is learnt from at most (77 MB of 128 floats) …"""
LEAST_PER_WORD: Final = 30
"""… unless that leaves a word with fewer than this."""
MANY_WORDS: Final = 1_000
"""Codebooks of more words, whose k-means is slow on a CPU, are learnt by an approximate one."""

LEAST_VARIANCE: Final = 1e-4
"""A direction's variance counts as at least this share of the largest one's."""
TINY: Final = 1e-12


def learn_codebook(
    features: Sequence[LocalFeatures], words: int, seed: int, device: str = "cpu"
) -> NDArray[np.float32]:
    """Learn a codebook from photographs' local features.

    Returns:
        (words, d) float32 centroids.

    Raises:
        ConfigError: there are fewer local features than words.
    """
    wanted = min(words * SAMPLES_PER_WORD, max(MOST_SAMPLES, words * LEAST_PER_WORD))
    descriptors = sample_descriptors(features, wanted, seed)
    require_enough(descriptors, words)
    if words > MANY_WORDS and device == CPU:
        return train_many_words(descriptors, words, seed)
    return train_kmeans(descriptors, words, seed=seed, device=device)


def require_enough(descriptors: NDArray[np.float32], words: int) -> None:
    """Refuse to learn more words than there are local features.

    Raises:
        ConfigError: there are fewer.
    """
    if len(descriptors) < words:
        raise ConfigError(
            f"a codebook of {words} words needs at least as many local features; the photographs"
            f" gave {len(descriptors)}: take fewer words or more photographs"
        )


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
    variances, axes = np.linalg.eigh(covariance.astype(np.float64))
    variances, axes = variances[::-1][:dimension], axes[:, ::-1][:, :dimension]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    if whiten:
        # Directions in which hardly anything was seen stay short: they would be noise blown up.
        axes = axes / np.sqrt(np.maximum(variances, LEAST_VARIANCE * variances[0] + TINY))
    return Projection(mean.astype(np.float32), np.ascontiguousarray(axes, dtype=np.float32))


def sample_descriptors(
    features: Sequence[LocalFeatures], wanted: int, seed: int
) -> NDArray[np.float32]:
    """At most ``wanted`` descriptors (n, d), about the same share of every photograph."""
    counts = [len(one) for one in features]
    if not sum(counts):
        return np.zeros((0, 0), dtype=np.float32)
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(sum(counts))[:wanted])
    # Decoded photograph by photograph: the bytes of all of them are a quarter of their floats.
    starts = np.cumsum([0, *counts])
    bounds = np.searchsorted(chosen, starts)
    return np.concatenate(
        [
            one.descriptors[chosen[a:b] - start]
            for one, start, a, b in zip(features, starts, bounds, bounds[1:], strict=False)
        ]
    )


def nearest_words(
    descriptors: NDArray[np.float32], codebook: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The word nearest to each of (n, d) descriptors (Euclidean); the first of equals."""
    scores = descriptors @ codebook.T - 0.5 * np.einsum("ij,ij->i", codebook, codebook)
    words: NDArray[np.int64] = scores.argmax(axis=1)
    return words
