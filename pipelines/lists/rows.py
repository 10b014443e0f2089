"""Lists of photographs of any length, read as a stream: what classify and data fetch take in.

Forms, distinguished by the first line:

- a table (delimited text or Parquet, see :mod:`retrieval.photographs.delimited`) with a column of
  URLs or paths: one that the caller names, or the one with a usual name, in any case. ``url`` and
  ``path`` may stand beside each other: the path counts where it is not empty. Other columns are
  passed over, and the order is free;
- no header: each line, whole, is a URL or a path, and lines that start with ``#`` are comments.

A cell that starts with ``http://`` or another scheme is a URL, any other a path: relative to the
list's folder, or below the home folder where it starts with ``~/``. A row without an id is named
by its URL or path. Ids may repeat: every row is a row. Empty lines are none. A row that cannot be
used keeps its place and says what is wrong with it, so that the output has as many rows as the
input. A list that cannot be understood is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from retrieval.errors import TableError
from retrieval.photographs.delimited import (
    DelimitedTable,
    first_line,
    is_parquet,
    lines,
    listing,
    open_table,
    split_header,
)
from retrieval.photographs.folders import PHOTOGRAPH_ENDINGS
from retrieval.photographs.labels import shown
from retrieval.photographs.table import local_path

PAIR: Final = frozenset(("path", "url"))
"""What a list may have both of."""
SOURCES: Final = PAIR | frozenset(
    "image photo photograph picture img file filename filepath pathname link href src uri"
    " imageurl photourl pictureurl imgurl fileurl mediaurl imagelink imageuri imagesrc imgsrc"
    " urls paths images photos files imagename photoname imgname"
    " imagepath photopath picturepath imgpath imagefile photofile imagefilename localpath".split()
)
"""Usual names of the column of URLs or paths, without what stands between their words."""
IDS: Final = frozenset("id imageid photoid photographid pictureid imgid fileid".split())
BETWEEN: Final = re.compile(r"[\s_.-]+")
URL_START: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a list.

    Attributes:
        line: where it begins in the file, from 1; of Parquet the row, from 1.
        id: what the output calls it.
        source: a URL, or a local path.
        problem: why it cannot be used, or empty.
    """

    line: int
    id: str
    source: str | Path
    problem: str = ""


def read_rows(
    path: Path,
    url_column: str | None = None,
    id_column: str | None = None,
    fetched: bool = False,
) -> Iterator[Row]:
    """The rows of a list, one at a time.

    Args:
        path: of a regular file.
        url_column: the name of the column of URLs or paths, in any case.
        id_column: the name of the column of ids, in any case.
        fetched: whether the photographs are to be fetched and kept by their ids: then the list
            must have ids, and the URL counts where there is a path beside it.

    Raises:
        TableError: there is no such file, it is no list of photographs, a column is not there or
            cannot be told, or a quote is not closed.
    """
    named = url_column is not None or id_column is not None
    if not named and not is_parquet(path) and _is_bare(path):
        if fetched:
            raise TableError(f"{path}: no ids: put a first line that names the columns: id,url")
        yield from _bare(path)
        return
    given = {_plain(name) for name in (url_column, id_column) if name is not None}
    table = open_table(path, lambda name: _plain(name) in SOURCES | IDS | given, comments=True)
    sources, named_by = _source_columns(table, url_column), _id_column(table, id_column)
    if fetched:
        sources = sources[-1:]
        _refuse_unfetchable(table, named_by, None if url_column else sources[0])
    yield from _columns(table, sources, named_by)


def _plain(name: str) -> str:
    """A column's name without its case and what stands between its words."""
    return BETWEEN.sub("", name.casefold())


def _is_bare(path: Path) -> bool:
    """Whether a list has no header, by its first line.

    Raises:
        TableError: the line is neither a header nor a URL or a path.
    """
    line, told, skipped = first_line(path, comments=True)
    names = split_header(line, lambda name: _plain(name) in SOURCES | IDS)
    if told or any(_plain(name) in SOURCES for name in names):
        return False
    text = line.strip()
    words = text.split()
    # A URL may hold any of the delimiters, but no blanks.
    if (URL_START.match(text) and len(words) == 1) or _is_there(path, text):
        return True
    row = skipped + 1
    several = len(names) > 1 or any(URL_START.match(word) for word in words)
    if not several:
        if _like_path(text):
            return True
        raise TableError(
            f"{path}, row {row}: no list of photographs: {shown(text)} is neither a URL or a path"
            " nor the name of their column, such as url or path (another: --url-column)"
        )
    if any(
        URL_START.match(name) or _like_path(name) or _is_there(path, name)
        for name in (*names, *words)
    ):
        raise TableError(
            f"{path}, row {row}: several cells and no header: put a first line that names the"
            " columns, such as id,url; or one that says url or path alone, where each line is one"
        )
    return False


