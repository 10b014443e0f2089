"""Many small matrix products on every core, to the same bits whichever the number of threads.

A library of linear algebra that splits each small product over its own threads spends more on
their waiting for one another than on the product, and rounds by how many there are. Here every
product has one thread, and products run beside each other.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import Any, Final, TypeVar

from threadpoolctl import ThreadpoolController

from retrieval.devices import cores
from retrieval.streams import ahead

T = TypeVar("T")
R = TypeVar("R")

AHEAD: Final = 4
"""Items begun for each thread before the first of them is waited for."""


class _Limit:
    """One thread a product, for as long as any caller in the process wants it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._wanted = 0
        self._held: list[Any] = []
        self._limited: ThreadpoolController | None = None

    def want(self) -> None:
        with self._guard:
            libraries = _libraries("scipy.linalg" in sys.modules)
            if libraries is not self._limited:  # the first, or there are more by now
                self._held.append(libraries.limit(limits=1, user_api="blas"))
                self._limited = libraries
            self._wanted += 1

    def release(self) -> None:
        with self._guard:
            self._wanted -= 1
            if not self._wanted:
                while self._held:
                    self._held.pop().restore_original_limits()
                self._limited = None


_limit = _Limit()


@functools.cache
def _libraries(_with_scipys: bool) -> ThreadpoolController:
    """The libraries of linear algebra that are loaded: looking for them takes milliseconds."""
    return ThreadpoolController()


def one_thread_a_product() -> AbstractContextManager[None]:
    """Keep matrix products of this process to a thread each, FAISS's and SciPy's among them."""
    import scipy.linalg  # noqa: F401 - it brings a library of its own: loaded later, it had no limit

    return _limited()


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """The same of libraries that are loaded: SciPy, which no answer needs, takes a quarter of a
    second to load."""
    _limit.want()
    try:
        yield
    finally:
        _limit.release()


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``function`` of each item, in order, a thread a core, each product in one thread.

    Items are asked for in the calling thread, a few ahead: they may come from disk.
    """
    items = iter(items)
    first = list(itertools.islice(items, 2))
    with _limited():
        if len(first) < 2:
            yield from map(function, first)
            return
        with ThreadPoolExecutor(cores()) as pool:
            begun = (
                pool.submit(copy_context().run, function, one)  # so that passes are told of
                for one in itertools.chain(first, items)
            )
            yield from (one.result() for one in ahead(begun, AHEAD * cores()))
