"""An index that is divided into shards, beside the undivided one of the same training."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest

from retrieval.errors import RunError
from retrieval.index import faiss_files
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.faiss_shards import shards_of
from retrieval.index.neighbours import Neighbours
from retrieval.vectors import gpu
from tests.retrieval.index.test_faiss_index import unit_rows

KINDS = ["Flat", "SQ8", "PQ4x4", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ4x4", "L2norm,IVF8,SQ8"]
CONFIG = IndexConfig(factory="IVF8,SQ8", nprobe=3, shard=300)


def same(one: Neighbours, other: Neighbours) -> None:
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_allclose(one.similarities, other.similarities, atol=1e-6)


def sizes(index: FaissIndex) -> list[int]:
    return [int(one.ntotal) for one in shards_of(index.index)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("factory", KINDS)
@pytest.mark.parametrize("shard", [7, 300, 999, 1000, 5000])
def test_shards_find_what_an_undivided_index_finds(factory: str, shard: int) -> None:
    gallery, asked = unit_rows(1000, 16), unit_rows(40, 16, 1)
    gallery[700] = gallery[100]  # a tie between two shards
    whole = FaissIndex.build(gallery, IndexConfig(factory=factory, nprobe=3))
    divided = FaissIndex.build(
        [gallery[:450], gallery[450:]], IndexConfig(factory=factory, nprobe=3, shard=shard)
    )
    full, rest = divmod(1000, shard)
    assert sizes(divided) == [shard] * full + [rest] * (rest > 0)
    assert (len(divided), divided.dimension) == (1000, 16)
    assert divided.bytes_per_row == whole.bytes_per_row
    for k in (1, 10, 700, 1200):
        same(divided.search(asked, k), whole.search(asked, k))
    same(divided.search(gallery[100:101], 2), whole.search(gallery[100:101], 2))


def test_one_shard_is_in_memory_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: weakref.WeakSet[Any] = weakref.WeakSet()
    write, alive = faiss_files._write_shard, []

    def seen(make: Callable[..., Any]) -> Callable[..., Any]:
        def making(*told: Any) -> Any:
            index = make(*told)
            if len(told) == 1:  # a file that is mapped comes with a flag
                made.add(index)
            return index

        return making

    def written(path: Path, index: Any) -> None:
        alive.append(len(made))
        write(path, index)

    for name in ("clone_index", "deserialize_index", "read_index"):
        monkeypatch.setattr(faiss, name, seen(getattr(faiss, name)))
    monkeypatch.setattr(faiss_files, "_write_shard", written)
    gallery, asked = unit_rows(1000, 16), unit_rows(9, 16, 1)
    built = FaissIndex.build_into(tmp_path / "a", gallery, CONFIG, fingerprint="abc")
    assert alive == [1, 1, 1, 1]
    FaissIndex.build(gallery, CONFIG).save(tmp_path / "b", "abc")
    assert files(tmp_path / "a") == [*(f"index-{one:03d}.faiss" for one in range(4)), "index.json"]
    for name in files(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = FaissIndex.load(tmp_path / "a", fingerprint="abc")
    assert (loaded.config, sizes(loaded)) == (CONFIG, [300, 300, 300, 100])
    same(loaded.search(asked, 20), built.search(asked, 20))
    alive.clear()
    left = np.arange(1000) % 400 > 0  # each shard but the last loses a row
    FaissIndex.update_into(tmp_path / "c", tmp_path / "a", left, gallery[:650])
    assert alive == [1, 1, 1, 1, 1, 1]


def test_files_of_another_division_go(tmp_path: Path) -> None:
    gallery = unit_rows(1000, 16)
    for shard, many in ((300, 4), (None, 1), (500, 2)):
        FaissIndex.build_into(tmp_path, gallery, CONFIG.model_copy(update={"shard": shard}))
        assert len(files(tmp_path)) == many + 1
        assert len(FaissIndex.load(tmp_path)) == 1000
    FaissIndex.remove(tmp_path)
    assert not files(tmp_path)


def test_shards_that_nothing_changes_are_linked(tmp_path: Path) -> None:
    gallery, more = unit_rows(1000, 16), unit_rows(500, 16, 1)
    FaissIndex.build_into(tmp_path / "a", gallery, CONFIG)
    left = np.ones(1000, np.bool_)
    left[[310, 311, 950]] = False
    updated = FaissIndex.update_into(
        tmp_path / "b", tmp_path / "a", left, [more[:20], more[20:]], lambda: "abc"
    )
    assert sizes(updated) == [300, 298, 300, 300, 299]
    before, after = (
        [(tmp_path / one / f"index-{number:03d}.faiss").stat().st_ino for number in range(4)]
        for one in ("a", "b")
    )
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        True, False, True, False,
    ]  # fmt: skip
    fresh = FaissIndex.build(gallery, CONFIG)
    oracle = shards_of(fresh.index)[0]
    oracle.reset()  # which keeps what was trained
    oracle.add(np.concatenate([gallery[left], more]))
    whole = FaissIndex(oracle, CONFIG, CONFIG.factory, "cpu")
    asked = unit_rows(30, 16, 2)
    same(updated.search(asked, 25), whole.search(asked, 25))
    same(FaissIndex.load(tmp_path / "b", fingerprint="abc").search(asked, 25),
         whole.search(asked, 25))  # fmt: skip
    # A shard may lose all of its rows.
    emptied = FaissIndex.update_into(tmp_path / "c", tmp_path / "a", np.arange(1000) >= 600, [])
    assert sizes(emptied) == [0, 0, 300, 100]
    assert emptied.search(gallery[600:601], 1).rows.tolist() == [[0]]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    FaissIndex.build_into(tmp_path, unit_rows(1000, 16), CONFIG)
    path = tmp_path / "index-002.faiss"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"index-002\.faiss: missing or damaged"):
        FaissIndex.load(tmp_path)
    path.unlink()
    with pytest.raises(RunError, match=r"index-002\.faiss: missing or damaged"):
        FaissIndex.load(tmp_path)


def test_shards_lie_in_the_folder(tmp_path: Path) -> None:
    FaissIndex.build_into(tmp_path, unit_rows(1000, 16), CONFIG)
    path = tmp_path / "index.json"
    told = json.loads(path.read_text())
    told["shards"] = {"../index-000.faiss": next(iter(told["shards"].values()))}
    path.write_text(json.dumps(told))
    with pytest.raises(RunError, match=r"index\.json: damaged"):
        FaissIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("gpus", "dealt", "threaded"), [(4, [0, 1, 2, 3], True), (2, [0, 1, 0, 1], False)]
)
def test_gpus_are_dealt_shards_in_turn(
    gpus: int, dealt: list[int], threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs that are made up: what goes there stays on the CPU."""
    told: list[int] = []

    def moved(resources: Any, number: int, index: Any, options: Any) -> Any:
        told.append(number)
        return index

    pretended = {
        "get_num_gpus": lambda: gpus,
        "StandardGpuResources": lambda: SimpleNamespace(setTempMemory=lambda size: None),
        "GpuClonerOptions": SimpleNamespace,
        "isGpuIndexImplemented": lambda index: True,
        "index_cpu_to_gpu": moved,
        "index_gpu_to_cpu": lambda index: index,
    }

    class Asked(faiss.IndexShards):  # type: ignore[misc]
        def __init__(self, dimension: int, side_by_side: bool, successive: bool):
            assert side_by_side == threaded
            super().__init__(dimension, side_by_side, successive)

    monkeypatch.setattr(faiss, "IndexShards", Asked)
    for name, one in pretended.items():
        monkeypatch.setattr(faiss, name, one, raising=False)
    monkeypatch.setattr(gpu, "_gpu_resources", gpu._gpu_resources.__wrapped__)
    gallery, asked = unit_rows(1000, 16), unit_rows(9, 16, 1)
    index = FaissIndex.build(gallery, CONFIG, "cuda")
    assert told == [0, *dealt]  # it is trained on the first
    same(index.search(asked, 20), FaissIndex.build(gallery, CONFIG).search(asked, 20))
