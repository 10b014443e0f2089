"""Ensembles, rejections and operating points from config to answers."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli
from pipelines.building.index import build_run
from pipelines.config import load_config
from retrieval.photographs.table import load_data_set, read_table
from retrieval.system import System
from tests.photographs import picture, write_photograph

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
    assert system.rejections[answer].needs_signals
    queries = system.gallery.vectors[:7]
    beside = system.judge(queries)[answer]
    alone = replace(system, answer=answer).answers(queries)
    # Too few held-out photographs for probabilities: nobody gives any.
    assert np.isnan([alone.probability, beside.probability]).all()
    assert alone.scores.confidence == pytest.approx(beside.scores.confidence)
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

    thresholds: list[str] = []
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


@pytest.mark.usefixtures("root_logger")
def test_a_promise_that_cannot_be_kept_is_told_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One photograph a landmark: no answer can be tried, so that none is given."""

    def landmarks(*given: object) -> str:
        monkeypatch.setattr("sys.argv", ["landmarks", *map(str, given)])
        with contextlib.suppress(SystemExit):
            cli.main()
        return " ".join(capsys.readouterr().err.split())

    data, run = tmp_path / "data", tmp_path / "run"
    for number in range(6):
        write_photograph(data / "train" / f"L{number}" / "1.jpg", picture(number))
        write_photograph(data / "test" / f"L{number}" / "2.jpg", picture(number))
        write_photograph(data / "none" / f"{number}.jpg", picture(50 + number))
    unkept = (
        "promise not kept: a precision of 0.9 cannot be promised by so few photographs: no held-out"
        " answer was right; nothing is accepted"
    )
    settings = [part for one in SMALL[:2] for part in ("--set", one)]
    settings += ["--set", "whitening.dimension=4", "--target-precision", "0.9"]
    told = landmarks("index", "--config", "hog", "--data", data, "--run", run, *settings)
    assert unkept in told
    assert "no probabilities: 0 right and 6 wrong held-out answers are too few" in told
    assert "6 photographs of none of untold sources" in told
    assert "no landmark has two photographs" in told
    assert json.loads((run / "classifiers/knn/rejection.json").read_text())["unkept"]
    out = tmp_path / "out.csv"
    told = landmarks("classify", data / "test", "--run", run, "--out", out)
    assert "6 rows: 0 show a landmark, 6 none" in told
    assert unkept in told
    assert unkept in landmarks("classify", data / "test/L1/2.jpg", "--run", run)
    assert unkept in landmarks("evaluate", "--run", run)
    report = (run / "evaluation/report.html").read_text().replace("<wbr>", "")
    assert unkept in report
    again = landmarks("rethreshold", out, "--run", run, "--target-precision", "0.5")
    assert "a precision of 0.5 cannot be promised" in again
    assert "6 rows: 0 show a landmark, 6 none" in again
