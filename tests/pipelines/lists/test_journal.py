"""Crashes are real: a forked process kills itself at each system call that changes a file."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.lists.formats import FORMATS, csv_line, read_records
from pipelines.lists.journal import Item, Journal, chunks
from pipelines.lists.rows import Row, read_rows
from retrieval.errors import RunError, WriteError
from tests.crashes import killed_at

COLUMNS = ("id", "status", "reason")


def write_list(folder: Path, rows: int = 10) -> Path:
    path = folder / "list.csv"
    path.write_text("id,url\n" + "".join(f"{i},http://{i}/\n" for i in range(rows)))
    return path


def run(folder: Path, fails: Callable[[int], bool], **options: object) -> Journal:
    """The output has a row for each of the input's; ``fails`` says which ones fail."""
    settings = {"retry_failed": False, "restart": False, "limit": 1, **options}
    limit = settings.pop("limit")
    out = folder / f"out.{settings.get('form', 'csv')}"
    with Journal(out, COLUMNS, {"input": "x"}, {"limit": limit}, **settings) as journal:  # type: ignore[arg-type]
        if not journal.done_before:
            for chunk in chunks(journal.pending(read_rows(folder / "list.csv")), 3):
                records = [item.kept or record(item.row, fails) for item in chunk]
                journal.append(records, Counter(r[-2] for r in records))
            journal.finish()
    return journal


def record(row: Row, fails: Callable[[int], bool]) -> list[str]:
    return [row.id, "bad", "why, so"] if fails(int(row.id)) else [row.id, "ok", ""]


def odd(row: int) -> bool:
    return row % 2 == 1


def never(row: int) -> bool:
    return False


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def sweep(folder: Path, prepare: Callable[[Path], None], work: Callable[[Path], object]) -> None:
    """Kill ``work`` at every change in turn; the same again always ends the same."""
    whole = folder / "whole"
    prepare(whole)
    work(whole)
    expected = content(whole)
    for after in (False, True):
        for call in range(1, 200):
            broken = folder / f"{call}-{after}"
            prepare(broken)
            killed = killed_at(call, after, lambda broken=broken: work(broken))
            work(broken)
            assert content(broken) == expected, f"killed {'after' if after else 'before'} {call}"
            if not killed:
                break
        assert call > 10


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_kill_anywhere(tmp_path: Path, form: str) -> None:
    def prepare(folder: Path) -> None:
        folder.mkdir()
        write_list(folder)

    sweep(tmp_path, prepare, lambda folder: run(folder, odd, form=form))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_kill_anywhere_in_a_retry(tmp_path: Path, form: str) -> None:
    def prepare(folder: Path) -> None:
        folder.mkdir()
        write_list(folder)
        run(folder, odd, form=form)

    sweep(tmp_path, prepare, lambda folder: run(folder, never, retry_failed=True, form=form))


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_but_the_table_and_its_state_is_left(tmp_path: Path, form: str) -> None:
    write_list(tmp_path)
    run(tmp_path, odd, form=form)
    run(tmp_path, never, retry_failed=True, form=form)
    assert sorted(content(tmp_path)) == ["list.csv", f"out.{form}", f"out.{form}.state.json"]
    assert run(tmp_path, odd, form=form).done_before
    columns, records = read_records(tmp_path / f"out.{form}")
    assert tuple(columns) == COLUMNS
    assert [record for _, record in records] == [[str(i), "ok", ""] for i in range(10)]


@pytest.mark.parametrize("name", ["out.csv.part", "out.parquet.part", "out.parquet.converted"])
@pytest.mark.parametrize("make", ["symlink", "dangling", "hardlink", "pipe", "folder"])
def test_what_lies_in_the_place_of_a_part_is_not_followed(
    tmp_path: Path, name: str, make: str
) -> None:
    write_list(tmp_path)
    other, part = tmp_path / "other.txt", tmp_path / name
    other.write_text("another's\n")
    if make == "symlink":
        part.symlink_to(other)
    elif make == "dangling":
        part.symlink_to(tmp_path / "made.txt")
    elif make == "hardlink":
        part.hardlink_to(other)
    elif make == "pipe":
        os.mkfifo(part)
    else:
        part.mkdir()
    with pytest.raises(RunError, match=rf"{name} is a link, or no regular file"):
        run(tmp_path, odd, form=name.split(".")[1])
    assert other.read_text() == "another's\n"
    assert not (tmp_path / "made.txt").exists()


def test_out_has_to_be_a_regular_file(tmp_path: Path) -> None:
    write_list(tmp_path)
    os.mkfifo(tmp_path / "out.csv")
    with pytest.raises(RunError, match=r"out.csv is no regular file"):
        run(tmp_path, odd)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("failing", range(4))
