"""Photographs as they are given: what a notebook hands over, and the sources that are described.

A notebook gives paths, Pillow images, arrays, and any mixture. A path is one photograph and not a
row of characters; whatever is none of these is a mistake of the caller's, told before anything is
described where all of it can be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from io import IOBase
from typing import Any, Final, NoReturn, Protocol, TypeVar, runtime_checkable

import numpy as np
import pandas as pd

from retrieval.errors import FetchError, PhotographError
from retrieval.photographs.decoding import PillowImage, from_image, read_photograph, shrink
from retrieval.types import Photograph

T = TypeVar("T")

Given = str | os.PathLike[str] | PillowImage | Photograph
Opener = Callable[[int], Photograph]
"""Opens a photograph with at most so long a longest side, in pixels."""


@runtime_checkable
class Arriving(Protocol):
    """A photograph that is still on its way."""

    def submit(self, pool: Executor, then: Callable[[Opener], T]) -> Future[T]:
        """Bring it; ``then`` is given what opens it, in ``pool``, once it is there."""
        ...


Source = str | Photograph | Opener | Arriving | PhotographError
"""A photograph's path, its pixels, what opens or brings it, or why it cannot be had."""

TAKEN: Final = (
    "a path, a Pillow image, an (h, w, 3) uint8 RGB array, or a list of them in any mixture"
)
URL_STARTS: Final = ("http://", "https://")


def source_windows(
    given: Given | Iterable[Given], size: int, ids: list[str]
) -> Iterator[Sequence[Source]]:
    """What was given, ``size`` photographs at a time, as :mod:`retrieval.descriptors.extraction`
    takes them.

    Args:
        given: one photograph, or several.
        size: of a window.
        ids: is filled: each photograph's path, or its place where it has none.

    Raises:
        TypeError: something is no photograph; of a list before the first window.
    """
    several = _several(given)
    if isinstance(several, Sequence | np.ndarray):
        for place, one in enumerate(several):
            _source(place, one)
    return _windows(several, size, ids)


def open_given(given: Given, longest_side: int) -> Photograph:
    """One photograph (h, w, 3), at most so large.

    Raises:
        TypeError: it is none.
        PhotographError: it cannot be read, or is a URL.
    """
    source = _source(None, given)
    if isinstance(source, str):
        return read_photograph(source, longest_side)
    return source(longest_side) if callable(source) else shrink(source, longest_side)


def _windows(several: Iterable[Any], size: int, ids: list[str]) -> Iterator[Sequence[Source]]:
    window: list[Source] = []
    for place, one in enumerate(several):
        window.append(_source(place, one))
        ids.append(os.fspath(one) if isinstance(one, str | os.PathLike) else str(place))
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def _several(given: Any) -> Iterable[Any]:
    """The photographs, one by one."""
    if isinstance(given, str | os.PathLike | PillowImage):
        return [given]
    if isinstance(given, np.ndarray) and given.dtype != object and given.ndim != 4:
        return given if given.dtype.kind == "U" and given.ndim == 1 else [given]
    # These can be gone through as well, but what comes out are no photographs.
    if isinstance(given, bytes | bytearray | memoryview | Mapping | pd.DataFrame | IOBase):
        _refuse(given)
    if not isinstance(given, Iterable):
        _refuse(given)
    return given


def _source(place: int | None, one: Any) -> str | Photograph | Opener:
    if isinstance(one, str | os.PathLike):
        path = os.fspath(one)
        if not isinstance(path, str):
            _refuse(one, place)
        return partial(_unfetched, path) if path.lower().startswith(URL_STARTS) else str(path)
    if isinstance(one, PillowImage):
        return partial(_pixels, one)
    if (
        isinstance(one, np.ndarray)
        and one.ndim == 3
        and one.shape[2] == 3
        and one.dtype == np.uint8
    ):
        return one
    _refuse(one, place)


def _unfetched(url: str, longest_side: int) -> NoReturn:
    raise FetchError("a URL: classify takes files, and landmarks classify fetches")


def _pixels(image: PillowImage, longest_side: int) -> Photograph:
    return shrink(from_image(image), longest_side)


def _refuse(one: Any, place: int | None = None) -> NoReturn:
    what = f"a {type(one).__module__}.{type(one).__qualname__}".replace(" builtins.", " ")
    if isinstance(one, np.ndarray):
        what = f"{one.dtype} of shape {one.shape}"
    which = "the photograph" if place is None else f"photograph {place}"
    raise TypeError(f"{which} is {what}: give {TAKEN}")