def _like_path(text: str) -> bool:
    photograph = Path(text).suffix.lower() in PHOTOGRAPH_ENDINGS
    return photograph or ("/" in text and not re.search(r"\s", text))


def _is_there(path: Path, text: str) -> bool:
    return os.path.exists(local_path(path.parent, text))


def _bare(path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines(path), start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield Row(number, text, _source(path.parent, text))


def _source(folder: Path, text: str) -> str | Path:
    return text if not text or URL_START.match(text) else local_path(folder, text)


def _source_columns(table: DelimitedTable, given: str | None) -> list[int]:
    """The columns of URLs or paths; of each row the first that is not empty counts."""
    where = f"{table.path}, row {table.skipped + 1}"
    if given is not None:
        return [_given_column(table, given, "--url-column")]
    found = {
        name: column for column, name in enumerate(map(_plain, table.header)) if name in SOURCES
    }
    usual = [column for column, name in enumerate(table.header) if _plain(name) in SOURCES]
    if not usual:
        raise TableError(
            f"{where}: no column url or path among {listing(table.header)}; name the column"
            " of URLs or paths: --url-column"
        )
    if len(usual) > 1 and not (len(usual) == 2 and found.keys() == PAIR):
        names = " or ".join(listing([table.header[column]]) for column in usual)
        raise TableError(
            f"{where}: which column holds the photographs, {names}? Say so: --url-column"
        )
    return [found["path"], found["url"]] if len(usual) == 2 else usual


def _id_column(table: DelimitedTable, given: str | None) -> int | None:
    where = f"{table.path}, row {table.skipped + 1}"
    if given is not None:
        return _given_column(table, given, "--id-column")
    usual = [column for column, name in enumerate(table.header) if _plain(name) in IDS]
    plain = [column for column in usual if _plain(table.header[column]) == "id"]
    if len(plain or usual) > 1:
        names = " or ".join(listing([table.header[column]]) for column in usual)
        raise TableError(f"{where}: which column holds the ids, {names}? Say so: --id-column")
    return next(iter(plain or usual), None)


def _refuse_unfetchable(table: DelimitedTable, named: int | None, source: int | None) -> None:
    """Refuse a list without ids, or whose photographs are local by its column's name."""
    where = f"{table.path}, row {table.skipped + 1}"
    if named is None:
        raise TableError(
            f"{where}: no column id among {listing(table.header)}; name the column of ids:"
            " --id-column"
        )
    if source is not None and _plain(table.header[source]) == "path":
        raise TableError(
            f"{where}: no column url among {listing(table.header)}; name the column of URLs:"
            " --url-column"
        )


def _given_column(table: DelimitedTable, given: str, option: str) -> int:
    where = f"{table.path}, row {table.skipped + 1}"
    lower = [name.casefold() for name in table.header]
    if given.strip().casefold() not in lower:
        raise TableError(
            f"{where}: no column {shown(given)} among {listing(table.header)} ({option})"
        )
    return lower.index(given.strip().casefold())


def _columns(table: DelimitedTable, sources: Sequence[int], named: int | None) -> Iterator[Row]:
    folder, width, many = table.path.parent, len(table.header), len(sources)
    wanted = [*sources] if named is None else [*sources, named]
    missing = f"bad row: no {' or '.join(table.header[column] for column in sources)}"
    for line, cells, count in table.ragged_rows(wanted):
        text = next((text for cell in cells[:many] if (text := cell.strip())), "")
        # An id stays as it is written: what people join by must not change.
        name = cells[many] if named is not None and cells[many] else text
        problem = "" if text else missing
        if count != width:
            problem = f"bad row: {count} cells under {width} columns"
        yield Row(line, name, _source(folder, text), problem)
