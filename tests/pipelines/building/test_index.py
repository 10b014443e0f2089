"""Runs: built, built again, killed, changed, added to and taken from."""

from __future__ import annotations

import csv
import fcntl
import json
import logging
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.answering.classify import classify_list
from pipelines.building.index import add_photographs, build_run, remove_photographs
from pipelines.config import load_config
from pipelines.measuring.evaluate import conditions_of, evaluate_run
from retrieval.classifiers import calibration
from retrieval.classifiers.ensemble import EnsembleConfig
from retrieval.classifiers.registry import held_out_scores
from retrieval.classifiers.rejection import fit_rejection
from retrieval.config import SystemConfig
from retrieval.descriptors import cache as describing
from retrieval.descriptors.cross_fit import PARTS, part_of
from retrieval.errors import RunError, TableError
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.table import load_data_set, read_table
from retrieval.predictions import prediction_columns
from retrieval.run import Run
from retrieval.storage.files import read_sealed
from retrieval.storage.shards import ShardStore
from retrieval.system import System
from retrieval.vectors.whitening import Whitening
from tests.photographs import blank, view, write_csv, write_photograph
from tests.pipelines.dying_build import WINDOW
from tests.pipelines.runs import LOCAL, contents, sealed_anew

ROOT = Path(__file__).parents[3]
# By name of the shipped config: what makes it small.
SMALL = {
    "hog": ["extractor.side=64", "extractor.cells=[16]", "whitening.dimension=16"],
    "rootsift-vlad": ["extractor.local.size=128", "extractor.local.keypoints=60",
                      "extractor.aggregation.words=4", "whitening.dimension=16"],
}  # fmt: skip

systems = pytest.mark.parametrize("name", sorted(SMALL))


def config_of(name: str, *more: str) -> SystemConfig:
    return load_config(name, [*SMALL[name], *more])


def build(name: str, data: Path, run: Path, *more: str) -> dict[str, Any]:
    return build_run(config_of(name, *more), load_data_set(data), run, "cpu")


def answers_of(run: Path, data: Path) -> pd.DataFrame:
    table = read_table(data / "test.csv")
    return System.load(run, "cpu").classify(table["source"].tolist())


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describing, "WINDOW", WINDOW)


