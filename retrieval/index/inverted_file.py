"""Inverted files: for each visual word, the photographs that have it, and how similar they are.

Two kernels share the postings. Bags of words are compared by the cosine of their tf-idf weights
(Sivic and Zisserman, 2003). ASMK* sums, over the words that two photographs share, a selective
function of their codes' similarity (Tolias, Avrithis and Jégou, ICCV 2013, equations 5, 10 and 14):

    K(X, Y) = γ(X) γ(Y) Σ_c w_c σ(u_c),   u_c = 1 − 2 h_c / D,   σ(u) = u^α if u > τ, else 0

with h the Hamming distance of D-bit codes, w an optional inverse document frequency, and γ such
that K(X, X) = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from retrieval.aggregation.asmk import AsmkConfig
from retrieval.aggregation.bow import BowConfig
from retrieval.aggregation.words import Words
from retrieval.devices import cores
from retrieval.storage.files import atomic_write, read_tensors
from retrieval.storage.ragged import ranges

FILE: Final = "inverted.safetensors"
ENTRIES: Final = 1 << 15
"""Postings looked at in one go: their working memory stays in the processor's cache."""

WordsConfig = AsmkConfig | BowConfig


@dataclass(frozen=True)
class InvertedFile:
    """The postings of n photographs over w words.

    Attributes:
        config: of the kernel.
        bits: D, or 0 for a bag of words.
        starts: (w + 1,) int64 where each word's postings begin.
        rows: (e,) int32 the photograph of each posting, ascending within a word.
        values: (e,) float32 weights, or (e, b) uint64 codes, of each posting.
        weights: (w,) float32 what a word counts.
        scales: (n,) float32 γ of each photograph; 0 for one without words.
    """

    config: WordsConfig
    bits: int
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    values: NDArray[Any]
    weights: NDArray[np.float32]
    scales: NDArray[np.float32]

    @classmethod
    def build(cls, words: Words, config: WordsConfig, bits: int) -> InvertedFile:
        """Turn n photographs' words into postings.

        Args:
            words: of the gallery; row ids are positions.
            config: of the kernel.
            bits: numbers of a local descriptor, which are the bits of a code; 0 for bags of words.
        """
        rows = np.repeat(np.arange(len(words), dtype=np.int32), np.diff(words.starts))
        order = np.argsort(words.words, kind="stable")
        counts = np.bincount(words.words, minlength=config.words)
        weights = np.ones(config.words, np.float32)
        if config.idf:
            weights = np.log((1 + len(words)) / (1 + counts)).astype(np.float32)
        if not bits:  # the word's weight stands in both photographs' vectors
            weights = weights**2
        return cls(
            config,
            bits,
            np.concatenate(([0], np.cumsum(counts))),
            rows[order],
            words.values[order],
            weights,
            _scales(words, weights, bits),
        )

    def __len__(self) -> int:
        return len(self.scales)

    def similarities(self, queries: Words) -> NDArray[np.float32]:
        """(q, n) similarities of q photographs to all rows, at most 1."""
        scales = _scales(queries, self.weights, self.bits)

        def one(query: int) -> NDArray[np.float32]:
            here = slice(queries.starts[query], queries.starts[query + 1])
            sums = self._sums(queries.words[here], queries.values[here])
            return np.asarray(sums * self.scales * scales[query], dtype=np.float32)

        if len(queries) < 2:
            found = [one(query) for query in range(len(queries))]
        else:
            with ThreadPoolExecutor(cores()) as pool:
                found = list(pool.map(one, range(len(queries))))
        return np.stack(found) if found else np.zeros((0, len(self)), np.float32)

    def common(self, one: Words, other: Words) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The words that two photographs share, and what each adds to their similarity."""
        words, own, theirs = np.intersect1d(
            one.words, other.words, assume_unique=True, return_indices=True
        )
        added = self._kernel()(one.values[own], other.values[theirs]).astype(np.float64)
        scales = [float(_scales(each, self.weights, self.bits)[0]) for each in (one, other)]
        return words, added * self.weights[words] * scales[0] * scales[1]

    @property
    def bytes_per_row(self) -> float:
        """What the postings of a photograph take, on average."""
        entry = self.rows.itemsize + self.values[:1].nbytes
        return entry * len(self.rows) / max(len(self), 1)

    def save(self, folder: Path) -> None:
        arrays = {name: getattr(self, name) for name in ARRAYS}
        atomic_write(folder / FILE, save({**arrays, "bits": np.array([self.bits])}))

    @classmethod
    def load(cls, folder: Path, config: WordsConfig) -> InvertedFile:
        """The inverse of ``save``.

        Raises:
            RunError: the file is missing or damaged.
        """
        found = read_tensors(folder / FILE, (*ARRAYS, "bits"))
        return cls(config, int(found.pop("bits")[0]), **found)

    def _sums(self, words: NDArray[np.int32], values: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) similarities of one photograph's words, before they are normalised."""
        sums = np.zeros(len(self))
        weights = self.weights[words]
        kernel = self._kernel()
        for block in self._blocks(words):
            begins = self.starts[words[block]]
            counts = self.starts[words[block] + 1] - begins
            entries = ranges(begins, counts)
            query = np.repeat(values[block], counts, axis=0)
            # "clip", as no entry lies outside: the check that raises costs more than the taking.
            shared = kernel(query, self.values.take(entries, axis=0, mode="clip"))
            shared *= np.repeat(weights[block], counts)
            rows = self.rows.take(entries, mode="clip")
            sums += np.bincount(rows, weights=shared, minlength=len(self))
        return sums

    def _blocks(self, words: NDArray[np.int32]) -> Iterator[slice]:
        """Parts of the words whose postings are at most :data:`ENTRIES`, or a single word's."""
        ends = np.cumsum(self.starts[words + 1] - self.starts[words])
        start = 0
        while start < len(words):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + ENTRIES, side="right")))
            yield slice(start, stop)
            start = stop

    def _kernel(self) -> Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]:
        """What a posting adds, before the word's weight: a function of (e,) or (e, b) values."""
        if not self.bits or isinstance(self.config, BowConfig):
            return np.multiply
        u = 1.0 - 2.0 * np.arange(self.bits + 1) / self.bits
        selected = np.where(u > self.config.threshold, np.abs(u) ** self.config.alpha, 0.0)
        table = (np.sign(u) * selected).astype(np.float32)

        def selective(query: NDArray[Any], entry: NDArray[Any]) -> NDArray[np.float32]:
            added: NDArray[np.float32] = table.take(_distances(query, entry), mode="clip")
            return added

        return selective


ARRAYS: Final = ("starts", "rows", "values", "weights", "scales")


def _distances(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.intp]:
    """(e,) Hamming distances of (e, b) codes."""
    counts = np.bitwise_count(one ^ other)
    distances: NDArray[np.intp] = counts[:, 0].astype(np.intp)
    for column in counts.T[1:]:  # b is 2 mostly, too few for NumPy to sum over quickly
        distances += column
    return distances


def _scales(words: Words, weights: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """(n,) γ: the inverse root of each photograph's similarity to itself; 0 without words."""
    own = weights[words.words].astype(np.float64)
    if not bits:
        own *= words.values.astype(np.float64) ** 2
    photographs = np.repeat(np.arange(len(words)), np.diff(words.starts))
    total = np.bincount(photographs, weights=own, minlength=len(words))
    scales: NDArray[np.float32] = np.where(total > 0, np.maximum(total, 1e-12) ** -0.5, 0.0).astype(
        np.float32
    )
    return scales
