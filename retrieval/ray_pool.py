"""A pool of workers on the machines of a Ray cluster, and the jobs that they are given.

Ray launches, and no more. Each machine has one actor for its cores (one a GPU, where there are
any), which has so many jobs at a time. The jobs of an actor that is lost with its machine are done
again by others. All machines see the run, the photographs and the weights in the same places: a
shared folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from retrieval.devices import CUDA, limit_cores
from retrieval.errors import ConfigError, LandmarksError, RunError, first_line

log = logging.getLogger(__name__)

J = TypeVar("J")
R = TypeVar("R")

THIS_MACHINE: Final = "ray"
"""What is asked for a cluster of this machine alone; anything else is a cluster's address."""
DEFAULT_PORT: Final = 6379
"""Of a cluster whose address names none."""
CONNECT_SECONDS: Final = 5.0
"""In which a cluster has to take a connection."""
HTTP2_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""What a client of HTTP/2, as gRPC's is, begins with: the preface and empty settings. A server
answers with settings of its own (RFC 9113, 3.4)."""
HTTP2_HEADER: Final = 9
"""Bytes of a frame's header, the fourth of which is its kind."""
SETTINGS: Final = b"\x04"
POLL_SECONDS: Final = 1.0
"""Between looks at how far the jobs are."""
FLUSH_SECONDS: Final = 0.02
"""In which a worker's stream has to be given a job, or what it holds is finished without one."""
MOST_LOSSES: Final = 5
"""Workers that may be lost over one job."""
SPARE: Final = 2
"""Of the jobs that workers have at a time: so many may be begun before the first is answered."""


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
            " runs (ray start --head), or give the command without --workers"
        ) from None


@contextlib.contextmanager
def cluster(ray: Any, address: str) -> Iterator[None]:
    """A connection to a cluster, or a cluster of this machine.

    Raises:
        RunError: it does not answer.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == THIS_MACHINE:
        quiet |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        quiet["address"] = address
    with _answering(address):
        _require_listening(address)
        ray.init(**quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Raise OSError where nothing listens at an address, or what does not speak as Ray does: Ray
    itself would try for minutes."""
    if address == THIS_MACHINE:
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    place = parts.hostname, parts.port or DEFAULT_PORT
    with socket.create_connection(place, timeout=CONNECT_SECONDS) as there:
        if os.environ.get("RAY_USE_TLS", "0") == "1":
            return
        there.sendall(HTTP2_GREETING)
        answer = b""
        while len(answer) < HTTP2_HEADER and (more := there.recv(HTTP2_HEADER - len(answer))):
            answer += more
    if answer[3:4] != SETTINGS:
        raise OSError("something else listens there")


@dataclass(frozen=True)
class Place:
    """Where an actor runs, and what it takes of its machine."""

    node: str
    host: str
    cores: float
    gpus: int


@dataclass(frozen=True)
class Start:
    """What a worker's process begins with.

    Attributes:
        cores: of its machine, that are its own.
        folder: where the command was given, which relative paths start from.
    """

    cores: float
    folder: str

    def take(self) -> None:
        limit_cores(max(1, int(self.cores)))
        with contextlib.suppress(OSError):  # not there: absolute paths will do
            os.chdir(self.folder)


def places_of(ray: Any, device: str) -> list[Place]:
    """One for each machine's cores, or for each of its GPUs.

    Raises:
        RunError: there is none.
    """
    found = []
    for node in ray.nodes():
        held = node["Resources"]
        cores, gpus = held.get("CPU", 0.0), int(held.get("GPU", 0))
        many = gpus if device == CUDA else 1
        if node["Alive"] and cores and many:
            host = node["NodeManagerAddress"]
            found += [Place(node["NodeID"], host, cores / many, int(device == CUDA))] * many
    if not found:
        raise RunError(
            f"no machine of the Ray cluster has {'a GPU' if device == CUDA else 'cores'} to lend"
        )
    return found


@dataclass(eq=False)
class _Hired:
    """An actor, and how many jobs it has."""

    actor: Any
    place: Place
    jobs: int = 0


@dataclass
class _Jobs(Generic[J]):
    """Jobs by their numbers, from 0: those that were lost first."""

    fresh: Iterator[J]
    taken: int = 0
    lost: deque[tuple[int, J]] = field(default_factory=deque)
    losses: Counter[int] = field(default_factory=Counter)

    def take(self, most: int) -> tuple[int, J] | None:
        """The next job, if it is a lost one or its number is below ``most``."""
        if self.lost:
            return self.lost.popleft()
        for job in self.fresh if self.taken < most else ():
            self.taken += 1
            return self.taken - 1, job
        return None


