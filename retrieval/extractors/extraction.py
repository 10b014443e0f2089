"""Many photographs to features: decoding beside describing, dense batches, bounded memory.

Photographs come in windows of a few hundred rows. While one window is described, the next is being
decoded, so never more than two windows of pixels are in memory. Everything runs in one pool with a
thread for each core (Pillow, OpenCV and torch all let go of Python's lock): decoding, classical
extractors one photograph at a time, and networks one dense batch at a time with a single torch
thread each. That beats torch's own threads, which wait for each other after every layer and crawl
where anything else wants a core. On a GPU the calling thread describes and the pool only decodes.
Which photographs share a batch hangs on the window alone, never on timing, so the bytes that come
out do not either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import cv2
import torch

from retrieval.devices import cores
from retrieval.errors import DecodeError, PhotographError
from retrieval.extractors.base import FeatureMaker, Features, Photograph
from retrieval.photographs.decoding import read_photograph, shrink

# One photograph a thread is all the parallelism there is to use; OpenCV's own threads would only
# wait for each other.
cv2.setNumThreads(1)

WINDOW: Final = 256
"""Photographs decoded ahead, and rows of a shard."""

Outcome = Features | PhotographError
Source = str | Photograph | Callable[[int], Photograph]
"""A photograph's path, its pixels, or what opens it with at most so long a longest side."""


@contextmanager
def worker_pool(threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A thread for each core, each with one torch thread of its own."""
    pool = ThreadPoolExecutor(threads or cores(), initializer=lambda: torch.set_num_threads(1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def extract(
    windows: Iterable[Sequence[Source]],
    extractor: FeatureMaker,
    threads: int | None = None,
) -> Iterator[list[Outcome]]:
    """Features of each window of photographs, one list a window, in order.

    Args:
        windows: photographs, any way (those already decoded are shrunk here where they are larger
            than the extractor takes).
        extractor: what describes them.
        threads: of the pool; by default one a core.

    Yields:
        for each window, its features in order, an error in place of a photograph that failed.
    """
    longest_side = extractor.longest_side

    def load(source: Source) -> Outcome:
        try:
            if isinstance(source, str):
                photograph = read_photograph(source, longest_side)
            elif callable(source):
                photograph = source(longest_side)
            else:
                photograph = shrink(source, longest_side)
            return photograph if extractor.batched else extractor.features([photograph])[0]
        except PhotographError as error:
            return error
        except cv2.error as error:
            return DecodeError(f"cannot be described ({error.err})")

    with worker_pool(threads) as pool:
        waiting: deque[list[Future[Outcome]]] = deque()
        for window in windows:
            waiting.append([pool.submit(load, source) for source in window])
            if len(waiting) > 1:
                yield _finish(extractor, waiting.popleft(), pool)
        while waiting:
            yield _finish(extractor, waiting.popleft(), pool)


def _finish(
    extractor: FeatureMaker, futures: list[Future[Outcome]], pool: ThreadPoolExecutor
) -> list[Outcome]:
    outcomes = [future.result() for future in futures]
    if not extractor.batched:
        return outcomes
    photographs = [one for one in outcomes if not isinstance(one, PhotographError)]
    described = iter(_in_batches(extractor, photographs, pool))
    return [one if isinstance(one, PhotographError) else next(described) for one in outcomes]


def _in_batches(
    extractor: FeatureMaker, photographs: Sequence[Photograph], pool: ThreadPoolExecutor
) -> list[Features]:
    """Describe in batches of one shape, those of a shape together in their order."""
    batches = _batches([extractor.shape(p) for p in photographs], extractor.batch)

    def describe(batch: list[int]) -> list[Features]:
        return extractor.features([photographs[i] for i in batch])

    mapped = pool.map(describe, batches) if extractor.threaded else map(describe, batches)
    features: list[Features] = [None] * len(photographs)
    for batch, described in zip(batches, mapped, strict=True):
        for i, one in zip(batch, described, strict=True):
            features[i] = one
    return features


def _batches(shapes: Sequence[tuple[int, int]], size: int) -> list[list[int]]:
    """Positions in groups of one shape, at most ``size`` each; costly shapes first, so that the
    cores finish together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(i)
    ordered = sorted(groups.items(), key=lambda group: (-group[0][0] * group[0][1], group[0]))
    return [
        members[start : start + size]
        for _, members in ordered
        for start in range(0, len(members), size)
    ]
