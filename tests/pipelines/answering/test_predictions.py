"""Votes of several runs' predictions, row by row, and landmarks banned for being frequent."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest

from pipelines.answering.classify import classify_list
from pipelines.answering.predictions import ban_frequent, rethreshold, vote_csvs
from pipelines.building.index import build_run
from pipelines.config import load_config
from pipelines.lists.formats import FORMATS, read_records, write_records
from pipelines.lists.inputs import opened
from pipelines.lists.journal import state_path
from retrieval.errors import ConfigError, RunError, TableError
from retrieval.photographs.table import load_data_set
from retrieval.predictions import ANSWER, prediction_columns
from retrieval.run import Run
from retrieval.storage.files import write_json
from retrieval.storage.fingerprint import checksum
from retrieval.system import System

SMALL = ("extractor.side=64", "extractor.cells=[16]", "whitening.dimension=16")


def predictions(path: Path, rows: list[str]) -> Path:
    """Each row: landmark, probability, and a status other than ok; the ids are counted."""
    lines = [",".join(ANSWER)]
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
    assert float(row["probability"]) == pytest.approx(probability, abs=1e-6)
    assert (summary.rows, summary.answered, summary.failed) == (1, bool(landmark), 0)


def test_a_row_fails_where_all_failed(tmp_path: Path) -> None:
    one = predictions(tmp_path / "one.csv", ["a 0.5", "- - fetch_failed"])
    other = predictions(tmp_path / "other.csv", ["- 0.1", "- - decode_failed"])
    summary = vote_csvs([one, other], tmp_path / "out.csv")
    row = read(tmp_path / "out.csv")[1]
    assert (row["status"], row["reason"]) == ("fetch_failed", "one.csv says why")
    assert (summary.rows, summary.failed, summary.counts) == (2, 1, {"ok": 1, "fetch_failed": 1})


def test_the_vote_of_one_file_is_that_file(tmp_path: Path) -> None:
    rows = ["a 0.123457", "- 0.333333", "- - failed", "b 1", "- 0.0625"]
    one = predictions(tmp_path / "one.csv", rows)
    vote_csvs([one], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == one.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,landmarks\n", r"bad.csv, row 1: no predictions: .* begin with id,landmark,name,"),
        ("HEAD\nq0,a,A,0.5,ok,\n", r"bad.csv: ends before .*good.csv, row 3$"),
        ("HEAD\nq0,,,0,ok,\nq1,,,0,ok,\nq2,,,0,ok,\n", r"good.csv: ends before .*bad.csv, row 4"),
        ("HEAD\nq0,a,A,0.5,ok,\nx,,,0,ok,\n", r"bad.csv, row 3: id 'x' where .*good.csv has 'q1'"),
        ("HEAD\nq0,a,A,0.5,ok\n", r"bad.csv, row 2: not 6 cells"),
        ("HEAD\nq0,a,A,1.5,ok,\n", r"bad.csv, row 2: .*probability"),
        ("HEAD\nq0,a,A,,ok,\n", r"bad.csv, row 2: no probability, which a vote needs"),
        ("HEAD\nq0,a,A,nan,ok,\n", r"bad.csv, row 2: .*probability"),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together_are_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    good = predictions(tmp_path / "good.csv", ["a 0.5", "- 0.5"])
    bad = tmp_path / "bad.csv"
    bad.write_text(content.replace("HEAD", ",".join(ANSWER)))
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


@pytest.mark.slow
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
    assert peak < 300_000


COLUMNS = prediction_columns()
SYSTEM = "0123456789abcdef"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """As much of a run as is looked at: its landmarks are a and b."""
    folder = tmp_path / "run"
    (folder / "index").mkdir(parents=True)
    pd.DataFrame({"landmark": ["a", "b", "a"]}).to_parquet(folder / "index" / "rows.parquet")
    record = {
        "finished": True, "fingerprint": SYSTEM, "config": load_config("hog").model_dump(),
        "name": "hog", "data": "photos", "names": {}, "describer": {}, "answer": "knn",
        "gallery": 3, "bank": 0, "failed": 0, "landmarks": 2, "dimension": 16, "device": "cpu",
        "index": {"factory": "Flat", "bytes_per_image": 64.0, "descriptors": "index/gallery"},
        "machine": {}, "versions": {}, "timings": {},
    }  # fmt: skip
    Run(folder).write_record(record)
    return folder


def answered(path: Path, rows: list[str], form: str = "csv") -> Path:
    """Each row: landmark, candidate, probability, and a status other than ok."""
    records = []
    for i, row in enumerate(rows):
        given = [cell.strip("-") for cell in row.split(" ")]
        landmark, candidate, probability, status = (*given, "ok")[:4]
        cells = {"id": f"q{i}", "landmark": landmark, "name": landmark.upper(), "status": status,
                 "probability": probability, "candidate": candidate, "nearest": "g",
                 "candidate_name": candidate.upper(), "confidence": probability}  # fmt: skip
        records.append([cells.get(name, "") for name in COLUMNS])
    with path.open("wb") as file:
        write_records(file, form, COLUMNS, records)
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_candidates_are_answered_anew(form: str, run: Path, tmp_path: Path) -> None:
    rows = ["a a 0.9", "- b 0.5", "b b 0.499", "- a 0.1", "- - - failed"]
    before = answered(tmp_path / f"before.{form}", rows, form)
    out = tmp_path / f"out.{form}"
    summary = rethreshold(before, out, run, min_probability=0.5)
    found = [record for _, record in read_records(out)[1]]
    assert [record[1:3] for record in found] == [
        ["a", "A"], ["b", "B"], ["", ""], ["", ""], ["", ""]
    ]  # fmt: skip
    assert [r[3:] for r in found] == [record[3:] for _, record in read_records(before)[1]]
    assert (summary.rows, summary.answered, summary.failed) == (5, 2, 1)
    rethreshold(before, out, run, min_probability=0.1)
    assert [record[1] for _, record in read_records(out)[1]] == ["a", "b", "b", "a", ""]


def test_a_banned_answer_stays_none(run: Path, tmp_path: Path) -> None:
    before = answered(tmp_path / "before.csv", ["a a 0.9", "a a 0.9", "b b 0.9"])
    assert ban_frequent(before, tmp_path / "banned.csv", 1) == 2
    rethreshold(tmp_path / "banned.csv", tmp_path / "out.csv", run, min_probability=0.1)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "banned.csv").read_bytes()


def test_guarded_candidates_are_the_runs(run: Path, tmp_path: Path) -> None:
    before = answered(tmp_path / "before.csv", ["'a 'a 0.9"])
    rethreshold(before, tmp_path / "out.csv", run, min_probability=0.1)
    assert read(tmp_path / "out.csv")[0]["landmark"] == "'a"


def test_a_damaged_run_answers_nothing_anew(run: Path, tmp_path: Path) -> None:
    before = answered(tmp_path / "before.csv", ["a a 0.9"])
    pd.DataFrame({"landmark": ["a", "c", "a"]}).to_parquet(run / "index" / "rows.parquet")
    with pytest.raises(RunError, match=r"rows\.parquet is missing or damaged"):
        rethreshold(before, tmp_path / "out.csv", run, min_probability=0.5)


def test_predictions_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    before, out = answered(tmp_path / "before.csv", ["a a 0.9", "- c 0.2"]), tmp_path / "out.csv"
    with pytest.raises(TableError, match=r"before.csv, row 3: 'c' is no landmark of the run"):
        rethreshold(before, out, run, min_probability=0.5)
    before = answered(tmp_path / "before.csv", ["a a 0.9"])
    state = {"made_from": {"system": SYSTEM}, "options": {}, "complete": True}
    write_json(state_path(before), {**state, "sha256": checksum(before)})
    rethreshold(before, out, run, min_probability=0.5)
    write_json(state_path(before), {**state, "sha256": "0" * 64})
    with pytest.raises(RunError, match="was changed since it was written"):
        rethreshold(before, out, run, min_probability=0.5)
    write_json(state_path(before), {**state, "made_from": {"system": "other"}})
    with pytest.raises(RunError, match="was made by another system"):
        rethreshold(before, out, run, min_probability=0.5)
    state_path(before).write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        rethreshold(before, out, run, min_probability=0.5)


def test_predictions_that_cannot_be_answered_anew_are_refused(run: Path, tmp_path: Path) -> None:
    old = predictions(tmp_path / "old.csv", ["a 0.9"])
    with pytest.raises(TableError, match=r"old.csv, row 1: no column candidate"):
        rethreshold(old, tmp_path / "out.csv", run, min_probability=0.5)
    unsure = answered(tmp_path / "unsure.csv", ["a a "])
    with pytest.raises(TableError, match=r"unsure.csv, row 2: no probability"):
        rethreshold(unsure, tmp_path / "out.csv", run, min_probability=0.5)
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(RunError, match="is one of the files that are read"):
        rethreshold(unsure, unsure, run, min_probability=0.5)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"min_probability": 0.5, "target_precision": 0.5},
        {"min_probability": 1.1},
        {"target_precision": 1.0},
        {"max_false_accepts": float("nan")},
    ],
)
def test_one_operating_point_is_asked_for(
    asked: dict[str, float], run: Path, tmp_path: Path
) -> None:
    before = answered(tmp_path / "before.csv", ["a a 0.9"])
    with pytest.raises(ConfigError, match=r"give one of|give a share from 0 to 1"):
        rethreshold(before, tmp_path / "out.csv", run, **asked)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("point", [{"target_precision": 0.5}, {"max_false_accepts": 0.9}])
@pytest.mark.parametrize("kind", ["threshold", "learnt"])
def test_a_threshold_is_the_one_that_an_index_would_have(
    point: dict[str, float], kind: str, data: Path, tmp_path: Path
) -> None:
    """Answers of a run at one operating point, asked for another, are those of a run at that."""
    ((name, value),) = point.items()
    files = {}
    for which, settings in {"plain": [], "asked": [f"rejection.{name}={value}"]}.items():
        config = load_config("hog", [*SMALL, f"rejection.kind={kind}", *settings])
        build_run(config, load_data_set(data), tmp_path / which, "cpu")
        files[which] = tmp_path / f"{which}.csv"
        with opened([str(data / "photos")]) as given:
            classify_list(System.load(tmp_path / which, "cpu"), given, files[which])
    assert files["plain"].read_bytes() != files["asked"].read_bytes()
    rethreshold(files["plain"], tmp_path / "anew.csv", tmp_path / "plain", device="cpu", **point)  # type: ignore[arg-type]
    assert (tmp_path / "anew.csv").read_bytes() == files["asked"].read_bytes()
