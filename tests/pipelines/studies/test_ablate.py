"""The ablation table: what stands in it, whose figures they are, and what is not done again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.building.index import build_run
from pipelines.config import load_config
from pipelines.measuring import evaluate
from pipelines.measuring.evaluate import evaluate_run
from pipelines.studies.ablate import ablate_run, choices
from retrieval.classifiers.ensemble import EnsembleConfig
from retrieval.classifiers.mlp import MlpConfig
from retrieval.classifiers.rejection import RejectionConfig
from retrieval.classifiers.svm import SvmConfig
from retrieval.classifiers.vote import VoteConfig
from retrieval.descriptors.hog import HogExtractor
from retrieval.photographs.table import load_data_set
from retrieval.system import System

SMALL = (
    "extractor.side=64", "extractor.cells=[16]", "whitening.dimension=16", "classifiers.knn.k=9",
    "rejection.kind=learnt", "calibration.kind=isotonic", "answer=svm",
)  # fmt: skip
FAST = MlpConfig(hidden=4, steps=5, folds=2)


@pytest.fixture(scope="module")
def built(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    build_run(load_config("hog", SMALL), load_data_set(data), run, "cpu")
    return run


def with_mlp(system: System, mlp: MlpConfig) -> System:
    """A system whose config has a small network besides."""
    classifiers = {**system.config.classifiers, "mlp": mlp}
    return replace(system, config=system.config.model_copy(update={"classifiers": classifiers}))


def rows_of(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    parts = json.loads(path.read_text())["parts"]
    return {part: {row["what"]: row for row in rows} for part, rows in parts.items()}


@pytest.mark.slow
def test_the_runs_own_choices_have_the_figures_that_evaluating_gives(
    built: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System.load(built, "cpu")
    figures = evaluate_run(system, data / "test.csv", built / "evaluation")
    monkeypatch.setattr(HogExtractor, "features", None)  # nothing is described again
    ablate_run(with_mlp(system, FAST), data / "test.csv", tmp_path / "table.md")
    parts = rows_of(tmp_path / "table.json")
    own = parts["calibrations"]["isotonic"]
    for name, value in figures["svm"].items():
        assert own[name] == value, name
    assert parts["rejections"]["learnt"]["gap"] == figures["svm"]["gap"]
    for rows in parts.values():
        first, *others = rows.values()
        assert "gap_less" not in first
        for row in others:
            expected = row["gap"] - first["gap"]
            assert row["gap_less"]["difference"] == pytest.approx(expected)
    text = (tmp_path / "table.md").read_text()
    assert "| powered (reference) |" in text
    assert "12 photographs of a landmark, 4 of none" in text
    assert f"Run {system.fingerprint} of hog" in text
    assert "of the run's classifier svm, the latter with rejection learnt" in text


@pytest.mark.slow
def test_another_table_leaves_the_first_described(
    built: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = with_mlp(System.load(built, "cpu"), FAST)
    header, *rows = (data / "test.csv").read_text().splitlines()
    other = data / "few.csv"
    other.write_text("\n".join([header, *rows[::2]]) + "\n")
    for table in (data / "test.csv", other):
        evaluate_run(system, table, built / "evaluation")
    # The report's maps look at photographs once more; descriptors must not.
    monkeypatch.setattr(evaluate, "_with_explained", lambda system, measured: measured)
    monkeypatch.setattr(HogExtractor, "features", None)
    evaluate_run(system, data / "test.csv", built / "evaluation")
    ablate_run(system, other, tmp_path / "table.md")


def test_every_kind_is_tried(built: Path) -> None:
    system = System.load(built, "cpu")
    tried = {part: [one.what for one in those]
             for part, those in choices(system.config, "svm", False).items()}  # fmt: skip
    kinds = ["powered", "majority", "weighted", "softmax", "ranked", "top"]
    suffixes = ["", ", corrected for counts", ", without the bank"]
    assert tried["votes"] == [kind + suffix for kind in kinds for suffix in suffixes]
    assert tried["rejections"] == list(get_args(RejectionConfig.model_fields["kind"].annotation))
    assert tried["calibrations"] == ["platt", "temperature", "isotonic"]
    assert {"knn", "svm", "centroid", "mlp"} <= {*tried["classifiers"]}
    assert "stacked ensemble of knn, svm, mlp" in tried["classifiers"]
    assert "network" not in tried["classifiers"]
    trained = choices(system.config, "svm", True)["classifiers"]
    assert "network" in [one.what for one in trained]


def test_the_runs_own_ensemble_is_what_is_fused(built: Path) -> None:
    config = System.load(built, "cpu").config
    two = EnsembleConfig(members={"a": VoteConfig(k=3), "b": SvmConfig()}, candidates=7)
    several = config.model_copy(update={"classifiers": {**config.classifiers, "both": two}})
    fused = {one.what: one.classifier for one in choices(several, "both", False)["classifiers"]}
    assert fused["weighted ensemble of a, b"] == two
    assert fused["stacked ensemble of a, b"] == two.model_copy(update={"fusion": "stacked"})


@pytest.mark.slow
def test_a_photograph_is_left_out_of_the_rows_that_took_it_in(data: Path, tmp_path: Path) -> None:
    config = load_config("hog", (*SMALL, "search.expansion.gallery=3"))
    build_run(config, load_data_set(data), tmp_path / "run", "cpu")
    system = System.load(tmp_path / "run", "cpu")
    figures = evaluate_run(system, data / "test.csv", tmp_path / "run" / "evaluation")
    rows = ablate_run(with_mlp(system, FAST), data / "test.csv", tmp_path / "table.md")
    (own,) = (row for row in rows["calibrations"] if row.choice.what == "isotonic")
    assert own.result is not None
    assert own.result.metrics["gap"] == figures["svm"]["gap"]
    near = {row.choice.what: row for row in rows["classifiers"]}["knn"].result
    assert near is not None
    # Its threshold is chosen by held-out photographs.
    assert near.metrics["precision"] == figures["knn"]["precision"]


def test_the_runs_constants_stay(built: Path) -> None:
    config = System.load(built, "cpu").config
    knn = config.classifiers["knn"].model_copy(update={"counts": 0.3})
    point = config.rejection.model_copy(update={"target_precision": 0.9})
    update = {"classifiers": {"near": knn, "svm": config.classifiers["svm"]}, "rejection": point}
    tried = choices(config.model_copy(update=update), "svm", False)
    told = {one.what: one.classifier.model_dump() for one in tried["votes"]}
    assert {one["k"] for one in told.values()} == {9}
    assert told["softmax, corrected for counts"]["counts"] == 0.3
    assert told["softmax"]["counts"] == told["softmax, without the bank"]["counts"] == 0.0
    assert told["softmax, without the bank"]["query_correction"] == 0.0
    assert told["softmax"]["query_correction"] > 0.0
    for those in tried.values():
        assert {one.rejection.target_precision for one in those} == {0.9}
    assert {one.rejection.kind for one in tried["votes"] + tried["classifiers"]} == {"threshold"}
    assert {one.rejection.kind for one in tried["calibrations"]} == {"learnt"}


@pytest.mark.usefixtures("root_logger")
def test_what_cannot_be_fitted_says_why(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = System.load
    too_large = MlpConfig(most_work=1)
    monkeypatch.setattr(
        System, "load", lambda run, device, weights: with_mlp(load(run, device, weights), too_large)
    )
    out = tmp_path / "sub" / "table.md"
    arguments = ["ablate", "--run", str(built), "--out", str(out), "--device", "cpu"]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    rows = rows_of(out.with_suffix(".json"))["classifiers"]
    assert "too many" in rows["mlp"]["skipped"]
    assert "skipped" in rows["weighted ensemble of knn, svm, mlp"]
    assert rows["centroid"]["top1"] > 0.5
    assert "| mlp: skipped: mlp: " in out.read_text()
