"""Centroids by k-means, and what finds the nearest of many."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.errors import RunError
from retrieval.passes import one_pass
from retrieval.threads import one_thread_a_product
from retrieval.vectors.checked import checked_rows
from retrieval.vectors.gpu import require_device

_SAMPLES_PER_CELL = 100
_MANY_ITERATIONS = 10
_CELLS_PROBED = 16  # of a WordFinder
_CELLS_PROBED_LEARNING = 4  # more bring the words no nearer to the samples


def train_kmeans(
    samples: NDArray[np.float32],
    words: int,
    seed: int,
    device: str = "cpu",
    iterations: int = 20,
) -> NDArray[np.float32]:
    """Centroids (words, d) of ``samples`` (n, d) by Lloyd's k-means (Euclidean).

    All samples are used: bound them before. The same on the CPU for the same seed, whichever the
    number of threads. Raises RunError with fewer samples than words or a non-finite one.
    """
    require_device(device)
    samples = _enough(samples, words)
    kmeans = faiss.Kmeans(
        samples.shape[1],
        words,
        niter=1,
        seed=seed,
        gpu=device == "cuda",
        min_points_per_centroid=1,
        max_points_per_centroid=len(samples),
    )
    centroids = None
    with one_thread_a_product():
        for _ in range(iterations):
            kmeans.train(samples, init_centroids=centroids)
            centroids = np.array(kmeans.centroids, dtype=np.float32).reshape(words, -1)
            one_pass()
    assert centroids is not None
    return centroids


def train_many_words(samples: NDArray[np.float32], words: int, seed: int) -> NDArray[np.float32]:
    """Centroids (words, d) of ``samples`` (n, d) by approximate k-means, on the CPU.

    Lloyd's iterations look for a sample's nearest centroid in a few coarse cells only (Philbin et
    al., "Object retrieval with large vocabularies and fast spatial matching", CVPR 2007, with
    cells for their trees). The same for the same seed. Raises as :func:`train_kmeans`.
    """
    samples = _enough(samples, words)
    count = _cells(words)
    few = np.random.default_rng(seed).permutation(len(samples))[: count * _SAMPLES_PER_CELL]
    coarse = train_kmeans(samples[np.sort(few)], count, seed, iterations=_MANY_ITERATIONS)
    parameters = faiss.ClusteringParameters()
    parameters.niter = 1
    parameters.seed = seed
    parameters.min_points_per_centroid = 1
    parameters.max_points_per_centroid = len(samples)
    clustering = faiss.Clustering(samples.shape[1], words, parameters)
    cells = _cells_of(coarse, _CELLS_PROBED_LEARNING)
    with one_thread_a_product():
        for _ in range(_MANY_ITERATIONS):  # each goes on from the centroids of the one before
            clustering.train(samples, cells)
            one_pass()
    return np.asarray(faiss.vector_to_array(clustering.centroids).reshape(words, -1))


def assign(points: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest (Euclidean) of ``centroids`` (w, d) to each of ``points`` (n, d): (n,) int64."""
    if not len(points):
        return np.zeros(0, dtype=np.int64)
    points = checked_rows(points, centroids.shape[1], 0)
    _, nearest = faiss.knn(points, np.ascontiguousarray(centroids), 1)
    return np.asarray(nearest[:, 0], dtype=np.int64)


@dataclass(frozen=True)
class WordFinder:
    """The nearest of many visual words, by an inverted list of the words themselves.

    With thousands of words, comparing each descriptor with each word costs more than finding its
    keypoint did. Words are gathered in 2√w coarse cells, and those of the :data:`_CELLS_PROBED`
    nearest cells are compared: of 8192 words, the true nearest is among them 98 times in 100.

    Attributes:
        centroids: (w, d) float32 words.
        coarse: (c, d) float32 cells' centres.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("centroids", "coarse")
    centroids: NDArray[np.float32]
    coarse: NDArray[np.float32]

    @classmethod
    def build(cls, centroids: NDArray[np.float32], seed: int) -> WordFinder:
        """Arrange (w, d) words, learnt by :func:`train_kmeans`, for finding."""
        return cls(centroids, train_kmeans(centroids, _cells(len(centroids)), seed))

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """What it is made from, to be saved."""
        return {name: getattr(self, name) for name in self.NAMES}

    def nearest(self, points: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """The k nearest words of each of (n, d) points, nearest first; -1 pads."""
        if not len(points):
            return np.zeros((0, k), dtype=np.int64)
        points = checked_rows(points, self.centroids.shape[1], 0)
        with one_thread_a_product():
            _, found = self._index.search(points, k)
        return np.asarray(found, dtype=np.int64)

    @functools.cached_property
    def _index(self) -> Any:
        index = _cells_of(self.coarse, _CELLS_PROBED)
        index.add(np.ascontiguousarray(self.centroids))
        return index


def _cells(words: int) -> int:
    """Coarse cells that so many words are gathered in."""
    return min(words, round(2 * math.sqrt(words)))


def _cells_of(coarse: NDArray[np.float32], probed: int) -> Any:
    """An inverted list without rows, of cells with given (c, d) centres."""
    count, dimension = coarse.shape
    quantiser = faiss.IndexFlatL2(dimension)
    quantiser.add(np.ascontiguousarray(coarse))
    index = faiss.IndexIVFFlat(quantiser, dimension, count, faiss.METRIC_L2)
    index.is_trained = True
    index.nprobe = min(probed, count)
    return index


def _enough(samples: NDArray[np.float32], words: int) -> NDArray[np.float32]:
    """Samples (n, d) as FAISS takes them; refused unless finite and no fewer than the words."""
    samples = checked_rows(samples, samples.shape[1], 0)
    if len(samples) < words:
        raise RunError(
            f"{words} visual words need at least as many local features; there are {len(samples)}: "
            "use fewer words or more photographs"
        )
    return samples
