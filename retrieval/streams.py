"""Streams of work that is begun before it is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], many: int) -> Iterator[T]:
    """The items in order, each once ``many`` after it have been asked for, and so begun."""
    begun: deque[T] = deque()
    for item in items:
        begun.append(item)
        if len(begun) > many:
            yield begun.popleft()
    yield from begun
