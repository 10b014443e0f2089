"""A build's photographs described by the machines of a Ray cluster.

What its workers (:mod:`retrieval.ray_pool`) are given are the parts of :mod:`retrieval.parts`, so
that the bytes are those of an undivided build. A part whose machine is lost goes to another, which
goes on where the first was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from retrieval.build import Learnt, learn_run
from retrieval.config import SystemConfig
from retrieval.describing import Bar, no_bar
from retrieval.descriptors.cache import Progress, windows_of
from retrieval.parts import MOST_PARTS, BuildPart, describe_part, has_parts, parts_of
from retrieval.photographs.table import DataSet
from retrieval.ray_pool import POLL_SECONDS, RayPool, Start, cluster, places_of, reach
from retrieval.run import Run
from retrieval.training.watching import Watcher
from retrieval.types import Integers

PARTS_PER_ACTOR: Final = 4
"""With several, a fast machine is given more of them than a slow one."""


def describe_by_ray(
    config: SystemConfig,
    data: DataSet,
    run: Run,
    device: str,
    address: str,
    bar: Bar = no_bar,
    watcher: Watcher | None = None,
) -> None:
    """Describe all parts of a run, which :func:`retrieval.build.build` takes.

    Codebook and whitening are learnt on this machine first.

    Args:
        config, data, run, device, bar, watcher: as of :func:`retrieval.build.build`.
        address: of the cluster (``ray://HOST:10001``, ``HOST:6379``); ``ray`` for this machine.

    Raises:
        ConfigError: Ray is not installed.
        RunError: the cluster cannot be reached, or all of its machines are lost; what was described
            stays.
    """
    ray = reach(address)  # before minutes are spent on learning
    if learn_run(config, data, run, device, bar, watcher) is None:
        return
    rows = len(data.photographs)
    with cluster(ray, address), bar("describing", rows) as progress:
        places = places_of(ray, device)
        parts = _division(run, rows, len(places))
        shared = config, data, run.folder.resolve(), device
        pool: RayPool[BuildPart, Integers] = RayPool(ray, places, _Describer, shared, named=_named)
        done, told = np.zeros(2, np.int64), np.zeros(2, np.int64)
        for found in pool.answers(parts):
            done = sum((counts for _, counts in found), done)
            now = done + _begun(ray, pool.busy)
            progress(*(now - told).tolist())
            told = now


def _division(run: Run, rows: int, actors: int) -> list[BuildPart]:
    """The parts to describe: those that were begun, or a few for each actor."""
    few = min(len(windows_of(rows)), PARTS_PER_ACTOR * actors, MOST_PARTS)
    of = parts_of(run) if has_parts(run) else few
    parts = [BuildPart(of, number + 1) for number in range(of)]
    for part in parts:
        part.within(run).create()
    return parts


class _Describer:
    """An actor: a system, and the parts that it is given one by one."""

    def __init__(self, shared: tuple[SystemConfig, DataSet, Path, str], start: Start):
        start.take()
        self._config, self._data, self._run, self._device = shared
        self._done = np.zeros(2, np.int64)
        self._learnt: Learnt | None = None  # loaded with the first part

    def do(self, part: BuildPart) -> Integers:
        """Describe a part; (2,) the photographs that it has, and how many of them failed."""
        run = Run(self._run)
        if self._learnt is None:
            self._learnt = learn_run(self._config, self._data, run, self._device)
        if self._learnt is None:  # all is described
            return np.zeros(2, np.int64)
        describer, made_from, known = self._learnt
        table = self._data.photographs
        store = describe_part(run, part, table, describer, made_from, self._bar, known)
        self._done = np.zeros(2, np.int64)
        return np.array((store.rows, store.failed))

    def done(self) -> Integers:
        """The same of the part that is being described, by now."""
        return self._done

    @contextlib.contextmanager
    def _bar(self, what: str, total: int | None) -> Iterator[Progress]:
        def progress(rows: int, failed: int) -> None:
            self._done = self._done + np.array((rows, failed))

        yield progress


def _begun(ray: Any, busy: Sequence[Any]) -> Integers:
    """(2,) photographs of the parts that are being described that are by now, and failed ones."""
    asked = [actor.done.remote() for actor in busy]
    found = np.zeros(2, np.int64)
    if not asked:
        return found
    told, _ = ray.wait(asked, num_returns=len(asked), timeout=POLL_SECONDS)
    for one in told:
        with contextlib.suppress(ray.exceptions.RayError):  # told when its part is settled
            found += ray.get(one)
    return found


def _named(part: BuildPart) -> str:
    return f"part {part}"
