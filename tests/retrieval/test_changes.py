"""A large run that takes in what comes and goes; large is what is more than nothing here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest

from retrieval import build, changes
from retrieval.classifiers import svm
from retrieval.classifiers.arrays import load_fitted
from retrieval.classifiers.centroid import CentroidClassifier, CentroidConfig
from retrieval.classifiers.svm import SvmClassifier, SvmConfig
from retrieval.classifiers.vote import VoteClassifier, VoteConfig
from retrieval.config import SystemConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.photographs.table import DataSet, load_data_set
from retrieval.run import Run
from retrieval.storage.shards import ShardStore
from retrieval.system import System
from tests.crashes import killed_at
from tests.photographs import view, write_data_set

CONFIG = SystemConfig.model_validate(
    {
        "name": "small",
        "extractor": {"kind": "hog", "side": 64, "cells": [16]},
        "whitening": None,
        "index": {"factory": "IVF4,SQ8", "nprobe": 2},
        "classifiers": {
            "knn": {"kind": "knn", "k": 5},
            "svm": {"kind": "svm", "most_rows": 0, "random_negatives": 5, "hard_negatives": 3},
            "centroid": {"kind": "centroid"},
            "both": {
                "kind": "ensemble",
                "members": {"knn": {"kind": "knn", "k": 5}, "centroid": {"kind": "centroid"}},
            },
        },
        "answer": "knn",
        "refit_share": 0.6,
    }
)


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "SMALL", 0)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return load_data_set(write_data_set(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def first(known: DataSet, tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system that lacks the landmark L1."""
    return System.build(CONFIG, without(known), tmp_path_factory.mktemp("first"), "cpu")


@pytest.fixture
def system(first: System, tmp_path: Path) -> System:
    """The same, in a run of its own."""
    return System.load(shutil.copytree(first.run.folder, tmp_path / "run"), "cpu")


def without(known: DataSet) -> DataSet:
    return replace(known, gallery=known.gallery[known.gallery["landmark"] != "L1"])


def coming(known: DataSet) -> pd.DataFrame:
    return known.gallery[known.gallery["landmark"] == "L1"]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of a run's files, but for times and places."""
    apart = {"run.json", "timings.json", "asked.json", "agreed.json", ".lock"}
    paths = (one for one in folder.rglob("*") if one.is_file() and one.name not in apart)
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in paths}