@pytest.fixture(scope="module")
def built(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each system; tests that change one take a copy."""
    runs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describing, "WINDOW", WINDOW)
        for name in SMALL:
            runs[name] = tmp_path_factory.mktemp("runs") / name
            build(name, data, runs[name])
    return runs


@pytest.fixture
def run(built: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the HoG run."""
    return Path(shutil.copytree(built["hog"], tmp_path / "run"))


@pytest.fixture
def more(data: Path, tmp_path: Path) -> pd.DataFrame:
    """Eight photographs that are in no run: seven of a new landmark, one of none."""
    rows = []
    for i in range(8):
        write_photograph(tmp_path / "more" / f"{i}.jpg", view(77, i))
        rows.append((f"new{i}", f"{i}.jpg", "L77" if i else ""))
    return read_table(write_csv(tmp_path / "more" / "more.csv", rows))


@systems
def test_a_finished_run_says_what_it_is(built: dict[str, Path], data: Path, name: str) -> None:
    record = json.loads((built[name] / "run.json").read_text())
    assert record["finished"] is True
    assert (record["gallery"], record["bank"], record["failed"]) == (24, 8, 0)
    assert (record["landmarks"], record["dimension"]) == (6, 16)
    assert record["name"] == name
    assert SystemConfig.model_validate(record["config"]) == config_of(name)
    assert record["answer"] in record["config"]["classifiers"]
    assert record["names"]["L3"] == "Landmark 3"
    stages = {"describe", "describer", "index", "classifiers"}
    learnt = {"extractor"} if name == "rootsift-vlad" else set()
    assert set(record["timings"]) == stages | learnt
    assert not [path for path in built[name].rglob("*") if path.name.endswith(".tmp")]


@systems
def test_a_run_answers(built: dict[str, Path], data: Path, name: str) -> None:
    found = answers_of(built[name], data)
    expected = read_table(data / "test.csv")["landmark"].fillna("")
    assert tuple(found.columns) == prediction_columns()
    assert (found["status"] == "ok").all()
    assert found["probability"].isna().all(), "so few photographs teach none"
    assert np.isfinite(found["confidence"]).all()
    shown = expected != ""
    # Six landmarks and guessing would get two of twelve.
    assert (found["landmark"][shown].to_numpy() == expected[shown].to_numpy()).sum() >= 9


@systems
def test_the_same_again_is_nothing_to_do(
    built: dict[str, Path], data: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = contents(built[name])
    times = {path: path.stat().st_mtime_ns for path in (built[name] / "index").iterdir()}
    build(name, data, built[name])
    assert f"{built[name]}: nothing changed, nothing to do" in caplog.messages
    assert contents(built[name]) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_the_same_config_elsewhere_gives_the_same_bytes(
    built: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    build("rootsift-vlad", data, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(built["rootsift-vlad"])


def test_a_changed_config_says_which_field_and_is_built_anew(
    run: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    record = build("hog", data, run, "whitening.dimension=8")
    assert record["dimension"] == 8
    said = [message for message in caplog.messages if "changed" in message]
    assert said == [
        "describer: whitening.dimension changed, so it is made anew",
        f"{run / 'descriptors' / '000'}: whitening.dimension changed, so it is made anew",
        "index: describer.whitening.dimension changed, so it is made anew",
        "classifiers: inputs changed, so it is made anew",
    ]
    build("hog", data, tmp_path / "fresh", "whitening.dimension=8")
    assert contents(run) == contents(tmp_path / "fresh")


@systems
def test_a_run_without_the_whitening_it_had_takes_additions(
    built: dict[str, Path], name: str, data: Path, more: pd.DataFrame, tmp_path: Path
) -> None:
    run, fresh = Path(shutil.copytree(built[name], tmp_path / "run")), tmp_path / "fresh"
    for one in (run, fresh):
        build(name, data, one, "whitening=null")
        add_photographs(one, more, "cpu")
    here, there = ({k: v for k, v in contents(one).items() if not k.startswith("features")}
                   for one in (run, fresh))  # fmt: skip
    assert here == there


def test_nothing_is_called_damaged_where_another_codebook_is_learnt(
    built: dict[str, Path], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(built["rootsift-vlad"], tmp_path / "run"))
    build("rootsift-vlad", data, run, "extractor.aggregation.words=5")
    assert not [one for one in caplog.messages if "damaged" in one]
    build("rootsift-vlad", data, tmp_path / "fresh", "extractor.aggregation.words=5")
    assert contents(run) == contents(tmp_path / "fresh")


def test_nothing_stays_of_a_classifier_or_an_exit_left_out(data: Path, tmp_path: Path) -> None:
    exits = {**LOCAL, "search": {"verification": {"top": 5, "early_exit": 0.5}},
             "classifiers": {**LOCAL["classifiers"], "mean": {"kind": "centroid"}}}  # fmt: skip
    for folder, systems in {"run": (exits, LOCAL), "fresh": (LOCAL,)}.items():
        for one in systems:
            config = SystemConfig.model_validate(one)
            build_run(config, load_data_set(data), tmp_path / folder, "cpu")
    assert contents(tmp_path / "run") == contents(tmp_path / "fresh")


def test_whitenings_within_an_extractor_are_left_out_of_too(data: Path, tmp_path: Path) -> None:
    hog = {"kind": "hog", "side": 64, "cells": [16]}
    parts = [{"extractor": hog, "whitening": {"dimension": 8}},
             {"extractor": {**hog, "side": 48}}]  # fmt: skip
    values = {"name": "joint", "extractor": {"kind": "combination", "parts": parts},
              "whitening": None, "classifiers": {"knn": {"kind": "knn", "k": 5}}}  # fmt: skip
    build_run(SystemConfig.model_validate(values), load_data_set(data), tmp_path, "cpu")
    galleries = System.load(tmp_path, "cpu").calibration_galleries()
    assert len(galleries) == PARTS
    assert not np.array_equal(galleries[0].vectors, galleries[1].vectors)


@pytest.mark.parametrize("name", ["hog", "rootsift-vlad"])
def test_another_whitening_extracts_and_aggregates_nothing(
    built: dict[str, Path], name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Codebook and whitening learn from some photographs, and all are described.
    few = "fit_photographs=20"
    run = tmp_path / "run"
    build(name, data, run, few)
    with monkeypatch.context() as patch:
        patch.setattr("retrieval.descriptors.extraction.read_photograph", None)
        patch.setattr("retrieval.aggregation.vlad.vlad", None)
        build(name, data, run, few, "whitening.dimension=8", "whitening.power=-0.25")
    fresh = tmp_path / "fresh"
    build(name, data, fresh, few, "whitening.dimension=8", "whitening.power=-0.25")
    assert contents(run) == contents(fresh)
    # What is not kept is described as ever, to the same bytes.
    monkeypatch.setattr("retrieval.describing.MOST_BYTES", 0)
    build(name, data, tmp_path / "bare", few, "whitening.dimension=8", "whitening.power=-0.25")
    assert not (tmp_path / "bare" / "aggregated").exists()
    for file in ("whitening/whitening.safetensors", "index/gallery/descriptors.npy"):
        assert (tmp_path / "bare" / file).read_bytes() == (fresh / file).read_bytes()


def test_pairs_teach_the_whitening_and_other_landmarks_teach_it_anew(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = ("whitening.learnt_on=pairs", "whitening.shrinkage=0.2")
    config, known = config_of("hog", *pairs), load_data_set(data)
    build_run(config, known, tmp_path, "cpu")
    learnt = (tmp_path / "whitening/whitening.safetensors").read_bytes()
    # Thresholds are fitted on photographs that did not teach it.
    system = System.load(tmp_path, "cpu")
    gallery = system.gallery
    calibration = system.calibration_galleries()
    assert len(calibration) == PARTS
    eligible = np.stack([one.eligible for one in calibration])
    assert (eligible.sum(axis=0) == 1).all()
    for part, one in enumerate(calibration):
        assert one.eligible is not None
        assert one.eligible.tolist() == (part_of(system.rows["id"]) == part).tolist()
        assert one.vectors.shape[0] == gallery.vectors.shape[0]
        assert not np.array_equal(one.vectors, gallery.vectors)
    alone = known.gallery[part_of(known.gallery["id"]) != 0]
    bank = known.bank[part_of(known.bank["id"]) != 0]
    build_run(config, replace(known, gallery=alone, bank=bank), tmp_path / "alone", "cpu")
    assert (tmp_path / "calibration/0/whitening/whitening.safetensors").read_bytes() == (
        tmp_path / "alone/whitening/whitening.safetensors"
    ).read_bytes()
    swapped = known.gallery.copy()
    swapped["landmark"] = np.roll(swapped["landmark"], 1)
    with caplog.at_level(logging.INFO):
        build_run(config, replace(known, gallery=swapped), tmp_path, "cpu")
    assert "describer: landmarks changed, so it is made anew" in caplog.messages
    assert (tmp_path / "whitening/whitening.safetensors").read_bytes() != learnt


def test_thresholds_are_fitted_where_photographs_taught_nothing(data: Path, tmp_path: Path) -> None:
    pairs = ("whitening.learnt_on=pairs", "whitening.shrinkage=0.2", "search.expansion.gallery=2")
    config = config_of("hog", *pairs, "rejection.kind=learnt")
    members = dict(config.classifiers)
    together = EnsembleConfig(kind="ensemble", members=members)
    config = config.model_copy(update={"classifiers": {**members, "together": together}})
    known = load_data_set(data)
    build_run(config, known, tmp_path, "cpu")
    system = System.load(tmp_path, "cpu")
    calibration = system.calibration_galleries()
    for part, one in enumerate(calibration):
        # Its rows took in their neighbours too; a photograph that is left out is left out there.
        assert one.searcher.augmentation is not None
        np.testing.assert_array_equal(one.searcher.vectors, one.searcher.augmentation.rows())
        whitening = Whitening.load(tmp_path / "calibration" / str(part) / "whitening")
        by = replace(system.describer, whitening=whitening)
        for table, vectors in (known.gallery, one.vectors), (known.bank, one.bank_vectors):
            photographs = [read_photograph(source, by.longest_side) for source in table["source"]]
            expected = by.describe(photographs).vectors
            np.testing.assert_allclose(vectors[:, : by.dimension], expected, atol=1e-5)
    # As fitted in galleries that know no other descriptors than those, and not as in one whose
    # photographs taught what describes them.
    for name, one in config.classifiers.items():
        fitted, optimistic = (
            fit_rejection(
                held_out_scores(one, each, config.seed),
                each,
                config.rejection,
                config.calibration,
                config.seed,
            )[0]
            for each in (calibration, [system.gallery])
        )
        assert fitted == system.rejections[name] != optimistic


@pytest.mark.slow
def test_views_of_all_photographs_teach_the_whitening(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = ("whitening.learnt_on=pairs", "whitening.shrinkage=0.2")
    build("hog", data, tmp_path / "plain", *plain)
    build("hog", data, tmp_path / "run", *plain, "whitening.views=2")
    system = System.load(tmp_path / "run", "cpu")
    bank = pd.read_parquet(tmp_path / "run/index/bank-rows.parquet")
    for part, one in enumerate(system.calibration_galleries()):
        assert one.bank_eligible is not None
        assert one.bank_eligible.tolist() == (part_of(bank["id"]) == part).tolist()
    described = len(system.rows) + len(bank)
    views = ShardStore.open(tmp_path / "run/views")
    assert views.made_from["views"]["count"] == 2
    assert views.rows == 2 * described
    build("hog", data, tmp_path / "some", *plain, "whitening.views=2", "whitening.viewed=5")
    viewed = ShardStore.open(tmp_path / "some/views")
    assert viewed.rows == 2 * 5
    learnt = {
        (tmp_path / run / "whitening/whitening.safetensors").read_bytes()
        for run in ("run", "plain", "some")
    }
    assert len(learnt) == 3
    # The same again looks at no photograph; more views are described beside, and teach anew.
    with caplog.at_level(logging.INFO):
        build("hog", data, tmp_path / "run", *plain, "whitening.views=3")
        assert "describer: whitening.views changed, so it is made anew" in caplog.messages
        monkeypatch.setattr("retrieval.photographs.augmentation.read_photograph", None)
        monkeypatch.setattr("retrieval.descriptors.extraction.read_photograph", None)
        build("hog", data, tmp_path / "run", *plain, "whitening.views=3")


@pytest.mark.parametrize(
    ("whitening", "said"),
    [
        ({"views": 2, "viewed": 5}, "of gallery and bank and 2 views of 5 of them"),
        ({"views": 2}, "of gallery and bank and 2 views of each"),  # before views had a limit
        ({}, "of gallery and bank"),  # and before there were any
    ],
)
def test_conditions_say_what_views_a_run_has_learnt_from(
    run: Path, whitening: dict[str, int], said: str
) -> None:
    system = System.load(run, "cpu")
    describer = {**system.record["describer"], "whitening": whitening}
    system = replace(system, record={**system.record, "describer": describer})
    assert conditions_of(system)["whitening"].endswith(said)


def test_another_classifier_describes_nothing_again(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run)
    monkeypatch.setattr("retrieval.descriptors.extraction.read_photograph", None)
    record = build("hog", data, run, "classifiers.knn.k=3", "answer=knn")
    assert record["answer"] == "knn"
    after = contents(run)
    assert after["run.json"]["fingerprint"] != before["run.json"]["fingerprint"]
    for name in before:
        if name.startswith(("descriptors", "features", "whitening", "index")):
            assert after[name] == before[name], name


@pytest.mark.slow
@pytest.mark.parametrize("last", [2, 9, 15], ids=["extracting", "describing", "whitening"])
def test_a_killed_build_goes_on_to_the_same_bytes(
    built: dict[str, Path], data: Path, tmp_path: Path, last: int
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.pipelines.dying_build"]
    dead = subprocess.run(
        [*command, "rootsift-vlad", str(data), str(run), str(last), "", *SMALL["rootsift-vlad"]],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    folder = run / ("features", "aggregated/rows-000", "descriptors/000")[last // 6]
    # 32 photographs are six shards; the one that was just written is not in the manifest.
    assert len(list(folder.glob("shard-*"))) == (last - 1) % 6 + 1
    assert len(ShardStore.open(folder)) == (last - 1) % 6
    with pytest.raises(RunError, match=r"run\.json is missing"):
        System.load(run, "cpu")
    build("rootsift-vlad", data, run)
    assert contents(run) == contents(built["rootsift-vlad"])


def test_a_broken_photograph_is_a_failed_row(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    broken = folder / "photos" / "m2v1.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    write_photograph(folder / "photos" / "n3.jpg", blank())
    record = build("rootsift-vlad", folder, tmp_path / "run")
    assert (record["gallery"], record["bank"], record["failed"]) == (23, 7, 2)
    told = [message for message in caplog.messages if message.startswith("row ")]
    assert len(told) == 2
    assert told[0].startswith(f"row 7, {broken}: damaged or truncated photograph")
    assert told[1] == (
        f"row 5, {folder / 'photos' / 'n3.jpg'}: nothing to describe"
        " (no keypoint, or a blank photograph)"
    )
    system = System.load(tmp_path / "run", "cpu")
    assert "m2v1" not in set(system.rows["id"])
    found = system.classify([broken, folder / "photos" / "n3.jpg", folder / "photos" / "m2v0.jpg"])
    assert found["status"].tolist() == ["decode_failed", "describe_failed", "ok"]
    assert found["confidence"].isna().tolist() == [True, True, False]
    assert found["landmark"].tolist() == ["", "", "L2"]


def test_what_was_added_and_removed_leaves_no_trace(
    built: dict[str, Path], run: Path, data: Path, more: pd.DataFrame
) -> None:
    record = add_photographs(run, more, "cpu")
    assert (record["gallery"], record["bank"], record["landmarks"]) == (31, 9, 7)
    found = System.load(run, "cpu").classify(more["source"].tolist()[1:])
    assert (found["candidate"] == "L77").sum() >= 5
    record = remove_photographs(run, more["id"].tolist(), "cpu")
    assert (record["gallery"], record["bank"], record["landmarks"]) == (24, 8, 6)
    before, after = contents(built["hog"]), contents(run)
    for name in before:
        if name.startswith(("index", "classifiers", "whitening", "descriptors/000")):
            assert after[name] == before[name], name
    pd.testing.assert_frame_equal(answers_of(run, data), answers_of(built["hog"], data))


def test_adding_describes_the_new_photographs_alone(
    run: Path, more: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noted(source: str, longest_side: int) -> Any:
        read.append(source)
        return read_photograph(source, longest_side)

    monkeypatch.setattr("retrieval.descriptors.extraction.read_photograph", noted)
    add_photographs(run, more, "cpu")
    assert sorted(read) == sorted(more["source"])


def test_what_was_added_follows_when_the_gallery_changes(
    run: Path, data: Path, more: pd.DataFrame, tmp_path: Path
) -> None:
    """Another gallery teaches another whitening, and a run never mixes two."""
    add_photographs(run, more, "cpu")
    rows = [
        (one.id, one.source, one.landmark)
        for one in read_table(data / "index.csv").itertuples()
        if one.landmark != "L6"
    ]
    other = write_csv(tmp_path / "other.csv", rows)
    build_run(config_of("hog"), load_data_set(data, other), run, "cpu")
    system = System.load(run, "cpu")
    assert len(system.rows) == 27
    sources = system.rows["source"].tolist()
    photographs = [read_photograph(source, system.describer.longest_side) for source in sources]
    np.testing.assert_allclose(
        system.gallery.vectors, system.describer.describe(photographs).vectors, atol=1e-5
    )


def test_an_addition_cut_short_goes_on(
    run: Path, more: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    add_photographs(whole, more, "cpu")

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("retrieval.storage.shards.ShardStore.write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            add_photographs(run, more, "cpu")
    add_photographs(run, more, "cpu")
    assert contents(run) == contents(whole)


def test_a_removal_cut_short_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    remove_photographs(whole, ["m1v0"], "cpu")

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("retrieval.build.collect_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remove_photographs(run, ["m1v0"], "cpu")
    remove_photographs(run, ["m1v0"], "cpu")
    assert contents(run) == contents(whole)


def test_the_same_addition_or_removal_again_is_nothing_to_do(
    run: Path, more: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    for change in (
        lambda: add_photographs(run, more, "cpu"),
        lambda: remove_photographs(run, ["m1v0", "new3"], "cpu"),
    ):
        change()
        before = contents(run)
        caplog.clear()
        caplog.set_level(logging.INFO)
        change()
        assert f"{run}: nothing changed, nothing to do" in caplog.messages
        assert contents(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("step", ["describe", "collect_rows", "fit_classifiers"])
def test_a_change_cut_short_is_no_finished_run(
    run: Path, data: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another whitening lies there with the old one's index: nothing may answer from that."""

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    change = "whitening.power=-0.1"
    with monkeypatch.context() as patch:
        patch.setattr(f"retrieval.build.{step}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build("hog", data, run, change)
    with pytest.raises(RunError, match="is not finished"):
        System.load(run, "cpu")
    build("hog", data, run, change)
    build("hog", data, tmp_path / "whole", change)
    assert contents(run) == contents(tmp_path / "whole")


def test_what_a_killed_command_was_writing_is_swept_up(run: Path, data: Path) -> None:
    before = contents(run)
    for folder in (run, run / "descriptors" / "000"):
        (folder / ".shard-00001.safetensors.abc123.tmp").write_bytes(b"half")
    build("hog", data, run)
    assert contents(run) == before


def test_ids_are_in_a_run_once(run: Path, data: Path, more: pd.DataFrame) -> None:
    before = contents(run)
    with pytest.raises(TableError, match=r"row 2: id 'm1v0' is in .* already"):
        add_photographs(run, read_table(data / "index.csv"), "cpu")
    with pytest.raises(TableError, match=r"id 'absent' is not in .* \(1 such ids\)"):
        remove_photographs(run, ["m1v0", "absent"], "cpu")
    assert contents(run) == before


@pytest.mark.slow
def test_what_was_removed_comes_back(
    run: Path, data: Path, more: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    """Photographs of the build into a part of their own, those of an addition into theirs."""
    add_photographs(run, more, "cpu")
    whole = contents(run)
    first = read_table(data / "index.csv").iloc[:1]
    record = remove_photographs(run, ["m1v0", "new3"], "cpu")
    assert record["gallery"] == 31 - 2
    assert add_photographs(run, more, "cpu")["gallery"] == 31 - 1
    for _ in range(2):  # the same again is nothing to do
        assert add_photographs(run, first, "cpu")["gallery"] == 31
    assert System.load(run, "cpu").rows["id"].tolist().count("m1v0") == 1
    # The build goes on with both, and nothing votes twice.
    caplog.set_level(logging.INFO)
    assert build("hog", data, run)["gallery"] == 31
    assert f"{run}: what was taken out stays out of it: 1 photographs" in caplog.text
    # Out and in, as often as you like.
    remove_photographs(run, ["m1v0"], "cpu")
    assert "m1v0" not in set(System.load(run, "cpu").rows["id"])
    assert add_photographs(run, first, "cpu")["gallery"] == 31
    assert set(contents(run)) > set(whole)


def test_a_list_of_removed_ids_of_before_is_understood(run: Path, data: Path) -> None:
    remove_photographs(run, ["m1v0"], "cpu")
    noted = run / "descriptors" / "removed.json"
    assert read_sealed(noted) == {"000": ["m1v0"]}
    noted.write_text('["m1v0", "m2v0"]')
    assert build("hog", data, run)["gallery"] == 22
    assert remove_photographs(run, ["m3v0"], "cpu")["gallery"] == 21
    assert read_sealed(noted) == {"000": ["m1v0", "m2v0", "m3v0"]}


def test_a_second_folder_with_the_same_names(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for place, seed in (("one", 81), ("two", 82), ("deeper/two", 83)):
        for i in range(2):
            write_photograph(tmp_path / place / "Tower" / f"{i}.jpg", view(seed, i))

    def add(place: str) -> dict[str, Any]:
        folder = tmp_path / place
        return add_photographs(run, read_table(folder), "cpu", folder=folder)

    assert add("one")["gallery"] == 26
    assert "begin with" not in caplog.text
    assert add("two")["gallery"] == 28
    assert "2 of the ids are in the run already, for other photographs" in caplog.text
    assert "the ids of these begin with two/" in caplog.text
    record = add("deeper/two")
    assert record["gallery"] == 30
    assert System.load(run, "cpu").rows["id"].tolist()[24:] == [
        "Tower/0.jpg", "Tower/1.jpg", "two/Tower/0.jpg", "two/Tower/1.jpg",
        "deeper/two/Tower/0.jpg", "deeper/two/Tower/1.jpg",
    ]  # fmt: skip
    for place in ("one", "two", "deeper/two"):  # the same again is nothing to do
        assert add(place)["fingerprint"] == record["fingerprint"]
    # One photograph more, and the rest is there already.
    write_photograph(tmp_path / "one" / "Tower" / "9.jpg", view(81, 9))
    with pytest.raises(TableError, match=r"^id 'Tower/0.jpg' is in .* already \(2 such ids\)"):
        add("one")


def test_a_change_of_the_answer_is_said(
    run: Path, more: pd.DataFrame, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    before = json.loads((run / "run.json").read_text())
    other = next(name for name in before["config"]["classifiers"] if name != before["answer"])
    monkeypatch.setattr("retrieval.build.choose_answer", lambda held: other)
    add_photographs(run, more, "cpu")
    assert f"{other} answers now, {before['answer']} did before" in caplog.messages
    assert any(one.startswith("thresholds changed: ") and "→" in one for one in caplog.messages)
    caplog.clear()
    remove_photographs(run, more["id"].tolist(), "cpu")
    assert "answers now" not in caplog.text
    assert "thresholds changed: " in caplog.text
    caplog.clear()
    remove_photographs(run, more["id"].tolist(), "cpu")
    assert "changed: " not in caplog.text


def test_a_landmark_all_of_whose_photographs_fail_is_in_the_record(
    data: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    for i in range(4):
        (folder / "photos" / f"m2v{i}.jpg").write_bytes(b"")
    (folder / "photos" / "m3v0.jpg").write_bytes(b"")
    record = build("hog", folder, tmp_path / "run")
    assert record["lost"] == ["L2"]
    assert record["landmarks"] == 5
    # What was taken out is not lost.
    ids = [f"m2v{i}" for i in range(4)]
    assert remove_photographs(tmp_path / "run", ids, "cpu")["lost"] == []


def test_what_was_added_is_not_built_in_as_well(
    run: Path, data: Path, more: pd.DataFrame, tmp_path: Path
) -> None:
    """Each would vote twice."""
    add_photographs(run, more, "cpu")
    before = contents(run)
    rows = [
        (one.id, one.source, one.landmark) for one in read_table(data / "index.csv").itertuples()
    ]
    both = write_csv(tmp_path / "both.csv", [*rows, ("new3", more["source"][3], "L77")])
    with pytest.raises(TableError, match=r"row 26: id 'new3' was added to .* \(1 such ids\)"):
        build_run(config_of("hog"), load_data_set(data, both), run, "cpu")
    assert contents(run) == before


def test_photographs_can_be_added_a_thousand_times(run: Path, more: pd.DataFrame) -> None:
    """Nothing is written over where the parts' names grow longer."""
    add_photographs(run, more.iloc[:2], "cpu")
    parts = run / "descriptors"
    (parts / "001").rename(parts / "999")
    sealed_anew(run)
    add_photographs(run, more.iloc[2:4], "cpu")
    record = add_photographs(run, more.iloc[4:6], "cpu")
    assert {path.name for path in parts.iterdir()} == {"000", "999", "1000", "1001"}
    assert record["gallery"] + record["bank"] == 32 + 6
    assert System.load(run, "cpu").rows["id"].tolist()[24:] == more["id"].tolist()[1:6]


@pytest.mark.parametrize("left", ["table", "shards"])
def test_an_addition_cut_short_is_finished_first(
    run: Path, more: pd.DataFrame, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    name = "aggregate_table" if left == "table" else "finish"
    step = f"retrieval.build.{name}"
    with monkeypatch.context() as patch:
        patch.setattr(step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            add_photographs(run, more.iloc[:7], "cpu")
    if left == "shards":  # one of two is there
        note = run / "descriptors" / "001" / "manifest.jsonl"
        note.write_bytes(b"".join(note.read_bytes().splitlines(keepends=True)[:-1]))
    for change in (
        lambda: add_photographs(run, more.iloc[7:], "cpu"),
        lambda: remove_photographs(run, ["m1v0"], "cpu"),
    ):
        with pytest.raises(RunError, match="an earlier landmarks add was cut short"):
            change()
    add_photographs(run, more.iloc[:7], "cpu")
    assert remove_photographs(run, ["m1v0"], "cpu")["gallery"] == 24 + 6 - 1


def test_a_run_keeps_some_of_its_gallery(run: Path, data: Path) -> None:
    before = contents(run)
    with pytest.raises(TableError, match="nothing would be left of the gallery"):
        remove_photographs(run, read_table(data / "index.csv")["id"].tolist(), "cpu")
    assert contents(run) == before
    System.load(run, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["whitening/whitening.safetensors", "extractor/codebooks.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "cut", "another"])
def test_what_was_learnt_is_learnt_anew_where_it_is_damaged(
    built: dict[str, Path], data: Path, tmp_path: Path, file: str, damage: str
) -> None:
    run = Path(shutil.copytree(built["rootsift-vlad"], tmp_path / "run"))
    path = run / file
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        shutil.copy(run / "classifiers" / "svm" / "svm.safetensors", path)
    with pytest.raises(
        RunError, match=f"{path.name} is missing or damaged .* landmarks index again"
    ):
        System.load(run, "cpu")
    build("rootsift-vlad", data, run)
    assert contents(run) == contents(built["rootsift-vlad"])


def test_an_index_belongs_to_its_descriptors(run: Path, more: pd.DataFrame, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    add_photographs(other, more, "cpu")
    for name in ("index.faiss", "index.json"):
        shutil.copy(other / "index" / name, run / "index" / name)
    sealed_anew(run)
    with pytest.raises(RunError, match="made from other inputs"):
        System.load(run, "cpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", r"no object"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "recursion"),
        (
            '{"finished": true, "config": {"name": "x", "colour": 1}}',
            "changed since it was written",
        ),
    ],
    ids=("list", "cut", "deep", "edited"),
)
def test_a_record_that_makes_no_sense_is_one_line_and_built_anew(
    run: Path, data: Path, text: str, said: str
) -> None:
    before = contents(run)
    (run / "run.json").write_text(text)
    for use in (lambda: System.load(run, "cpu"), lambda: remove_photographs(run, ["m1v0"], "cpu")):
        with pytest.raises(
            RunError, match=rf"run\.json is missing or damaged \(.*{said}.*index again"
        ):
            use()
    build("hog", data, run)
    assert contents(run) == before


def test_a_config_of_another_version_is_one_line(run: Path) -> None:
    sealed_anew(run, config={"name": "x", "colour": 1})
    with pytest.raises(RunError, match=r"holds a config that this version does not know .*index"):
        System.load(run, "cpu")
    sealed_anew(run, machine=None)
    with pytest.raises(RunError, match=r"run\.json is missing or damaged .*index again"):
        System.load(run, "cpu")


def test_a_file_is_no_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        build("hog", data, tmp_path / "run")


def test_an_unfinished_run_answers_nothing(run: Path, data: Path, more: pd.DataFrame) -> None:
    Run(run).write_record({"finished": False})
    for use in (
        lambda: System.load(run, "cpu"),
        lambda: add_photographs(run, more, "cpu"),
        lambda: remove_photographs(run, ["m1v0"], "cpu"),
    ):
        with pytest.raises(RunError, match="is not finished: run landmarks index again"):
            use()
    assert build("hog", data, run)["finished"]


def test_a_run_is_written_by_one_command_at_a_time(run: Path, data: Path) -> None:
    with (run / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="is being written by another command"):
            build("hog", data, run)
    build("hog", data, run)


@systems
def test_classify_of_a_list_answers_as_the_system_does(
    built: dict[str, Path], data: Path, tmp_path: Path, name: str
) -> None:
    system = System.load(built[name], "cpu")
    sources = [*read_table(data / "test.csv")["source"], str(tmp_path / "gone.jpg")]
    rows = [(f"q{i}", source) for i, source in enumerate(sources)]
    listed = write_csv(tmp_path / "list.csv", rows, ("id", "path"))
    classify_list(system, listed, tmp_path / "out.csv", chunk_rows=7)
    with (tmp_path / "out.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    expected = system.classify(sources)
    assert [row["id"] for row in written] == [f"q{i}" for i in range(len(sources))]
    for column in ("landmark", "name", "status", "reason"):
        assert [row[column] for row in written] == expected[column].tolist(), column
    found = [float(row["confidence"] or "nan") for row in written]
    np.testing.assert_allclose(found, expected["confidence"], atol=1e-4)
    assert written[-1]["status"] == "decode_failed"


def test_arrays_are_classified_as_their_files_are(built: dict[str, Path], data: Path) -> None:
    system = System.load(built["hog"], "cpu")
    sources = read_table(data / "test.csv")["source"].tolist()
    by_path = system.classify(sources)
    by_array = system.classify([read_photograph(source) for source in sources])
    assert by_array["id"].tolist() == [str(i) for i in range(len(sources))]
    assert by_array["landmark"].tolist() == by_path["landmark"].tolist()
    np.testing.assert_allclose(by_array["confidence"], by_path["confidence"], atol=0.1)
    assert system.classify([]).columns.tolist() == by_path.columns.tolist()


def test_one_photograph_or_any_mixture(built: dict[str, Path], data: Path) -> None:
    system = System.load(built["hog"], "cpu")
    sources = read_table(data / "test.csv")["source"].tolist()[:4]
    several = system.classify(sources, top=2)
    pd.testing.assert_frame_equal(system.classify(sources[0], top=2), several[:1])
    with Image.open(sources[1]) as image:
        mixed = system.classify(
            (one for one in (sources[0], image, Path(sources[2]), read_photograph(sources[3]))),
            top=2,
        )
    assert mixed["id"].tolist() == [sources[0], "1", sources[2], "3"]
    for column in ("landmark", "candidate", "nearest", "candidate_1", "candidate_2", "status"):
        assert mixed[column].tolist() == several[column].tolist(), column
    assert tuple(mixed.columns) == prediction_columns(top=2)


@pytest.mark.parametrize("answer", ["knn", "svm"])
def test_the_best_candidate_and_the_nearest_photograph_are_told(
    built: dict[str, Path], data: Path, answer: str
) -> None:
    """By a classifier that looks at neighbours, and by one that does not."""
    system = replace(System.load(built["hog"], "cpu"), answer=answer)
    rows, many = system.rows, len(system.landmarks)
    found = system.predictions(list(rows["id"]), system.gallery.descriptors, many + 1, 3)
    assert found["nearest"].tolist() == rows["id"].tolist()
    np.testing.assert_allclose(found["similarity"], 1.0, atol=1e-5)
    assert (found["similarity_2"] >= found["similarity_3"]).all()
    assert (found["nearest_2"] != found["nearest"]).all()
    assert (found["candidate"] == found["candidate_1"]).all()
    assert (found["confidence"] == found["score_1"]).all()
    assert found[f"candidate_{many + 1}"].tolist() == [""] * len(found)
    assert found[f"score_{many + 1}"].isna().all()
    never = replace(system.rejections[answer], threshold=np.inf)
    strict = replace(system, rejections={**system.rejections, answer: never})
    none = strict.predictions(list(rows["id"]), system.gallery.descriptors)
    assert (none["landmark"] == "").all()
    assert none["candidate"].tolist() == found["candidate"].tolist()
    assert none["candidate_name"].tolist() == [system.name(one) for one in found["candidate"]]


def test_probabilities_are_given_where_answers_are_enough(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "LEAST_OF_EACH", 5)
    build("hog", data, tmp_path / "run")
    system = System.load(tmp_path / "run", "cpu")
    assert len(system.notes) == 1  # what to expect of them, and no caveat
    found = system.classify(read_table(data / "test.csv")["source"].tolist())
    assert found["probability"].between(0, 1, inclusive="neither").all()
    assert found["probability"].corr(found["confidence"], method="spearman") > 0.99


@systems
def test_arrays_that_are_no_photographs(built: dict[str, Path], name: str) -> None:
    system = System.load(built[name], "cpu")
    for wrong in (
        view(1, 0)[:, :, 0],
        view(1, 0).astype(np.float32),
        np.zeros((8, 8, 4), np.uint8),
    ):
        with pytest.raises(TypeError, match=r"photograph 1 is .* of shape .*\(h, w, 3\) uint8 RGB"):
            system.classify([view(1, 0), wrong])
    found = system.classify([view(1, 0), np.zeros((1, 9, 3), np.uint8)])
    assert found["status"].tolist() == ["ok", "decode_failed"]
    assert found["reason"].tolist() == ["", "9 x 1 pixels are too few"]


def test_a_table_of_no_landmark_is_said_to_measure_false_accepts_alone(
    run: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    system = System.load(run, "cpu")
    figures = evaluate_run(system, data / "none.csv", tmp_path / "out")
    assert figures["conditions"]["config"] == "hog"
    assert "no photograph shows a landmark" in caplog.text
