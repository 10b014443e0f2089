"""A system held by the machines of a Ray cluster, through which photographs go there."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from retrieval.errors import RunError
from retrieval.photographs.decoding import MISSING
from retrieval.ray_pool import RayPool, StreamWorker, cluster, places_of, reach
from retrieval.system import System

T = TypeVar("T")
R = TypeVar("R")

Window = Sequence[T]
Through = Callable[[System, Iterable[Window[T]], int], Iterator[R]]
"""What windows of photographs go through where a system is, in order, one result each; told how
many workers share the work."""


def through_workers(
    address: str,
    system: System,
    through: Through[T, R],
    windows: Iterable[Window[T]],
    windows_ahead: int = 1,
    named: Callable[[T], str] = str,
) -> Generator[R, None, None]:
    """The results of windows of photographs, in order.

    Args:
        address: of the cluster, as of :func:`retrieval.ray_workers.describe_by_ray`.
        system: each worker loads its run.
        through: a function of a module, or a ``partial`` of one.
        windows: of whatever ``through`` takes.
        windows_ahead: windows that ``through`` reads before it gives a result.
        named: what messages call a photograph.

    Raises:
        ConfigError: Ray is not installed.
        RunError: the cluster cannot be reached, all of its machines are lost, or one sees another
            run.
    """
    ray = reach(address)
    with cluster(ray, address):
        places = places_of(ray, system.device)
        held = _Wanted.of(system)
        opened = partial(_opened, held, through, len(places))
        depth = windows_ahead + 2  # one is being finished, and one waits for its turn

        def window_from(window: Window[T]) -> str:
            return "".join(f"{len(window)} rows from {named(one)} on" for one in window[:1])

        pool: RayPool[Window[T], R] = RayPool(
            ray, places, StreamWorker, (opened, ()), depth, window_from
        )
        yield from pool.in_order(windows)


def require_shared(sources: Iterable[str | Path], reasons: Iterable[str]) -> None:
    """Refuse what a worker says of photographs that it does not see, and this machine does.

    Args:
        sources: paths or URLs.
        reasons: why each failed; empty where it did not.

    Raises:
        RunError: naming the first.
    """
    for source, reason in zip(sources, reasons, strict=True):
        if reason == MISSING and os.path.exists(source):
            raise RunError(
                f"{source}: a worker does not see this photograph: all machines of the Ray cluster"
                " need the photographs at the same paths, in a shared folder"
            )


@dataclass(frozen=True)
class _Wanted:
    """What a worker loads, and what it has to be."""

    run: Path
    device: str
    weights: Path | None
    fingerprint: str

    @classmethod
    def of(cls, system: System) -> _Wanted:
        weights = None if system.weights is None else system.weights.resolve()
        return cls(system.run.folder.resolve(), system.device, weights, system.fingerprint)

    def load(self) -> System:
        system = System.load(self.run, self.device, self.weights)
        if system.fingerprint != self.fingerprint:
            raise RunError(f"{self.run} holds another run there: give all machines the same")
        return system


def _opened(
    held: _Wanted, through: Through[T, R], workers: int
) -> Callable[[Iterable[Window[T]]], Iterator[R]]:
    system = held.load()
    return lambda windows: through(system, windows, workers)
