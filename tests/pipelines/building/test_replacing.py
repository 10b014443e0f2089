"""A run is not taken for another's: what a build into it asks first."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import pytest

from pipelines.building.index import build_run
from pipelines.building.replacing import begin_build
from pipelines.config import RENAMED
from retrieval.config import SystemConfig
from retrieval.errors import RunError
from retrieval.photographs.table import DataSet, load_data_set
from retrieval.system import System
from tests.photographs import write_csv, write_data_set
from tests.pipelines.building.test_index import config_of
from tests.pipelines.runs import contents


def begin(
    run: Path,
    config: SystemConfig,
    data: DataSet,
    gallery: Path | None = None,
    replace: bool = False,
    agreed: bool = False,
    part: bool = False,
) -> list[str]:
    """What was asked."""
    asked: list[str] = []

    def ask(what: str) -> bool:
        asked.append(what)
        return agreed

    begin_build(run, config, data, gallery, "cpu", replace, ask, part)
    return asked


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run built from the command line."""
    run = tmp_path_factory.mktemp("runs") / "run"
    begin(run, config_of("hog"), load_data_set(data))
    build_run(config_of("hog"), load_data_set(data), run, "cpu")
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "other", landmarks=2, views=2, bank=2, queries=1)


@pytest.mark.parametrize(
    "more",
    [(), ("classifiers.knn.k=3",), ("rejection.target_precision=0.9",), ("whitening.dimension=8",)],
)
def test_the_same_system_and_data_go_on(run: Path, data: Path, more: tuple[str, ...]) -> None:
    assert begin(run, config_of("hog", *more), load_data_set(data)) == []
    assert System.load(run, "cpu")


def test_a_config_under_another_name_is_the_same(run: Path, data: Path) -> None:
    config = config_of("hog").model_copy(update={"name": "mine", "description": "my own"})
    assert begin(run, config, load_data_set(data)) == []


