"""Progress of what is learnt in passes over many rows, however deep it is called."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_told: ContextVar[Callable[[], None] | None] = ContextVar("told", default=None)


@contextlib.contextmanager
def watched(told: Callable[[], None]) -> Iterator[None]:
    """Have ``told`` called after each pass that is done within, by one thread at a time."""
    guard = threading.Lock()

    def in_turn() -> None:
        with guard:
            told()

    before = _told.set(in_turn)
    try:
        yield
    finally:
        _told.reset(before)


def one_pass() -> None:
    """Tell the function of :func:`watched`, if there is one, that a pass is done."""
    told = _told.get()
    if told is not None:
        told()
