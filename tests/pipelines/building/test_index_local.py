"""Runs with local features beside the descriptor: words to search by, features to verify by."""

from __future__ import annotations

import csv
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
import yaml

from pipelines.answering.classify import classify_list
from pipelines.building.index import add_photographs, build_run, remove_photographs
from pipelines.config import load_config
from pipelines.measuring.evaluate import evaluate_run
from retrieval.classifiers.exits import with_exit
from retrieval.classifiers.registry import held_out_scores
from retrieval.classifiers.rejection import Rejection, fit_rejection
from retrieval.descriptors import cache as describing
from retrieval.descriptors.deferred import DeferredFeatures
from retrieval.descriptors.representation import Representation
from retrieval.errors import ConfigError, RunError
from retrieval.index.searcher import Searcher
from retrieval.indexing import with_kept
from retrieval.local import sift
from retrieval.photographs.table import load_data_set, read_table
from retrieval.system import System
from tests.oracles import neighbours as slow
from tests.photographs import blank, view, write_csv, write_photograph
from tests.pipelines.dying_build import WINDOW
from tests.pipelines.runs import LOCAL, contents, sealed_anew

ROOT = Path(__file__).parents[3]
CONFIG: dict[str, Any] = {
    **LOCAL, "classifiers": {**LOCAL["classifiers"], "svm": {"kind": "svm"}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describing, "WINDOW", WINDOW)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("configs") / "local.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return str(path)


def build(config: str, data: Path, run: Path, *overrides: str) -> dict[str, Any]:
    return build_run(load_config(config, overrides), load_data_set(data), run, "cpu")


@pytest.fixture(scope="module")
def built(config: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change one take a copy."""
    run = tmp_path_factory.mktemp("runs") / "local"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describing, "WINDOW", WINDOW)
        build(config, data, run)
    return run


@pytest.fixture
def run(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "run"))


@pytest.fixture
def more(tmp_path: Path) -> pd.DataFrame:
    """Eight photographs that are in no run: seven of a new landmark, one of none."""
    rows = []
    for i in range(8):
        write_photograph(tmp_path / "more" / f"{i}.jpg", view(77, i))
        rows.append((f"new{i}", f"{i}.jpg", "L77" if i else ""))
    return read_table(write_csv(tmp_path / "more" / "more.csv", rows))


def asked(system: System, data: Path) -> Representation:
    """The test photographs, described."""
    sources = read_table(data / "test.csv")["source"].tolist()
    return system.describer.describe(sources)


def test_a_run_answers(built: Path, data: Path) -> None:
    system = System.load(built, "cpu")
    table = read_table(data / "test.csv")
    found = system.classify(table["source"].tolist())
    expected = table["landmark"].fillna("")
    assert (found["status"] == "ok").all()
    shown = expected != ""
    assert (found["landmark"][shown].to_numpy() == expected[shown].to_numpy()).sum() >= 10
    # Each part has its share of what a photograph takes.
    parts = built / "index" / "gallery"
    least = sum(path.stat().st_size for path in parts.glob("kept.*.npy")) / 24 + 4 * 16
    assert json.loads((built / "run.json").read_text())["index"]["bytes_per_image"] > least - 100


def test_what_nobody_looks_at_is_not_looked_for(
    built: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SVM looks at no neighbours: queries need no words, and no features to be verified by."""
    sources = read_table(data / "test.csv")["source"].tolist()[:6]
    by_all = replace(System.load(built, "cpu"), answer="svm")
    expected = by_all.predictions(sources, by_all.describer.describe(sources))
    looked: list[int] = []
    found = sift.detect
    monkeypatch.setattr(sift, "detect", lambda *given: (looked.append(1), found(*given))[1])
    told = by_all.classify(sources)
    assert not looked
    pd.testing.assert_frame_equal(told, expected)
    replace(by_all, answer="knn").classify(sources)
    assert len(looked) == len(sources)


def test_every_part_has_its_say(built: Path, data: Path) -> None:
    system = System.load(built, "cpu")
    queries = asked(system, data)[:12]
    whole = system.gallery.searcher
    assert whole.inverted is not None
    plain = Searcher(whole.index, whole.vectors)
    by_both = Searcher(whole.index, whole.vectors, whole.inverted)
    nearest = [one.search(queries, 5).similarities for one in (plain, by_both, whole)]
    assert not np.allclose(nearest[0], nearest[1])
    # Views of one landmark are shifted frames: their features lie as one thing seen twice.
    assert (nearest[2][:, 0] > nearest[1][:, 0] + 0.1).mean() > 0.8
    codes = system.gallery.codes[whole.search(queries, 3).rows]
    truth = [system.landmarks.index(f"L{i}") for i in range(1, 7) for _ in range(2)]
    assert (codes == np.array(truth)[:, None]).mean() > 0.9


def test_the_same_again_is_nothing_to_do(
    built: Path, config: str, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = contents(built)
    build(config, data, built)
    assert f"{built}: nothing changed, nothing to do" in caplog.messages
    assert contents(built) == before


@pytest.mark.slow
def test_a_build_killed_in_describing_goes_on_to_the_same_bytes(
    built: Path, config: str, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.pipelines.dying_build"]
    dead = subprocess.run(
        [*command, config, str(data), str(run), "9", ""],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    assert len(list((run / "aggregated" / "rows-000").glob("shard-*"))) == 3
    build(config, data, run)
    assert contents(run) == contents(built)


def test_what_was_added_and_removed_leaves_no_trace(
    built: Path, run: Path, more: pd.DataFrame
) -> None:
    record = add_photographs(run, more, "cpu")
    assert (record["gallery"], record["bank"], record["landmarks"]) == (31, 9, 7)
    found = System.load(run, "cpu").classify(more["source"].tolist()[1:])
    assert (found["candidate"] == "L77").all()
    record = remove_photographs(run, more["id"].tolist(), "cpu")
    assert (record["gallery"], record["bank"], record["landmarks"]) == (24, 8, 6)
    before, after = contents(built), contents(run)
    for name in before:
        if name.startswith(("index", "classifiers", "local", "descriptors/000")):
            assert after[name] == before[name], name


def test_adding_with_another_detector_is_refused(
    run: Path, more: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sift.SiftDetector.identity
    monkeypatch.setattr(
        sift.SiftDetector, "identity", lambda self: {**real(self), "keypoints": 61}
    )  # fmt: skip
    before = contents(run)
    with pytest.raises(RunError, match=r"was built with another detector\.keypoints: give the"):
        add_photographs(run, more, "cpu")
    assert contents(run) == before


@pytest.mark.slow
def test_another_search_describes_nothing_again(
    built: Path, run: Path, config: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.descriptors.extraction.read_photograph", None)
    marks = {json.loads((run / "run.json").read_text())["fingerprint"]}
    changes = ("search.share=0.1", "search.verification.top=2", "search.verification.weight=0.1",
               "search.expansion.queries=1", "search.expansion.gallery=1")  # fmt: skip
    for change in changes:
        marks.add(build(config, data, run, change)["fingerprint"])
    assert len(marks) == len(changes) + 1
    build(config, data, run)
    assert contents(run) == contents(built)


@pytest.mark.slow
def test_features_that_are_not_stored_are_made_again(
    built: Path, config: str, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, copy = tmp_path / "run", Path(shutil.copytree(data, tmp_path / "data"))
    build(config, copy, run, "search.stored=false")
    assert not list((run / "index" / "gallery").glob("kept.*"))
    stored, again = System.load(built, "cpu"), System.load(run, "cpu")
    queries = asked(stored, data)
    one, other = stored.neighbours(queries), again.neighbours(queries)
    assert one.rows.tobytes() == other.rows.tobytes()
    assert one.similarities.tobytes() == other.similarities.tobytes()
    # Held-out scores, the bank's among them, are verified alike too.
    for name in ("knn", "svm"):
        place = Path("classifiers") / name / "rejection.json"
        assert (built / place).read_bytes() == (run / place).read_bytes()
    # A photograph that has gone since cannot be verified with, and keeps its similarity.
    row = int(one.rows[0, 0])
    Path(again.rows["source"][row]).unlink()
    found = System.load(run, "cpu").neighbours(queries[:1])
    assert row in found.rows[0]
    assert found.similarities[0].max() < one.similarities[0, 0]
    assert any("cannot be verified with" in message for message in caplog.messages)


def test_features_at_hand_are_not_made_again_while_thresholds_are_fitted(
    config: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {**CONFIG, "local": {**CONFIG["local"], "words": None}}
    fields["search"] = {"stored": False, "verification": {"top": 5}}
    path = tmp_path / "verified.yaml"
    path.write_text(yaml.safe_dump(fields))
    made: list[object] = []
    monkeypatch.setattr("retrieval.indexing.read_photograph", lambda *given: made.append(given))
    build(str(path), data, tmp_path / "run")
    assert not made
    found = (tmp_path / "run/classifiers/knn/rejection.json").read_bytes()
    monkeypatch.undo()
    monkeypatch.setattr(describing, "WINDOW", WINDOW)
    # Without them, they are: to the same thresholds.
    monkeypatch.setattr("retrieval.build.keeps_plain", lambda *_: False)
    monkeypatch.setattr("retrieval.describing.keeps_plain", lambda *_: False)
    build(str(path), data, tmp_path / "bare")
    assert (tmp_path / "bare/classifiers/knn/rejection.json").read_bytes() == found


def refitted(system: System) -> Rejection:
    """The rejection of the classifier knn, by a system's galleries that hold photographs out."""
    galleries, config = system.calibration_galleries(), system.config
    held = held_out_scores(config.classifiers["knn"], galleries, config.seed)
    return fit_rejection(held, galleries, config.rejection, config.calibration, config.seed)[0]


def test_a_query_that_leads_is_not_verified_and_its_features_are_not_described(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = {"kept": CONFIG["local"]["kept"], "detector": {"kind": "sift", "keypoints": 150}}
    verification = {"top": 5, "early_exit": 0.5}
    fields = {**CONFIG, "local": local, "answer": "knn"}
    fields["search"] = {"verification": verification}
    path = tmp_path / "verified.yaml"
    path.write_text(yaml.safe_dump(fields))
    build(str(path), data, tmp_path / "run")
    system = System.load(tmp_path / "run", "cpu")
    early = system.gallery.searcher.early_exit
    assert early is not None
    sources = read_table(data / "test.csv")["source"].tolist()
    queries = system.query_describer.describe(sources)
    near = system.gallery.searcher.index.search(queries.vectors, 5)
    plain = early.plain(queries.vectors, near)
    assert 0 < plain.sum() < len(plain)
    assert isinstance(queries.kept, DeferredFeatures)
    found = system.neighbours(queries)
    assert queries.kept.described == (~plain).sum()
    # Those that are verified are as they would be without early exits.
    searcher = replace(system.gallery.searcher, early_exit=None)
    eager = replace(system, gallery=replace(system.gallery, searcher=searcher))
    expected = eager.neighbours(eager.query_describer.describe(sources))
    np.testing.assert_array_equal(found.rows[~plain], expected.rows[~plain])
    np.testing.assert_array_equal(found.similarities[~plain], expected.similarities[~plain])
    # The others keep their nearest neighbour, which counts as if it were confirmed.
    np.testing.assert_array_equal(found.rows[plain, 0], near.rows[plain, 0])
    gained = found.similarities[plain, 0] - near.similarities[plain, 0]
    assert gained == pytest.approx(system.config.search.verification.weight, abs=1e-3)
    # Those that are held out are judged as queries are: none of the bank is its own rival.
    gallery = with_kept(system.run, with_exit(system.gallery, -1.0))
    bank = gallery.bank_vectors
    near, rows = gallery.searcher.index.search(bank, 5), np.arange(len(bank))
    leads = gallery.searcher.early_exit.lead(bank, near, rows)
    assert (leads > gallery.searcher.early_exit.lead(bank, near)).all()
    some = with_exit(gallery, float(np.median(leads)))
    gained = some.neighbours_of_bank(rows, 5).bonus.max(axis=1)
    most = pytest.approx(system.config.search.verification.weight, abs=1e-3)
    assert [one == most for one in gained] == (leads >= np.median(leads)).tolist()
    # So they are where a threshold is fitted later: the rivals are each gallery's own bank.
    for one in system.calibration_galleries():
        assert one.searcher.early_exit.least == early.least
        nearest = one.searcher.early_exit.bank.search(one.bank_vectors, 1)
        np.testing.assert_allclose(nearest.similarities, 1, atol=1e-5)
    # Thresholds are of such scores.
    judged, verified = (refitted(one) for one in (system, eager))
    assert judged == system.rejections["knn"] != verified
    # Tables are described whole.
    figures = evaluate_run(system, data / "test.csv", tmp_path / "out")
    assert figures["knn"]["top1"] > 0.5
    assert len(system.classify([*sources[:3], tmp_path / "none.jpg"])) == 4


@pytest.mark.slow
def test_an_augmented_gallery(config: str, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    build(config, data, run, "search.expansion.gallery=2", "search.expansion.queries=1")
    system = System.load(run, "cpu")
    augmented, plain = system.gallery.searcher.vectors, system.gallery.vectors
    assert augmented.shape == plain.shape
    np.testing.assert_allclose(augmented, slow.augmented(list(plain), 2, 3.0), atol=1e-5)
    nearest = system.gallery.searcher.index.search(augmented, 1)
    assert nearest.similarities[:, 0] == pytest.approx(np.ones(24), abs=1e-5)
    figures = evaluate_run(system, data / "test.csv", tmp_path / "out")
    assert figures["knn"]["top1"] > 0.8
    assert figures["knn"]["map100_by_label"] > 0.8
    assert figures["conditions"]["search"] == (
        "descriptors, 16 words (asmk) with a share of 0.5,"
        " queries expanded by 1, gallery rows by 2, the first 5 verified"
    )
    shutil.rmtree(run / "index" / "augmented")
    with pytest.raises(
        RunError,
        match=r"augmented/descriptors\.npy is missing or damaged .*: run landmarks index again",
    ):
        System.load(run, "cpu")
    build(config, data, run)
    assert not (run / "index" / "augmented").exists()


def test_a_gallery_without_a_bank(config: str, data: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(data, tmp_path / "data"))
    (alone / "none.csv").unlink()
    record = build(config, alone, tmp_path / "run")
    assert (record["gallery"], record["bank"]) == (24, 0)
    system = System.load(tmp_path / "run", "cpu")
    found = system.classify(read_table(data / "test.csv")["source"].tolist()[:12])
    assert (found["status"] == "ok").all()


def test_photographs_without_keypoints_and_none_at_all(run: Path, tmp_path: Path) -> None:
    slope = np.repeat(np.linspace(0, 255, 128, dtype=np.uint8)[None, :, None], 96, axis=0)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photograph")
    sources = [
        write_photograph(tmp_path / "slope.png", np.repeat(slope, 3, axis=2)),
        write_photograph(tmp_path / "blank.png", blank()),
        broken,
        write_photograph(tmp_path / "view.png", view(3, 9)),
    ]
    system = System.load(run, "cpu")
    found = system.classify(sources)
    assert found["status"].tolist() == ["ok", "describe_failed", "decode_failed", "ok"]
    assert found["landmark"].tolist() == ["", "", "", "L3"]
    listed = write_csv(tmp_path / "list.csv", [(i, one) for i, one in enumerate(sources)],
                       ("id", "path"))  # fmt: skip
    classify_list(system, listed, tmp_path / "out.csv", chunk_rows=3)
    with (tmp_path / "out.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["status"] for row in written] == found["status"].tolist()
    assert [row["landmark"] for row in written] == found["landmark"].tolist()
    assert len(system.classify([])) == 0
    assert system.classify([broken])["status"].tolist() == ["decode_failed"]


def test_a_classifier_that_looks_at_no_neighbours_has_none_searched(
    built: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = replace(System.load(built, "cpu"), answer="svm")
    queries = asked(system, data)
    expected = system.judge(queries)["svm"].scores.confidence
    monkeypatch.setattr(Searcher, "search", None)
    frame = system.predictions([str(i) for i in range(len(queries))], queries)
    assert frame["confidence"].to_numpy() == pytest.approx(expected)
    with pytest.raises(TypeError):
        replace(system, answer="knn").answers(queries)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("index/gallery/inverted.safetensors", r"inverted\.safetensors is missing or damaged"),
        ("index/bank/inverted.safetensors", r"inverted\.safetensors is missing or damaged"),
        ("index/gallery/kept.codes.npy", r"kept\.codes\.npy is missing or damaged"),
        ("local/asmk.safetensors", r"asmk\.safetensors is missing or damaged"),
        ("local/kept.safetensors", r"kept\.safetensors is missing or damaged"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damage_is_one_line_and_mended(
    run: Path, built: Path, config: str, data: Path, file: str, said: str, damage: str
) -> None:
    path = run / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=f"{said}.*landmarks index again") as raised:
        System.load(run, "cpu")
    assert "\n" not in str(raised.value)
    build(config, data, run)
    assert contents(run) == contents(built)


def test_parts_that_are_not_of_one_gallery_are_one_line(run: Path, more: pd.DataFrame) -> None:
    other = Path(shutil.copytree(run, run.parent / "other"))
    add_photographs(other, more, "cpu")
    words = "index/gallery/inverted.safetensors"
    shutil.copy(other / words, run / words)
    sealed_anew(run)
    with pytest.raises(RunError, match=r"is damaged \(words of 31 photographs beside 24 vectors\)"):
        System.load(run, "cpu")
    for path in (other / "index" / "gallery").glob("kept.*"):
        path.unlink()
    sealed_anew(other)
    with pytest.raises(RunError, match=r"is damaged \(no features are kept for verification\)"):
        System.load(other, "cpu")


def test_what_a_gpu_cannot_search_is_refused_before_work(
    config: str, data: Path, tmp_path: Path
) -> None:
    """The photograph itself is one more than those that are verified."""
    for change in ("search.verification.top=2048", "search.expansion.queries=2048"):
        system = load_config(config, [change])
        with pytest.raises(ConfigError, match="k is 2049, and FAISS on a GPU does at most 2048"):
            build_run(system, load_data_set(data), tmp_path / "run", "cuda")
    assert not (tmp_path / "run").exists()


def test_other_weights_of_the_detector_are_refused(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["describer"]["local"]["detector"]["weights"] = "another checksum"
    sealed_anew(run, describer=record["describer"])
    with pytest.raises(RunError, match="was built with other weights: give those"):
        System.load(run, "cpu")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["local.kept=null"], "search.verification: needs local.kept"),
        (["local=null"], "search.verification: needs local.kept"),
        (["search.verification=null"], "local.kept: nothing is verified without"),
        (["search.verification=null", "local.kept=null", "local.words=null"],
         "local: give words to search by, or kept to verify by"),
        (["search.verification.estimator=poselib"], "poselib is not installed"),
        (["search.verification.tpo=3"], "search.verification.tpo: no such key; did you mean top?"),
        (["local.words.kind=vlad"], "local.words.kind: 'vlad' is none of"),
    ],
)  # fmt: skip
def test_mistakes_in_a_config_are_one_line(
    config: str, overrides: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "poselib", None)
    with pytest.raises(ConfigError) as raised:
        load_config(config, overrides)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300
