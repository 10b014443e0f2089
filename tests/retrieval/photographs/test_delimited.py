"""The one reader of tables and lists: encodings, delimiters, quotes, and what is no table."""

from __future__ import annotations

import gzip
import io
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.errors import TableError
from retrieval.photographs.delimited import lines, open_table
from tests.photographs import blank, encoded

KNOWN = ("id", "url", "name")


def write(folder: Path, data: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def cells(path: Path) -> list[tuple[int, list[str]]]:
    table = open_table(path, KNOWN.__contains__)
    return [(table.skipped + 1, table.header), *table.rows()]


def refused(path: Path) -> str:
    with pytest.raises(TableError) as caught:
        cells(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings(tmp_path: Path, encoding: str, packed: bool) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    data = mark + "id,name\r\n1,Café 北京 ċ\r\n".encode(encoding)
    path = write(tmp_path, gzip.compress(data) if packed else data)
    assert cells(path) == [(1, ["id", "name"]), (2, ["1", "Café 北京 ċ"])]


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("told", [False, True])
def test_delimiters(tmp_path: Path, delimiter: str, told: bool) -> None:
    others = "".join(one for one in ",;|" if one != delimiter)
    header = ["id", "name", f"a{others}"]
    row = ["1", f"x{others}", f'"y{delimiter}"']
    first = f"sep={delimiter}\n" if told else ""
    path = write(tmp_path, first + "\n".join(delimiter.join(one) for one in (header, row)))
    assert [one for _, one in cells(path)] == [header, [*row[:2], f"y{delimiter}"]]


def test_known_names_tell_the_delimiter(tmp_path: Path) -> None:
    path = write(tmp_path, "id;place, town, country\n1;Paris, France\n")
    assert cells(path)[1] == (2, ["1", "Paris, France"])


def test_one_column_may_hold_every_delimiter(tmp_path: Path) -> None:
    assert cells(write(tmp_path, 'url\nhttp://a/1,2;3|4\n"b ""c"""\n'))[1:] == [
        (2, ["http://a/1,2;3|4"]), (3, ['b "c"'])
    ]  # fmt: skip


def test_lines_end_in_every_way_and_rows_count_as_an_editor_does(tmp_path: Path) -> None:
    text = '\n\nid,name\r\n1,"two\nlines"\r2,b\n\n   \n3,12" gun\n,\n'
    assert cells(write(tmp_path, text)) == [
        (3, ["id", "name"]), (4, ["1", "two\nlines"]), (6, ["2", "b"]), (9, ["3", '12" gun']),
        (10, ["", ""]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": empty file"),
        ("\n \n", ": empty file"),
        ("sep=;\n", ": empty file"),
        ("sep=x\nid\n", ", row 1: sep='x' is none of comma, semicolon, tab and bar"),
        ("id,Name,name\n", ", row 1: the column Name stands twice (id,Name,name): rename one"),
        ("id,name\n1\n", ", row 2: 1 cells where the header has 2 (id,name)"),
        ("id,name\n1,a\n2,b, c\n", ", row 3: 3 cells where the header has 2"),
        ("id,name,\n1,a,\n2,b, c\n", ", row 3: the cell ' c' stands under no column name"),
        ('id,name\n1,a\n2,"b\n3,c\n', ", row 3: a quote opens here that nothing closes"),
        ('"id,name\n1,a\n', ", row 1: a quote opens here that nothing closes"),
        ('id,name\n1,"a\n2,"b"\n', ", row 2: text goes on behind a closing quote (in row 3)"),
        ('id,name\n1,"a" b\n', ", row 2: text goes on behind a closing quote: close"),
        ('id,name\n1,"a\n2,b"\n', ", row 2: a quote opens here and closes in row 3"),
        ('id,name\n1,"a\n2,b\n3,c"\n', ", row 2: a quote opens here and closes in row 4"),
        ('id,name\n"1,a\n2",b\n', ", row 2: a quote opens here and closes in row 3"),
        ('id\n"1\n2"\n', ", row 2: a quote opens here and closes in row 3"),
        (b"id,name\n1,a\0\n", ", row 2: a zero byte"),
        (b"id,name\n1,Caf\xe9\n", ", row 2: not in UTF-8 (the byte 0xe9; perhaps Latin-1"),
        (b"id,name\n\n1,\x93a\x94\n", ", row 3: not in UTF-8 (the byte 0x93; perhaps Windows-1252"),
        (b"\xff\xfei\0d\0\n\0\0\xd8\n\0", ", row 1: not UTF-16, as its first bytes say"),
        (b"id\n" + b"x" * 3_000_000, ", row 2: longer than 1,048,576 characters"),
        (b"id,name\n1," + b"x" * 200_000, ", row 2: a field of more than 131,072 characters"),
    ],
)
def test_what_cannot_be_understood_names_its_row(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    found = refused(write(tmp_path, text))
    assert found.startswith(message)


@pytest.mark.parametrize(
    "cell", ["one\ntwo", "Paris,\nFrance, old", "a\n\nb, c", "a\r\nb", "a\rb", 'a ""b""\nc']
)
def test_prose_of_several_lines_is_no_swallowed_row(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path, f'id,name,url\n1,"{cell}",u\n2,b,v\n')
    assert cells(path)[1][1] == ["1", cell.replace('""', '"'), "u"]


def office(kind: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(kind, "")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(blank(8, 8)), "a photograph (JPEG); a table or a list is a text file"),
        (encoded(blank(8, 8), "PNG"), "a photograph (PNG)"),
        (encoded(blank(8, 8), "WEBP"), "a photograph (WebP)"),
        (encoded(blank(8, 8), "BMP"), "a photograph (BMP)"),
        (encoded(blank(8, 8), "TIFF"), "a photograph (TIFF)"),
        (encoded(blank(8, 8), "GIF"), "a photograph (GIF)"),
        (encoded(blank(8, 8), "PPM"), "a photograph (PNM)"),
        (b"\0\0\0\x1cftypheic", "a photograph (HEIC)"),
        (b"\0\0\0\x1cftypmp42", "a video (MP4)"),
        (b"%PDF-1.7\n", "a PDF"),
        (office("[Content_Types].xml"), "a workbook or document (XLSX, DOCX); save it as CSV"),
        (office("a.csv"), "a zip archive"),
        (b"<!DOCTYPE html>\n<html>", "a web page or XML"),
        (b'\xef\xbb\xbf{"url": "http://a/"}\n', "JSON"),
        (b'[\n {"url": 1}]', "JSON"),
        ("id,name\n1,a\n".encode("utf-16-le"), "text encoded as UTF-16 without its mark; save"),
        ("id,name\n".encode("utf-32"), "text encoded as UTF-32; save it as CSV in UTF-8"),
        (bytes(range(1, 32)) * 9, "a binary file"),
        (gzip.compress(gzip.compress(b"id", mtime=0), mtime=0), "a gzip file in a gzip file"),
        (gzip.compress(b"%PDF", mtime=0), "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    found = refused(write(tmp_path, data))
    assert f"it looks like {message}" in found


def test_files_that_are_none(tmp_path: Path) -> None:
    assert refused(tmp_path / "t.csv") == ": no such file"
    assert refused(tmp_path).startswith(": a folder")
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").startswith(": a pipe or a device")
    if (kernel := Path("/proc/version")).exists():  # files below /proc say that they are empty
        assert refused(kernel).startswith(": empty file")
    cut = gzip.compress(os.urandom(100).hex().encode() * 100)[:-20]
    assert "the gzip file is cut off" in refused(write(tmp_path, cut))


def test_many_columns_are_refused_at_once(tmp_path: Path) -> None:
    begun = time.monotonic()
    header = ",".join(f"c{number}" for number in range(100_000))
    assert ", row 1: 100,000 columns, where 16,384 are the most" in refused(write(tmp_path, header))
    path = write(tmp_path, ",".join(f"c{number}" for number in range(300_000)))
    assert ", row 1: longer than 1,048,576 characters" in refused(path)
    assert time.monotonic() - begun < 5
    header = ",".join(f"c{number}" for number in range(16_000))
    assert "c11 and 15,988 more)" in refused(write(tmp_path, f"{header}\n1\n"))


def test_only_some_columns(tmp_path: Path) -> None:
    table = open_table(write(tmp_path, "a,b,c\n1,2,3\n4\n"), KNOWN.__contains__)
    assert list(table.ragged_rows([2, 0])) == [(2, ["3", "1"], 3), (3, ["", "4"], 1)]


def test_comments_before_a_header(tmp_path: Path) -> None:
    path = write(tmp_path, "# made by hand\n\nid,name\n#1,a\n")
    table = open_table(path, KNOWN.__contains__, comments=True)
    assert table.header == ["id", "name"]
    assert list(table.rows()) == [(4, ["#1", "a"])]


def test_lines_keep_their_ends(tmp_path: Path) -> None:
    assert list(lines(write(tmp_path, "\ufeffa\r\n\nb"))) == ["a\r\n", "\n", "b"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame(
        {
            "id": [1, 2],
            "number": [3.0, np.nan],
            "name": pd.Categorical(["a", None]),
            "url": ["u,v", "w\nx"],
        }
    )
    frame.to_parquet(path)
    assert cells(path)[1:] == [(1, ["1", "3", "a", "u,v"]), (2, ["2", "", "", "w\nx"])]


def parquet(folder: Path, column: pa.Array) -> Path:
    path = folder / "t.parquet"
    pq.write_table(pa.table({"id": column}), path)
    return path


def renamed(folder: Path) -> Path:
    return parquet(folder, pa.array(["a"])).rename(folder / "t.csv")


def cut_off(folder: Path) -> Path:
    path = parquet(folder, pa.array(["a"] * 1000))
    path.write_bytes(path.read_bytes()[:-50])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (renamed, "it looks like a Parquet file; its name must end with .parquet"),
        (cut_off, "cannot be read as Parquet"),
        (
            lambda at: write(at, "id\n1\n", "t.parquet"),
            "no Parquet, as its name says: it looks like",
        ),
        (lambda at: parquet(at, pa.array([0.5])), "column id: holds double, where text or whole"),
        (lambda at: parquet(at, pa.array([b"x"])), "column id: holds binary"),
        (lambda at: parquet(at, pa.array([["x"]])), "column id: holds list"),
        (lambda at: parquet(at, pa.array(["x\0"])), "column id: a zero byte"),
    ],
)
def test_parquet_that_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    assert message in refused(make(tmp_path))
