"""Many photographs to features: decoding beside describing, dense batches, bounded memory.

Photographs come in windows of a few hundred rows. While one window is described, the next is being
decoded, so never more than two windows of pixels are in memory, unless more are asked for. All of
a stream runs in one pool with a thread for each core (Pillow, OpenCV and torch all let go of
Python's lock): decoding, classical extractors one photograph at a time, and networks one dense
batch at a time with a single torch thread each. That beats torch's own threads, which wait for
each other after every layer and crawl where anything else wants a core. Which photographs share a
batch hangs on the window alone, never on timing, so the bytes that come out do not either.

On a GPU the calling thread alone queues batches. A pool has decoded the photographs and another
made batches of them in pinned memory, :data:`PREPARED` ahead; of :data:`QUEUED` batches the results
are still to come, across the borders of windows, so that the GPU never waits for either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import cv2
import torch

from retrieval.devices import cores
from retrieval.errors import DecodeError, PhotographError
from retrieval.frontend import Frontend, prepare, start
from retrieval.photographs.decoding import read_photograph, shrink
from retrieval.photographs.given import Arriving, Opener, Source
from retrieval.streams import ahead
from retrieval.types import Features, Photograph

# One photograph a thread is all the parallelism there is to use; OpenCV's own threads would only
# wait for each other.
cv2.setNumThreads(1)

WINDOW: Final = 256
"""Photographs decoded ahead, and rows of a shard."""

PREPARED: Final = 2
"""Batches made ready for a GPU while it works."""

QUEUED: Final = 2
"""Batches that a GPU has been given before the first of them is waited for."""

Outcome = Features | PhotographError
Window = list[Any]
"""Decoded photographs, each to become its features; an error stays in place of one that failed."""


@contextmanager
def worker_pool(threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A thread for each core, each with one torch thread of its own."""
    pool = ThreadPoolExecutor(threads or cores(), initializer=lambda: torch.set_num_threads(1))
    try:
        yield pool
    finally:
        # A user who leaves does not wait for photographs that are being decoded.
        leaving = sys.exc_info()[0] is KeyboardInterrupt
        pool.shutdown(wait=not leaving, cancel_futures=True)


def extract(
    windows: Iterable[Sequence[Source]],
    frontend: Frontend,
    threads: int | None = None,
    windows_ahead: int = 1,
) -> Generator[list[Outcome], None, None]:
    """Features of each window of photographs, one list a window, in order.

    Args:
        windows: photographs, any way (those already decoded are shrunk here where they are larger
            than the frontend takes).
        frontend: what makes their features.
        threads: of the pool; by default one a core.
        windows_ahead: windows that are brought and decoded before one is handed over.

    Yields:
        for each window, its features in order, an error in place of a photograph that failed.
    """
    with worker_pool(threads) as pool:
        features = None if frontend.batched else frontend.features
        load = partial(_loaded, frontend.longest_side, features)
        begun = ([_begun(one, load, pool) for one in window] for window in windows)
        decoded = ([_settled(one) for one in window] for window in ahead(begun, windows_ahead))
        if features is not None:
            yield from decoded
        elif frontend.threaded:
            yield from (_in_threads(frontend, window, pool) for window in decoded)
        else:
            with worker_pool(threads) as batching:
                yield from _queued(frontend, decoded, batching)


def _begun(
    source: Source, load: Callable[[str | Photograph | Opener], Outcome], pool: ThreadPoolExecutor
) -> Future[Outcome] | PhotographError:
    if isinstance(source, PhotographError):
        return source
    return source.submit(pool, load) if isinstance(source, Arriving) else pool.submit(load, source)


def _loaded(
    longest_side: int,
    features: Callable[[Sequence[Photograph]], list[Features]] | None,
    source: str | Photograph | Opener,
) -> Outcome:
    """A photograph decoded, or its features where they are made of one photograph at a time."""
    try:
        if isinstance(source, str):
            photograph = read_photograph(source, longest_side)
        elif callable(source):
            photograph = source(longest_side)
        else:
            photograph = shrink(source, longest_side)
        return photograph if features is None else features([photograph])[0]
    except PhotographError as error:
        return error
    except cv2.error as error:
        return DecodeError(f"cannot be described ({error.err})")


def _settled(outcome: Future[Outcome] | PhotographError) -> Outcome:
    try:
        return outcome.result() if isinstance(outcome, Future) else outcome
    except PhotographError as error:  # it never arrived
        return error


def _in_threads(frontend: Frontend, window: Window, pool: ThreadPoolExecutor) -> Window:
    """A window described in place, a batch a thread."""
    batches = _batches_of(frontend, window)

    def describe(batch: list[int]) -> list[Features]:
        return frontend.features([window[i] for i in batch])

    for batch, features in zip(batches, pool.map(describe, batches), strict=True):
        _put(window, batch, features)
    return window


def _queued(
    frontend: Frontend, windows: Iterable[Window], pool: ThreadPoolExecutor
) -> Iterator[Window]:
    """Windows described in place by a device that queues batches."""

    def prepared() -> Iterator[tuple[Window, list[int], bool, Future[Any]]]:
        for window in windows:
            # A window without photographs still comes out, by a batch of none.
            batches = _batches_of(frontend, window) or [[]]
            for batch in batches:
                ready = pool.submit(_prepared, frontend, [window[i] for i in batch])
                yield window, batch, batch is batches[-1], ready

    def started() -> Iterator[tuple[Window, list[int], bool, Callable[[], list[Features]]]]:
        for window, batch, last, ready in ahead(prepared(), PREPARED):
            yield window, batch, last, start(frontend, ready.result()) if batch else list

    for window, batch, last, features in ahead(started(), QUEUED):
        _put(window, batch, features())
        if last:
            yield window


def _prepared(frontend: Frontend, photographs: Sequence[Photograph]) -> Any:
    return prepare(frontend, photographs) if photographs else None


def _put(window: Window, places: Sequence[int], features: Sequence[Features]) -> None:
    for i, one in zip(places, features, strict=True):
        window[i] = one


def _batches_of(frontend: Frontend, window: Window) -> list[list[int]]:
    """Positions of a window's photographs, in batches of one shape."""
    places = [i for i, one in enumerate(window) if not isinstance(one, PhotographError)]
    shapes = [frontend.shape(window[i]) for i in places]
    return [[places[i] for i in batch] for batch in _batches(shapes, frontend.batch)]


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
