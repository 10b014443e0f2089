"""Votes of several runs' predictions, row by row, and landmarks banned for being frequent."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path

import pytest

from pipelines.classify import COLUMNS
from pipelines.predictions import ban_frequent, vote_csvs
from retrieval.errors import RunError, TableError


def predictions(path: Path, rows: list[str]) -> Path:
    """Each row: landmark, probability, and a status other than ok; the ids are counted."""
    lines = [",".join(COLUMNS)]
    for i, row in enumerate(rows):
        landmark, probability, status = (*row.split(), "ok")[:3]
        landmark = landmark.strip("-")
        name = landmark and f'"The {landmark}, old"'
        probability = probability.strip("-")
        reason = "" if status == "ok" else f"{path.name} says why"
        lines.append(f"q{i},{landmark},{name},{probability},{status},{reason}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("cells", "landmark", "probability"),
    [
        (["a 0.5", "b 0.25", "b 0.5"], "b", 0.25),  # two that are less sure outvote one
        (["a 0.9", "b 0.25", "b 0.25"], "a", 0.3),  # or do not
        (["a 0.5", "b 0.5", "- 0.75"], "a", 0.5 / 3),  # of equal ones the first
        (["b 0.5", "a 0.5", "- 0.75"], "b", 0.5 / 3),
        (["a 0.5", "- 0.5", "- 0.9"], "", 1.9 / 3),  # none has 0.6
        (["a 0.5", "- 0.5", "a 0.1"], "a", 0.2),  # none has 0.5
        (["- 0.5", "a 0.5", "- 1.0"], "", 2 / 3),  # none, where as much is for it
        (["- 0.9", "a 0.1"], "", 0.5),  # a tie, though 1 - 0.9 is less in floats
        (["- 0.1", "- 0.2", "- 0.3"], "", 0.2),
        (["- - fetch_failed", "a 0.5", "- 0.9"], "a", 0.25),  # the others decide
        (["a 0.9", "- - fetch_failed", "- - failed"], "a", 0.9),
    ],
)
def test_the_largest_sum_of_probabilities_is_the_answer(
    cells: list[str], landmark: str, probability: float, tmp_path: Path
) -> None:
    files = [predictions(tmp_path / f"{i}.csv", [cell]) for i, cell in enumerate(cells)]
    summary = vote_csvs(files, tmp_path / "out.csv")
    (row,) = read(tmp_path / "out.csv")
    assert (row["id"], row["landmark"], row["status"], row["reason"]) == ("q0", landmark, "ok", "")
    assert row["name"] == (f"The {landmark}, old" if landmark else "")
    assert float(row["probability"]) == pytest.approx(probability, abs=1e-9)
    assert (summary.rows, summary.answered, summary.failed) == (1, bool(landmark), 0)


def test_a_row_fails_where_all_failed(tmp_path: Path) -> None:
    one = predictions(tmp_path / "one.csv", ["a 0.5", "- - fetch_failed"])
    other = predictions(tmp_path / "other.csv", ["- 0.1", "- - decode_failed"])
    summary = vote_csvs([one, other], tmp_path / "out.csv")
    row = read(tmp_path / "out.csv")[1]
    assert (row["status"], row["reason"]) == ("fetch_failed", "one.csv says why")
    assert (summary.rows, summary.failed, summary.counts) == (2, 1, {"ok": 1, "fetch_failed": 1})


def test_the_vote_of_one_file_is_that_file(tmp_path: Path) -> None:
    rows = ["a 0.123456789", "- 0.333333343", "- - failed", "b 1", "- 0.0625"]
    one = predictions(tmp_path / "one.csv", rows)
    vote_csvs([one], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == one.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,landmarks\n", r"bad.csv, row 1: the columns must be id,landmark,name,"),
        ("HEAD\nq0,a,A,0.5,ok,\n", r"bad.csv: ends before .*good.csv, row 3$"),
        ("HEAD\nq0,,,0,ok,\nq1,,,0,ok,\nq2,,,0,ok,\n", r"good.csv: ends before .*bad.csv, row 4"),
        ("HEAD\nq0,a,A,0.5,ok,\nx,,,0,ok,\n", r"bad.csv, row 3: id 'x' where .*good.csv has 'q1'"),
        ("HEAD\nq0,a,A,0.5,ok\n", r"bad.csv, row 2: not 6 cells"),
        ("HEAD\nq0,a,A,1.5,ok,\n", r"bad.csv, row 2: .*probability"),
        ("HEAD\nq0,a,A,,ok,\n", r"bad.csv, row 2: .*probability"),
        ("HEAD\nq0,a,A,nan,ok,\n", r"bad.csv, row 2: .*probability"),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together_are_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    good = predictions(tmp_path / "good.csv", ["a 0.5", "- 0.5"])
    bad = tmp_path / "bad.csv"
    bad.write_text(content.replace("HEAD", ",".join(COLUMNS)))
    with pytest.raises(TableError, match=message):
        vote_csvs([good, bad], tmp_path / "out.csv")
    assert {one.name for one in tmp_path.iterdir()} == {"good.csv", "bad.csv"}


def test_a_missing_file_and_an_output_that_votes_are_refused(tmp_path: Path) -> None:
    one = predictions(tmp_path / "one.csv", ["a 0.5"])
    with pytest.raises(TableError, match=r"two.csv: cannot be read"):
        vote_csvs([one, tmp_path / "two.csv"], tmp_path / "out.csv")
    with pytest.raises(RunError, match="is one of the files"):
        vote_csvs([one], tmp_path / "." / "one.csv")
    (tmp_path / "list.csv").write_text("id,url\n")
    with pytest.raises(RunError, match=r"list.csv is there, and holds no predictions"):
        ban_frequent(one, tmp_path / "list.csv", 1)
    assert (tmp_path / "list.csv").read_text() == "id,url\n"
    other = predictions(tmp_path / "other.csv", ["b 0.5"])
    (tmp_path / "other.csv.state.json").write_text("{}")
    with pytest.raises(RunError, match=r"other.csv belongs to landmarks classify"):
        vote_csvs([one], other)


def test_a_banned_answer_votes_for_none_however_sure_it_was(tmp_path: Path) -> None:
    frequent = predictions(tmp_path / "frequent.csv", ["a 0.9", "a 0.9"])
    ban_frequent(frequent, tmp_path / "banned.csv", 1)
    other = predictions(tmp_path / "other.csv", ["b 0.8", "- 0.1"])
    vote_csvs([tmp_path / "banned.csv", other], tmp_path / "out.csv")
    rows = read(tmp_path / "out.csv")
    assert [row["landmark"] for row in rows] == ["", ""]
    assert rows[0]["reason"] == "a is answered for 2 rows"
    vote_csvs([tmp_path / "banned.csv"], tmp_path / "alone.csv")
    assert (tmp_path / "alone.csv").read_bytes() == (tmp_path / "banned.csv").read_bytes()


def test_landmarks_in_more_rows_than_that_are_none(tmp_path: Path) -> None:
    rows = ["a 0.9", "b 0.8", "a 0.5", "- 0.1", "a 0.6", "- - failed", "b 0.7"]
    one = predictions(tmp_path / "one.csv", rows)
    assert ban_frequent(one, tmp_path / "out.csv", 2) == 3
    before, after = read(one), read(tmp_path / "out.csv")
    none = {"landmark": "", "name": "", "reason": "a is answered for 3 rows"}
    assert after == [{**row, **none} if row["landmark"] == "a" else row for row in before]
    assert ban_frequent(one, tmp_path / "out.csv", 3) == 0
    assert (tmp_path / "out.csv").read_bytes() == one.read_bytes()


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    one = predictions(tmp_path / "one.csv", ["a 0.9", "- 0.1"] * 10_000)
    tracemalloc.start()
    try:
        vote_csvs([one, one], tmp_path / "out.csv")
        ban_frequent(one, tmp_path / "out.csv", 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one.stat().st_size > 400_000
    assert peak < 250_000  # most of it fixed, whatever the rows
