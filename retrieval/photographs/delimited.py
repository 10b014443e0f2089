"""The one reader of tables and lists that people bring: delimited text and Parquet.

Read are UTF-8 with or without a mark and UTF-16 with one, packed with gzip or not; fields between
commas, semicolons, tabs or bars, as the header tells or a ``sep=`` line before it; and Parquet,
where the name ends so. A file is read as a stream, so memory stays small whatever its length.

Nothing is guessed at: bytes in another encoding, a quote that nothing closes, a column that stands
twice and what is no table are refused by a line that names the row. Rows are numbered by the
line that they begin in, as an editor shows it; those of Parquet from 1.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.errors import TableError
from retrieval.photographs.file_kinds import HEAD, looks_like
from retrieval.photographs.labels import SHOWN, shown

DELIMITERS: Final = ",;\t|"
NO_DELIMITER: Final = "\x1f"
"""Splits nothing: a table of one column may hold commas."""
SEP_LINE: Final = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
LINE_BREAK: Final = re.compile(r"\r\n|\r|\n")
NOT_UTF8: Final = re.compile("[\udc80-\udcff]")
MOST_COLUMNS: Final = 16_384
LONGEST_LINE: Final = 1 << 20
"""Characters."""
SHOWN_COLUMNS: Final = 12
PARQUET: Final = (".parquet", ".pq")
BATCH: Final = 16_384
"""Rows of Parquet at a time."""

Record = tuple[int, list[str]]


@dataclass(frozen=True)
class DelimitedTable:
    """A table whose header has been read and checked.

    Attributes:
        path: of the file.
        header: the columns' names, without the blanks around them; those that have one differ,
            whatever their case.
        delimiter: between fields; empty for Parquet.
        skipped: lines before the header.
    """

    path: Path
    header: list[str]
    delimiter: str
    skipped: int

    def rows(self, columns: Sequence[int] | None = None) -> Iterator[Record]:
        """The number and the cells of each row, of all columns or of some in their order.

        Raises:
            TableError: a row has too few or too many cells, or cannot be read.
        """
        for row, cells, found in self.ragged_rows(columns):
            if found != len(self.header):
                raise TableError(
                    f"{self.path}, row {row}: {found} cells where the header has"
                    f" {len(self.header)} ({listing(self.header)}); a cell with"
                    f" {DELIMITER_NAMES[self.delimiter]} in it needs quotes around it"
                )
            yield row, cells

    def ragged_rows(
        self, columns: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[str], int]]:
        """Rows whatever they hold: number, cells (empty where missing), and how many there are.

        Raises:
            TableError: a row cannot be read.
        """
        wanted = list(range(len(self.header)) if columns is None else columns)
        if not self.delimiter:
            yield from _parquet_rows(self.path, wanted)
            return
        width = len(self.header)
        whole = wanted == list(range(width))
        # The first column without a name holds row numbers, as pandas writes them.
        unnamed = [column for column in range(1, width) if not self.header[column]]
        for row, cells in islice(_records(self.path, self.delimiter, self.skipped), 1, None):
            count = len(cells)
            for column in unnamed:
                if column < count and cells[column].strip():
                    raise TableError(
                        f"{self.path}, row {row}: the cell {shown(cells[column])} stands under no"
                        f" column name ({listing(self.header)}): name the column, or put quotes"
                        f" around a cell with {DELIMITER_NAMES[self.delimiter]} in it"
                    )
            if count == width and not whole:
                cells = [cells[column] for column in wanted]
            elif count != width:
                cells = [cells[column] if column < count else "" for column in wanted]
            yield row, cells, count


DELIMITER_NAMES: Final = {
    ",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar", NO_DELIMITER: "a quote",
}  # fmt: skip


def open_table(path: Path, known: Callable[[str], bool], comments: bool = False) -> DelimitedTable:
    """Read a table's header.

    Args:
        path: of the file; ``.parquet`` is Parquet.
        known: whether a column's name is one that is looked for: which decides on the delimiter.
        comments: whether lines that start with ``#`` may stand before the header.

    Raises:
        TableError: the file cannot be read, is no table, or its header is bad.
    """
    if is_parquet(path):
        header = [name.strip() for name in _parquet_names(path)]
        _check_header(path, 1, header)
        return DelimitedTable(path, header, "", 0)
    first, delimiter, skipped = first_line(path, comments)
    delimiter = delimiter or _delimiter(first, known)
    row, cells = next(_records(path, delimiter, skipped))
    header = [cell.strip() for cell in cells]
    _check_header(path, row, header)
    return DelimitedTable(path, header, delimiter, skipped)


def is_parquet(path: Path) -> bool:
    """Whether a file's name says Parquet."""
    return path.suffix.lower() in PARQUET


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file with their ends, each checked.

    Raises:
        TableError: the file cannot be read, is no text, or a line is in another encoding.
    """
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), start=1):
                if not line.isascii() and (wrong := NOT_UTF8.search(line)):
                    raise TableError(_wrong_encoding(path, number, ord(wrong[0]) - 0xDC00))
                if "\0" in line:
                    raise TableError(
                        f"{path}, row {number}: a zero byte: the file is damaged, or UTF-16 without"
                        " its mark; save it as UTF-8"
                    )
                if len(line) == LONGEST_LINE:
                    raise TableError(
                        f"{path}, row {number}: longer than {LONGEST_LINE:,} characters: no table"
                        " or list of photographs"
                    )
                yield line
    except UnicodeDecodeError:
        raise TableError(f"{path}, row {number + 1}: not UTF-16, as its first bytes say:"
                         " save it as UTF-8") from None  # fmt: skip
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise TableError(
            f"{path}, row {number + 1}: the gzip file is cut off or damaged: bring it anew"
        ) from None


def first_line(path: Path, comments: bool) -> tuple[str, str, int]:
    """The first line that is neither empty, ``sep=`` nor a comment.

    Args:
        path: of the file.
        comments: whether lines that start with ``#`` are comments.

    Returns:
        the line, the delimiter that a ``sep=`` line names (or nothing), and how many lines stand
        before.

    Raises:
        TableError: there is no such line, or it cannot be read.
    """
    delimiter = ""
    for number, line in enumerate(lines(path)):
        declared = None if delimiter else SEP_LINE.fullmatch(line)
        if declared is not None:
            delimiter = declared[1]
            if delimiter not in DELIMITERS:
                raise TableError(
                    f"{path}, row {number + 1}: sep={shown(delimiter)} is none of comma, semicolon,"
                    " tab and bar"
                )
        elif line.strip() and not (comments and line.lstrip().startswith("#")):
            return line, delimiter, number
    raise TableError(f"{path}: empty file: no header, no rows")


def split_header(line: str, known: Callable[[str], bool]) -> list[str]:
    """The names in a header's line, or the whole line where nothing splits it."""
    return _split(line, _delimiter(line, known))


