"""Visual words: centroids of local descriptors, learnt by k-means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.extractors.local.features import LocalFeatures
from retrieval.index.faiss_index import train_kmeans

SAMPLES_PER_WORD: Final = 1_000
"""Local descriptors that k-means sees for each word: more changes little and costs memory."""


def learn_codebook(
    features: Sequence[LocalFeatures], words: int, seed: int, device: str = "cpu"
) -> NDArray[np.float32]:
    """Learn a codebook from photographs' local features.

    Returns:
        (words, d) float32 centroids.

    Raises:
        ConfigError: there are fewer local features than words.
    """
    descriptors = sample_descriptors(features, words * SAMPLES_PER_WORD, seed)
    if len(descriptors) < words:
        raise ConfigError(
            f"a codebook of {words} words needs at least as many local features; the photographs"
            f" gave {len(descriptors)}: take fewer words or more photographs"
        )
    return train_kmeans(descriptors, words, seed=seed, device=device)


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
