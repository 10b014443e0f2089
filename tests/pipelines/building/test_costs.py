"""What stages cost: rules of the code that they count, tried against that code."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.building.costs import (
    Work,
    dimension,
    feature_bytes,
    measured_costs,
    plain_bytes,
    row_bytes,
    stage_costs,
    svm_work,
)
from pipelines.building.index import build_run
from pipelines.config import load_config
from retrieval import threads
from retrieval.classifiers.svm import SvmConfig
from retrieval.config import SystemConfig
from retrieval.descriptors.cross_fit import PARTS
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.hog import HogConfig
from retrieval.descriptors.registry import build_extractor
from retrieval.descriptors.sample import Sample
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.photographs.table import load_data_set
from retrieval.types import unit_rows
from tests.photographs import features_of, picture
from tests.pipelines.building.test_index import config_of

WORK = Work(
    gallery=1000, bank=300, landmarks=50, numbers=1280, feature_bytes=5120.0, stored_bytes=0.0,
    milliseconds=10.0, side=448, network=True, pace=1.0, cores=2,
)  # fmt: skip


def system(**changes: object) -> SystemConfig:
    return load_config("mobilenet_v2-gem", [f"{key}={one}" for key, one in changes.items()])


def total(config: SystemConfig, work: Work) -> float:
    return sum(one.seconds for one in stage_costs(config, work))


@pytest.mark.parametrize(
    "factory", ["Flat", "SQfp16", "IVF16,Flat", "IVF16,SQ8", "OPQ16_64,IVF16,PQ16"]
)
def test_bytes_of_a_row_are_those_of_the_index(factory: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 64), dtype=np.float32)
    FaissIndex.build(rows, IndexConfig(factory=factory)).save(tmp_path)
    whole = (tmp_path / "index.faiss").stat().st_size
    assert row_bytes(factory, 64) == pytest.approx(whole / len(rows), rel=0.2)


def test_disk_is_what_a_run_takes(data: Path, tmp_path: Path) -> None:
    config, photographs = config_of("hog"), load_data_set(data)
    build_run(config, photographs, tmp_path / "run", "cpu")
    vectors = sum(one.stat().st_size for one in (tmp_path / "run/index").rglob("*.npy"))
    numbers = build_extractor(config.extractor, "cpu", 0).dimension
    work = replace(WORK, gallery=24, bank=8, landmarks=6, numbers=numbers)
    told = {one.name: one.disk for one in stage_costs(config, work)}
    index = 24 * 4 * 16
    assert told["index"] - index == pytest.approx(vectors, rel=0.2)
    learnt = sum(
        one.stat().st_size
        for name in ("whitening", "calibration")
        for one in (tmp_path / "run" / name).rglob("*.safetensors")
    )
    assert told["describer"] == pytest.approx(learnt, rel=0.2)
    plain = sum(one.stat().st_size for one in (tmp_path / "run/aggregated").rglob("*.safetensors"))
    assert plain_bytes(config, work) == pytest.approx(plain, rel=0.2)
    many = replace(work, gallery=10_000_000)
    assert plain_bytes(config, many) == 0 < plain_bytes(config, replace(work, gallery=100_000))


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"milliseconds": 20.0}, "describe"),
        ({"numbers": 2560}, "describer"),
        ({"gallery": 4000}, "classifiers"),
        ({"landmarks": 100}, "classifiers"),
        ({"stored_bytes": 1e4}, "index"),
    ],
)
def test_more_takes_longer(changes: dict[str, float], stage: str) -> None:
    more = replace(WORK, **changes)  # type: ignore[arg-type]
    for before, after in zip(stage_costs(system(), WORK), stage_costs(system(), more), strict=True):
        assert after.seconds >= before.seconds
        if before.name == stage:
            assert after.seconds > before.seconds


def test_a_machine_half_as_quick_takes_twice_as_long_to_work_things_out() -> None:
    slow = {one.name: one.seconds for one in stage_costs(system(), replace(WORK, pace=2.0))}
    quick = {one.name: one.seconds for one in stage_costs(system(), WORK)}
    assert slow["describe"] == quick["describe"]  # which is timed itself
    assert slow["describer"] == pytest.approx(2 * quick["describer"])
    assert slow["classifiers"] == pytest.approx(2 * quick["classifiers"])


def test_nothing_grows_worse_than_n_log_n() -> None:
    """From 100,000 to 5 million photographs, at 25 a landmark."""
    config = system(**{"index.factory": "auto"})
    few, many = (
        replace(WORK, gallery=n, bank=n // 10, landmarks=n // 25) for n in (100_000, 5_000_000)
    )
    for before, after in zip(stage_costs(config, few), stage_costs(config, many), strict=True):
        assert after.memory <= 60 * before.memory
        if before.name in ("describe", "describer"):
            assert after.seconds <= 50 * before.seconds * 1.01


def test_of_a_divided_index_one_shard_is_in_memory() -> None:
    work, key = replace(WORK, gallery=2_000_000), "IVF4096,SQ8"
    whole, divided = (
        stage_costs(system(**{"index.factory": key, "index.shard": one}), work)[2]
        for one in ("null", 500_000)
    )
    assert (whole.disk, whole.seconds) == (divided.disk, divided.seconds)
    numbers = dimension(system(), work)
    assert whole.memory - divided.memory == row_bytes(key, numbers) * 1_500_000


def test_an_svm_is_trained_on_a_bounded_set_where_there_are_many() -> None:
    rows, machines = svm_work(SvmConfig(), replace(WORK, gallery=40_000, landmarks=20))
    assert (rows, machines) == (40_300, 21)
    rows, machines = svm_work(SvmConfig(), replace(WORK, gallery=1_200_000, landmarks=13_000))
    assert rows == pytest.approx(1_200_000 / 13_000 + 300 + 1000 + 500)
    assert machines == 13_001


def test_local_features_are_counted_where_nothing_was_probed() -> None:
    config = load_config("rootsift-vlad", ["extractor.local.keypoints=60"])
    extractor = build_extractor(config.extractor, "cpu", 0)
    (found,) = features_of(extractor, [picture(1)])
    packed = sum(one.nbytes for one in extractor.pack([found]).values())
    assert feature_bytes(config, 0) / 60 * len(found) == pytest.approx(packed, abs=32)
    # Those that were found of resnet50-mobilenet-delf-aliked: 989 DELF's and 668 ALIKED's.
    found = load_config("resnet50-mobilenet-delf-aliked")
    assert feature_bytes(found, 4672) == pytest.approx(1.15e6, rel=0.2)
    # Features that the extractor and the local branch share are kept once.
    shared, branch = load_config("rootsift-asmk"), ["local.detector.keypoints=500"]
    counted = [feature_bytes(load_config("rootsift-asmk", more), 10) for more in ([], branch)]
    assert counted[1] - counted[0] == (counted[0] - 40) / 3
    assert feature_bytes(shared.model_copy(update={"local": None}), 10) == counted[0]


@pytest.mark.parametrize("cores", [1, 5])
def test_whitenings_beside_each_other_take_memory_each(
    cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = replace(WORK, gallery=500, bank=100, numbers=4096, cores=cores)
    config = system(**{"whitening.dimension": 64})
    monkeypatch.setattr(threads, "cores", lambda: cores)
    rows = unit_rows(np.random.default_rng(0).standard_normal((600, 4096), dtype=np.float32))
    plain = Describer(build_extractor(HogConfig(), "cpu", 0), None)
    sample = Sample([None] * 600, parts=np.arange(600) % PARTS, rows=rows)
    plain.fit_whitening(replace(sample, rows=rows[:, :9]), config.whitening, 0)  # loads libraries
    tracemalloc.start()
    try:
        plain.fit_whitening(sample, config.whitening, 0, PARTS)
        taken = rows.nbytes + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    costs = measured_costs()
    there = costs.bytes.of(work.network) + costs.bytes.row * work.photographs
    assert 0.8 * taken < stage_costs(config, work)[1].memory - there < 2 * taken


def test_views_are_described_too() -> None:
    plain = stage_costs(system(), WORK)[0].seconds
    all_viewed = {"whitening.views": 4, "whitening.viewed": WORK.photographs}
    for wanted, times in ((all_viewed, 5), ({"whitening.views": 4}, 1 + 2000 / WORK.photographs)):
        assert stage_costs(system(**wanted), WORK)[0].seconds == pytest.approx(
            times * plain, rel=0.05
        )
