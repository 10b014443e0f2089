"""Lists of photographs of any length, read as a stream: what classify and data fetch take in.

Forms, told apart by the first line:

- a CSV whose header names ``url`` or ``path`` (or both: the path counts where it is not empty),
  and ``id`` if there is one; other columns are passed over, and the order is free;
- no header: each line, whole, is a URL or a path.

A row without an ``id`` is named by its URL or path. Paths are relative to the list's folder. Ids
may repeat: every row is a row. Empty lines are none. A row that cannot be used keeps its place and
says what is wrong with it, so that the output has as many rows as the input.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from retrieval.errors import TableError
from retrieval.index.store import checksum

SOURCES: Final = ("path", "url")
URL_START: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
HEADLESS_PAIR: Final = re.compile(r"[^,:]*,\s*\"?https?://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a list.

    Attributes:
        line: where it ends in the file, from 1.
        id: what the output calls it.
        source: a URL, or a local path.
        problem: why it cannot be used, or empty.
    """

    line: int
    id: str
    source: str | Path
    problem: str = ""


def read_rows(
    path: Path, url_column: str | None = None, id_column: str | None = None
) -> Iterator[Row]:
    """The rows of a list, one at a time.

    Raises:
        TableError: there is no such file, or its first line cannot be understood.
    """
    with _opened(path) as file:
        first = next((line for line in file if line.strip()), "")
    header = _header(path, first)
    with _opened(path) as file:
        yield from _bare(path, file) if header is None else _columns(path, file, header)


def count_rows(path: Path) -> int:
    """How many rows :func:`read_rows` gives."""
    return sum(1 for _ in read_rows(path))


def digest(path: Path) -> str:
    """Sixteen hex digits of a list's SHA-256, its first line having been checked.

    Raises:
        TableError: as :func:`read_rows`.
    """
    next(read_rows(path), None)
    return checksum(path)[:16]


def _opened(path: Path) -> TextIO:
    try:
        # A byte that is not UTF-8 spoils its own row at most.
        return path.open(encoding="utf-8-sig", errors="replace", newline="")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from None


def _header(path: Path, first: str) -> list[str] | None:
    """The names of the columns; ``None`` for a list without a header."""
    try:
        cells = next(csv.reader([first]), [])
    except csv.Error as error:
        raise TableError(f"{path}, row 1: not a list of photographs ({error})") from None
    names = [cell.strip().lower() for cell in cells]
    if any(source in names for source in SOURCES):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise TableError(f"{path}, row 1: the column {twice!r} stands twice")
        return names
    if HEADLESS_PAIR.match(first):
        raise TableError(f"{path}, row 1: put a first line that names the columns, such as id,url")
    if "id" in names:
        raise TableError(f"{path}, row 1: no column url or path among {','.join(names)}")
    return None


def _bare(path: Path, file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        text = line.strip()
        if URL_START.match(text):
            yield Row(number, text, text)
        elif text:
            yield Row(number, text, path.parent / text)


def _columns(path: Path, file: TextIO, header: list[str]) -> Iterator[Row]:
    reader = csv.reader(file)
    named = False
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(reader.line_num, "", "", f"bad row: {error}")
            continue
        if named and any(cells):
            yield _row(path.parent, reader.line_num, header, cells)
        named = named or any(cell.strip() for cell in cells)


def _row(folder: Path, line: int, header: list[str], cells: list[str]) -> Row:
    values = dict(zip(header, (cell.strip() for cell in cells), strict=False))
    local, url = values.get("path", ""), values.get("url", "")
    name = values["id"] if "id" in header and "id" in values else local or url
    source = folder / local if local else url
    if len(cells) != len(header):
        return Row(line, name, source, f"bad row: {len(cells)} cells under {len(header)} columns")
    if not (local or url):
        wanted = " or ".join(one for one in SOURCES if one in header)
        return Row(line, name, source, f"bad row: no {wanted}")
    return Row(line, name, source)
