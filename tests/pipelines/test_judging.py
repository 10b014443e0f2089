"""Ensembles, rejections and operating points from config to answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli
from pipelines.config import load_config
from pipelines.index import build_run
from retrieval.photographs.table import load_data_set, read_table
from retrieval.system import System

SMALL = ("extractor.side=64", "extractor.cells=[16]", "whitening.dimension=16")
BOTH = "classifiers.both={kind: ensemble, members: {svm: {kind: svm}, near: {kind: knn, k: 9}}}"


@pytest.fixture(scope="module")
def built(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an ensemble beside its members, and a learnt rejection."""
    run = tmp_path_factory.mktemp("runs") / "run"
    more = (BOTH, "rejection.kind=learnt", "calibration.kind=isotonic")
    build_run(load_config("hog", [*SMALL, *more]), load_data_set(data), run, "cpu")
    return run


@pytest.mark.parametrize("answer", ["knn", "svm", "both"])
def test_an_answer_alone_is_that_beside_others(built: Path, data: Path, answer: str) -> None:
    system = System.load(built, "cpu")
    assert system.rejections[answer].needs_evidence
    queries = system.gallery.vectors[:7]
    beside = system.judge(queries)[answer]
    alone = replace(system, answer=answer).answers(queries)
    assert alone.probability == pytest.approx(beside.probability)
    assert alone.accepted.tolist() == beside.accepted.tolist()
    assert np.isfinite(beside.scores.confidence).all()
    frame = replace(system, answer=answer).classify(
        read_table(data / "test.csv")["source"].tolist()
    )
    assert (frame["status"] == "ok").all()
    assert (frame["landmark"] != "").sum() >= 3


@pytest.mark.usefixtures("root_logger")
def test_an_operating_point_is_asked_for_on_the_command_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def index(run: Path, *asked: str) -> int:
        settings = [part for one in SMALL for part in ("--set", one)]
        given = ["index", "--config", "hog", "--data", str(data), "--run", str(run), *settings]
        monkeypatch.setattr("sys.argv", ["landmarks", *given, *asked])
        try:
            cli.main()
        except SystemExit as exit_:
            return int(exit_.code or 0)
        return 0

    thresholds = []
    for asked in ((), ("--max-false-accepts", "0.5"), ("--target-precision", "0.99")):
        run = tmp_path / f"run{len(thresholds)}"
        assert index(run, *asked) == 0
        rejection = json.loads((run / "classifiers" / "knn" / "rejection.json").read_text())
        thresholds.append(rejection["threshold"])
    balanced, loose, strict = (-np.inf if one is None else one for one in thresholds)
    assert loose < balanced <= strict
    both = ("--max-false-accepts", "0.5", "--target-precision", "0.9")
    assert index(tmp_path / "none", *both) == 2
    assert "give one of them" in capsys.readouterr().err
