"""Which system is planned, and what is given up; a probe; a plan that is built."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.building import planning, probing
from pipelines.building.costs import measured_costs
from pipelines.building.planning import (
    FEWER_NUMBERS,
    NO_VERIFICATION,
    QUANTISED,
    STAND_IN,
    Limits,
    Option,
    Wishes,
    check_room,
    choose,
    indexed,
    plan_of,
    size,
)
from pipelines.building.probing import probe_pace, probe_system
from pipelines.building.wishes import bytes_of, seconds_of
from pipelines.config import load_config
from retrieval.config import SystemConfig
from retrieval.errors import ConfigError, DecodeError
from retrieval.index.faiss_factory import IndexConfig
from retrieval.photographs.table import load_data_set
from retrieval.run import Run
from tests.pipelines.building.test_costs import WORK
from tests.pipelines.building.test_index import SMALL, config_of

AMPLE = Limits(memory=1e12, disk=1e13, seconds=None)
Landmarks = Callable[..., tuple[int, str, str]]


def option(name: str, gap: float | None, milliseconds: float, **work: Any) -> Option:
    config = load_config("mobilenet_v2-gem")
    return Option(name, gap, config, replace(WORK, milliseconds=milliseconds, **work))


GOOD, QUICK, POOR = (
    option("good", 0.96, 400.0), option("quick", 0.92, 15.0), option("poor", 0.6, 3.0),
)  # fmt: skip
ALL = (GOOD, QUICK, POOR)


@pytest.mark.parametrize(
    ("limits", "gap", "taken"),
    [
        (AMPLE, None, "good"),
        (AMPLE, 0.9, "quick"),  # the quickest of those that reach it
        (AMPLE, 0.95, "good"),
        (AMPLE, 0.5, "poor"),
        (replace(AMPLE, seconds=120.0), None, "quick"),
        (replace(AMPLE, seconds=60.0), 0.5, "poor"),
    ],
)
def test_the_best_that_fits_is_taken(limits: Limits, gap: float | None, taken: str) -> None:
    plan = choose(ALL, limits, gap)
    assert (plan.option.name, plan.given_up, plan.lacks) == (taken, (), ())


def test_a_good_system_with_less_goes_before_a_poor_one() -> None:
    good, poor = (replace(one, work=replace(one.work, landmarks=900)) for one in (QUICK, POOR))
    whole, less = (choose([good], replace(AMPLE, seconds=most), None) for most in (None, 60.0))
    assert (whole.given_up, less.given_up, less.lacks) == ((), (STAND_IN,), ())
    assert choose([good, poor], replace(AMPLE, seconds=60.0), None) == less


def test_a_gap_that_nothing_reaches_is_said() -> None:
    plan = choose(ALL, AMPLE, 0.99)
    assert plan.option.name == "good"
    assert plan.notes == ("no system that is here was measured to reach a GAP of 0.99",)


MANY = {"gallery": 1_200_000, "bank": 5000, "landmarks": 200_000}


@pytest.mark.parametrize(
    ("limits", "changes", "given_up"),
    [
        ({"seconds": 90.0}, {"gallery": 4000, "landmarks": 900}, (STAND_IN,)),
        ({"disk": 2.7e9}, MANY, (QUANTISED,)),
        ({"disk": 2.0e9}, MANY, (FEWER_NUMBERS,)),
    ],
)
def test_as_little_as_can_be_is_given_up(
    limits: dict[str, float], changes: dict[str, int], given_up: tuple[str, ...]
) -> None:
    one = option("one", 0.9, 1.0, **changes)
    plan = choose([one], replace(AMPLE, **limits), None)
    assert (plan.given_up, plan.share, plan.lacks) == (given_up, 1.0, ())
    config = plan.option.config
    assert (config.classifiers["svm"].kind == "centroid") == (STAND_IN in given_up)
    assert config.whitening is not None
    assert config.whitening.dimension == (128 if FEWER_NUMBERS in given_up else 256)
    assert config.index.factory.endswith("PQ64") == (QUANTISED in given_up)


def test_verification_is_given_up_where_it_does_not_fit() -> None:
    config = load_config("mobilenet_v2-verified")
    one = Option("one", 0.9, config, replace(WORK, stored_bytes=40_000.0, gallery=90_000))
    plan = choose([one], replace(AMPLE, disk=2e9), None)
    assert plan.given_up == (NO_VERIFICATION,)
    assert plan.option.config.search.verification is None
    assert plan.option.config.local is None
    assert plan.disk < 2e9


def test_a_share_of_the_photographs_is_taken_where_nothing_else_helps() -> None:
    one = option("one", 0.9, 100.0, gallery=1_000_000, landmarks=10_000)
    plan = choose([one], replace(AMPLE, seconds=2 * 3600.0), None)
    assert plan.share == 0.05
    assert plan.given_up[-1] == "photographs: 0.05 of every landmark's (--subset 0.05)"
    assert plan.option.config.index.factory == "Flat"  # of what is left
    assert plan.seconds <= 2 * 3600


def test_what_fits_nowhere_is_said() -> None:
    plan = choose(ALL, replace(AMPLE, memory=1e6, seconds=0.5), None)
    assert [one.partition(":")[0] for one in plan.lacks] == ["memory", "time"]


@pytest.mark.parametrize(
    ("gallery", "factory", "shard"),
    [
        (100_000, "Flat", None),
        (100_001, "IVF1024,SQ8", None),
        (1_200_000, "IVF4096,SQ8", None),
        (5_000_000, "IVF8192,SQ8", 2_000_000),
    ],
)
def test_many_photographs_have_an_inverted_file(
    gallery: int, factory: str, shard: int | None
) -> None:
    index = indexed(load_config("hog"), replace(WORK, gallery=gallery)).index
    assert isinstance(index, IndexConfig)
    assert (index.factory, index.shard) == (factory, shard)
    own = load_config("hog", ["index.factory=IVF64,Flat"])
    assert indexed(own, replace(WORK, gallery=gallery)) == own


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "DESCRIBING_SECONDS", 0.2)
    monkeypatch.setattr(probing, "MULTIPLYING_SECONDS", 0.1)


def test_a_probe_describes(data: Path) -> None:
    config = config_of("hog")
    found = probe_system(config, [str(one) for one in (data / "photos").iterdir()], "cpu")
    numbers = found.numbers
    assert (found.feature_bytes, found.side) == (4 * numbers, 128)
    assert 0.01 < found.milliseconds < 1000
    made_up = probe_system(config, [], "cpu")
    assert made_up.numbers == numbers
    assert probe_pace() > 0


def test_a_probe_of_what_cannot_be_described_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no photograph")
    with pytest.raises(DecodeError):
        probe_system(config_of("hog"), [str(tmp_path / "a.jpg")], "cpu")


def test_a_system_that_cannot_be_probed_is_planned_by_the_table(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for one in (data / "photos").iterdir():
        assert one.is_file()
    wishes = Wishes(config="mobilenet_v2-gem", weights=None, photographs=100, landmarks=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "probe_system", lambda *_: (_ for _ in ()).throw(DecodeError("x")))
        plan = plan_of(None, wishes)
    assert plan.notes == ("the time of describing is the table's: the system was not probed here",)
    assert "mobilenet_v2-gem could not be probed: x" in caplog.text


def test_what_was_probed_slower_than_the_table_says_is_chosen_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probed: list[str] = []

    def probe(config: SystemConfig, *_: object) -> probing.ProbedSystem:
        probed.append(config.name)
        return probing.ProbedSystem(1e5 if config.name == "rootsift-vlad" else 1.0, 100, 400.0, 64)

    monkeypatch.setattr(planning, "probe_system", probe)
    monkeypatch.setattr(planning, "propose", lambda facts: _ranked(facts, "rootsift-vlad", "hog"))
    plan = plan_of(None, Wishes(photographs=500, landmarks=20, seconds=600.0))
    assert probed == ["rootsift-vlad", "hog"]
    assert plan.option.name == "hog"


def _ranked(facts: Any, *names: str) -> Any:
    from pipelines.building.proposal import Proposal

    known = {one.name: one for one in facts.candidates}
    return Proposal(names[0], (), tuple(known[name] for name in names))


@pytest.mark.parametrize(
    ("wishes", "match"),
    [
        (Wishes(), "a data folder, or --photographs and --landmarks"),
        (Wishes(photographs=10, landmarks=11), "more than photographs"),
    ],
)
def test_a_plan_is_of_something(wishes: Wishes, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        plan_of(None, wishes)


def test_a_folder_says_itself_how_many_there_are(data: Path) -> None:
    with pytest.raises(ConfigError, match="says how many there are: leave out"):
        plan_of(data, Wishes(landmarks=5))


def test_wishes_are_read() -> None:
    assert (bytes_of("memory", "1.5GB"), bytes_of("disk", "2 tb")) == (1.5e9, 2e12)
    assert (seconds_of("time", "90s"), seconds_of("time", "2h")) == (90.0, 7200.0)
    assert bytes_of("memory", None) is None
    for text in ("16", "GB", "-1GB", "0GB", "1XB", "nan GB"):
        with pytest.raises(ConfigError, match=r"--memory .*: give a number and its unit"):
            bytes_of("memory", text)
    assert [size(one) for one in (1234.0, 5.6e6, 7.25e9, 1e12)] == [
        "1.23 kB", "5.6 MB", "7.25 GB", "1 TB",
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_a_build_that_cannot_end_is_refused_and_one_that_may_not_is_warned_of(
    data: Path, tmp_path: Path, what: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    config, photographs = config_of("hog"), load_data_set(data)

    def room(share: float) -> None:
        needed = planning.stage_costs(config, planned[0])
        many = (
            max(one.memory for one in needed)
            if what == "memory"
            else sum(one.disk for one in needed)
        )
        name = "memory_bytes" if what == "memory" else "_free"
        monkeypatch.setattr(planning, name, lambda *_: share * many)
        check_room(config, photographs, tmp_path / "run")

    planned: list[Any] = []
    real = planning.stage_costs
    monkeypatch.setattr(planning, "stage_costs", lambda c, w: planned.append(w) or real(c, w))
    check_room(config, photographs, tmp_path / "run")
    room(1.1)
    assert not caplog.records
    room(0.9)
    assert re.search(f"the build may not end: it takes some .* of {what} for 32", caplog.text)
    with pytest.raises(ConfigError, match=f"cannot end: it takes some .* of {what} for 32 photo"):
        room(0.5)


@pytest.mark.slow
def test_a_plan_is_told_written_and_built(
    landmarks: Landmarks, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    written = tmp_path / "mine.yaml"
    small = [one for key in SMALL["hog"] for one in ("--set", key)]
    code, _, err = landmarks("plan", data, "--config", "hog", *small, "--device", "cpu",
                             "--memory", "16GB", "--write", written)  # fmt: skip
    assert code == 0, err
    for told in ("hog, GAP 0.427", "24 of 6 landmarks, 8 of none", "Flat", "fitting classifiers",
                 "in all", f"landmarks index --config {written} --data {data}"):  # fmt: skip
        assert told in err
    code, _, err = landmarks("index", "--config", written, "--data", data, "--device", "cpu",
                             "--run", tmp_path / "run")  # fmt: skip
    assert code == 0, err
    record, config = Run(tmp_path / "run").read_finished()
    assert record["finished"]
    assert config == config_of("hog")
    code, _, err = landmarks("plan", data, "--config", "hog", "--device", "cpu", "--memory", "1MB")
    assert code == 1
    assert "does not fit: memory: " in err
    code, _, err = landmarks("plan", data, "--config", "hog", "--photographs", 9)
    assert code == 2
    assert f"{data} says how many there are: leave out --photographs" in err
    code, _, err = landmarks("plan", data, "--config", "hog", "--write", written)
    assert (code, err.count("\n")) == (2, 1)
    assert "is there already" in err


@pytest.mark.parametrize(
    ("gallery", "index"),
    [
        (
            "1,200,000",
            "IVF4096,SQ8, nprobe 64; of 1,200,000 rows it found 0.932 of the ten nearest",
        ),
        ("5,000,000", "nprobe 64, 2,000,000 rows a shard; of 5,000,000 rows it found 0.687"),
    ],
)
def test_numbers_alone_are_enough(landmarks: Landmarks, gallery: str, index: str) -> None:
    count = int(gallery.replace(",", ""))
    code, _, err = landmarks(
        "plan", "--photographs", count, "--landmarks", 13_000, "--config", "hog", "--device",
        "cpu", "--memory", "64GB", "--disk", "1TB",
    )  # fmt: skip
    assert code == 0, err
    assert f"{gallery} of 13,000 landmarks, {count // 10:,} of none" in err
    assert index in " ".join(err.split())
    assert measured_costs().recall_of(4_000_000, 64) == (5_000_000, 0.687)
    assert measured_costs().recall_of(100, 7) == (100_000, None)
    assert np.all([word in err for word in ("hours", "GB")])
