"""Visual words: centroids of local descriptors, learnt by k-means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.devices import CPU
from retrieval.local.features import LocalFeatures
from retrieval.local.sampling import require_enough, sample_descriptors
from retrieval.vectors.clustering import train_kmeans, train_many_words

SAMPLES_PER_WORD: Final = 1_000
"""Local descriptors that k-means sees for each word: more changes little and costs memory."""
MOST_SAMPLES: Final = 150_000
"""Local descriptors that a codebook is learnt from at most (77 MB of 128 floats) …"""
LEAST_PER_WORD: Final = 30
"""… unless that leaves a word with fewer than this."""
MANY_WORDS: Final = 1_000
"""Codebooks of more words, whose k-means is slow on a CPU, are learnt by an approximate one."""


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


def nearest_words(
    descriptors: NDArray[np.float32], codebook: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The word nearest to each of (n, d) descriptors (Euclidean); the first of equals."""
    scores = descriptors @ codebook.T - 0.5 * np.einsum("ij,ij->i", codebook, codebook)
    words: NDArray[np.int64] = scores.argmax(axis=1)
    return words
