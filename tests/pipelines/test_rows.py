from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.rows import Row, count_rows, read_rows
from retrieval.errors import TableError


def rows(tmp_path: Path, text: str | bytes) -> list[Row]:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    found = list(read_rows(path))
    assert count_rows(path) == len(found)
    return found


def facts(found: list[Row]) -> list[tuple[str, str, str]]:
    return [(row.id, str(row.source), row.problem) for row in found]


def test_columns_in_any_order_among_others(tmp_path: Path) -> None:
    found = rows(tmp_path, 'title,URL, id \n"a, b",http://a.example/x?a,7\n"two\nlines",u,8\n')
    assert facts(found) == [("7", "http://a.example/x?a", ""), ("8", "u", "")]
    assert [row.line for row in found] == [2, 4]


def test_a_row_without_id_is_named_by_its_source(tmp_path: Path) -> None:
    assert facts(rows(tmp_path, "url\nhttp://a.example/\n")) == [
        ("http://a.example/", "http://a.example/", "")
    ]


def test_paths_are_relative_to_the_list(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "id,path\n1,photos/a.jpg\n")
    assert row.source == tmp_path / "photos/a.jpg"
    (row,) = rows(tmp_path, "id,path\n1,/photos/a.jpg\n")
    assert row.source == Path("/photos/a.jpg")


def test_a_path_counts_before_a_url(tmp_path: Path) -> None:
    found = rows(tmp_path, "id,url,path\n1,http://a.example/,a.jpg\n2,http://a.example/,\n")
    assert [row.source for row in found] == [tmp_path / "a.jpg", "http://a.example/"]


def test_bare_lines(tmp_path: Path) -> None:
    found = rows(tmp_path, "\ufeffhttp://a.example/x,1.jpg\n\n  photos/b, c.jpg\r\nHTTPS://b/\n")
    assert [(row.id, row.source) for row in found] == [
        ("http://a.example/x,1.jpg", "http://a.example/x,1.jpg"),
        ("photos/b, c.jpg", tmp_path / "photos/b, c.jpg"),
        ("HTTPS://b/", "HTTPS://b/"),
    ]


def test_bad_rows_keep_their_place(tmp_path: Path) -> None:
    text = "id,url\n1,http://a/,3\n2\n3,\n\n4,http://b/\n"
    assert facts(rows(tmp_path, text)) == [
        ("1", "http://a/", "bad row: 3 cells under 2 columns"),
        ("2", "", "bad row: 1 cells under 2 columns"),
        ("3", "", "bad row: no url"),
        ("4", "http://b/", ""),
    ]


def test_an_unreadable_row_is_one_row(tmp_path: Path) -> None:
    huge = b"id,url\n1,http://a/\n2," + b"x" * 200_000 + b"\n3,http://b/\xff\n"
    found = rows(tmp_path, huge)
    assert [row.id for row in found] == ["1", "", "3"]
    assert found[1].problem.startswith("bad row: field larger than")


def test_duplicate_ids_are_rows(tmp_path: Path) -> None:
    assert len(rows(tmp_path, "id,url\n1,http://a/\n1,http://a/\n")) == 2


def test_nothing_but_a_header_is_no_rows(tmp_path: Path) -> None:
    assert rows(tmp_path, "id,url\n") == []
    assert rows(tmp_path, "") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,landmark\n1,2\n", "no column url or path among id,landmark"),
        ("1,http://a/\n", "put a first line that names the columns"),
        ("id,url,url\n", "the column 'url' stands twice"),
    ],
)
def test_first_lines_that_cannot_be_understood(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        rows(tmp_path, text)


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="No such file"):
        list(read_rows(tmp_path / "list.csv"))
