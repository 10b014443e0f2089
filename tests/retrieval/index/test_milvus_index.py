"""A gallery that a Milvus server holds, against the one that FAISS holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from retrieval.errors import ConfigError, RunError
from retrieval.index import milvus_index
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.milvus_index import MilvusConfig, MilvusError, MilvusIndex, holds
from retrieval.index.registry import AnyIndexConfig
from retrieval.types import Vectors, unit_rows
from tests.milvus import LITE, free_port, lite_server

needs_server = pytest.mark.skipif(LITE is None, reason="milvus-lite is not installed")


def rows_of(count: int, seed: int = 0, dimension: int = 16) -> Vectors:
    return unit_rows(np.random.default_rng(seed).standard_normal((count, dimension)))


def names(count: int) -> list[str]:
    return [f"photograph {row}" for row in range(count)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusConfig]:
    port = free_port()
    with lite_server(tmp_path_factory.mktemp("milvus"), port):
        yield config_of(port)


def config_of(port: int) -> MilvusConfig:
    return MilvusConfig(kind="milvus", uri=f"http://127.0.0.1:{port}", batch=7, timeout=5.0)


def client_of(config: MilvusConfig) -> Any:
    from pymilvus import MilvusClient

    return MilvusClient(uri=config.uri)


@needs_server
def test_it_finds_what_faiss_finds(server: MilvusConfig, tmp_path: Path) -> None:
    gallery, queries = rows_of(200), rows_of(20, seed=1)
    labels = [str(row % 5) for row in range(200)]
    index = MilvusIndex.synchronise(tmp_path, server, gallery, names(200), labels)
    expected = FaissIndex.build(gallery, IndexConfig()).search(queries, 9)
    for one in (index, MilvusIndex.load(tmp_path, server)):
        found = one.search(queries, 9)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)


@needs_server
def test_more_neighbours_than_rows_are_padded(server: MilvusConfig, tmp_path: Path) -> None:
    index = MilvusIndex.synchronise(tmp_path, server, rows_of(3), names(3), ["a"] * 3)
    found = index.search(rows_of(2, seed=1), 5)
    assert (found.rows[:, 3:] == -1).all()
    assert np.isneginf(found.similarities[:, 3:]).all()
    assert sorted(found.rows[0, :3]) == [0, 1, 2]


@needs_server
def test_no_rows(server: MilvusConfig, tmp_path: Path) -> None:
    MilvusIndex.synchronise(tmp_path, server, rows_of(0), [], [])
    assert (MilvusIndex.load(tmp_path, server).search(rows_of(2), 2).rows == -1).all()


@needs_server
def test_only_what_changed_is_sent(
    server: MilvusConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gallery, ids = rows_of(50), names(50)
    MilvusIndex.synchronise(tmp_path, server, gallery[:40], ids[:40], ["a"] * 40)
    assert "40 sent, 0 taken out" in caplog.messages[-1]
    index = MilvusIndex.synchronise(tmp_path, server, gallery[5:], ids[5:], ["a"] * 45)
    assert "10 sent, 5 taken out" in caplog.messages[-1]
    np.testing.assert_array_equal(index.search(gallery[5:], 1).rows[:, 0], np.arange(45))
    # A photograph of the same id that is described otherwise is another row.
    other = gallery[5:].copy()
    other[7] = rows_of(1, seed=9)
    index = MilvusIndex.synchronise(tmp_path, server, other, ids[5:], ["a"] * 45)
    assert "1 sent, 1 taken out" in caplog.messages[-1]
    assert index.search(other[7:8], 1).rows[0, 0] == 7
    # And so is one that is found to show another landmark.
    MilvusIndex.synchronise(tmp_path, server, other, ids[5:], ["a"] * 44 + ["b"])
    assert "1 sent, 1 taken out" in caplog.messages[-1]


@needs_server
def test_other_settings_make_it_anew(
    server: MilvusConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    MilvusIndex.synchronise(tmp_path, server, rows_of(9), names(9), ["a"] * 9)
    flat = server.model_copy(update={"type": "FLAT", "build": {}, "search": {}})
    MilvusIndex.synchronise(tmp_path, flat, rows_of(9), names(9), ["a"] * 9)
    assert "9 sent" in caplog.messages[-1]


@needs_server
def test_a_program_may_filter_by_landmark(server: MilvusConfig, tmp_path: Path) -> None:
    labels = ["tower", "bridge"] * 5
    index = MilvusIndex.synchronise(tmp_path, server, rows_of(10), names(10), labels)
    found = client_of(server).query(
        index.collection, filter='landmark == "bridge"', output_fields=["id", "landmark"]
    )
    assert {one["id"] for one in found} == set(names(10)[1::2])


@needs_server
def test_a_run_whose_rows_are_gone_is_refused(server: MilvusConfig, tmp_path: Path) -> None:
    index = MilvusIndex.synchronise(tmp_path, server, rows_of(9), names(9), ["a"] * 9)
    assert holds(tmp_path, server)
    client_of(server).delete(index.collection, ids=[int(index.keys[4])])
    with pytest.raises(RunError, match="does not hold the rows of this run"):
        MilvusIndex.load(tmp_path, server)
    client_of(server).drop_collection(index.collection)
    assert not holds(tmp_path, server)
    MilvusIndex.synchronise(tmp_path, server, rows_of(9), names(9), ["a"] * 9)
    assert holds(tmp_path, server)


@needs_server
def test_rows_of_another_build_are_not_taken_for_ours(server: MilvusConfig, tmp_path: Path) -> None:
    index = MilvusIndex.synchronise(tmp_path / "a", server, rows_of(9), names(9), ["a"] * 9)
    alone = MilvusIndex(server, index.collection, index.keys[:5], index.dimension)
    with pytest.raises(RunError, match="rows of another build"):
        alone.search(rows_of(9), 5)


@needs_server
def test_made_from_other_inputs(server: MilvusConfig, tmp_path: Path) -> None:
    MilvusIndex.synchronise(tmp_path, server, rows_of(3), names(3), ["a"] * 3, "one")
    assert len(MilvusIndex.load(tmp_path, server, "one")) == 3
    with pytest.raises(RunError, match="made from other inputs"):
        MilvusIndex.load(tmp_path, server, "two")


@needs_server
def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    port, folder, run = free_port(), tmp_path / "server", tmp_path / "run"
    config = config_of(port)
    with lite_server(folder, port) as process:
        index = MilvusIndex.synchronise(run, config, rows_of(9), names(9), ["a"] * 9)
        index.search(rows_of(1), 1)
        process.kill()
        process.wait()
        with pytest.raises(MilvusError, match=rf"{config.uri} is away or refuses .*MILVUS_URI"):
            index.search(rows_of(1), 1)
    with pytest.raises(MilvusError):
        holds(run, config)
    with lite_server(folder, port):
        assert MilvusIndex.load(run, config).search(rows_of(9)[2:3], 1).rows[0, 0] == 2


@needs_server
def test_a_build_cut_short_goes_on_with_its_collection(
    server: MilvusConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def killed(text: str) -> str:
        if text == names(12)[9]:
            raise KeyboardInterrupt
        return text

    monkeypatch.setattr(milvus_index, "ASKED", 4)
    with monkeypatch.context() as patch:
        patch.setattr(milvus_index, "_fitting", killed)
        with pytest.raises(KeyboardInterrupt):
            MilvusIndex.synchronise(tmp_path, server, rows_of(12), names(12), ["a"] * 12)
    with pytest.raises(RunError, match="not all sent"):
        MilvusIndex.load(tmp_path, server)
    caplog.set_level("INFO")
    index = MilvusIndex.synchronise(tmp_path, server, rows_of(12), names(12), ["a"] * 12)
    assert "4 sent, 0 taken out" in caplog.messages[-1]
    assert (index.search(rows_of(12), 1).rows[:, 0] == np.arange(12)).all()


@needs_server
@pytest.mark.parametrize("name", ["write_sealed", "_prepare"])
def test_a_build_of_other_settings_cut_short_goes_on(
    server: MilvusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    MilvusIndex.synchronise(tmp_path, server, rows_of(9), names(9), ["a"] * 9)
    other = rows_of(9, dimension=8)
    with monkeypatch.context() as patch:
        patch.setattr(milvus_index, name, killed)
        with pytest.raises(KeyboardInterrupt):
            MilvusIndex.synchronise(tmp_path, server, other, names(9), ["a"] * 9)
    index = MilvusIndex.synchronise(tmp_path, server, other, names(9), ["a"] * 9)
    assert (index.search(other, 1).rows[:, 0] == np.arange(9)).all()


@needs_server
def test_the_address_of_the_environment_goes_before(
    server: MilvusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = server.model_copy(update={"uri": f"http://127.0.0.1:{free_port()}"})
    monkeypatch.setenv("MILVUS_URI", server.uri)
    MilvusIndex.synchronise(tmp_path, moved, rows_of(3), names(3), ["a"] * 3)
    assert holds(tmp_path, server)


def test_too_many_neighbours(tmp_path: Path) -> None:
    index = MilvusIndex(config_of(1), "none", np.arange(3), 16)
    with pytest.raises(ConfigError, match="16384"):
        index.search(rows_of(1), 16_385)


def test_an_address_that_is_none() -> None:
    for uri in ("milvus.db", "127.0.0.1:19530", "http://", "file:///tmp/x"):
        with pytest.raises(ValidationError, match="no address of a server"):
            MilvusConfig(kind="milvus", uri=uri)
    with pytest.raises(ValidationError, match="MILVUS_TOKEN"):
        MilvusConfig(kind="milvus", uri="http://me:secret@127.0.0.1:19530")


def test_a_config_without_a_kind_is_of_faiss() -> None:
    read = TypeAdapter(AnyIndexConfig).validate_python
    assert read({"factory": "SQ8"}) == IndexConfig(factory="SQ8")
    assert read({"kind": "faiss", "factory": "SQ8"}) == IndexConfig(factory="SQ8")
    assert read({"kind": "milvus"}) == MilvusConfig(kind="milvus")
    with pytest.raises(ValidationError):
        read({"kind": "qdrant"})
