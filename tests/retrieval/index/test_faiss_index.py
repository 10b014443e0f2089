"""The index against brute force, on disk and at its limits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from retrieval.errors import ConfigError, DeviceError, RunError
from retrieval.index import faiss_exact, faiss_factory, faiss_index
from retrieval.index.blocks import RowBlocks
from retrieval.index.faiss_factory import GPU_CODE_BYTES, IndexConfig, check_limits, resolve_factory
from retrieval.index.faiss_index import FaissIndex
from retrieval.storage.fingerprint import checksum
from retrieval.vectors.clustering import assign, train_kmeans
from retrieval.vectors.gpu import gpu_problem

Rows = NDArray[np.float32]


def unit_rows(count: int, dimension: int, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(gallery: Rows, queries: Rows, k: int) -> tuple[NDArray[np.int64], Rows]:
    """One product at a time, sorted by similarity and then row, padded to k."""
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    similarities = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for q, query in enumerate(queries):
        found = [float(np.dot(row, query)) for row in gallery]
        best = sorted(range(len(gallery)), key=lambda row: (-found[row], row))[:k]
        rows[q, : len(best)] = best
        similarities[q, : len(best)] = [found[row] for row in best]
    return rows, similarities


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Training on tiny samples is many tiny steps; several threads on busy cores make it crawl."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 40),
    queries=st.integers(0, 9),
    k=st.integers(1, 60),
    batch=st.integers(1, 10),
    seed=st.integers(0, 2**16),
)
def test_flat_search_is_brute_force(
    count: int, queries: int, k: int, batch: int, seed: int
) -> None:
    gallery, asked = unit_rows(count, 8, seed), unit_rows(queries, 8, seed + 1)
    index = FaissIndex.build(gallery, IndexConfig(batch=batch))
    found = index.search(asked, k)
    rows, similarities = brute_force(gallery, asked, k)
    assert found.rows.dtype == np.int64
    assert found.similarities.dtype == np.float32
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.similarities, similarities, atol=1e-6)


def test_equal_rows_tie_exactly_and_come_in_order() -> None:
    gallery = np.tile(unit_rows(7, 32), (30, 1))
    found = FaissIndex.build(gallery, IndexConfig()).search(unit_rows(5, 32, 1), len(gallery))
    for rows, similarities in zip(found.rows, found.similarities, strict=True):
        for copies in range(0, len(gallery), 30):
            assert len(set(similarities[copies : copies + 30])) == 1
            assert list(rows[copies : copies + 30]) == sorted(rows[copies : copies + 30])


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 40), k=st.integers(1, 45), cached=st.integers(1, 12))
def test_blocks_of_the_gallery_are_merged(count: int, k: int, cached: int) -> None:
    gallery, asked = unit_rows(count, 8, count), unit_rows(4, 8, k)
    gallery[count // 2 :] = gallery[: count - count // 2].copy()  # ties across blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_exact, "_CACHED_BYTES", cached * 32)
        found = FaissIndex.build(gallery, IndexConfig()).search(asked, k)
    _, similarities = brute_force(gallery, asked, k)
    np.testing.assert_allclose(found.similarities, similarities, atol=1e-6)
    for query, rows, values in zip(asked, found.rows, found.similarities, strict=True):
        there = rows[rows >= 0]
        assert len(set(there)) == min(k, count)
        np.testing.assert_allclose(gallery[there] @ query, values[: len(there)], atol=1e-6)
        tied = np.diff(values[: len(there)]) == 0
        assert np.all(np.diff(there)[tied] > 0)


def test_small_flat_search_has_the_same_bits_in_every_batch() -> None:
    # Large enough that FAISS alone would take matrix products, and another for a lone query.
    gallery, asked = unit_rows(12_000, 256), unit_rows(600, 256, 1)
    alone = FaissIndex.build(gallery, IndexConfig(batch=1)).search(asked[:40], 5)
    faiss.omp_set_num_threads(2)
    together = FaissIndex.build(gallery, IndexConfig(batch=1024)).search(asked, 5)
    np.testing.assert_array_equal(together.similarities[:40], alone.similarities)
    np.testing.assert_array_equal(together.rows[:40], alone.rows)


def test_exact_search_puts_the_threshold_back() -> None:
    before = faiss.cvar.distance_compute_blas_threshold
    FaissIndex.build(unit_rows(5, 4), IndexConfig()).search(unit_rows(2, 4), 1)
    assert faiss.cvar.distance_compute_blas_threshold == before


def test_lists_that_yield_too_few_are_masked() -> None:
    gallery = unit_rows(200, 16)
    found = FaissIndex.build(gallery, IndexConfig(factory="IVF16,Flat", nprobe=1)).search(
        unit_rows(20, 16, 1), 100
    )
    missing = found.rows < 0
    assert missing.any()
    assert np.all(np.isneginf(found.similarities[missing]))
    assert np.all(np.isfinite(found.similarities[~missing]))
    assert np.all(np.diff(missing.astype(int), axis=1) >= 0), "what is missing comes last"
    assert np.all(np.diff(np.nan_to_num(found.similarities, neginf=-2), axis=1) <= 0)


def test_visiting_every_list_finds_what_brute_force_finds() -> None:
    gallery, asked = unit_rows(300, 16), unit_rows(10, 16, 1)
    found = FaissIndex.build(gallery, IndexConfig(factory="IVF8,Flat", nprobe=99)).search(asked, 9)
    np.testing.assert_array_equal(found.rows, brute_force(gallery, asked, 9)[0])


def test_nprobe_is_used() -> None:
    gallery, asked = unit_rows(2000, 32), unit_rows(50, 32, 1)
    truth = FaissIndex.build(gallery, IndexConfig()).search(asked, 1).rows
    recalls = [
        np.mean(
            FaissIndex.build(gallery, IndexConfig(factory="IVF64,Flat", nprobe=nprobe))
            .search(asked, 1)
            .rows
            == truth
        )
        for nprobe in (1, 16, 64)
    ]
    assert recalls[0] < recalls[1] < recalls[2] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "factory", ["IVF16,Flat", "IVF16,SQ8", "IVF16,PQ8x4", "PCA16,IVF8,Flat", "SQ8"]
)
def test_blocks_and_array_build_the_same_index(factory: str) -> None:
    gallery = unit_rows(900, 32)
    blocks = [gallery[:1], gallery[1:500], gallery[500:500], gallery[500:]]
    config = IndexConfig(factory=factory, nprobe=16)
    whole, parts = (FaissIndex.build(given, config, seed=3) for given in (gallery, blocks))
    asked = unit_rows(20, 32, 1)
    np.testing.assert_array_equal(whole.search(asked, 10).rows, parts.search(asked, 10).rows)
    assert len(whole) == len(parts) == 900
    assert whole.dimension == 32


def test_seed_decides_the_lists() -> None:
    gallery, asked = unit_rows(1500, 16), unit_rows(100, 16, 1)
    config = IndexConfig(factory="IVF32,Flat", nprobe=1)
    found = [
        FaissIndex.build(gallery, config, seed=seed).search(asked, 5).rows for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.any(found[0] != found[2])


def test_training_sample_is_bounded_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Rows] = []
    gallery = unit_rows(5000, 8)
    monkeypatch.setattr(faiss_factory, "_LEAST_SAMPLE", 1)
    monkeypatch.setattr(faiss.IndexIVFFlat, "train", lambda self, rows: trained.append(rows))
    index = faiss.index_factory(8, "IVF16,Flat", faiss.METRIC_INNER_PRODUCT)
    faiss_index._train(index, "IVF16,Flat", RowBlocks(gallery), seed=0)
    (sample,) = trained
    assert sample.shape == (640, 8)
    positions = [int(np.flatnonzero((gallery == row).all(axis=1))[0]) for row in sample]
    assert len(set(positions)) == 640
    assert min(positions) < 500
    assert max(positions) > 4500


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "IVF16,SQ8", "OPQ2_16,IVF16,PQ4x2"])
def test_save_and_load(tmp_path: Path, factory: str) -> None:
    gallery, asked = unit_rows(600, 32), unit_rows(30, 32, 1)
    config = IndexConfig(factory=factory, nprobe=5, batch=7)
    built = FaissIndex.build(gallery, config)
    built.save(tmp_path / "index", fingerprint="abc")
    loaded = FaissIndex.load(tmp_path / "index", fingerprint="abc")
    assert (loaded.config, loaded.factory, len(loaded)) == (config, factory, 600)
    before, after = built.search(asked, 10), loaded.search(asked, 10)
    np.testing.assert_array_equal(before.rows, after.rows)
    np.testing.assert_array_equal(before.similarities, after.similarities)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "index.faiss",
        "index.json",
    ]


def test_saving_over_an_open_index_leaves_it_readable(tmp_path: Path) -> None:
    gallery, asked = unit_rows(500, 32), unit_rows(5, 32, 1)
    FaissIndex.build(gallery, IndexConfig()).save(tmp_path)
    opened = FaissIndex.load(tmp_path)
    before = opened.search(asked, 3)
    FaissIndex.build(unit_rows(1000, 32, 2), IndexConfig()).save(tmp_path)
    np.testing.assert_array_equal(opened.search(asked, 3).rows, before.rows)
    assert len(FaissIndex.load(tmp_path)) == 1000


@pytest.mark.parametrize(
    ("factory", "least", "most"),
    [
        ("Flat", 128, 128),
        ("SQ8", 32, 32),
        ("IVF16,SQ8", 33, 33),
        ("IVF16,PQ8x4", 5, 5),
        ("HNSW8,Flat", 192, 256),
    ],
)
def test_bytes_of_a_row(factory: str, least: int, most: int) -> None:
    index = FaissIndex.build(unit_rows(600, 32), IndexConfig(factory=factory))
    assert least <= index.bytes_per_row <= most


def saved(folder: Path) -> Path:
    FaissIndex.build(unit_rows(50, 8), IndexConfig()).save(folder, fingerprint="abc")
    return folder


def edit(folder: Path, **changes: object) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_flipped_byte_is_damage(tmp_path: Path) -> None:
    path = saved(tmp_path) / "index.faiss"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"index\.faiss: missing or damaged"):
        FaissIndex.load(tmp_path)


def test_cut_off_file_is_damage(tmp_path: Path) -> None:
    path = saved(tmp_path) / "index.faiss"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RunError, match=r"index\.faiss: missing or damaged"):
        FaissIndex.load(tmp_path)


@pytest.mark.parametrize("name", ["index.faiss", "index.json"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (saved(tmp_path) / name).unlink()
    with pytest.raises(RunError, match=name):
        FaissIndex.load(tmp_path)


def test_damaged_sidecar_is_named(tmp_path: Path) -> None:
    (saved(tmp_path) / "index.json").write_text("{")
    with pytest.raises(RunError, match=r"index\.json: damaged"):
        FaissIndex.load(tmp_path)


@pytest.mark.parametrize("change", [{"count": 51}, {"dimension": 9}])
def test_sidecar_of_another_index_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    edit(saved(tmp_path), **change)
    with pytest.raises(RunError, match="belongs to another"):
        FaissIndex.load(tmp_path)


def test_other_fingerprint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="other inputs"):
        FaissIndex.load(saved(tmp_path), fingerprint="abd")


def test_file_of_a_newer_faiss_names_both_versions(tmp_path: Path) -> None:
    path = saved(tmp_path) / "index.faiss"
    path.write_bytes(b"from the future" * 10)
    edit(tmp_path, checksum=checksum(path), faiss="9.9.9")
    with pytest.raises(RunError, match=rf"{faiss.__version__} cannot read what FAISS 9\.9\.9"):
        FaissIndex.load(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_rows_are_refused_by_position(value: float) -> None:
    gallery = unit_rows(100, 8)
    broken = gallery.copy()
    broken[73, 3] = value
    with pytest.raises(RunError, match="descriptor 73 "):
        FaissIndex.build([broken[:40], broken[40:]], IndexConfig())
    with pytest.raises(RunError, match="descriptor 73 "):
        FaissIndex.build(gallery, IndexConfig(batch=10)).search(broken, 1)


def test_other_dimension_is_refused() -> None:
    index = FaissIndex.build(unit_rows(20, 8), IndexConfig())
    with pytest.raises(RunError, match="index of 8 dimensions"):
        index.search(unit_rows(2, 9), 1)


def test_no_rows_at_all_and_too_few_to_train_on() -> None:
    with pytest.raises(RunError, match="no descriptors"):
        FaissIndex.build([], IndexConfig())
    with pytest.raises(RunError, match=r'"IVF64,Flat" needs at least 64 rows .* there are 50'):
        FaissIndex.build(unit_rows(50, 8), IndexConfig(factory="IVF64,Flat"))
    with pytest.raises(RunError, match="at least 256 rows"):
        FaissIndex.build(unit_rows(50, 8), IndexConfig(factory="IVF4,PQ4"))
    with pytest.raises(RunError, match='no "PQ5x4" index of 8 dimensions'):
        FaissIndex.build(unit_rows(50, 8), IndexConfig(factory="PQ5x4"))


def test_generator_of_blocks_is_refused() -> None:
    with pytest.raises(TypeError, match="more than once"):
        FaissIndex.build(iter([unit_rows(5, 8)]), IndexConfig())


@pytest.mark.parametrize(
    ("rows", "factory"),
    [
        (0, "Flat"),
        (100_000, "Flat"),
        (100_001, "IVF1024,Flat"),
        (500_000, "IVF2048,Flat"),
        (999_999, "IVF4096,Flat"),
        (1_200_000, "IVF4096,Flat"),
        (9_000_000, "IVF16384,Flat"),
        (10_000_000, "IVF65536,Flat"),
        (300_000_000, "IVF131072,Flat"),
    ],
)
def test_auto_follows_the_rule(rows: int, factory: str) -> None:
    assert resolve_factory("auto", rows) == factory
    assert resolve_factory("IVF7,SQ8", rows) == "IVF7,SQ8"


def test_auto_is_resolved_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(faiss_factory, "SMALL", 99)
    gallery = unit_rows(200, 8)
    small = FaissIndex.build(gallery[:99], IndexConfig(factory="auto"))
    large = FaissIndex.build(gallery, IndexConfig(factory="auto"))
    assert (small.factory, large.factory) == ("Flat", "IVF64,Flat")
    large.save(tmp_path)
    assert FaissIndex.load(tmp_path).factory == "IVF64,Flat"


@pytest.mark.parametrize(
    "factory", ["", "Flatt", "IVG64,Flat", "IVF0,Flat", "LSH", "IVF2000000000,SQ8"]
)
def test_unknown_factory_is_refused_with_the_config(factory: str) -> None:
    with pytest.raises(ValidationError, match="no FAISS factory key"):
        IndexConfig(factory=factory)


@pytest.mark.parametrize("wrong", [{"nprobe": 0}, {"batch": 0}, {"nprob": 3}, {"nprobe": "3"}])
def test_config_is_strict(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        IndexConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("config", "k", "words"),
    [
        (IndexConfig(), 2049, "k is 2049"),
        (IndexConfig(factory="IVF4096,Flat", nprobe=2049), 1, "nprobe is 2049"),
        (IndexConfig(factory="OPQ60_240,IVF64,PQ60"), 1, "codes of 8 bits"),
        (IndexConfig(factory="IVF64,PQ32x4"), 1, "codes of 8 bits"),
    ],
)
def test_gpu_limits_hold_on_the_gpu_alone(config: IndexConfig, k: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_limits(config, k, "cuda")
    check_limits(config, k, "cpu")


@pytest.mark.parametrize("size", GPU_CODE_BYTES)
def test_gpu_code_sizes_that_are_allowed(size: int) -> None:
    check_limits(IndexConfig(factory=f"OPQ{size}_{13_440},IVF64,PQ{size}"), 2048, "cuda")


def test_no_neighbours_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        FaissIndex.build(unit_rows(5, 4), IndexConfig()).search(unit_rows(1, 4), 0)


def test_unknown_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="choose cpu or cuda"):
        FaissIndex.build(unit_rows(5, 4), IndexConfig(), device="gpu")


def test_cuda_without_gpu_code_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    with pytest.raises(DeviceError, match="pip install faiss-gpu"):
        FaissIndex.build(unit_rows(5, 4), IndexConfig(), device="cuda")


def test_cuda_without_a_gpu_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    saved(tmp_path)
    with pytest.raises(DeviceError, match=r"nvidia-smi .* --device cpu"):
        FaissIndex.load(tmp_path, device="cuda")


needs_gpu = pytest.mark.skipif(gpu_problem() is not None, reason=f"needs a GPU: {gpu_problem()}")


@needs_gpu
@pytest.mark.parametrize(
    "factory", ["Flat", "IVF16,Flat", "IVF16,SQ8", "OPQ8_16,IVF16,PQ8", "IVF4,PQ64"]
)
def test_gpu_agrees_with_the_cpu(tmp_path: Path, factory: str) -> None:
    gallery, asked = unit_rows(2000, 64), unit_rows(50, 64, 1)
    config = IndexConfig(factory=factory, nprobe=16)
    on_gpu = FaissIndex.build(gallery, config, device="cuda", seed=1)
    on_gpu.save(tmp_path)
    for other in (FaissIndex.load(tmp_path), FaissIndex.load(tmp_path, device="cuda")):
        here, there = on_gpu.search(asked, 10), other.search(asked, 10)
        assert np.mean(here.rows == there.rows) > 0.9
        np.testing.assert_allclose(here.similarities, there.similarities, atol=0.02)
    assert on_gpu.search(asked, 2048).rows[0, -1] == -1


@needs_gpu
def test_index_kinds_without_gpu_code_are_refused() -> None:
    with pytest.raises(ConfigError, match="on the CPU alone"):
        FaissIndex.build(unit_rows(100, 8), IndexConfig(factory="HNSW8,Flat"), device="cuda")


def test_kmeans_finds_clusters_and_repeats() -> None:
    centres = 10 * unit_rows(6, 16)
    rng = np.random.default_rng(0)
    samples = np.repeat(centres, 40, axis=0) + 0.1 * rng.standard_normal((240, 16))
    samples = samples.astype(np.float32)
    words = train_kmeans(samples, 6, seed=4, iterations=25)
    assert (words.shape, words.dtype) == ((6, 16), np.float32)
    np.testing.assert_array_equal(words, train_kmeans(samples, 6, seed=4, iterations=25))
    nearest = assign(samples, words)
    slow = [int(np.argmin(((words - sample) ** 2).sum(axis=1))) for sample in samples]
    np.testing.assert_array_equal(nearest, slow)
    for word in range(6):
        if np.any(nearest == word):
            np.testing.assert_allclose(words[word], samples[nearest == word].mean(0), atol=1e-3)


def test_kmeans_uses_every_sample(capfd: pytest.CaptureFixture[str]) -> None:
    # FAISS alone would draw 256 samples a word, and warn of fewer than 39.
    samples = np.concatenate([np.zeros((900, 2)), np.ones((100, 2))]).astype(np.float32)
    np.testing.assert_allclose(train_kmeans(samples, 1, seed=0), [[0.1, 0.1]], atol=1e-6)
    train_kmeans(samples[:50], 2, seed=0)
    assert capfd.readouterr().err == ""


def test_kmeans_refuses_what_it_cannot_use() -> None:
    with pytest.raises(RunError, match="there are 5"):
        train_kmeans(unit_rows(5, 4), 6, seed=0)
    with pytest.raises(RunError, match="not finite"):
        train_kmeans(np.full((5, 4), np.nan, dtype=np.float32), 2, seed=0)


def test_assigning_no_points() -> None:
    assert assign(np.zeros((0, 4), dtype=np.float32), unit_rows(3, 4)).shape == (0,)


IMPORT_ORDERS = [
    "import retrieval, torch, cv2, sklearn.svm",
    "import sklearn.svm, cv2, torch, retrieval",
]
SEARCH_AND_MULTIPLY = """
import numpy as np, torch
from retrieval.index.faiss_factory import GPU_CODE_BYTES, IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.vectors.clustering import train_kmeans
rows = np.random.default_rng(0).standard_normal((3000, 64)).astype("f4")
train_kmeans(rows, 16, seed=0)
FaissIndex.build(rows, IndexConfig(factory="IVF16,Flat")).search(rows[:500], 5)
(torch.from_numpy(rows) @ torch.from_numpy(rows).T).sum()
print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("imports", IMPORT_ORDERS)
def test_faiss_and_torch_live_together(imports: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{SEARCH_AND_MULTIPLY}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr


@pytest.mark.slow
def test_the_package_imports_neither_faiss_nor_torch_and_faiss_before_torch() -> None:
    code = "import sys, retrieval; print('faiss' in sys.modules, 'torch' in sys.modules);"
    code += "import torch; print(*[m for m in sys.modules if m in ('faiss', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert done.stdout.split() == [b"False", b"False", b"faiss", b"torch"]
