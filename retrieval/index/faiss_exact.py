"""Exact search of a flat index of FAISS, the same bits whatever batch a query comes in."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from retrieval.types import Integers, Vectors

_CACHED_BYTES = 1 << 22  # of the gallery
_one_at_a_time = threading.RLock()
"""For the process-wide threshold that :func:`_without_matrix_products` sets."""


def exact_search(shards: Sequence[Any], batch: Vectors, k: int) -> tuple[Vectors, Integers]:
    """Search flat indices one product at a time, so that no blocking shows in the last bits.

    Without matrix products every query reads every row, which is ten times as slow as with them,
    and three times where the rows stay in the processor's cache: hence a few rows at a time. A
    lone query goes in twice: for one, FAISS calls another product of another rounding.
    """
    count, dimension = batch.shape
    if count == 1:
        batch = np.repeat(batch, 2, axis=0)
    step = max(1, _CACHED_BYTES // (4 * dimension))
    similarities = np.empty((len(batch), 0), dtype=np.float32)
    rows = np.empty((len(batch), 0), dtype=np.int64)
    with _without_matrix_products():
        for start, block in _blocks(shards, step):
            near = faiss.knn(batch, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT)
            similarities = np.concatenate((similarities, near[0]), axis=1)
            rows = np.concatenate((rows, near[1] + start), axis=1)
            first = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
            similarities = np.take_along_axis(similarities, first, 1)
            rows = np.take_along_axis(rows, first, 1)
    return similarities[:count], rows[:count]


def _blocks(shards: Sequence[Any], step: int) -> Iterator[tuple[int, Vectors]]:
    """At most so many rows at a time, with the number of the first."""
    first = 0
    for shard in shards:
        total, dimension = int(shard.ntotal), int(shard.d)
        rows = faiss.rev_swig_ptr(shard.get_xb(), total * dimension).reshape(total, dimension)
        for start in range(0, total, step):
            yield first + start, rows[start : start + step]
        first += total


@contextmanager
def _without_matrix_products() -> Iterator[None]:
    """Keep FAISS from handing large batches to BLAS; the threshold is the whole process's."""
    with _one_at_a_time:
        before = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = 2**31 - 1
        try:
            yield
        finally:
            faiss.cvar.distance_compute_blas_threshold = before
