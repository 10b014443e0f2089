"""What a thing is, is decided by its content; folders and streams become rows that come again."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from pipelines.lists.inputs import Input, kind_of, opened
from pipelines.lists.rows import Row
from retrieval.errors import ConfigError, TableError
from tests.photographs import encoded, picture

JPEG = encoded(picture(1), "JPEG")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("name", ["list.csv", "no-ending"])
def test_a_photograph_is_one_whatever_it_is_called(form: str, name: str, tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / name, form)
    assert kind_of(str(tmp_path / name)) == "photograph"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "photograph"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "photograph"),
        (b"\0\0\0\x1cftypisom\0\0\0\0", "list"),  # a film
        (b"PF\n16 16\n-1.0\n", "photograph"),
        (b"BM 12345.jpg\nBM 12346.jpg\n", "list"),
        (b"P6.jpg\nP7.jpg\n", "list"),
        (b"RIFF.jpg\nWEBP.jpg\n", "list"),
        (b"MM.jpg\n", "list"),
        (b"\xff\xfea\0.\0j\0p\0g\0", "list"),  # UTF-16
        (b"\x1f\x8b\x08\0", "list"),
        (b"PAR1", "list"),
        (b"a.jpg\n", "list"),
    ],
)
def test_what_begins_alike_is_told_apart(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "thing").write_bytes(content)
    assert kind_of(str(tmp_path / "thing")) == kind


def test_only_what_begins_like_nothing_known_is_taken_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "zeros.jpg").write_bytes(bytes(100))
    (tmp_path / "empty.JPG").write_bytes(b"")
    assert kind_of(str(tmp_path / "zeros.jpg")) == "photograph"
    assert kind_of(str(tmp_path / "empty.JPG")) == "photograph"
    (tmp_path / "zeros.csv").write_bytes(b"a.jpg\n")
    assert kind_of(str(tmp_path / "zeros.csv")) == "list"


def test_other_kinds(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    kinds = {"-": "stream", "/dev/stdin": "stream", "/dev/fd/63": "stream"}
    kinds |= {"HTTPS://a.example/b.jpg": "url", str(tmp_path): "folder"}
    kinds[str(tmp_path / "pipe")] = "stream"
    assert {one: kind_of(one) for one in kinds} == kinds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/dev/zero", "no regular file"),
        ("/proc/kmsg", "is empty|cannot be read|no such"),
        ("absent.jpg", "No such file"),
        ("a\0b", "no such file"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_what_cannot_be_classified_is_refused(given: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        kind_of(given)


def rows_of(*given: object) -> tuple[list[Row], Input]:
    with opened([str(one) for one in given]) as found:
        rows = list(found.rows())
        assert rows == list(found.rows()), "they come again"
        return rows, found


def write(folder: Path, names: Sequence[str], content: bytes = JPEG) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_photographs_and_urls_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, ["a.jpg"])
    rows, found = rows_of("a.jpg", "http://a.example/b.jpg", "~/a.jpg")
    assert rows == [
        Row(1, "a.jpg", Path("a.jpg")),
        Row(2, "http://a.example/b.jpg", "http://a.example/b.jpg"),
        Row(3, f"{tmp_path}/a.jpg", tmp_path / "a.jpg"),
    ]
    assert found.named


def test_a_folder_is_all_photographs_below_it(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    names = ["b.JPG", "a/z.webp", "a/deep/er/1.png", "c/photo", "c/named.csv"]
    write(folder, names)
    write(folder, [".hidden.jpg", ".cache/a.jpg", "@eaDir/a.jpg", "c/$RECYCLE.BIN/a.jpg"])
    write(folder, ["notes.txt", "c/notes.TXT", "c/README"], b"words\n")
    (folder / "linked.jpg").symlink_to(folder / "b.JPG")
    (folder / "up").symlink_to(tmp_path)
    (folder / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    os.mkfifo(folder / "pipe.jpg")
    rows, found = rows_of(folder)
    wanted = ["a/deep/er/1.png", "a/z.webp", "b.JPG", "c/named.csv", "c/photo", "linked.jpg"]
    assert [row.id for row in rows] == [str(folder / name) for name in wanted]
    assert [row.source for row in rows] == [folder / name for name in wanted]
    assert not found.named
    assert found.told == tuple(
        f"{folder}: {note}"
        for note in (
            "3 files left out, no photograph by the ending: .txt 2, no ending 1",
            "4 hidden or system names skipped: .cache 1, .hidden.jpg 1, @eaDir 1, $RECYCLE.BIN 1",
            "1 symbolic link left out, leading nowhere: gone.jpg",
            "1 folder left out, walked already, to which a link leads back: up/photos",
            "1 photograph by its ending left out, no regular file: pipe.jpg",
            "2 symbolic links followed",
        )
    )


def test_an_unreadable_file_of_a_folder_is_a_row(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    (tmp_path / "a").chmod(0)
    rows, _ = rows_of(tmp_path)
    assert [row.id for row in rows] == [str(tmp_path / "a")]


def test_odd_names_below_a_folder(tmp_path: Path) -> None:
    odd = [b"caf\xe9.jpg", b"line\nbreak.jpg", b'quote".jpg', "café.jpg".encode()]
    for name in odd:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(JPEG)
    rows, _ = rows_of(tmp_path)
    assert {os.fsencode(str(row.source)).rpartition(b"/")[2] for row in rows} == set(odd)
    assert len({row.id for row in rows}) == 4
    assert all(row.id.encode() for row in rows), "ids are text that can be written"


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ["notes.txt"], b"words")
    with pytest.raises(TableError, match="no photographs in this folder; 1 file left out"):
        rows_of(tmp_path)


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("given", ["-", "/dev/stdin"])
def test_a_list_on_standard_input(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stdin(monkeypatch, f"a.jpg\n../b.jpg\n{tmp_path}/c.jpg\nhttp://a.example/d.jpg\n".encode())
    rows, found = rows_of(given)
    assert [row.source for row in rows] == [
        Path("a.jpg"), Path("../b.jpg"), tmp_path / "c.jpg", "http://a.example/d.jpg"
    ]  # fmt: skip
    assert [row.id for row in rows][:2] == ["a.jpg", "../b.jpg"]
    assert not found.named


def test_a_pipe_is_a_list(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"id,path\nq,a.jpg\n")
    os.close(writing)
    rows, _ = rows_of(f"/dev/fd/{reading}")
    assert [(row.id, row.source) for row in rows] == [("q", Path("a.jpg"))]


def test_mistakes_on_standard_input_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"id,landmark\n1,2\n")
    with pytest.raises(TableError, match=r"^standard input, row 1"):
        rows_of("-")
    stdin(monkeypatch, b"")
    with pytest.raises(TableError, match=r"^standard input: nothing came"):
        rows_of("-")


def test_a_photograph_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, JPEG)
    with opened(["-"]) as found:
        (row,) = found.rows()
        assert isinstance(row.source, Path)
        assert row.source.read_bytes() == JPEG
        assert (row.id, found.named) == ("-", True)


def test_what_came_is_told_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(content: bytes) -> str:
        stdin(monkeypatch, content)
        return rows_of("-")[1].digest

    assert digest(b"a.jpg\n") == digest(b"a.jpg\n") != digest(b"b.jpg\n")
    write(tmp_path, ["a.jpg"])
    before = rows_of(tmp_path)[1].digest
    assert before == rows_of(tmp_path)[1].digest
    write(tmp_path, ["b.jpg"])
    assert before != rows_of(tmp_path)[1].digest


def test_lists_among_photographs_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ["a.jpg"])
    write(tmp_path, ["list.csv", "other.csv"], b"a.jpg\n")
    for given in (["a.jpg", "list.csv"], ["list.csv", "other.csv"], ["a.jpg", "list.csv", "x"]):
        paths = [str(tmp_path / one) for one in given if one != "x"]
        with pytest.raises(ConfigError, match=r"list.csv is a list, and .* give one list alone"):
            rows_of(*paths)
    with (
        pytest.raises(ConfigError, match=r"--url-column: .* is no list"),
        opened([str(tmp_path / "a.jpg")], "url"),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"--id-column: .* is no list"),
        opened([str(tmp_path)], None, "id"),
    ):
        pass


def test_columns_are_part_of_a_list(tmp_path: Path) -> None:
    write(tmp_path, ["list.csv"], b"url,id\nhttp://a.example/b.jpg,1\n")
    digests = set()
    for columns in ((None, None), ("url", None), ("url", "id")):
        with opened([str(tmp_path / "list.csv")], *columns) as found:
            digests.add(found.digest)
            assert found.path == tmp_path / "list.csv"
    assert len(digests) == 3
