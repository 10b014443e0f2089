from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipelines.lists.rows import Row, read_rows
from retrieval.errors import TableError


def rows(tmp_path: Path, text: str | bytes) -> list[Row]:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_rows(path))


def facts(found: list[Row]) -> list[tuple[str, str, str]]:
    return [(row.id, str(row.source), row.problem) for row in found]


def test_columns_in_any_order_among_others(tmp_path: Path) -> None:
    found = rows(tmp_path, 'title,URL, id \n"a, b",http://a.example/x?a,7\n"two\nlines",u,8\n')
    assert facts(found) == [("7", "http://a.example/x?a", ""), ("8", str(tmp_path / "u"), "")]
    assert [row.line for row in found] == [2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://a.example/1.jpg\n", "no ids: put a first line"),
        ("url\nhttp://a.example/1.jpg\n", "row 1: no column id among url"),
        ("id,path\n1,a.jpg\n", "row 1: no column url among id,path"),
    ],
)
def test_lists_that_cannot_be_fetched(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(TableError, match=message):
        list(read_rows(tmp_path / "list.csv", fetched=True))


def test_urls_count_where_rows_are_fetched(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("Image_ID,path,url\n7,a.jpg,http://a.example/7.jpg\n")
    assert next(read_rows(path)).source == tmp_path / "a.jpg"
    assert next(read_rows(path, fetched=True)) == Row(2, "7", "http://a.example/7.jpg")


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"id,url\n1,http://a/\n2," + b"x" * 200_000, "row 3: a field of more than 131,072"),
        (b"id,url\n1,http://a/\n3,http://b/\xe9\n", r"row 3: not in UTF-8 \(the byte 0xe9"),
        (b"http://a/\n\nhttp://b/\xe9\n", r"row 3: not in UTF-8 .*perhaps Latin-1"),
        (b'id,url\n1,http://a/\n2,"http://b/\n3,c\n', "row 3: a quote opens here that nothing"),
        (b'id,url\n1,"http://a/\n2,"http://b/\n', "row 2: text goes on behind a closing quote"),
        (b'id,url\n1,"http://a/\n2,http://b/"\n', "row 2: a quote opens here and closes in row 3"),
        (b"id,url\n1,a\0b\n", "row 2: a zero byte"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        rows(tmp_path, text)


def test_duplicate_ids_are_rows(tmp_path: Path) -> None:
    assert len(rows(tmp_path, "id,url\n1,http://a/\n1,http://a/\n")) == 2


def test_nothing_but_a_header_is_no_rows(tmp_path: Path) -> None:
    assert rows(tmp_path, "id,url\n") == []


def test_rows_of_commas_alone_keep_their_place(tmp_path: Path) -> None:
    found = rows(tmp_path, "id,url\n,\n\n1,http://a/\n")
    assert facts(found) == [("", "", "bad row: no url"), ("1", "http://a/", "")]
    assert facts(rows(tmp_path, 'url\n""\n')) == [("", "", "bad row: no url")]


@pytest.mark.parametrize(
    "name", ["url", "URL", "image_url", "Image URL", "imageUrl", "image", "path", "file", "photo",
             "filename", "file_name", "filepath", "link", "src"],
)  # fmt: skip
def test_usual_names_of_the_one_column(tmp_path: Path, name: str) -> None:
    found = rows(tmp_path, f"{name}\nhttp://a/full/!8,8/0.jpg\nb.jpg\n")
    assert [row.source for row in found] == ["http://a/full/!8,8/0.jpg", tmp_path / "b.jpg"]
    found = rows(tmp_path, f"title;{name};ID\n1, 2;http://a/;7\n")
    assert facts(found) == [("7", "http://a/", "")]


def test_columns_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("url|photo|Foto|key\nhttp://a/|b|c.jpg| 7\n")
    (row,) = read_rows(path, "foto", "Key")
    assert row == Row(2, " 7", tmp_path / "c.jpg")
    with pytest.raises(TableError, match=r"photographs, url or photo\? Say so: --url-column"):
        list(read_rows(path))
    with pytest.raises(TableError, match=r"no column 'bild' among url,photo,Foto,key \(--url-col"):
        list(read_rows(path, "bild"))
    with pytest.raises(TableError, match=r"no column 'nr' among .* \(--id-column\)"):
        list(read_rows(path, "foto", "nr"))


def test_which_ids_are_meant(tmp_path: Path) -> None:
    assert [row.id for row in rows(tmp_path, "image_id,id,url\n1,2,a\n")] == ["2"]
    assert [row.id for row in rows(tmp_path, "Image ID,url\n1,a\n")] == ["1"]
    with pytest.raises(TableError, match=r"ids, image_id or photo_id\? Say so: --id-column"):
        rows(tmp_path, "image_id,photo_id,url\n1,2,a\n")


def test_home_and_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    found = rows(tmp_path, "# first\n~/a.jpg\n  # second\n~b.jpg\n./#c.jpg\n")
    assert [row.source for row in found] == [
        Path("/home/someone/a.jpg"), tmp_path / "~b.jpg", tmp_path / "#c.jpg"
    ]  # fmt: skip
    (row,) = rows(tmp_path, "# first\nid,url\n#7,~/a.jpg\n")
    assert row == Row(3, "#7", Path("/home/someone/a.jpg"))


def test_a_path_with_a_delimiter_in_it_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "a, b.jpg").touch()
    assert [row.source for row in rows(tmp_path, "a, b.jpg\n")] == [tmp_path / "a, b.jpg"]


def test_a_list_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    frame = {"Image": ["a.jpg", None, "http://a/"], "id": [7, 8, 9], "vector": [[1.0]] * 3}
    pd.DataFrame(frame).to_parquet(path)
    assert list(read_rows(path)) == [
        Row(1, "7", tmp_path / "a.jpg"), Row(2, "8", "", "bad row: no Image"), Row(3, "9", "http://a/")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,landmark\n1,2\n", "no column url or path among id,landmark"),
        ("1,http://a/\n", "put a first line that names the columns"),
        ("id,url,url\n", "row 1: the column url stands twice"),
        ("", "empty file"),
        ("7,photos/a.jpg\n", "put a first line that names the columns"),
        ("7 http://a/1.jpg\n", "put a first line that names the columns"),
        ("http://a/1.jpg 7\n", "put a first line that names the columns"),
        ("http://a/1.jpg\tBridge\n", "put a first line that names the columns"),
        ("landmark,name\n1,2\n", "no column url or path among landmark,name; .*--url-column"),
        ("Some prose.\n", "'Some prose.' is neither a URL or a path nor the name of their column"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", r"it looks like a photograph \(JPEG\)"),
    ],
)
def test_first_lines_that_cannot_be_understood(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(TableError, match=message):
        rows(tmp_path, text)


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file"):
        list(read_rows(tmp_path / "list.csv"))