class RayPool(Generic[J, R]):
    """Actors of a cluster, one a place, which jobs are handed out to.

    Args:
        ray: connected.
        places: of the actors.
        worker: what an actor is: made of ``shared`` and of a :class:`Start`, it has a method
            ``do``, which is given a job and gives its answer.
        shared: what all actors are made of.
        depth: jobs that an actor has at a time.
        named: what messages call a job.
    """

    def __init__(
        self,
        ray: Any,
        places: Sequence[Place],
        worker: Callable[[Any, Start], Any],
        shared: Any,
        depth: int = 1,
        named: Callable[[J], str] = str,
    ) -> None:
        self._ray, self._worker, self._depth, self._named = ray, worker, depth, named
        self._shared = ray.put(shared)
        self._hired = [self._hire(place) for place in places]
        self._given: dict[Any, tuple[int, J, _Hired]] = {}
        self._most = sys.maxsize  # a job of this number has to wait

    @property
    def busy(self) -> list[Any]:
        """The actors that have jobs."""
        return [one.actor for one in self._hired if one.jobs]

    def answers(self, jobs: Iterable[J]) -> Iterator[list[tuple[int, R]]]:
        """Until all jobs are done: the numbers and answers of those that were since last time,
        maybe none.

        Args:
            jobs: are asked for as actors have room.

        Raises:
            RunError: all machines are lost, or one job lost too many workers.
            LandmarksError: of a job; which worker's is told.
        """
        todo = _Jobs(iter(jobs))
        self._hand_out(todo)
        while self._given:
            done, _ = self._ray.wait(list(self._given), timeout=POLL_SECONDS)
            yield [answer for one in done for answer in self._settle(one, todo)]
            self._hand_out(todo)
        if todo.lost:
            raise RunError(
                f"all machines of the Ray cluster are lost, {self._named(todo.lost[0][1])} among"
                " what is left: give the same command again"
            )

    def in_order(self, jobs: Iterable[J]) -> Iterator[R]:
        """The jobs' answers in the jobs' order; as :meth:`answers`. While one is waited for, no
        more are done than memory is bounded for."""
        begun = SPARE * self._depth * len(self._hired)
        kept: dict[int, R] = {}
        told, self._most = 0, begun
        for found in self.answers(jobs):
            kept.update(found)
            while told in kept:
                yield kept.pop(told)
                told += 1
                self._most = told + begun

    def _hire(self, place: Place) -> _Hired:
        from ray.util import scheduling_strategies as strategies

        remote = self._ray.remote(self._worker).options(
            num_cpus=place.cores,
            num_gpus=place.gpus,
            max_concurrency=self._depth + 1,  # it can be asked for something else meanwhile
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(place.node, soft=False),
        )
        return _Hired(remote.remote(self._shared, Start(place.cores, os.getcwd())), place)

    def _hand_out(self, todo: _Jobs[J]) -> None:
        """Give jobs to the actors that have the fewest."""
        while self._hired:
            idlest = min(self._hired, key=lambda one: one.jobs)
            taken = todo.take(self._most) if idlest.jobs < self._depth else None
            if taken is None:
                return
            idlest.jobs += 1
            self._given[idlest.actor.do.remote(taken[1])] = *taken, idlest

    def _settle(self, answer: Any, todo: _Jobs[J]) -> list[tuple[int, R]]:
        """A job's number and answer; nothing where its actor is lost."""
        number, job, hired = self._given.pop(answer)
        hired.jobs -= 1
        errors = self._ray.exceptions
        try:
            return [(number, self._ray.get(answer))]
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, LandmarksError):
                raise type(cause)(f"worker {hired.place.host}: {cause}") from None
            raise error from None
        except errors.RayError as error:
            self._lose(number, job, hired, todo, first_line(error))
            return []

    def _lose(self, number: int, job: J, hired: _Hired, todo: _Jobs[J], why: str) -> None:
        """Have a job done again, and another actor where only the process of one died."""
        todo.lost.append((number, job))
        todo.losses[number] += 1
        if todo.losses[number] == MOST_LOSSES:
            raise RunError(
                f"{MOST_LOSSES} workers were lost over {self._named(job)} ({why}): see that their"
                " machines have memory to spare, and give the same command again"
            )
        if hired in self._hired:
            log.warning("worker %s is lost (%s): its work is done again", hired.place.host, why)
            self._hired.remove(hired)
            if any(one["Alive"] and one["NodeID"] == hired.place.node for one in self._ray.nodes()):
                self._hired.append(self._hire(hired.place))


class StreamWorker(Generic[J, R]):
    """An actor whose jobs go through one stream, which begins some while it finishes others.

    Args:
        shared: what makes the stream, once: jobs in, an answer for each out, in order; and a job
            that takes no time. A stream that reads ahead is given that where there is no other, so
            that it finishes what it holds.
        start: of this process.
    """

    def __init__(
        self,
        shared: tuple[Callable[[], Callable[[Iterator[J]], Iterator[R]]], J],
        start: Start,
    ) -> None:
        start.take()
        self._opened, self._nothing = shared
        self._todo: queue.Queue[tuple[J, Future[R]]] = queue.Queue()
        self._begun: deque[Future[R] | None] = deque()
        threading.Thread(target=self._run, daemon=True).start()

    def do(self, job: J) -> R:
        """A job's answer; called by several threads at once."""
        answer: Future[R] = Future()
        self._todo.put((job, answer))
        return answer.result()

    def _run(self) -> None:
        try:
            for found in self._opened()(self._jobs()):
                answer = self._begun.popleft()
                if answer is not None:
                    answer.set_result(found)
        except BaseException as error:  # told to whoever waits, now or later
            for one in filter(None, self._begun):
                one.set_exception(error)
            while True:
                self._todo.get()[1].set_exception(error)

    def _jobs(self) -> Iterator[J]:
        while True:
            waited_for = any(one is not None for one in self._begun)
            answer: Future[R] | None
            try:
                job, answer = self._todo.get(timeout=FLUSH_SECONDS if waited_for else None)
            except queue.Empty:
                job, answer = self._nothing, None
            self._begun.append(answer)
            yield job