def test_a_system_that_was_renamed_is_the_same(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now, changed = (
        config_of("hog", *more).model_copy(update={"name": "gradients"})
        for more in ((), ("classifiers.knn.k=3",))
    )
    monkeypatch.setitem(RENAMED, "hog", "gradients")
    build_run(now, load_data_set(data), run, "cpu")
    assert caplog.messages[-1] == f"{run}: nothing changed, nothing to do"
    assert begin(run, changed, load_data_set(data)) == []


def test_data_that_moved_are_the_same(run: Path, data: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    assert begin(run, config_of("hog"), load_data_set(moved)) == []


def test_data_that_grew_or_were_mended_are_the_same(run: Path, data: Path) -> None:
    known = load_data_set(data)
    gallery = known.gallery.iloc[2:].assign(landmark="L1")
    assert begin(run, config_of("hog"), replaced(known, gallery=gallery)) == []


@pytest.mark.parametrize("what", ["whitening", "photographs"])
def test_a_run_that_answers_is_not_stopped_by_a_part_unasked(
    run: Path, data: Path, what: str
) -> None:
    config, photographs = config_of("hog"), load_data_set(data)
    assert begin(run, config, photographs, part=True) == []
    if what == "whitening":
        config, told = config_of("hog", "whitening.dimension=8"), "whitening.dimension differs"
    else:
        photographs = replaced(photographs, gallery=photographs.gallery.iloc[2:])
        told = "list of photographs differs"
    before = contents(run)
    with pytest.raises(RunError, match=rf"stops until all parts are .* \({told}\).* --replace"):
        begin(run, config, photographs, part=True)
    assert contents(run) == before
    assert len(begin(run, config, photographs, part=True, agreed=True)) == 1
    assert System.load(run, "cpu")  # features are kept, and it answers until the part begins


def test_a_part_asks_nothing_where_photographs_teach_nothing(data: Path, tmp_path: Path) -> None:
    config, known = config_of("hog", "whitening=null"), load_data_set(data)
    build_run(config, known, tmp_path, "cpu")
    grown = replaced(known, gallery=known.gallery.iloc[2:])
    assert begin(tmp_path, config, grown, part=True) == []


def refusals(data: Path, other: Path) -> dict[str, tuple[SystemConfig, DataSet, Path | None, str]]:
    known = load_data_set(data)
    few = write_csv(other / "few.csv", [
        (one.id, one.source, one.landmark) for one in known.gallery.iloc[:20].itertuples()
    ])  # fmt: skip
    fewer = replaced(known, gallery=known.gallery.iloc[:5], bank=known.bank.iloc[:2])
    return {
        "system": (config_of("rootsift-vlad"), known, None, "another system, hog"),
        "extractor": (config_of("hog", "extractor.side=32"), known, None,
                      "another system (extractor.side differs)"),
        "data": (config_of("hog"), load_data_set(other), None,
                 f"the photographs of other data, {data}"),
        "table": (config_of("hog"), load_data_set(data, few), few,
                  "the photographs of another table, index.csv"),
        "gone": (config_of("hog"), fewer, None, f"other photographs of {data}"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["system", "extractor", "data", "table", "gone"])
@pytest.mark.parametrize("noted", [True, False], ids=["noted", "of a version before"])
def test_another_system_or_other_data_are_refused(
    run: Path, data: Path, other: Path, kind: str, noted: bool
) -> None:
    if not noted:
        (run / "asked.json").unlink()
        if kind == "table":
            return  # that version did not say which table it was
    config, photographs, gallery, said = refusals(data, other)[kind]
    before = contents(run)
    with pytest.raises(RunError) as error:
        begin(run, config, photographs, gallery)
    assert said in str(error.value)
    assert "--replace" in str(error.value)
    assert contents(run) == before


@pytest.mark.parametrize("how", [{"replace": True}, {"agreed": True}], ids=["option", "terminal"])
def test_a_run_that_is_replaced_is_as_if_built_anew(
    run: Path, other: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    (run / "predictions.csv").write_text("mine")
    photographs = load_data_set(other)
    asked = begin(run, config_of("hog"), photographs, **how)
    assert len(asked) == ("agreed" in how)
    assert not (run / "run.json").exists()
    assert (run / "predictions.csv").read_text() == "mine"
    build_run(config_of("hog"), photographs, run, "cpu")
    begin(tmp_path / "fresh", config_of("hog"), photographs)
    build_run(config_of("hog"), photographs, tmp_path / "fresh", "cpu")
    (run / "predictions.csv").unlink()
    assert contents(run) == contents(tmp_path / "fresh")


def test_to_be_replaced_is_the_same_system_no_reason_to_begin_anew(run: Path, data: Path) -> None:
    begin(run, config_of("hog"), load_data_set(data), replace=True)
    assert System.load(run, "cpu")


def test_a_build_that_was_killed_is_told_apart_too(data: Path, tmp_path: Path) -> None:
    """There is no run.json yet."""
    known = load_data_set(data)
    begin(tmp_path / "run", config_of("hog"), known)
    assert begin(tmp_path / "run", config_of("hog"), known) == []
    with pytest.raises(RunError, match="holds another system, hog"):
        begin(tmp_path / "run", config_of("rootsift-vlad"), known)


def test_replacing_cut_short_asks_again(
    run: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.building.replacing.shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            begin(run, config_of("hog"), load_data_set(other), replace=True)
    with pytest.raises(RunError, match="the photographs of other data"):
        begin(run, config_of("hog"), load_data_set(other))


@pytest.mark.parametrize("damage", ["{", "[]", '{"asked": {}}', None])
def test_a_damaged_note_is_not_gone_by(
    run: Path, data: Path, other: Path, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    note = json.loads((run / "asked.json").read_text())
    note["data"] += "x"
    (run / "asked.json").write_text(damage or json.dumps(note))
    with pytest.raises(RunError, match="other data"):
        begin(run, config_of("hog"), load_data_set(other))
    assert "asked.json is damaged" in caplog.text
    assert begin(run, config_of("hog"), load_data_set(data)) == []


@pytest.mark.parametrize("record", ["{", "[]", '{"finished": false}', '{"name": 1, "config": 2}'])
def test_a_run_of_which_nothing_is_known_is_the_builds_to_mend(
    run: Path, data: Path, record: str
) -> None:
    (run / "asked.json").unlink()
    (run / "run.json").write_text(record)
    assert begin(run, config_of("hog"), load_data_set(data)) == []


def test_where_no_run_belongs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is the data's own folder"):
        begin(data, config_of("hog"), load_data_set(data))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        begin(tmp_path / "file", config_of("hog"), load_data_set(data))
