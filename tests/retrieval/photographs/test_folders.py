"""Folders of photographs: what is taken, under which landmark, and what is left out and told."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from retrieval.errors import TableError
from retrieval.photographs.folders import escaped, find_test, scan_folder
from retrieval.photographs.table import load_data_set, read_bank, read_table
from tests.photographs import blank, write_csv, write_photograph


def photographs(folder: Path, *names: str) -> Path:
    for name in names:
        write_photograph(folder / name, blank(8, 8))
    return folder


def columns(table: pd.DataFrame) -> list[tuple[str, str | None]]:
    cells = zip(table["id"], table["landmark"], strict=True)
    return [(name, None if pd.isna(landmark) else landmark) for name, landmark in cells]


def test_a_folder_for_each_landmark(tmp_path: Path) -> None:
    photographs(tmp_path, "Old Bridge/1.jpg", "Old Bridge/deep/2.PNG", "Tower/1.jpeg", "none/x.jpg")
    table = read_table(tmp_path)
    assert columns(table) == [
        ("Old Bridge/1.jpg", "Old Bridge"),
        ("Old Bridge/deep/2.PNG", "Old Bridge"),
        ("Tower/1.jpeg", "Tower"),
        ("none/x.jpg", None),
    ]
    assert (table["row"] == 0).all()
    assert table["source"].iloc[0] == str(tmp_path / "Old Bridge/1.jpg")


def test_a_bank_is_all_photographs_whatever_its_folders_mean(tmp_path: Path) -> None:
    photographs(tmp_path, "1.jpg", "Tower/train/2.jpg", "notes.txt")
    said: list[str] = []
    table = read_bank(tmp_path, say=said.append)
    assert columns(table) == [("1.jpg", None), ("Tower/train/2.jpg", None)]
    assert said == [f"{tmp_path}: 1 file left out, no photograph by the ending: .txt 1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match="empty: no photographs in this folder"):
        read_bank(tmp_path / "empty")


@pytest.mark.parametrize(
    "ending",
    ".jpg .JPEG .jpe .Jfif .mpo .png .webp .gif .bmp .tif .TIFF .pgm .ppm .avif .jp2 .HEIC .heif"
    .split(),
)  # fmt: skip
def test_endings_of_photographs(tmp_path: Path, ending: str) -> None:
    photographs(tmp_path, f"A/1{ending}")
    assert columns(read_table(tmp_path)) == [(f"A/1{ending}", "A")]


def notes(folder: Path) -> list[str]:
    return scan_folder(folder).notes


def litter(folder: Path) -> None:
    photographs(
        folder, "A/@eaDir/1.jpg", "$RECYCLE.BIN/1.jpg", "lost+found/1.jpg", "A/._1.jpg",
        "A/._2.jpg", ".thumbnails/1.jpg", "__MACOSX/1.jpg", "System Volume Information/1.jpg",
    )  # fmt: skip
    (folder / "A" / "Thumbs.db").write_text("")
    (folder / ".DS_Store").write_text("")


@pytest.mark.parametrize(
    ("names", "others", "said"),
    [
        ((), ("A/notes.txt", "B/x.CR2", "A/y.cr2", "A/README", "sheet.xlsx"),
         "5 files left out, no photograph by the ending: .cr2 2, .xlsx 1, no ending 1, .txt 1"),
        (("loose.jpg",), (), "1 photograph left out, in no landmark's folder: loose.jpg"),
        ((), ("C/x.txt", "D/y/z.txt"), "2 folders without a photograph, left out: C, D"),
        (("A/x/1.jpg", "A/x/2.jpg", "A/y/1.jpg"), (),
         "3 photographs that lie in folders within a landmark's folder: taken as that landmark's:"
         " A/x, A/y"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_counted(
    tmp_path: Path, names: tuple[str, ...], others: tuple[str, ...], said: str
) -> None:
    photographs(tmp_path, "A/1.jpg", "B/1.jpg", *names)
    for one in others:
        (tmp_path / one).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / one).write_text("")
    assert said in notes(tmp_path)


def test_hidden_and_system_folders_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    litter(photographs(tmp_path, "A/1.jpg"))
    assert columns(read_table(tmp_path)) == [("A/1.jpg", "A")]
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}: 10 hidden or system names skipped: ._* 2, ")
    assert said.endswith(" and 4 kinds more")


def test_nothing_is_said_of_what_is_taken(tmp_path: Path) -> None:
    assert notes(photographs(tmp_path, "A/1.jpg", "B B/1.jpg", "none/1.jpg")) == []


def test_links_are_followed_once(tmp_path: Path) -> None:
    data, other = tmp_path / "data", photographs(tmp_path / "other", "3.jpg")
    photographs(data, "A/1.jpg", "B/1.jpg")
    (data / "A" / "2.jpg").symlink_to(data / "A" / "1.jpg")
    (data / "A" / "other").symlink_to(other)
    (data / "A" / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    (data / "A" / "self.jpg").symlink_to("self.jpg")
    (data / "A" / "loop").symlink_to(data)
    (data / "B" / "loop").symlink_to(data / "B")
    (data / "C").symlink_to(other)
    table = read_table(data)
    assert table["id"].tolist() == ["A/1.jpg", "A/2.jpg", "A/other/3.jpg", "B/1.jpg", "C/3.jpg"]
    said = notes(data)
    assert "2 symbolic links left out, leading nowhere: A/gone.jpg, A/self.jpg" in said
    assert "2 folders left out, walked already, to which a link leads back: A/loop, B/loop" in said
    assert "5 symbolic links followed" in said


def test_what_is_no_regular_file_is_left_out(tmp_path: Path) -> None:
    photographs(tmp_path, "A/1.jpg")
    os.mkfifo(tmp_path / "A" / "2.jpg")
    (tmp_path / "A" / "3.jpg").mkdir()
    assert read_table(tmp_path)["id"].tolist() == ["A/1.jpg"]
    said = notes(tmp_path)
    assert "1 photograph by its ending left out, no regular file: A/2.jpg" in said


@pytest.mark.parametrize("name", ["none", "None", "NONE", "none ", "no-landmark", "No Landmark"])
def test_the_bank_in_any_case(tmp_path: Path, name: str) -> None:
    photographs(tmp_path, "A/1.jpg", "B/1.jpg", f"{name}/1.jpg", f"{name}/2.jpg")
    data = load_data_set(tmp_path)
    assert data.gallery["landmark"].tolist() == ["A", "B"]
    assert data.bank["id"].tolist() == [f"{name}/1.jpg", f"{name}/2.jpg"]
    assert data.bank["landmark"].isna().all()
    assert data.bank.index.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["nan", "null", "-", "n-a", "NULL", "A "])
def test_a_folder_that_is_plainly_no_landmark(tmp_path: Path, name: str) -> None:
    photographs(tmp_path, "A/1.jpg", f"{name}/1.jpg")
    with pytest.raises(TableError, match=re.escape(f"{tmp_path / name}: ")):
        load_data_set(tmp_path)


def test_a_folder_with_a_bank_alone_is_no_data_set(tmp_path: Path) -> None:
    photographs(tmp_path, "none/1.jpg")
    with pytest.raises(TableError, match=r"neither index\.csv nor a folder of photographs"):
        load_data_set(tmp_path)


@pytest.mark.parametrize(
    ("gallery", "test"),
    [("train", "test"), ("Train", "TEST"), ("index", "query"), ("gallery", "queries"),
     ("train", "val"), ("training", "testing")],
)  # fmt: skip
def test_parts_of_a_data_set(tmp_path: Path, gallery: str, test: str) -> None:
    photographs(
        tmp_path, f"{gallery}/A/1.jpg", f"{gallery}/B/1.jpg", f"{gallery}/none/1.jpg",
        "none/2.jpg", f"{test}/A/1.jpg", f"{test}/None/1.jpg",
    )  # fmt: skip
    data = load_data_set(tmp_path)
    assert columns(data.gallery) == [(f"{gallery}/A/1.jpg", "A"), (f"{gallery}/B/1.jpg", "B")]
    assert set(data.bank["id"]) == {"none/2.jpg", f"{gallery}/none/1.jpg"}
    assert data.test is not None
    assert sorted(columns(data.test)) == [(f"{test}/A/1.jpg", "A"), (f"{test}/None/1.jpg", None)]
    assert find_test(tmp_path) == tmp_path / test
    # As evaluation reads it.
    assert columns(read_table(tmp_path / test))[0][1] in ("A", None)


def test_a_gallery_part_alone(tmp_path: Path) -> None:
    photographs(tmp_path, "train/A/1.jpg", "train/B/1.jpg")
    data = load_data_set(tmp_path)
    assert data.gallery["landmark"].tolist() == ["A", "B"]
    assert data.test is None
    assert find_test(tmp_path) is None


def test_what_lies_beside_parts_is_told(tmp_path: Path) -> None:
    photographs(tmp_path, "train/A/1.jpg", "train/1.jpg", "test/A/1.jpg", "val/A/1.jpg", "x.jpg")
    (tmp_path / "notes.txt").write_text("")
    said: list[str] = []
    load_data_set(tmp_path, say=said.append)
    assert said == [
        f"{tmp_path}: 1 photograph left out, in no landmark's folder: train/1.jpg",
        f"{tmp_path}: 1 file left out, no photograph by the ending: .txt 1",
        f"{tmp_path}: 1 photograph left out, in no landmark's folder: x.jpg",
        f"{tmp_path}: val/ is left out: test/ is the test",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/A/1.jpg", "Tower/1.jpg"), "train is named as a part of a data set, but stands"),
        (("test/1.jpg", "Tower/1.jpg"), "test is named as a part of a data set, but stands"),
        (("train/1.jpg", "test/1.jpg"), "train: no photographs in folders"),
        (("test/A/1.jpg",), "holds test and no gallery"),
        (("train/A/1.jpg", "index/A/1.jpg"), "holds both index and train"),
        (("train/A/1.jpg", "test/A/1.jpg", "query/A/1.jpg"), "holds both query and test"),
        (("train/train/1.jpg", "train/test/1.jpg"), "train/test is named as a part"),
        (("A/train/1.jpg", "A/test/1.jpg"), " is named as a part of a data set, within a landmark"),
        (("train/0/0/a/00a1b2c3d4e5f607.jpg",), "lies by its id, and not in a landmark's folder"),
        (("0/0/a/00a1b2c3d4e5f607.jpg",), "lies by its id, and not in a landmark's folder"),
        (("photos/1.jpg", "photos/2.jpg"), "holds one folder alone, photos, which is no landmark"),
        (("my/A/1.jpg", "my/B/1.jpg"), "holds one folder alone, my, and in it folders (A, B)"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    photographs(tmp_path, *names)
    with pytest.raises(TableError, match=re.escape(message)) as error:
        load_data_set(tmp_path)
    assert "\n" not in str(error.value)


def test_two_tests_are_refused(tmp_path: Path) -> None:
    photographs(tmp_path, "train/A/1.jpg", "test/A/1.jpg")
    write_csv(tmp_path / "test.csv", [("t", "test/A/1.jpg", "A")])
    with pytest.raises(TableError, match=r"holds test\.csv and a folder of test photographs"):
        load_data_set(tmp_path)


@pytest.mark.parametrize("names", [("train/A/1.jpg", "test/A/1.jpg"), ("test/1.jpg",)])
def test_parts_are_no_table(tmp_path: Path, names: tuple[str, ...]) -> None:
    photographs(tmp_path, *names)
    with pytest.raises(TableError, match=r"holds parts of a data set .*: give one of them"):
        read_table(tmp_path)


def test_a_data_set_of_tables_is_no_table(tmp_path: Path) -> None:
    photographs(tmp_path, "photos/1.jpg")
    write_csv(tmp_path / "index.csv", [("a", "photos/1.jpg", "A")])
    with pytest.raises(TableError, match=r"holds index\.csv: give the table itself"):
        read_table(tmp_path)


def test_names_composed_in_two_ways_are_one_landmark(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    photographs(tmp_path, f"{composed}/1.jpg", f"{apart}/1.jpg", "B/1.jpg")
    data = load_data_set(tmp_path)
    assert data.gallery["landmark"].tolist() == ["B", composed, composed]
    assert data.gallery["id"].nunique() == 3
    assert any("are one landmark, Café" in note for note in notes(tmp_path))


@pytest.mark.parametrize(
    ("name", "said"),
    [(b"A/caf\xe9.jpg", "A/caf\\xe9.jpg"), (b"caf\xe9/1.jpg", "caf\\xe9/1.jpg"),
     (b"A/\xff/1.jpg", "A/\\xff/1.jpg"), (b"none/\xe9.jpg", "none/\\xe9.jpg")],
)  # fmt: skip
def test_names_that_are_not_utf_8_are_refused(tmp_path: Path, name: bytes, said: str) -> None:
    photographs(tmp_path, "A/1.jpg", os.fsdecode(name))
    with pytest.raises(TableError, match=r"the name is not UTF-8 \(1 photograph") as error:
        load_data_set(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/{said}: ")
    str(error.value).encode()


def test_other_names_that_are_not_utf_8_are_counted(tmp_path: Path) -> None:
    photographs(tmp_path, "A/1.jpg", os.fsdecode(b"\xe9.jpg"))
    (tmp_path / "A" / os.fsdecode(b"x.\xe9")).write_text("")
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    said = notes(tmp_path)
    assert said == [
        "1 file left out, no photograph by the ending: .\\xe9 1",
        "1 photograph left out, in no landmark's folder: \\xe9.jpg",
        "1 folder without a photograph, left out: \\xff",
    ]
    folder = photographs(tmp_path / os.fsdecode(b"\xfe"), "A/1.jpg")
    with pytest.raises(TableError, match=r"\\xfe: the name is not UTF-8"):
        load_data_set(folder)


def test_what_nobody_may_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(tmp_path, "A/1.jpg", "B/1.jpg")
    scandir = os.scandir

    def refusing(place: Path) -> object:
        if Path(place).name == "B":
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(TableError, match=r"B: the folder cannot be read \(Permission denied\)"):
        read_table(tmp_path)


def test_what_has_no_shape_is_escaped() -> None:
    assert escaped("Café 東京/1.jpg") == "Café 東京/1.jpg"
    assert escaped("a\nb\x1b[31m" + os.fsdecode(b"\xe9")) == "a\\nb\\x1b[31m\\xe9"