def test_a_full_disk_names_the_file_and_the_same_again_goes_on(
    tmp_path: Path, form: str, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_list(tmp_path)
    whole = tmp_path / "whole"
    whole.mkdir()
    write_list(whole)
    run(whole, odd, form=form)
    calls = 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > failing * 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left") as caught:
            run(tmp_path, odd, form=form)
    assert str(caught.value).startswith(str(tmp_path / f"out.{form}"))
    assert ".tmp" not in str(caught.value)
    run(tmp_path, odd, form=form)
    assert content(tmp_path) == content(whole)


def test_every_row_once_in_order(tmp_path: Path) -> None:
    write_list(tmp_path)
    journal = run(tmp_path, odd)
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "id,status,reason"
    assert lines[1:3] == ["0,ok,", '1,bad,"why, so"']
    assert [line.split(",")[0] for line in lines[1:]] == [str(i) for i in range(10)]
    assert journal.state.counts == {"ok": 5, "bad": 5}
    assert sorted(content(tmp_path)) == ["list.csv", "out.csv", "out.csv.state.json"]


def test_a_finished_file_is_left_alone(tmp_path: Path) -> None:
    write_list(tmp_path)
    run(tmp_path, odd)
    before = content(tmp_path)
    assert run(tmp_path, never).done_before
    assert content(tmp_path) == before


def test_a_retry_takes_the_failed_rows_alone(tmp_path: Path) -> None:
    write_list(tmp_path)
    run(tmp_path, odd)
    tried: list[int] = []

    def still(row: int) -> bool:
        tried.append(row)
        return row == 5

    journal = run(tmp_path, still, retry_failed=True)
    assert tried == [1, 3, 5, 7, 9]
    assert journal.state.counts == {"ok": 9, "bad": 1}
    text = (tmp_path / "out.csv").read_text()
    assert [line.split(",")[1] for line in text.splitlines()[1:]].index("bad") == 5
    run(tmp_path, never, retry_failed=True)
    assert run(tmp_path, odd, retry_failed=True).done_before, "nothing failed any more"


def test_options_may_change_for_a_retry_alone(tmp_path: Path) -> None:
    write_list(tmp_path)
    run(tmp_path, odd)
    with pytest.raises(RunError, match=r"another limit \(1 then, 2 now\).*--restart"):
        run(tmp_path, odd, limit=2)
    run(tmp_path, never, limit=2, retry_failed=True)
    assert run(tmp_path, never, limit=2).done_before


def test_what_belongs_to_something_else_is_not_touched(tmp_path: Path) -> None:
    write_list(tmp_path)
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(RunError, match="not written by this command"):
        run(tmp_path, odd)
    assert sorted(content(tmp_path)) == ["list.csv", "out.csv"]
    run(tmp_path, odd, restart=True)
    with (tmp_path / "out.csv").open("a") as file:
        file.write("mine")
    with pytest.raises(RunError, match="was changed since"):
        run(tmp_path, odd)


def test_a_deleted_file_is_made_again(tmp_path: Path) -> None:
    write_list(tmp_path)
    run(tmp_path, odd)
    (tmp_path / "out.csv").unlink()
    assert not run(tmp_path, odd).done_before
    assert (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("text", ["{", "{}", '{"strange": 1}'])
def test_a_damaged_state_is_said_so(tmp_path: Path, text: str) -> None:
    write_list(tmp_path)
    run(tmp_path, odd)
    (tmp_path / "out.csv.state.json").write_text(text)
    with pytest.raises(RunError, match="is damaged: give --restart"):
        run(tmp_path, odd)


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    write_list(tmp_path)
    with (
        Journal(tmp_path / "out.csv", COLUMNS, {"input": "x"}, {"limit": 1}),
        pytest.raises(RunError, match="another command"),
    ):
        run(tmp_path, odd)


def test_chunks_hang_on_the_rows_alone() -> None:
    items = [Item(Row(i, str(i), ""), ["kept"] if i % 3 else None) for i in range(100)]
    whole = [[item.row.id for item in chunk] for chunk in chunks(items, 4)]
    assert [name for chunk in whole for name in chunk] == [str(i) for i in range(100)]
    resumed = [[item.row.id for item in chunk] for chunk in chunks(items[len(whole[0]) :], 4)]
    assert resumed == whole[1:]
    kept = [Item(Row(i, str(i), ""), ["kept"]) for i in range(100)]
    assert [len(chunk) for chunk in chunks(kept, 2)] == [32, 32, 32, 4]


def test_lines_keep_odd_characters() -> None:
    assert csv_line(['a"b', "c,d", "é\nf", ""]) == '"a""b","c,d","é\nf",\n'.encode()


@pytest.mark.parametrize("cell", ["a\rb", "a\nb", "a\r\nb", "\r", 'a"b', "a,b", " a", "=1"])
def test_a_line_reads_back_as_it_was_written(cell: str) -> None:
    line = csv_line(["x", cell, 7])
    assert line.endswith(b"\n")
    assert not line.endswith(b"\r\n")
    assert list(csv.reader(io.StringIO(line.decode(), newline=""))) == [["x", cell, "7"]]
