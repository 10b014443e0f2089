"""Many photographs at a time: their order, their batches, and how many are in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.descriptors import extraction
from retrieval.descriptors.base import Extractor, VectorExtractor
from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.extraction import _batches, extract
from retrieval.descriptors.hog import HogConfig
from retrieval.descriptors.joint_frontend import JointFrontend
from retrieval.descriptors.registry import build_extractor
from retrieval.errors import DecodeError, FetchError, PhotographError
from retrieval.frontend import Shared
from retrieval.photographs.decoding import read_photograph
from retrieval.types import Photograph
from tests.photographs import features_of, picture, write_photograph

CNN = CnnConfig(trunk="squeezenet1_1", weights="none", size=128, precision="float32", batch=3)


class Means(VectorExtractor):
    """Mean colours; it remembers its batches."""

    dimension = 3
    longest_side = 64
    threaded = True

    def __init__(self, batched: bool, batch: int = 4) -> None:
        self.batched = batched
        self.batch = batch
        self.batches: list[list[tuple[int, ...]]] = []

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        return photograph.shape[0], photograph.shape[1]

    def identity(self) -> dict[str, Any]:
        return {}

    def features(self, photographs: Sequence[Photograph]) -> list[Any]:
        self.batches.append([photograph.shape for photograph in photographs])
        return [photograph.reshape(-1, 3).mean(axis=0) for photograph in photographs]


class OnDevice(Means):
    """As on a GPU: prepared by other threads, described by the calling one, fetched later."""

    threaded = False

    def __init__(self, batched: bool = True, batch: int = 4) -> None:
        super().__init__(batched, batch)
        self.told: list[str] = []

    def prepare(
        self, photographs: Sequence[Photograph], shared: Shared | None = None
    ) -> list[Photograph]:
        assert threading.current_thread() is not threading.main_thread()
        return list(photographs)

    def start(
        self, prepared: list[Photograph], shared: Shared | None = None
    ) -> Callable[[], list[Any]]:
        assert threading.current_thread() is threading.main_thread()
        self.told.append("start")

        def wait() -> list[Any]:
            self.told.append("wait")
            return self.features(prepared)

        return wait


def files(folder: Path, count: int) -> list[str]:
    """Photographs of three shapes, every fifth of them broken."""
    paths = []
    for i in range(count):
        path = folder / f"{i}.png"
        write_photograph(path, picture(i, *[(48, 60), (60, 48), (40, 40)][i % 3]))
        if i % 5 == 4:
            path.write_bytes(path.read_bytes()[:200])
        paths.append(str(path))
    return paths


def windows(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def tick(values: list[Any]) -> list[Any]:
    """Features as comparable bytes, failures as their reasons."""
    return [
        str(one) if isinstance(one, PhotographError) else np.asarray(one).tobytes()
        for one in values
    ]


@pytest.mark.parametrize("batched", [True, False])
def test_the_order_is_kept_with_failures_among_it(tmp_path: Path, batched: bool) -> None:
    paths = files(tmp_path, 23)
    found = list(extract(windows(paths, 8), Means(batched), threads=3))
    assert [len(one) for one in found] == [8, 8, 7]
    for i, outcome in enumerate(one for window in found for one in window):
        if i % 5 == 4:
            assert isinstance(outcome, DecodeError)
            assert "truncated" in str(outcome)
        else:
            photograph = picture(i, *[(48, 60), (60, 48), (40, 40)][i % 3])
            np.testing.assert_allclose(outcome, photograph.reshape(-1, 3).mean(axis=0))


def test_a_window_may_hold_nothing_good_or_nothing_at_all(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.jpg")
    found = list(extract([[gone, gone], [], [picture(1)]], Means(True)))
    assert [[type(one) for one in window] for window in found] == [
        [DecodeError, DecodeError], [], [np.ndarray]
    ]  # fmt: skip
    assert list(extract([], Means(True))) == []


@dataclass(frozen=True)
class Late:
    """Pixels that arrive, or do not, while nobody waits in the pool."""

    pixels: Photograph | None

    def submit(self, pool: Executor, then: Callable[[Any], Any]) -> Future[Any]:
        if self.pixels is not None:
            return pool.submit(then, lambda longest_side: self.pixels)
        failed: Future[Any] = Future()
        failed.set_exception(FetchError("HTTP 404"))
        return failed


@pytest.mark.parametrize("batched", [True, False])
def test_photographs_come_in_any_way(tmp_path: Path, batched: bool) -> None:
    path = write_photograph(tmp_path / "a.png", picture(1, 48, 60))
    pixels = read_photograph(path, Means.longest_side)
    ways = [str(path), pixels, lambda longest_side: read_photograph(path, longest_side),
            Late(pixels), Late(None), DecodeError("known before")]  # fmt: skip
    (found,) = extract([ways], Means(batched))
    assert tick(found) == [*tick(found[:1]) * 4, "HTTP 404", "known before"]
    assert [type(one) for one in found[4:]] == [FetchError, DecodeError]


@pytest.mark.parametrize("config", [CNN, HogConfig(side=64, cells=(16,))], ids=["cnn", "hog"])
def test_timing_changes_no_byte(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor: Extractor = build_extractor(config, "cpu", 0)
    paths = files(tmp_path, 20)
    alone = [tick(window) for window in extract(windows(paths, 10), extractor, threads=1)]

    def late(source: str, longest_side: int) -> Photograph:
        # The first of a window arrive last.
        time.sleep(0.001 * (10 - int(Path(source).stem) % 10))
        return real(source, longest_side)

    real = extraction.read_photograph
    monkeypatch.setattr(extraction, "read_photograph", late)
    together = [tick(window) for window in extract(windows(paths, 10), extractor, threads=4)]
    assert together == alone


def test_a_device_gives_what_threads_give(tmp_path: Path) -> None:
    paths = files(tmp_path, 23)
    parts = [paths[:8], [str(tmp_path / "gone.jpg")], [], *windows(paths[8:], 8)]
    in_threads = [tick(window) for window in extract(parts, Means(True), threads=3)]
    assert [tick(window) for window in extract(parts, OnDevice(), threads=3)] == in_threads
    several = JointFrontend((OnDevice(), Means(False)))
    assert not several.threaded
    (found,) = extract([paths[:8]], several)
    assert [tick([one[0]]) if isinstance(one, tuple) else tick([one]) for one in found] == [
        [one] for one in in_threads[0]
    ]


def test_a_device_is_given_batches_before_it_is_asked_for_results() -> None:
    device = OnDevice(batch=2)
    for _ in extract(windows([picture(i, 20, 20) for i in range(24)], 4), device, threads=2):
        pass
    assert len(device.told) == 24
    assert device.told[:4] == ["start", "start", "start", "wait"]
    # Across the borders of windows too: never a wait with nothing else queued, until the end.
    queued = np.cumsum([1 if one == "start" else -1 for one in device.told])
    assert queued[2:-2].min() >= 2
    assert queued.max() == 3


@pytest.mark.parametrize("windows_ahead", [1, 3])
@pytest.mark.parametrize("batched", [True, False])
def test_so_many_windows_are_in_memory(batched: bool, windows_ahead: int) -> None:
    open_windows = most = 0

    def source() -> Iterator[list[Photograph]]:
        nonlocal open_windows, most
        for i in range(7):
            open_windows += 1
            most = max(most, open_windows)
            yield [picture(i, 20, 20)] * 3

    for _ in extract(source(), Means(batched), threads=2, windows_ahead=windows_ahead):
        open_windows -= 1
    assert most == windows_ahead + 1
    assert open_windows == 0


def test_who_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    stream: Any = extract(
        windows([picture(i, 20, 20) for i in range(40)], 4), Means(False), threads=3
    )
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_a_photograph_that_opencv_refuses_is_a_failed_row() -> None:
    class Refuses(Means):
        def features(self, photographs: Sequence[Photograph]) -> list[Any]:
            return [cv2.cvtColor(photographs[0][..., 0], cv2.COLOR_RGB2GRAY)]

    ((outcome,),) = extract([[picture(1)]], Refuses(False))
    assert isinstance(outcome, DecodeError)
    assert str(outcome).startswith("cannot be described (")


def test_a_bug_is_no_failed_row() -> None:
    class Buggy(Means):
        def features(self, photographs: Sequence[Photograph]) -> list[Any]:
            raise ZeroDivisionError

    for batched in (True, False):
        with pytest.raises(ZeroDivisionError):
            list(extract([[picture(1)]], Buggy(batched)))


def test_batches_are_dense() -> None:
    extractor = Means(True, batch=2)
    shapes = [(20, 30)] * 5 + [(30, 20)] * 2 + [(10, 10)]
    photographs = [picture(i, *shape) for i, shape in enumerate(shapes)]
    features = features_of(extractor, photographs[::2] + photographs[1::2])
    assert sorted(len(batch) for batch in extractor.batches) == [1, 1, 2, 2, 2]
    assert all(len(set(batch)) == 1 for batch in extractor.batches)
    for photograph, one in zip(photographs[::2] + photographs[1::2], features, strict=True):
        np.testing.assert_allclose(one, photograph.reshape(-1, 3).mean(axis=0))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=30), st.integers(1, 5))
def test_batches_are_of_one_shape_and_hold_each_photograph_once(
    shapes: list[tuple[int, int]], size: int
) -> None:
    batches = _batches(shapes, size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(shapes)))
    for batch in batches:
        assert len(batch) <= size
        assert len({shapes[i] for i in batch}) == 1
        assert batch == sorted(batch)
    areas = [shapes[batch[0]][0] * shapes[batch[0]][1] for batch in batches]
    assert areas == sorted(areas, reverse=True)
