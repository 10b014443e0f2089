"""Many photographs to features: decoding beside describing, dense batches, bounded memory.

Photographs come in windows of a few hundred rows. While one window is described, the next is being
decoded in threads (Pillow, OpenCV and torch all let go of Python's lock), so never more than two
windows of pixels are in memory. A network takes its window in batches of one shape; which
photographs share a batch hangs on the window alone, never on timing, so the bytes that come out do
not either. Classical extractors run in the same threads, one photograph in each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import cv2

from retrieval.errors import DecodeError, PhotographError
from retrieval.extractors.base import Extractor, Features, Photograph
from retrieval.photographs.decoding import read_photograph

# One photograph a thread is all the parallelism there is to use; OpenCV's own threads would only
# wait for each other.
cv2.setNumThreads(1)

DEFAULT_BATCH: Final = 8
WINDOW: Final = 256
"""Photographs decoded ahead, and rows of a shard."""

Outcome = Features | PhotographError
Reader = Callable[[str], Photograph]


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def features_of(
    extractor: Extractor, photographs: Sequence[Photograph], pool: ThreadPoolExecutor | None = None
) -> list[Features]:
    """Features of photographs of any sizes, in order."""
    if extractor.batched:
        return _in_batches(extractor, photographs)
    if pool is None:
        with ThreadPoolExecutor(cores()) as own:
            return features_of(extractor, photographs, own)
    return [one for (one,) in pool.map(lambda p: extractor.features([p]), photographs)]


def extract(
    windows: Iterable[Sequence[str | Photograph]],
    extractor: Extractor,
    read: Reader | None = None,
    threads: int | None = None,
) -> Iterator[list[Outcome]]:
    """Features of each window of photographs, one list a window, in order.

    Args:
        windows: paths, or photographs already decoded.
        extractor: what describes them.
        read: how a path becomes a photograph; by default a local file at the extractor's size.
        threads: decoding threads; by default one a core.

    Yields:
        for each window, its features in order, an error in place of a photograph that failed.
    """
    reader = read or (lambda source: read_photograph(source, extractor.longest_side))

    def load(source: str | Photograph) -> Outcome:
        try:
            photograph = reader(source) if isinstance(source, str) else source
            return photograph if extractor.batched else extractor.features([photograph])[0]
        except PhotographError as error:
            return error
        except cv2.error as error:
            return DecodeError(f"cannot be described ({error.err})")

    with ThreadPoolExecutor(threads or cores()) as pool:
        waiting: list[list[Future[Outcome]]] = []
        try:
            for window in windows:
                waiting.append([pool.submit(load, source) for source in window])
                if len(waiting) > 1:
                    yield _finish(extractor, waiting.pop(0))
            while waiting:
                yield _finish(extractor, waiting.pop(0))
        finally:
            for futures in waiting:
                for future in futures:
                    future.cancel()


def _finish(extractor: Extractor, futures: list[Future[Outcome]]) -> list[Outcome]:
    loaded = [future.result() for future in futures]
    if not extractor.batched:
        return loaded
    good = [i for i, one in enumerate(loaded) if not isinstance(one, PhotographError)]
    for i, features in zip(good, _in_batches(extractor, [loaded[i] for i in good]), strict=True):
        loaded[i] = features
    return loaded


def _in_batches(extractor: Extractor, photographs: Sequence[Photograph]) -> list[Features]:
    """Group by the shape at which the network sees a photograph; describe each group in batches."""
    shape = getattr(extractor, "shape", lambda photograph: photograph.shape[:2])
    size = getattr(extractor, "batch", DEFAULT_BATCH)
    groups: dict[tuple[int, int], list[int]] = {}
    for i, photograph in enumerate(photographs):
        groups.setdefault(shape(photograph), []).append(i)
    features: list[Features] = [None] * len(photographs)
    for _, members in sorted(groups.items()):
        for start in range(0, len(members), size):
            batch = members[start : start + size]
            described = extractor.features([photographs[i] for i in batch])
            for i, one in zip(batch, described, strict=True):
                features[i] = one
    return features