def test_what_comes_and_goes_is_answered_as_by_the_same_rows(
    known: DataSet, system: System, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = contents(system.run.folder)
    gone = ["m2v0", "m3v1", *[f"m6v{i}" for i in range(4)]]
    now = system.add(coming(known)).remove(gone)
    assert "10 photographs came or went since 28 were fitted to" in caplog.text
    assert now.record["since_fitted"] == {
        "gallery": 20, "bank": 8, "gallery_changes": 10, "bank_changes": 0,
    }  # fmt: skip
    assert now.landmarks == ["L1", "L2", "L3", "L4", "L5"]
    # The rows, their order and their descriptors are those of a run that was built of them.
    rows = known.gallery[~known.gallery["id"].isin(gone)]
    rows = pd.concat([rows[rows["landmark"] != "L1"], rows[rows["landmark"] == "L1"]])
    fresh = System.build(CONFIG, replace(known, gallery=rows), tmp_path / "fresh", "cpu")
    for name in ("rows.parquet", "bank-rows.parquet", "gallery/descriptors.npy"):
        assert (now.run.index / name).read_bytes() == (fresh.run.index / name).read_bytes()
    counts = ("gallery", "bank", "landmarks", "failed", "lost", "dimension")
    assert [now.record[name] for name in counts] == [fresh.record[name] for name in counts]
    # The index has the lists that it had.
    oracle = faiss.read_index(str(system.run.index / "index.faiss"))
    oracle.reset()
    oracle.add(np.array(fresh.gallery.vectors))
    index = now.gallery.searcher.index
    assert isinstance(index, FaissIndex)
    asked = np.concatenate([fresh.gallery.vectors, fresh.gallery.bank_vectors])
    assert (index.search(asked, 9).rows == replace(index, index=oracle).search(asked, 9).rows).all()
    # Vote and means are what fitting makes of these rows.
    gallery = now.gallery
    vote, mean = (now.classifiers[name] for name in ("knn", "centroid"))
    assert isinstance(vote, VoteClassifier)
    assert isinstance(mean, CentroidClassifier)
    fitted = VoteClassifier.fit(VoteConfig(k=5), gallery)
    assert (vote.row_corrections == fitted.row_corrections).all()
    assert (mean.means == CentroidClassifier.fit(CentroidConfig(), gallery).means).all()
    # Thresholds and probabilities are those of before.
    after = contents(system.run.folder)
    kept = [name for name in before if name.endswith(("rejection.json", "rejection.safetensors"))]
    assert len(kept) >= 4
    assert all(before[name] == after[name] for name in kept)
    found = now.classify(view(1, 9))
    assert found["candidate"].tolist() == ["L1"]
    assert now.classify(view(6, 9))["candidate"].tolist() != ["L6"]
    assert not (system.run.changed).exists()


def test_a_divided_index_takes_in_what_comes_and_goes(known: DataSet, tmp_path: Path) -> None:
    given = CONFIG.model_dump() | {"index": {"factory": "IVF4,SQ8", "nprobe": 2, "shard": 5}}
    config = SystemConfig.model_validate(given)
    systems = [
        System.build(one, without(known), tmp_path / name, "cpu")
        for one, name in ((config, "divided"), (CONFIG, "whole"))
    ]
    names = [f"index-{number:03d}.faiss" for number in range(5)]
    run = systems[0].run
    assert sorted(one.name for one in run.index.glob("*.faiss")) == names[:4]
    kept = (run.index / names[0]).stat().st_ino
    divided, whole = (one.add(coming(known)).remove(["m3v1", "m6v0"]) for one in systems)
    assert sorted(one.name for one in run.index.glob("*.faiss")) == names
    assert (run.index / names[0]).stat().st_ino == kept
    assert divided.record["since_fitted"] == whole.record["since_fitted"]
    for asked in (view(1, 9), view(3, 9), view(6, 9)):
        assert System.load(run.folder, "cpu").classify(asked).equals(whole.classify(asked))


def test_separators_stay_and_those_of_new_landmarks_are_trained(
    known: DataSet, system: System
) -> None:
    config = CONFIG.classifiers["svm"]
    assert isinstance(config, SvmConfig)
    file = system.run.classifiers / "svm" / svm.FILE
    before = load_fitted(file, SvmConfig)[0]
    more = system.add(coming(known))
    added = load_fitted(file, SvmConfig)[0]
    everyone = np.arange(len(more.landmarks) + 1)
    rows, bank = np.arange(len(more.rows)), np.arange(len(more.gallery.bank))
    seen = svm._TrainingRows(config, more.gallery, rows, bank, before["scale"], 0)
    fitted = seen.separators(everyone)
    for name, fresh in zip(("weights", "biases"), fitted, strict=True):
        assert (added[name][0] == fresh[0]).all()  # L1's
        assert (added[name][1:] == before[name]).all()
    now = more.remove([f"m6v{i}" for i in range(4)])
    after = load_fitted(file, SvmConfig)[0]
    assert (after["weights"] == added["weights"][[0, 1, 2, 3, 4, -1]]).all()
    asked = now.gallery.vectors[np.flatnonzero(now.rows["landmark"] == "L1")]
    machine = now.classifiers["svm"]
    assert isinstance(machine, SvmClassifier)
    assert (machine.margins(asked)[:, :-1].argmax(axis=1) == 0).all()


def test_photographs_of_none_come_and_go(known: DataSet, first: System, tmp_path: Path) -> None:
    fewer = replace(without(known), bank=known.bank[:-2])
    system = System.build(CONFIG, fewer, tmp_path / "run", "cpu")
    now = system.add(known.bank[-2:]).remove(["n0"])
    assert now.record["since_fitted"]["bank_changes"] == 3
    ids = [f"n{i}" for i in range(1, 8)]
    assert pd.read_parquet(now.run.bank_rows)["id"].tolist() == ids
    assert (now.gallery.bank_vectors == first.gallery.bank_vectors[1:]).all()


def test_all_that_is_kept_of_a_photograph_comes_and_goes_with_it(
    known: DataSet, tmp_path: Path
) -> None:
    """Vectors for calibration, and the bank's local features, which verification asks for."""
    config = SystemConfig.model_validate({
        **CONFIG.model_dump(),
        "whitening": {"dimension": 16},
        "classifiers": {"knn": {"kind": "knn", "k": 5}},
        "local": {"detector": {"kind": "sift", "keypoints": 60}, "kept": {}},
        "search": {"stored": False, "verification": {"top": 5}},
    })  # fmt: skip
    fewer = replace(without(known), bank=known.bank[:-2])
    system = System.build(config, fewer, tmp_path / "run", "cpu")
    more = pd.concat([coming(known), known.bank[-2:]], ignore_index=True)
    now = system.add(more).remove(["m2v0", "n0"])
    assert now.record["since_fitted"]["bank_changes"] == 3
    gallery, before = now.gallery, system.gallery
    calibration = gallery.descriptors.calibration
    assert calibration is not None
    assert before.descriptors.calibration is not None
    assert (calibration[:3] == before.descriptors.calibration[1:4]).all()
    shard = ShardStore.open(now.run.descriptors / "001").read(0)
    assert (calibration[-4:] == shard.arrays["calibration"][:4]).all()
    assert gallery.bank.kept is not None
    kept = now.describer.describe(more["source"].tolist()[-2:]).kept
    assert kept is not None
    for row, one in ((-1, kept.one(1)), (-2, kept.one(0))):
        found = gallery.bank.kept.one(len(gallery.bank) + row)
        assert len(found) == len(one) > 0
        assert (found.points == one.points).all()
    assert now.classify(view(1, 9))["candidate"].tolist() == ["L1"]


def test_what_was_taken_out_comes_back(known: DataSet, system: System) -> None:
    now = system.add(coming(known)).remove(["m1v2", "m2v0"])
    assert "m1v2" not in set(now.rows["id"])
    now = now.add(coming(known))
    assert now.rows["id"].tolist()[-1] == "m1v2"
    assert now.run.removed() == {"000": ["m2v0"]}
    now = now.add(known.gallery[known.gallery["id"] == "m2v0"]).remove("m2v0")
    assert "m2v0" not in set(now.rows["id"])
    assert now.record["since_fitted"]["gallery_changes"] == 4 + 2 + 1 + 1 + 1
    record = build.remove(system.run, ["m2v0"], "cpu")  # once more is nothing to do
    assert record == now.record


def test_what_another_command_left_half_done_is_not_passed_over(
    known: DataSet, system: System
) -> None:
    system.run.note_removed({"000": ["m2v0"]})
    now = system.add(coming(known))
    assert "since_fitted" not in now.record
    assert "m2v0" not in set(now.rows["id"])


def test_more_than_the_share_is_fitted_anew(
    known: DataSet, system: System, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now = system.add(coming(known))
    after = contents(now.run.folder)
    build.build(CONFIG, without(known), now.run, "cpu")
    assert "index: nothing changed" in caplog.text  # to keep is to be up to date
    assert contents(now.run.folder) == after
    again = now.remove([f"m{i}v{j}" for i in (2, 3, 4) for j in range(3)])
    assert "all is fitted anew, as 13 photographs came or went" in caplog.text
    assert "since_fitted" not in again.record
    assert len(again.rows) == 24 - 9
    now = again.remove("m5v0")
    assert now.record["since_fitted"]["gallery"] == 15
    anew = CONFIG.model_copy(update={"refit_share": 0.0})
    assert "since_fitted" not in build.build(anew, without(known), now.run, "cpu")


@pytest.mark.parametrize(
    "search", [{"expansion": {"gallery": 2}}, {"expansion": {"gallery": 0}}], ids=["took in", "not"]
)
def test_rows_that_took_others_in_are_made_anew(
    known: DataSet, tmp_path: Path, search: dict[str, dict[str, int]]
) -> None:
    config = SystemConfig.model_validate({**CONFIG.model_dump(), "search": search})
    now = System.build(config, without(known), tmp_path / "run", "cpu").add(coming(known))
    assert ("since_fitted" in now.record) == (search["expansion"]["gallery"] == 0)


def test_a_change_that_is_cut_short_while_written_leaves_the_run_as_it_was(
    known: DataSet, system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ["m2v0", "m3v1"]
    whole = Run(shutil.copytree(system.run.folder, tmp_path / "whole"))
    build.remove(whole, ids, "cpu")

    def cut(*told: object) -> None:
        raise KeyboardInterrupt

    before = system.classify(view(2, 9))
    with monkeypatch.context() as patch:
        patch.setattr(changes, "_make_ready", cut)
        with pytest.raises(KeyboardInterrupt):
            build.remove(system.run, ids, "cpu")
    assert (system.run.changed / "index" / "index.faiss").exists()
    assert System.load(system.run.folder, "cpu").classify(view(2, 9)).equals(before)
    build.remove(system.run, ids, "cpu")
    assert contents(system.run.folder) == contents(whole.folder)


def test_a_change_that_is_killed_while_it_takes_effect_is_settled_by_the_next_command(
    known: DataSet, system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run(shutil.copytree(system.run.folder, tmp_path / "whole"))
    build.add(whole, coming(known), "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(changes, "settle", lambda run: None)
        build.add(system.run, coming(known), "cpu")
    ready = system.run.folder
    for call in range(1, 200):
        run = Run(shutil.copytree(ready, tmp_path / str(call)))
        killed = killed_at(call, call % 2 == 0, lambda run=run: changes.settle(run))  # type: ignore[misc]
        record = build.add(run, coming(known), "cpu") if call % 5 == 0 or not killed else None
        with run.locked():  # which sweeps up
            changes.settle(run)
        assert contents(run.folder) == contents(whole.folder), call
        assert record is None or record["since_fitted"]["gallery_changes"] == 4
        assert run.read_record()["files"] == whole.read_record()["files"]
        if not killed:
            break
    assert call > 10
