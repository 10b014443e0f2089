"""A run that is answered by another runtime or precision than it was built with."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipelines.building.replacing import begin_build
from retrieval import agreement
from retrieval.config import SystemConfig
from retrieval.descriptors.describer import Describer
from retrieval.errors import RunError
from retrieval.networks import runtime
from retrieval.photographs.table import load_data_set, read_table
from retrieval.run import Run
from retrieval.system import System
from tests.photographs import write_data_set

pytestmark = pytest.mark.slow

pytest.importorskip("openvino")
QUANTISES = pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")
CONFIG = SystemConfig.model_validate(
    {
        "name": "small",
        "extractor": {"kind": "cnn", "trunk": "vgg_small", "weights": "none", "size": 112},
        "whitening": {"dimension": 16},
        "classifiers": {"knn": {"kind": "knn", "k": 5}},
    }
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Built by torch, as where OpenVINO is not installed."""
    data = load_data_set(write_data_set(tmp_path / "data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "_why_torch", lambda device, name: "not installed")
        System.build(CONFIG, data, tmp_path / "run", "cpu")
    return tmp_path / "run"


def test_one_that_agrees_answers_and_is_tried_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert System.load(run).describer.extractor.identity()["runtime"].startswith("openvino")
    assert Run(run).agreed.exists()
    monkeypatch.setattr(Describer, "stream", None)
    System.load(run)


def test_one_that_describes_otherwise_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "ALIKE", 1.1)
    with pytest.raises(RunError, match=r"built with \w+ by torch.*openvino.*build it anew"):
        System.load(run)


def test_nothing_is_tried_where_it_runs_as_it_was_built(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_why_torch", lambda device, name: "not installed")
    monkeypatch.setattr(Describer, "stream", None)
    System.load(run)
    assert not Run(run).agreed.exists()


def test_without_photographs_it_is_said(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (run.parent / "data").rglob("*.jpg"):
        path.unlink()
    for path in (run.parent / "data").rglob("*.png"):
        path.unlink()
    with caplog.at_level(logging.WARNING):
        System.load(run)
    assert "cannot be tried" in caplog.text


def test_a_damaged_note_costs_one_more_try(run: Path) -> None:
    System.load(run)
    Run(run).agreed.write_text("{")
    System.load(run)
    assert Run(run).agreed.read_text() != "{"


def test_adding_by_another_runtime_is_refused_by_name(run: Path) -> None:
    system = System.load(run)
    with pytest.raises(RunError, match=r"built with \w+ by torch, and .* with .*openvino"):
        system.add(read_table(run.parent / "data" / "test.csv", bank=True))


@QUANTISES
def test_a_build_in_eight_bits_answers_by_them(tmp_path: Path) -> None:
    data = load_data_set(write_data_set(tmp_path / "data"))
    config = CONFIG.model_copy(
        update={"extractor": CONFIG.extractor.model_copy(update={"precision": "int8"})}
    )
    built = System.build(config, data, tmp_path / "run", "cpu")
    assert built.describer.extractor.identity()["precision"] == "int8"
    before = {one.name: one.stat().st_mtime_ns for one in (tmp_path / "run/quantised").iterdir()}
    System.build(config, data, tmp_path / "run", "cpu")
    after = {one.name: one.stat().st_mtime_ns for one in (tmp_path / "run/quantised").iterdir()}
    assert before == after
    photograph = built.rows["id"].iloc[0]
    assert len(built.remove(photograph).rows) == len(built.rows) - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "_why_torch", lambda device, name: "not installed")
        with pytest.raises(RunError, match=r"holds networks of eight bits, .*not installed"):
            begin_build(tmp_path / "run", config, data, None, "cpu", False, lambda held: False)
    next((tmp_path / "run/quantised").glob("*.bin")).write_bytes(b"?")
    with pytest.raises(RunError, match="damaged"):
        System.load(tmp_path / "run")
