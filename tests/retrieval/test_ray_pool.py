"""A pool of workers: order, bounds and losses, in a Ray that is made up; and a worker's stream."""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from retrieval.errors import RunError
from retrieval.ray_pool import (
    MOST_LOSSES,
    SPARE,
    Place,
    RayPool,
    Start,
    StreamWorker,
    places_of,
    reach,
)
from retrieval.streams import ahead


class LostError(Exception):
    """In place of Ray's errors of lost actors."""


class FailedError(LostError):
    """In place of Ray's error of a job that raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False)
class Actor:
    ray: FakeRay
    node: str
    worker: Any
    dead: bool = False

    @property
    def do(self) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda job: (self, job, next(self.ray.numbers)))


@dataclass
class FakeRay:
    """Jobs are done one at a time, in any order; ``before`` each, something may happen."""

    before: Callable[[FakeRay, Actor, Any], None] = lambda ray, actor, job: None
    gone: set[str] = field(default_factory=set)
    actors: list[Actor] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10**9)))
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    exceptions = SimpleNamespace(RayError=LostError, RayTaskError=FailedError)
    put = staticmethod(lambda shared: shared)

    def nodes(self) -> list[dict[str, Any]]:
        held = {"Resources": {"CPU": 4.0, "GPU": 2.0}, "NodeManagerAddress": "10.0.0.1"}
        return [{"NodeID": one, "Alive": one not in self.gone, **held} for one in "ab"]

    def remote(self, worker: Any) -> Any:
        def options(scheduling_strategy: str, **_: object) -> Any:
            def made(*arguments: Any) -> Actor:
                self.actors.append(Actor(self, scheduling_strategy, worker(*arguments)))
                return self.actors[-1]

            return SimpleNamespace(remote=made)

        return SimpleNamespace(options=options)

    def wait(self, given: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return [self.chance.choice(given)], []

    def get(self, answer: tuple[Actor, Any, int]) -> Any:
        actor, job, _ = answer
        self.before(self, actor, job)
        if actor.dead or actor.node in self.gone:
            raise LostError("gone")
        try:
            return actor.worker.do(job)
        except RunError as error:
            raise FailedError(error) from None


class Squaring:
    def __init__(self, shared: int, start: Start) -> None:
        self.power = shared

    def do(self, job: int) -> int:
        if job < 0:
            raise RunError("no such job")
        return int(job**self.power)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduling = ModuleType("ray.util.scheduling_strategies")
    scheduling.NodeAffinitySchedulingStrategy = lambda node, soft: node  # type: ignore[attr-defined]
    util = ModuleType("ray.util")
    util.scheduling_strategies = scheduling  # type: ignore[attr-defined]
    for name, module in (("ray", ModuleType("ray")), ("ray.util", util)):
        monkeypatch.setitem(sys.modules, name, module)


def pool_of(ray: FakeRay, depth: int = 3) -> RayPool[int, int]:
    return RayPool(ray, places_of(ray, "cpu"), Squaring, 2, depth, lambda job: f"job {job}")


def test_a_place_for_each_machine_or_each_gpu() -> None:
    ray = FakeRay()
    assert places_of(ray, "cpu") == [Place(one, "10.0.0.1", 4.0, 0) for one in "ab"]
    assert places_of(ray, "cuda") == [Place(one, "10.0.0.1", 2.0, 1) for one in "aabb"]
    ray.gone.update("ab")
    with pytest.raises(RunError, match="has a GPU to lend"):
        places_of(ray, "cuda")


def test_answers_come_in_order_and_few_jobs_are_begun() -> None:
    begun = told = 0

    def jobs() -> Iterator[int]:
        nonlocal begun
        for job in range(100):
            assert begun - told < 2 * 3 * SPARE
            begun += 1
            yield job

    for answer in pool_of(FakeRay()).in_order(jobs()):
        assert answer == told**2
        told += 1
    assert told == begun == 100


def test_jobs_are_handed_out_evenly() -> None:
    ray = FakeRay()
    seen: list[str] = []
    ray.before = lambda _, actor, job: seen.append(actor.node)
    assert list(pool_of(ray).in_order(iter(range(4)))) == [0, 1, 4, 9]
    assert sorted(seen) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("machine", [True, False])
def test_lost_jobs_are_done_again(machine: bool, caplog: pytest.LogCaptureFixture) -> None:
    def before(ray: FakeRay, actor: Actor, job: int) -> None:
        if job == 20 and not any(one.dead for one in ray.actors):
            actor.dead = True
            ray.gone.update(actor.node if machine else "")

    ray = FakeRay(before)
    assert list(pool_of(ray).in_order(range(50))) == [job**2 for job in range(50)]
    assert len(ray.actors) == (2 if machine else 3)  # a process alone is replaced
    assert caplog.text.count("its work is done again") == 1


def test_when_all_are_lost_one_line_says_so() -> None:
    def before(ray: FakeRay, actor: Actor, job: int) -> None:
        if job == 20:
            ray.gone.update("ab")

    answers = pool_of(FakeRay(before)).in_order(range(50))
    assert list(islice(answers, 4)) == [0, 1, 4, 9]
    with pytest.raises(RunError, match="all machines of the Ray cluster are lost, job"):
        list(answers)


def test_a_job_that_ends_its_workers_is_not_tried_for_ever() -> None:
    def before(ray: FakeRay, actor: Actor, job: int) -> None:
        actor.dead |= job == 5

    with pytest.raises(RunError, match=f"{MOST_LOSSES} workers were lost over job "):
        list(pool_of(FakeRay(before)).in_order(range(50)))


def test_a_mistake_is_told_with_its_worker() -> None:
    with pytest.raises(RunError, match=r"^worker 10\.0\.0\.1: no such job$"):
        list(pool_of(FakeRay()).in_order([1, -1]))


def reading_ahead(jobs: Iterator[int]) -> Iterator[int]:
    """As descriptions are made: three jobs are begun before the first is done."""
    for job in ahead(jobs, 3):
        if job > 100:
            raise RunError("too much")
        yield job * 2


def asked(worker: StreamWorker[int, int], jobs: list[int]) -> list[Any]:
    """What each job is answered with, asked for all at once."""
    found: dict[int, Any] = {}

    def ask(job: int) -> None:
        try:
            found[job] = worker.do(job)
        except RunError as error:
            found[job] = str(error)

    threads = [threading.Thread(target=ask, args=(job,)) for job in jobs]
    for one in threads:
        one.start()
    for one in threads:
        one.join(timeout=20)
    return [found[job] for job in jobs]


def test_a_stream_that_reads_ahead_answers_the_last_jobs_too() -> None:
    worker: StreamWorker[int, int] = StreamWorker((lambda: reading_ahead, 0), Start(1.0, "."))
    assert asked(worker, [1, 2, 3, 4, 5]) == [2, 4, 6, 8, 10]
    time.sleep(0.1)
    assert asked(worker, [7]) == [14]


def test_a_stream_that_fails_says_so_to_all_jobs() -> None:
    worker: StreamWorker[int, int] = StreamWorker((lambda: reading_ahead, 0), Start(1.0, "."))
    assert asked(worker, [101]) == ["too much"]
    assert asked(worker, [1, 2]) == ["too much", "too much"]


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b""])
def test_what_listens_and_is_no_cluster_is_told_at_once(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # which is not asked
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            there, _ = server.accept()
            with there:
                there.recv(100)
                there.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RunError, match=r"no Ray cluster answers there \(something else"):
            reach(f"127.0.0.1:{port}")
        thread.join()
