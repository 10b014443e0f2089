"""Lists answered, and test photographs described, by two simulated machines of a Ray cluster."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.answering.by_ray import answers_by_ray
from pipelines.answering.classify import Answering, Form, classify_list
from pipelines.building.index import build_run
from pipelines.lists.rows import Row
from pipelines.loopback import serve
from pipelines.measuring.evaluate import describe_into, evaluate_run
from retrieval.config import SystemConfig
from retrieval.errors import RunError
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.table import load_data_set, read_table
from retrieval.ray_systems import _opened, _Wanted
from retrieval.storage.shards import Shard
from retrieval.system import System
from tests.photographs import write_csv, write_data_set
from tests.pipelines.runs import LOCAL, contents

CHUNK = 16
ROWS = 640
QUICK = FetchConfig(allow_private=True, retries=0, concurrency=8)


class Cut(Exception):  # noqa: N818
    """A command that is killed."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def system(data: Path, tmp_path_factory: pytest.TempPathFactory) -> System:
    """One that searches by words too, and verifies."""
    run = tmp_path_factory.mktemp("runs") / "run"
    build_run(SystemConfig.model_validate(LOCAL), load_data_set(data), run, "cpu")
    return System.load(run, "cpu")


@pytest.fixture
def listed(data: Path) -> Iterator[Path]:
    """Paths and URLs, and some that are neither."""
    names = sorted(path.name for path in (data / "photos").iterdir())
    with serve(data / "photos") as address:
        sources = [
            "photos/lacking.jpg" if i % 50 == 7
            else "test.csv" if i % 50 == 8
            else f"{address}/lacking.jpg" if i % 50 == 9
            else f"{address}/{names[i % len(names)]}" if i % 3 == 0
            else f"photos/{names[i % len(names)]}"
            for i in range(ROWS)
        ]  # fmt: skip
        rows = [(str(i), source) for i, source in enumerate(sources)]
        yield write_csv(data / "list.csv", rows, ("id", "url"))


def classify(
    system: System,
    listed: Path,
    out: Path,
    workers: str | None = None,
    told: Callable[[int], None] = lambda rows: None,
    **options: Any,
) -> bytes:
    """The predictions, by workers or not; ``told`` of rows that are done."""
    elsewhere = None if workers is None else partial(answers_by_ray, workers, system)
    done = 0

    def progress(rows: int, _: int) -> None:
        nonlocal done
        done += rows
        told(done)

    classify_list(
        system, listed, out, fetch=QUICK, chunk_rows=CHUNK, elsewhere=elsewhere, progress=progress,
        **options,
    )  # fmt: skip
    return out.read_bytes()


def cut_at(rows: int) -> Callable[[int], None]:
    def told(done: int) -> None:
        if done >= rows:
            raise Cut

    return told


@pytest.mark.slow
def test_lists_have_the_bytes_of_one_machine(
    system: System, listed: Path, cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = classify(system, listed, tmp_path / "here.csv")
    assert b"no such file" in wanted
    assert b"fetch_failed" in wanted

    out = tmp_path / "there.csv"  # begun here, taken further there, ended here
    for workers, rows in ((None, 100), (cluster.address, 250)):
        with pytest.raises(Cut):
            classify(system, listed, out, workers, cut_at(rows))
        assert not out.exists()
    assert classify(system, listed, out) == wanted

    (other,) = [one for one in cluster.list_all_nodes() if not one.head]
    lost: list[None] = []

    def lose(done: int) -> None:
        if done >= 100 and not lost:
            lost.append(cluster.remove_node(other, allow_graceful=False))

    with caplog.at_level(logging.WARNING):
        found = classify(system, listed, tmp_path / "lost.csv", cluster.address, lose)
    assert found == wanted
    assert "its work is done again" in caplog.text


@pytest.mark.slow
def test_failed_rows_are_taken_again(
    system: System, data: Path, listed: Path, cluster: Any, tmp_path: Path
) -> None:
    out, again = tmp_path / "out.csv", tmp_path / "again.csv"
    classify(system, listed, out, cluster.address)
    classify(system, listed, again)
    late = data / "photos/lacking.jpg"
    late.write_bytes((data / "photos/m1v0.jpg").read_bytes())
    try:
        found = classify(system, listed, out, cluster.address, retry_failed=True)
        assert found == classify(system, listed, again, retry_failed=True)
    finally:
        late.unlink()
    assert b"no such file" not in found


@pytest.mark.slow
def test_figures_are_those_of_one_machine(
    system: System, data: Path, cluster: Any, tmp_path: Path
) -> None:
    rows = [line.split(",") for line in (data / "test.csv").read_text().splitlines()[1:]]
    many = [(f"{one[0]}-{i}", *one[1:]) for i in range(40) for one in rows]  # three shards
    (data / "photos/damaged.jpg").write_bytes(b"no photograph")
    many += [("damaged", "photos/damaged.jpg", "L1")]
    csv = write_csv(data / "many.csv", many)
    here = evaluate_run(system, csv, tmp_path / "here")
    there = evaluate_run(system, csv, tmp_path / "there", workers=cluster.address)
    times = ("seconds_per_image",)
    assert _without(here, times) == _without(there, times)
    for name in ("predictions.csv", "per_landmark.csv", "submission.csv"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    described = contents(tmp_path / "here/descriptors")
    assert len(described) > 3
    assert contents(tmp_path / "there/descriptors") == described
    # What is described already asks for no cluster.
    describe_into(system, read_table(csv, bank=True), tmp_path / "there", "127.0.0.1:1")


def test_what_workers_do_not_see_is_refused(
    system: System, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = data / "photos/m1v0.jpg"
    reasons = {str(there): "no such file", str(data / "gone.jpg"): "no such file"}

    def blind(address: str, system: System, through: Any, windows: Any, *_: Any) -> Iterator[Any]:
        for rows in windows:
            yield [[row.id, "", "", "", "decode_failed", reasons[str(row.source)]] for row in rows]

    monkeypatch.setattr("pipelines.answering.by_ray.through_workers", blind)
    how = Answering(Form(), QUICK)
    gone = [Row(1, "1", data / "gone.jpg")]  # nobody sees it
    assert list(answers_by_ray("ray", system, [gone], how)) == [
        [["1", "", "", "", "decode_failed", "no such file"]]
    ]
    with pytest.raises(RunError, match=r"m1v0\.jpg: a worker does not see this photograph"):
        list(answers_by_ray("ray", system, [gone, [Row(2, "2", there)]], how))

    def blind_too(address: str, system: System, through: Any, windows: Any) -> Iterator[Any]:
        for paths in windows:
            yield Shard({}, ["decode_failed"] * len(paths), ["no such file"] * len(paths)), 0.0

    monkeypatch.setattr("pipelines.measuring.evaluate.through_workers", blind_too)
    with pytest.raises(RunError, match="a worker does not see this photograph"):
        describe_into(system, read_table(data / "test.csv", bank=True), tmp_path, "ray")


def test_a_worker_that_sees_another_run_says_so(system: System) -> None:
    loaded = _opened(_Wanted.of(system), lambda system, windows, workers: iter([system]), 1)
    assert next(loaded([])).fingerprint == system.fingerprint
    with pytest.raises(RunError, match="holds another run there"):
        _opened(_Wanted.of(replace(system, fingerprint="another")), lambda *_: iter(()), 1)


def _without(value: Any, names: tuple[str, ...]) -> Any:
    """JSON without the values of some names."""
    if isinstance(value, dict):
        return {key: _without(one, names) for key, one in value.items() if key not in names}
    return json.loads(json.dumps(value))