def listing(names: Sequence[str]) -> str:
    """Names of columns for a message, the first of them where there are many."""
    first = [name if _is_plain(name) else shown(name) for name in names[:SHOWN_COLUMNS]]
    more = len(names) - SHOWN_COLUMNS
    return ",".join(first) + (f" and {more:,} more" if more > 0 else "")


def _is_plain(name: str) -> bool:
    return name.isprintable() and len(name) <= SHOWN


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A text file without what its encoding or gzip puts around it."""
    with _bytes_of(path) as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        with gzip.GzipFile(fileobj=raw) if packed else raw as unpacked:
            head = unpacked.read(HEAD)
            _refuse_other_kinds(path, head)
            unpacked.seek(0)
            utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            encoding, errors = ("utf-16", "strict") if utf16 else ("utf-8-sig", "surrogateescape")
            with io.TextIOWrapper(
                _binary(unpacked), encoding=encoding, errors=errors, newline=""
            ) as file:
                yield file


def _binary(file: Any) -> IO[bytes]:
    return file  # type: ignore[no-any-return]  # a GzipFile is one, but for its type


def _bytes_of(path: Path) -> io.BufferedReader:
    if path.is_dir():
        raise TableError(f"{path}: a folder, where a table or a list is read")
    if not path.exists():
        raise TableError(f"{path}: no such file")
    if not path.is_file():
        raise TableError(f"{path}: a pipe or a device: a table or a list is a regular file")
    if not path.stat().st_size:  # reading such a file below /proc may never end
        raise TableError(f"{path}: empty file: no header, no rows")
    try:
        return path.open("rb")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from None


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    kind = looks_like(head)
    if kind is None:
        return
    remedy = (
        "its name must end with .parquet" if head.startswith(b"PAR1")
        else "save it as CSV in UTF-8" if "workbook" in kind or "encoded" in kind
        else "a table or a list is a text file (CSV) or .parquet"
    )  # fmt: skip
    raise TableError(f"{path}: no table or list of photographs: it looks like {kind}; {remedy}")


def _wrong_encoding(path: Path, row: int, byte: int) -> str:
    likely = "Windows-1252" if byte < 0xA0 else "Latin-1 or Windows-1252"
    return (
        f"{path}, row {row}: not in UTF-8 (the byte 0x{byte:02x}; perhaps {likely}): save it as"
        " UTF-8, or: iconv -f WINDOWS-1252 -t UTF-8 OLD.csv > NEW.csv"
    )


def _delimiter(first: str, known: Callable[[str], bool]) -> str:
    """What splits a header into the most known names, or else into the most cells."""

    def fit(delimiter: str) -> tuple[int, int]:
        cells = _split(first, delimiter)
        return sum(known(cell) for cell in cells), len(cells)

    best = max(DELIMITERS, key=fit)  # of equal ones the first
    return best if fit(best)[1] > 1 else NO_DELIMITER


def _split(first: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
    except csv.Error:
        return [first]  # a field beyond the reader's limit, which names its row


def _records(path: Path, delimiter: str, skipped: int) -> Iterator[Record]:
    """Rows, the header first, as they stand; empty lines are none."""
    reader = csv.reader(islice(lines(path), skipped, None), delimiter=delimiter, strict=True)
    width = 0
    while True:
        row = skipped + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            last = skipped + reader.line_num
            raise TableError(f"{path}, row {row}: {_bad_field(str(error), row, last)}") from None
        if cells is None:
            return
        width = width or len(cells)
        if skipped + reader.line_num > row and _swallowed(cells, width, delimiter):
            raise TableError(
                f"{path}, row {row}: a quote opens here and closes in row"
                f" {skipped + reader.line_num}, with rows between: close it in its row, or double"
                ' a quote that belongs to the text ("")'
            )
        if cells and (len(cells) > 1 or not cells[0].isspace()):
            yield row, cells


def _bad_field(error: str, row: int, last: int) -> str:
    if "limit" in error:
        return (
            f"a field of more than {csv.field_size_limit():,} characters: a quote that nothing"
            " closes?"
        )
    if "end of data" in error:
        return 'a quote opens here that nothing closes: close it, or double it ("")'
    where = "" if last == row else f" (in row {last})"
    return (
        f"text goes on behind a closing quote{where}: close the quote at the field's end, or double"
        ' a quote that belongs to the text ("")'
    )


def _swallowed(cells: Sequence[str], width: int, delimiter: str) -> bool:
    """Whether a field of several lines is whole rows that a quote took in.

    Such a quote opens and closes in the same column, so the first and the last line hold as many
    delimiters as remain behind it and stand before it, and lines between are rows. Prose differs:
    it has blanks beside its commas.
    """
    if len(cells) != width:
        return False  # refused for that
    blank = re.compile(rf" {re.escape(delimiter)}|{re.escape(delimiter)} ")
    for column, cell in enumerate(cells):
        parts = LINE_BREAK.split(cell)
        if len(parts) == 1:
            continue
        expected = [width - 1 - column, *[width - 1] * (len(parts) - 2), column]
        if [part.count(delimiter) for part in parts] == expected and not blank.search(cell):
            return True
    return False


def _check_header(path: Path, row: int, header: Sequence[str]) -> None:
    if len(header) > MOST_COLUMNS:
        raise TableError(
            f"{path}, row {row}: {len(header):,} columns, where {MOST_COLUMNS:,} are the most:"
            " no table of photographs"
        )
    many = Counter(name.lower() for name in header if name)
    twice = next((name for name in header if many[name.lower()] > 1), None)
    if twice is not None:
        raise TableError(
            f"{path}, row {row}: the column {listing([twice])} stands twice"
            f" ({listing(header)}): rename one"
        )


def _parquet_names(path: Path) -> list[str]:
    with _bytes_of(path) as file:
        head = file.read(HEAD)
    if not head.startswith(b"PAR1"):
        kind = looks_like(head) or "text"
        raise TableError(f"{path}: no Parquet, as its name says: it looks like {kind}")
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise _damaged_parquet(path, error) from None


def _parquet_rows(path: Path, columns: Sequence[int]) -> Iterator[tuple[int, list[str], int]]:
    names = _parquet_names(path)
    wanted = [names[column] for column in columns]
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=wanted):
                texts = [_texts(path, name, batch.column(name)) for name in wanted]
                for cells in zip(*texts, strict=True):
                    row += 1
                    yield row, list(cells), len(names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged_parquet(path, error) from None


def _texts(path: Path, name: str, column: Any) -> list[str]:
    """A column's cells as text; what is missing is empty."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_floating(kind):
        # What pandas makes of whole numbers among which one is missing.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    try:
        if pa.types.is_floating(kind):
            column = column.cast(pa.int64())
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise pa.ArrowInvalid("no text")
        column = pc.fill_null(column.cast(pa.large_string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise TableError(
            f"{path}, column {listing([name])}: holds {kind}, where text or whole numbers are read"
        ) from None
    if pc.any(pc.match_substring(column, "\0")).as_py():
        raise TableError(f"{path}, column {listing([name])}: a zero byte in a text")
    return list(column.to_pylist())


def _damaged_parquet(path: Path, error: Exception) -> TableError:
    return TableError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())})")
