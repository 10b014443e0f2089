"""Mistakes on the command line: one line each, exit code 2, and nothing is spoilt."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pipelines import cli
from pipelines.building.index import build_run
from pipelines.cli.options import fetch_config, parse_headers
from retrieval.errors import ConfigError
from retrieval.photographs.table import load_data_set
from tests.photographs import blank, write_csv, write_photograph
from tests.pipelines.building.test_index import config_of

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
    assert "cannot be written (Not a directory): make the folder writable" in said
    assert said.endswith("; --out puts the figures elsewhere\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, **options: object) -> None:
        raise ConnectionError("not of the user's making")

    monkeypatch.setattr("pipelines.data.checking.check_data_set", broken)
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


def test_without_ray_nothing_is_begun(
    mistake: Say, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    told = mistake("index", "--config", "hog", "--data", data, "--run", tmp_path / "other",
                   "--workers", "ray")  # fmt: skip
    assert "--workers needs Ray: pip install" in told
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("command", ["classify", "evaluate"])
def test_a_cluster_that_is_not_there_is_told_before_a_run_is_loaded(
    mistake: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # which is not asked
    what = [tmp_path / "list.csv"] if command == "classify" else []
    told = mistake(command, *what, "--run", tmp_path / "none", "--workers", "127.0.0.1:1")
    assert "--workers 127.0.0.1:1: no Ray cluster answers there" in told
    monkeypatch.setitem(sys.modules, "ray", None)
    told = mistake(command, *what, "--run", tmp_path / "none", "--workers", "ray")
    assert "--workers needs Ray: pip install" in told


def test_workers_are_for_lists(
    mistake: Say, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    photograph = data / "photos" / "m1v0.jpg"
    told = mistake("classify", photograph, "--run", run, "--workers", "ray")
    assert "--workers: give --out too" in told
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = threading.Thread(target=pipe.write_bytes, args=(photograph.read_bytes(),))
    writing.start()
    told = mistake("classify", pipe, "--run", run, "--out", tmp_path / "o.csv", "--workers", "ray")
    writing.join()
    assert "--workers: a photograph that comes in a stream has no path there" in told


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
    assert fetch_config(max_bytes=2**30).bytes_in_flight == 2**30
    assert fetch_config(max_bytes=2**20).bytes_in_flight == 2**28
    with pytest.raises(ConfigError):
        fetch_config(max_bytes=-1)


def test_names_are_shown_as_they_are(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["landmarks", "evaluate", "--run", str(run), "--data", str(data)]
    )
    monkeypatch.setattr("pipelines.progress.console.width", 400)
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
        (b"PK\x03\x04 xl/workbook.xml", "it looks like a workbook or document (XLSX, DOCX)"),
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


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Accept", 'give "Name: value"'),
        ("Bad name: x", 'give "Name: value"'),
        (": x", 'give "Name: value"'),
        ("A: x\r\nB: y", 'give "Name: value"'),
        ("A: \u00e9", 'give "Name: value"'),
        ("Host: a.example", "Host: is decided for each request"),
        ("content-length: 3", "content-length: is decided for each request"),
        ("Range: bytes=0-9", "Range: is decided for each request"),
        ("User-Agent: me", "User-Agent: give --user-agent"),
    ],
)
@pytest.mark.parametrize("command", [("classify",), ("data", "fetch")], ids=" ".join)
def test_headers_that_are_none(
    mistake: Say, command: tuple[str, ...], header: str, message: str
) -> None:
    assert message in mistake(*command, "list.csv", "--header", header)


def test_a_header_stands_once_and_a_user_agent_is_plain(mistake: Say) -> None:
    said = mistake("classify", "list.csv", "--header", "A: 1", "--header", "a: 2")
    assert "--header a: is given twice" in said
    assert "--user-agent: 'a\\nb': give plain" in mistake("classify", "x", "--user-agent", "a\nb")
    assert "--user-agent" in mistake("data", "fetch", "x", "--user-agent", "")
    assert parse_headers(["A:1", "B: x: y "]) == {"A": "1", "B": "x: y"}


@pytest.mark.parametrize(
    "options",
    [
        ("--format", "csv"), ("--guard",), ("--frequency-ban", "1"), ("--retry-failed",),
        ("--restart",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_of_a_file_need_one(mistake: Say, data: Path, options: tuple[str, ...]) -> None:
    said = mistake("classify", data / "photos" / "m1v0.jpg", *options)
    assert f"{options[0]}: give --out too" in said


def test_forms_that_cannot_be_written(mistake: Say, data: Path, tmp_path: Path) -> None:
    listed = data / "index.csv"
    assert "no format has the ending .xlsx" in mistake("classify", listed, "--out", "out.xlsx")
    assert "--format json: choose csv, parquet or jsonl" in mistake(
        "classify", listed, "--format", "json"
    )
    assert "--guard: is for CSVs" in mistake("classify", listed, "--guard", "--format", "jsonl")
    assert "--out -: give a file" in mistake("classify", listed, "--out", "-")
    for one in ("predictions", "out.xlsx"):
        assert not (tmp_path / one).exists()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device): make room there, and give the same"),
        (errno.EDQUOT, "quota exceeded): make room in your share of that disk, and give the same"),
        (errno.EFBIG, "File too large): raise the limit on a file's size"),
    ],
)
def test_a_full_disk_names_file_and_remedy(
    mistake: Say, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    number: int, remedy: str,
) -> None:  # fmt: skip
    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out.parquet"
    said = mistake("classify", data / "photos", "--run", run, "--device", "cpu", "--out", out)
    last = said.splitlines()[-1]
    assert f"landmarks: {out}" in last
    assert remedy in last


def test_a_damaged_photograph_by_name_is_told_and_the_code_is_one(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "half.jpg").write_bytes((data / "photos" / "m1v0.jpg").read_bytes()[:900])
    given = ["classify", str(tmp_path / "half.jpg"), "--run", str(run), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["landmarks", *given])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == str(tmp_path / "half.jpg")
    assert second.split()[:2] == ["decode", "failed"]
