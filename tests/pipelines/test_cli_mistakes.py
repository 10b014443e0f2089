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
from tests.photographs import blank, write_csv, write_photograph
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
    assert said.rstrip().endswith(": Not a directory")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, **options: object) -> None:
        raise ConnectionError("not of the user's making")

    monkeypatch.setattr("pipelines.checking.check_data_set", broken)
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
    assert "row 1: no list of photographs: 'aaaa" in said


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


def test_labels_in_another_column_do_not_go_into_the_bank(mistake: Say, tmp_path: Path) -> None:
    photograph = write_photograph(tmp_path / "a.jpg", blank(8, 8))
    table = write_csv(tmp_path / "t.csv", [("a", photograph, "L1")], ("id", "path", "Label"))
    said = mistake("add", table, "--run", tmp_path / "run")
    assert "did you mean Label? Name it landmark_id" in said
    write_csv(table, [("a", photograph)], ("id", "path"))
    assert "no photograph shows a landmark" in mistake("add", table, "--run", tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "it looks like a photograph (JPEG)"),
        (b"%PDF-1.4", "it looks like a PDF"),
        (b"id,url\n1,http://a/\n2,caf\xe9\n", "row 3: not in UTF-8"),
        (b'id,url\n1,"http://a/\n2,http://b/\n', "row 2: a quote opens here that nothing closes"),
        (b"id,landmark\n1,2\n", "no column url or path among id,landmark"),
    ],
)
def test_lists_that_are_none(
    mistake: Say, run: Path, tmp_path: Path, text: bytes, message: str
) -> None:
    (tmp_path / "list.csv").write_bytes(text)
    out = tmp_path / "out.csv"
    assert message in mistake("classify", tmp_path / "list.csv", "--run", run, "--out", out)
    assert not out.exists()


def test_a_solution_with_a_column_twice(mistake: Say, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,landmarks,landmarks,Usage\na,1,1,Public\n")
    said = mistake("score", tmp_path / "s.csv", tmp_path / "s.csv")
    assert "row 1: the column landmarks stands twice" in said
