"""Tables of predictions as files: CSV, JSON lines and Parquet, written and read as a stream.

A record is a list of strings, as a CSV holds it, in any format. JSON lines and Parquet hold
numbers as numbers (null where there is none), and text as text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import ConfigError, TableError
from retrieval.predictions import is_number

Record = list[str]
Records = Iterator[tuple[int, Record]]

CSV: Final = "csv"
FORMATS: Final = (CSV, "parquet", "jsonl")
ENDINGS: Final = {
    "": CSV, ".csv": CSV, ".txt": CSV, ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
FORMULAS: Final = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""What a cell begins with that a spreadsheet takes for a formula; full-width ones too."""
BATCH: Final = 8192
"""Rows of a Parquet file's group, held in memory at a time."""


def format_of(out: Path, given: str | None = None) -> str:
    """The format of a file by its ending, unless one is given.

    Raises:
        ConfigError: it is none of them.
    """
    choices = f"choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    if given is not None:
        if given not in FORMATS:
            raise ConfigError(f"--format {given}: {choices}")
        return given
    found = ENDINGS.get(out.suffix.lower())
    if found is None:
        raise ConfigError(f"{out}: no format has the ending {out.suffix}: {choices} by --format")
    return found


def csv_line(cells: Iterable[object]) -> bytes:
    """One line of a CSV, as every output of ours is written."""
    text = io.StringIO()
    # Cells with either of the two are quoted, a lone carriage return too.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n").encode("utf-8", errors="replace") + b"\n"


def guarded(columns: Sequence[str], record: Record) -> Record:
    """A record whose text no spreadsheet takes for a formula: a ``'`` goes before it."""
    return [
        f"'{cell}" if not is_number(column) and _is_formula(cell) else cell
        for column, cell in zip(columns, record, strict=True)
    ]


def frame_records(frame: pd.DataFrame, columns: Sequence[str], guard: bool) -> list[Record]:
    """The records of predictions; text is ``guarded`` on demand, and what is missing empty."""
    cells = [
        ["" if pd.isna(value) else number(name, value) for value in frame[name]]
        if pd.api.types.is_float_dtype(frame[name])
        else ["" if pd.isna(cell) else str(cell) for cell in frame[name]]
        for name in columns
    ]
    records = [list(record) for record in zip(*cells, strict=True)]
    return [guarded(columns, record) for record in records] if guard else records


def _is_formula(cell: str) -> bool:
    return cell.lstrip().startswith(FORMULAS) or cell.startswith(("\t", "\r", "\n"))


def write_records(
    file: BinaryIO, form: str, columns: Sequence[str], records: Iterable[Record]
) -> None:
    """Write a whole table in one of the formats."""
    if form == CSV:
        file.write(csv_line(columns))
        file.writelines(csv_line(record) for record in records)
    elif form == "jsonl":
        file.writelines(
            json.dumps(_typed(columns, record), ensure_ascii=False).encode("utf-8", "replace")
            + b"\n"
            for record in records
        )
    else:
        _write_parquet(file, columns, iter(records))


def convert(source: Path, form: str, file: BinaryIO) -> None:
    """Write a CSV of ours in another format."""
    columns, records = read_records(source)
    write_records(file, form, columns, (record for _, record in records))


def read_records(path: Path) -> tuple[list[str], Records]:
    """The columns of a table in any of the formats, distinguished by content, and its records with
    their rows' numbers, one at a time.

    Raises:
        TableError: it cannot be read, or a row of it is damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from None
    if head == b"PAR1":
        return _read_parquet(path)
    return _read_jsonl(path) if head.startswith(b"{") else _read_csv(path)


def _typed(columns: Sequence[str], record: Record) -> dict[str, Any]:
    return {
        column: (float(cell) if cell else None) if is_number(column) else cell
        for column, cell in zip(columns, record, strict=True)
    }


def _cell(column: str, value: Any) -> str:
    """A typed value as a CSV has it."""
    if not is_number(column):
        return "" if value is None else str(value)
    return "" if value is None else number(column, float(value))


def number(column: str, value: float) -> str:
    """A number's cell: scores with the nine digits that tell any two of them apart, since answers
    hang on them; what people read with six."""
    exact = column == "confidence" or column.startswith("score_")
    return f"{value:.9g}" if exact else f"{value:.6g}"


def _write_parquet(file: BinaryIO, columns: Sequence[str], records: Iterator[Record]) -> None:
    schema = pa.schema([(one, pa.float64() if is_number(one) else pa.string()) for one in columns])
    with pq.ParquetWriter(file, schema) as writer:
        while rows := list(islice(records, BATCH)):
            typed = [_typed(columns, [_encodable(cell) for cell in row]) for row in rows]
            writer.write_table(pa.Table.from_pylist(typed, schema=schema))


def _encodable(cell: str) -> str:
    """As :func:`csv_line` writes what UTF-8 has no bytes for."""
    return cell.encode("utf-8", "replace").decode("utf-8")


def _read_csv(path: Path) -> tuple[list[str], Records]:
    records = _csv_records(path)
    _, columns = next(records, (0, []))
    return columns, records


def _csv_records(path: Path) -> Records:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for record in reader:
                yield reader.line_num, record
        except csv.Error as error:
            raise TableError(f"{path}, row {reader.line_num}: {error}") from None


def _read_jsonl(path: Path) -> tuple[list[str], Records]:
    def parsed() -> Iterator[tuple[int, dict[str, Any]]]:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for row, line in enumerate(file, start=1):
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise TableError(f"{path}, row {row}: no JSON ({error})") from None
                if not isinstance(found, dict):
                    raise TableError(f"{path}, row {row}: no JSON object")
                yield row, found

    columns = list(next(parsed(), (0, dict[str, Any]()))[1])

    def records() -> Records:
        for row, found in parsed():
            if list(found) != columns:
                raise TableError(f"{path}, row {row}: other keys than row 1")
            yield row, _record(path, row, columns, found)

    return columns, records()


def _read_parquet(path: Path) -> tuple[list[str], Records]:
    damaged = (pa.ArrowException, OSError)
    try:
        columns = list(pq.read_schema(path).names)
    except damaged as error:
        raise TableError(f"{path}: damaged Parquet ({error})") from None

    def records() -> Records:
        row = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH):
                    for found in batch.to_pylist():
                        row += 1
                        yield row, _record(path, row, columns, found)
        except damaged as error:
            raise TableError(f"{path}, after row {row}: damaged Parquet ({error})") from None

    return columns, records()


def _record(path: Path, row: int, columns: Sequence[str], found: dict[str, Any]) -> Record:
    try:
        return [_cell(column, found[column]) for column in columns]
    except (TypeError, ValueError):
        raise TableError(f"{path}, row {row}: a number that is none") from None
