"""A build's photographs described by the machines of a Ray cluster.

Ray launches, and no more: what it launches are the parts of :mod:`retrieval.parts`, so that the
bytes are those of an undivided build. Each machine has one actor for its cores (one a GPU, where
there are any), which holds the system and is given a part at a time. A part whose machine is lost
goes to another, which goes on where the first was. All machines see the run, the photographs and
the weights in the same places: a shared folder.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from retrieval.build import build_part, learn_run
from retrieval.config import SystemConfig
from retrieval.describing import Bar, no_bar
from retrieval.descriptors.cache import Progress, windows_of
from retrieval.devices import CUDA, limit_cores
from retrieval.errors import ConfigError, LandmarksError, RunError, first_line
from retrieval.parts import MOST_PARTS, BuildPart, has_parts, parts_of
from retrieval.photographs.table import DataSet
from retrieval.run import Run
from retrieval.training.watching import Watcher
from retrieval.types import Integers

log = logging.getLogger(__name__)

THIS_MACHINE: Final = "ray"
"""What is asked for a cluster of this machine alone; anything else is a cluster's address."""
PARTS_PER_ACTOR: Final = 4
"""With several, a fast machine is given more of them than a slow one."""
DEFAULT_PORT: Final = 6379
"""Of a cluster whose address names none."""
CONNECT_SECONDS: Final = 5.0
"""In which a cluster has to take a connection."""
POLL_SECONDS: Final = 1.0
"""Between looks at how far the parts are."""


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
    rows = learn_run(config, data, run, device, bar, watcher)
    if rows is None:
        return
    with _cluster(ray, address):
        places = _places(ray, device)
        parts = _division(run, rows, len(places))
        shared = ray.put((config, data, run.folder.resolve(), device))
        with bar("describing", rows) as progress:
            told = np.zeros(2, np.int64)
            for done in _Actors(ray, places, shared, parts).work():
                progress(*(done - told).tolist())
                told = done


def reach(address: str) -> Any:
    """Ray, where it is installed and something listens at an address.

    Raises:
        ConfigError: Ray is not installed.
        RunError: nothing listens there.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError('--workers needs Ray: pip install "landmark-retrieval[ray]"') from None
    with _answering(address):
        if address != THIS_MACHINE:
            _require_listening(address)
    return ray


@contextlib.contextmanager
def _answering(address: str) -> Iterator[None]:
    """Make an error of one line of whatever goes wrong with a cluster."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"--workers {address}: no Ray cluster answers there ({first_line(error)}): see that it"
            " runs (ray start --head), or describe in parts (landmarks describe --part)"
        ) from None


@contextlib.contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """A connection to a cluster, or a cluster of this machine."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == THIS_MACHINE:
        quiet |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        quiet["address"] = address
    with _answering(address):
        if address != THIS_MACHINE:
            _require_listening(address)
        ray.init(**quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Raise OSError where nothing listens at an address: Ray itself would try for minutes."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    place = parts.hostname, parts.port or DEFAULT_PORT
    with socket.create_connection(place, timeout=CONNECT_SECONDS):
        pass


@dataclass(frozen=True)
class _Place:
    """Where an actor runs, and what it takes of its machine."""

    node: str
    cores: float
    gpus: int


def _places(ray: Any, device: str) -> list[_Place]:
    """One for each machine's cores, or for each of its GPUs."""
    found = []
    for node in ray.nodes():
        held = node["Resources"]
        cores, gpus = held.get("CPU", 0.0), int(held.get("GPU", 0))
        many = gpus if device == CUDA else 1
        if node["Alive"] and cores and many:
            found += [_Place(node["NodeID"], cores / many, int(device == CUDA))] * many
    if not found:
        raise RunError(
            f"no machine of the Ray cluster has {'a GPU' if device == CUDA else 'cores'} to lend"
        )
    return found


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

    def __init__(self, shared: tuple[SystemConfig, DataSet, Path, str], cores: float):
        limit_cores(max(1, int(cores)))
        self._config, self._data, self._run, self._device = shared
        self._done = (0, 0)

    def describe(self, part: BuildPart) -> tuple[int, int]:
        """Describe a part; the photographs that it has, and how many of them failed."""
        run = Run(self._run)
        store = build_part(self._config, self._data, run, part, self._device, self._bar)
        self._done = (0, 0)
        return (0, 0) if store is None else (store.rows, store.failed)

    def done(self) -> tuple[int, int]:
        """The same of the part that is being described, by now."""
        return self._done

    @contextlib.contextmanager
    def _bar(self, what: str, total: int | None) -> Iterator[Progress]:
        def progress(rows: int, failed: int) -> None:
            self._done = self._done[0] + rows, self._done[1] + failed

        yield progress


@dataclass
class _Actors:
    """Actors of a cluster, and the parts that they have yet to describe."""

    ray: Any
    places: list[_Place]
    shared: Any
    parts: list[BuildPart]
    _waiting: deque[BuildPart] = field(init=False)
    _idle: list[tuple[Any, _Place]] = field(init=False)
    _given: dict[Any, tuple[Any, BuildPart, _Place]] = field(default_factory=dict, init=False)
    _done: Integers = field(default_factory=lambda: np.zeros(2, np.int64), init=False)

    def work(self) -> Iterator[Integers]:
        """Until all are described: (2,) photographs that are by now, and those that failed."""
        self._waiting = deque(self.parts)
        self._idle = [(self._actor(place), place) for place in self.places]
        self._hand_out()
        while self._given:
            done, _ = self.ray.wait(list(self._given), timeout=POLL_SECONDS)
            for one in done:
                self._settle(one)
            self._hand_out()
            yield self._done + self._begun()
        if self._waiting:
            raise RunError(
                f"all machines of the Ray cluster are lost; {len(self._waiting)} parts are left:"
                " give the same command again"
            )

    def _actor(self, place: _Place) -> Any:
        from ray.util import scheduling_strategies as strategies

        remote = self.ray.remote(_Describer).options(
            num_cpus=place.cores,
            num_gpus=place.gpus,
            max_concurrency=2,  # it tells how far it is while it works
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(place.node, soft=False),
        )
        return remote.remote(self.shared, place.cores)

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            (actor, place), part = self._idle.pop(), self._waiting.popleft()
            self._given[actor.describe.remote(part)] = actor, part, place

    def _begun(self) -> Integers:
        """(2,) of the parts that are being described."""
        asked = [actor.done.remote() for actor, _, _ in self._given.values()]
        found = np.zeros(2, np.int64)
        if not asked:
            return found
        told, _ = self.ray.wait(asked, num_returns=len(asked), timeout=POLL_SECONDS)
        for one in told:
            with contextlib.suppress(self.ray.exceptions.RayError):  # told when it is settled
                found += self.ray.get(one)
        return found

    def _settle(self, answer: Any) -> None:
        actor, part, place = self._given.pop(answer)
        lost = self.ray.exceptions.RayActorError
        try:
            self._done += self.ray.get(answer)
        except lost as error:
            log.warning("part %s was lost with its machine (%s)", part, first_line(error))
            self._waiting.append(part)
            alive = {one["NodeID"] for one in self.ray.nodes() if one["Alive"]}
            if place.node in alive:  # its process alone died
                self._idle.append((self._actor(place), place))
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, LandmarksError) else error from None
        else:
            self._idle.append((actor, place))
