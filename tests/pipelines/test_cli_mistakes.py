"""Mistakes on the command line: one line each, exit code 2, and nothing is spoilt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.index import build_run
from retrieval.errors import ConfigError
from retrieval.photographs.table import load_data_set
from tests.pipelines.test_index import config_of

pytestmark = pytest.mark.usefixtures("root_logger")

Say = Callable[..., str]


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs `landmarks ARGUMENTS`, which must fail in one line: that line."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["landmarks", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        said = capsys.readouterr().err
        assert leaving.value.code == 2
        assert said.startswith("landmarks: ")
        assert said.count("\n") == 1
        return said

    return run


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a folder whose name looks like markup."""
    folder = tmp_path_factory.mktemp("runs") / "[old]" / "[" / "run]"
    build_run(config_of("hog"), load_data_set(data), folder, "cpu")
    return folder


def test_files_in_the_way(mistake: Say, run: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = mistake("index", "--config", "hog", "--data", data, "--run", tmp_path / "file")
    assert f"{tmp_path / 'file'} is a file" in said
    said = mistake("evaluate", "--run", run, "--data", data, "--out", tmp_path / "file")
    assert said.rstrip().endswith("(Not a directory): make the folder writable, or choose another")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> list[str]:
        raise ConnectionError("not of the user's making")

    monkeypatch.setattr("pipelines.data.describe_data_set", broken)
    monkeypatch.setattr(sys, "argv", ["landmarks", "data", "check", "x"])
    with pytest.raises(ConnectionError):
        cli.main()


def test_predictions_go_to_a_file_of_their_own(
    mistake: Say, run: Path, data: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(f"{data / 'photos' / 'm1v0.jpg'}\n")
    before = listed.read_bytes()
    for out in (listed, tmp_path / ".." / tmp_path.name / "list.csv"):
        said = mistake("classify", listed, "--run", run, "--out", out, "--restart")
        assert "is the list itself" in said
    assert listed.read_bytes() == before
    said = mistake("classify", listed, "--run", run, "--out", tmp_path, "--restart")
    assert "is a folder" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.csv"]


def test_what_is_no_list(mistake: Say, run: Path, tmp_path: Path) -> None:
    (tmp_path / "long").write_text("a" * 200_000)
    said = mistake("classify", tmp_path / "long", "--run", run, "--out", tmp_path / "out.csv")
    assert "row 1: not a list of photographs (field larger than" in said


@pytest.mark.parametrize(
    ("option", "value"), [("concurrency", 0), ("per-host", -1), ("seconds", 0), ("max-bytes", 0)]
)
def test_limits_of_downloads_name_their_option(
    mistake: Say, tmp_path: Path, option: str, value: int
) -> None:
    said = mistake("classify", tmp_path / "list.csv", f"--{option}", value)
    assert f"--{option}: Input should be greater than" in said
    assert said.rstrip().endswith(f"found {value}") or said.rstrip().endswith(f"found {value}.0")


def test_one_large_photograph_may_be_in_flight() -> None:
    assert cli._fetch_config(max_bytes=2**30).bytes_in_flight == 2**30
    assert cli._fetch_config(max_bytes=2**20).bytes_in_flight == 2**28
    with pytest.raises(ConfigError):
        cli._fetch_config(max_bytes=-1)


def test_names_are_shown_as_they_are(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["landmarks", "evaluate", "--run", str(run), "--data", str(data)]
    )
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 0
    assert f"report: {run}/evaluation/report.html" in capsys.readouterr().err
