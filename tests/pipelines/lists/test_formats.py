"""Tables of predictions come back as they were written, in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from pipelines.lists.formats import (
    BATCH,
    FORMATS,
    convert,
    csv_line,
    format_of,
    guarded,
    read_records,
    write_records,
)
from retrieval.errors import ConfigError, TableError
from retrieval.predictions import ANSWER, is_number, prediction_columns

COLUMNS = prediction_columns(top=1)
RECORDS = [
    ["a", "L1", "Größe, \"x\"", "0.123457", "ok", "", "L1", "n", "-1.23456789", "g", "0.5", "L1",
     "-1.23456789"],
    ["lone\rreturn", "", "", "", "fetch_failed", "two\nlines\r\n", *[""] * 7],
    ["=1+1", "", "", "1e-07", "ok", "", "", "", "", "", "", "", ""],
]  # fmt: skip


def write(path: Path, form: str, records: list[list[str]]) -> Path:
    with path.open("wb") as file:
        write_records(file, form, COLUMNS, records)
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_records_come_back(form: str, tmp_path: Path) -> None:
    columns, records = read_records(write(tmp_path / "any.name", form, RECORDS))
    assert tuple(columns) == COLUMNS
    assert [record for _, record in records] == RECORDS


@pytest.mark.parametrize("form", FORMATS)
def test_a_csv_becomes_any_format(form: str, tmp_path: Path) -> None:
    many = RECORDS * (BATCH // 3 + 1)
    source = write(tmp_path / "source.csv", "csv", many)
    direct = write(tmp_path / "direct", form, many)
    with (tmp_path / "converted").open("wb") as file:
        convert(source, form, file)
    assert (tmp_path / "converted").read_bytes() == direct.read_bytes()
    assert sum(1 for _ in read_records(direct)[1]) == len(many) > BATCH


def test_numbers_are_numbers_and_what_is_missing_is_null(tmp_path: Path) -> None:
    frame = pd.read_parquet(write(tmp_path / "a.parquet", "parquet", RECORDS))
    assert frame["probability"].tolist()[::2] == [0.123457, 1e-07]
    assert frame["probability"].isna().tolist() == [False, True, False]
    assert frame["landmark"].tolist() == ["L1", "", ""]
    lines = write(tmp_path / "a.jsonl", "jsonl", RECORDS).read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[1])["confidence"] is None
    assert json.loads(lines[0])["name"] == 'Größe, "x"'
    assert [is_number(one) for one in ANSWER] == [False, False, False, True, False, False]


def test_a_lone_carriage_return_is_quoted() -> None:
    line = csv_line(["a\rb", "c"])
    assert line == b'"a\rb",c\n'
    assert next(csv.reader(io.StringIO(line.decode(), newline=""))) == ["a\rb", "c"]
    assert csv_line(["\r\n"]) == b'"\r\n"\n'


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@a", "\t=1", " =1", "\rx", "\uff1d1"])
def test_formulas_are_guarded(cell: str) -> None:
    assert guarded(["id"], [cell]) == [f"'{cell}"]
    assert guarded(["probability"], ["-0.5"]) == ["-0.5"]


@pytest.mark.parametrize("cell", ["a=1", "", "L-1", "http://a.example/?b=1"])
def test_other_text_is_not_guarded(cell: str) -> None:
    assert guarded(["id"], [cell]) == [cell]


def test_the_format_is_told_by_the_ending() -> None:
    names = {"a.csv": "csv", "a": "csv", "a.PARQUET": "parquet", "a.jsonl": "jsonl"}
    assert {name: format_of(Path(name)) for name in names} == names
    assert format_of(Path("a.xlsx"), "csv") == "csv"
    for name, given in (("a.xlsx", None), ("a.csv.gz", None), ("a.csv", "json")):
        with pytest.raises(ConfigError, match="choose csv, parquet or jsonl"):
            format_of(Path(name), given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a,b\n"x,y\n', r"row 2: "),
        (b'{"a": 1}\n{"a"\n', r"row 2: no JSON \("),
        (b'{"a": 1}\n[1]\n', r"row 2: no JSON object"),
        (b'{"a": 1}\n{"b": 1}\n', r"row 2: other keys than row 1"),
        (b'{"probability": "x"}\n', r"row 1: a number that is none"),
        (b"PAR1 and no more", r"damaged Parquet"),
    ],
)
def test_damage_is_told_with_its_row(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(TableError, match=rf"damaged.*{message}"):
        list(read_records(path)[1])
