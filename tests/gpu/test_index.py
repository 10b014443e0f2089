"""FAISS on the GPU beside FAISS on the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from retrieval.devices import gpu_mistake
from retrieval.errors import ConfigError
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.vectors.clustering import train_kmeans

Rows = NDArray[np.float32]
IVF = ["IVF64,Flat", "IVF64,SQ8", "IVF64,PQ16"]
ALL = ["Flat", "SQfp16", *IVF]


def clustered(count: int, seed: int) -> Rows:
    """Unit rows (count, 64) around 200 centres, so that lists and codes mean something."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((200, 64))
    rows = centres[random.integers(200, size=count)] + 0.7 * random.standard_normal((count, 64))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


GALLERY, QUERIES = clustered(20_000, 1), clustered(200, 3)
EXACT = np.argsort(-(QUERIES @ GALLERY.T), axis=1, kind="stable")[:, :10]


def recall(wanted: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    """The share of the wanted rows (q, k) that were found, in any order."""
    hits = [len(np.intersect1d(a, b)) for a, b in zip(wanted, found, strict=True)]
    return sum(hits) / wanted.size


def built(factory: str, device: str, nprobe: int = 8) -> FaissIndex:
    return FaissIndex.build(GALLERY, IndexConfig(factory=factory, nprobe=nprobe), device)


def test_a_flat_index_finds_the_processors_rows() -> None:
    on_cpu, on_gpu = (built("Flat", device).search(QUERIES, 50) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu.similarities, on_cpu.similarities, atol=1e-5)
    # Where they differ, two rows are as similar to the last bits.
    q, place = np.nonzero(on_gpu.rows != on_cpu.rows)
    other = np.einsum("ij,ij->i", QUERIES[q], GALLERY[on_gpu.rows[q, place]])
    np.testing.assert_allclose(other, on_cpu.similarities[q, place], atol=1e-6)
    assert len(q) < 0.01 * on_cpu.rows.size


@pytest.mark.parametrize("factory", ["SQfp16", *IVF])
def test_other_indices_find_as_much_as_on_the_processor(factory: str) -> None:
    on_cpu, on_gpu = (built(factory, device).search(QUERIES, 10) for device in ("cpu", "cuda"))
    assert recall(EXACT, on_gpu.rows) == pytest.approx(recall(EXACT, on_cpu.rows), abs=0.01)


@pytest.mark.parametrize("factory", ALL)
def test_what_the_gpu_saved_is_found_on_both(factory: str, tmp_path: Path) -> None:
    index = built(factory, "cuda")
    index.save(tmp_path, "mark")
    before = index.search(QUERIES, 10)
    for device in ("cuda", "cpu"):
        loaded = FaissIndex.load(tmp_path, device, "mark")
        assert (len(loaded), loaded.dimension, loaded.device) == (20_000, 64, device)
        assert loaded.bytes_per_row == index.bytes_per_row
        assert recall(before.rows, loaded.search(QUERIES, 10).rows) > 0.99


@pytest.mark.parametrize("factory", ALL)
def test_shards_are_dealt_out_to_the_gpus(factory: str, tmp_path: Path) -> None:
    whole = built(factory, "cuda").search(QUERIES, 10)
    config = IndexConfig(factory=factory, nprobe=8, shard=7_000)
    index = FaissIndex.build(GALLERY, config, "cuda")
    index.save(tmp_path)
    for one in (index, *(FaissIndex.load(tmp_path, device) for device in ("cuda", "cpu"))):
        assert len(one) == 20_000
        assert recall(whole.rows, one.search(QUERIES, 10).rows) > 0.98


def test_two_thousand_and_forty_eight_are_the_most() -> None:
    index = built("Flat", "cuda")
    found = index.search(QUERIES[:5], 2048)
    assert (found.rows >= 0).all()
    assert (np.diff(found.similarities) <= 0).all()
    with pytest.raises(ConfigError, match="k is 2049, and FAISS on a GPU does at most 2048"):
        index.search(QUERIES[:5], 2049)
    many = FaissIndex.build(GALLERY, IndexConfig(factory="IVF2048,Flat", nprobe=2048), "cuda")
    assert recall(EXACT, many.search(QUERIES, 10).rows) > 0.999
    with pytest.raises(ConfigError, match="nprobe is 2049"):
        FaissIndex.build(GALLERY, IndexConfig(factory="IVF2048,Flat", nprobe=2049), "cuda")


@pytest.mark.parametrize("factory", ["HNSW16", "SQ8", "SQ4"])
def test_what_the_gpu_lacks_is_refused(factory: str) -> None:
    with pytest.raises(ConfigError, match="on the CPU alone"):
        built(factory, "cuda")


def test_kmeans_comes_as_near_as_on_the_processor() -> None:
    def spread(centroids: Rows) -> float:
        return float(((GALLERY[:, None] - centroids) ** 2).sum(axis=2).min(axis=1).mean())

    on_cpu, on_gpu = (train_kmeans(GALLERY, 32, 0, device) for device in ("cpu", "cuda"))
    assert on_gpu.shape == (32, 64)
    assert spread(on_gpu) == pytest.approx(spread(on_cpu), rel=0.02)


def test_too_little_memory_is_one_line() -> None:
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - (1 << 30), dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(RuntimeError) as caught:
            # 2 GB of rows: one block, again and again.
            FaissIndex.build([np.tile(GALLERY, (4, 1))] * 100, IndexConfig(), "cuda")
    finally:
        del taken
        torch.cuda.empty_cache()
    message = gpu_mistake(caught.value)
    assert message is not None
    assert message.startswith("the GPU's memory ran out")
    assert "\n" not in message
    assert recall(EXACT, built("Flat", "cuda").search(QUERIES, 10).rows) > 0.99
