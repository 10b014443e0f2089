"""Image tables: every form that is read, and every row that is refused."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pandas as pd
import pytest

from retrieval.errors import TableError
from retrieval.photographs.folders import find_test
from retrieval.photographs.landmark_names import read_names
from retrieval.photographs.table import (
    DataSet,
    load_data_set,
    make_table,
    nested_path,
    read_table,
    unknown_landmarks,
)
from tests.photographs import blank, write_csv, write_data_set, write_photograph

LANDMARK_IDS = ["0000ab12", "00c4d5e6", "ff009911"]


def photographs(folder: Path, *names: str) -> None:
    for name in names:
        write_photograph(folder / name, blank(8, 8))


def nested(root: Path, ids: list[str] = LANDMARK_IDS) -> None:
    for one in ids:
        write_photograph(nested_path(root, one), blank(8, 8))


def refused(path: Path) -> str:
    """The message with which a table is refused: one line, which names the file."""
    with pytest.raises(TableError) as caught:
        read_table(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def columns(table: pd.DataFrame) -> list[tuple[object, ...]]:
    """Ids, landmarks and rows, missing landmarks as None."""
    landmarks = [None if pd.isna(one) else one for one in table["landmark"]]
    return list(zip(table["id"], landmarks, table["row"], strict=True))


def test_a_path_csv(tmp_path: Path) -> None:
    photographs(tmp_path, "in/a.jpg", "b.jpg")
    elsewhere = write_photograph(tmp_path.parent / f"{tmp_path.name}-c.jpg", blank(8, 8))
    rows = [("a", "in/a.jpg", "L1"), ("b", "b.jpg", ""), ("c", elsewhere, "None")]
    table = read_table(write_csv(tmp_path / "t.csv", rows))
    assert columns(table) == [("a", "L1", 2), ("b", None, 3), ("c", None, 4)]
    assert table["source"].tolist() == [
        str(tmp_path / "in/a.jpg"), str(tmp_path / "b.jpg"), str(elsewhere)
    ]  # fmt: skip
    assert [str(table[name].dtype) for name in ("id", "source", "landmark")] == ["string"] * 3
    assert table["row"].dtype == "int64"


def test_a_path_csv_without_landmarks(tmp_path: Path) -> None:
    photographs(tmp_path, "a.jpg")
    path = write_csv(tmp_path / "t.csv", [("a", "a.jpg")], ("id", "path"))
    assert columns(read_table(path, bank=True)) == [("a", None, 2)]
    assert "no photograph shows a landmark" in refused(path)
    assert "--bank" in refused(write_csv(tmp_path / "none.csv", [("a", "a.jpg", "None")]))


@pytest.mark.parametrize("root", [".", "photos", "images", "train", "index", "test"])
def test_a_landmarks_csv_finds_its_nested_photographs(tmp_path: Path, root: str) -> None:
    nested(tmp_path / root)
    rows = [(one, f"https://photos.example/{one}", i) for i, one in enumerate(LANDMARK_IDS)]
    table = read_table(write_csv(tmp_path / "train.csv", rows, ("id", "url", "landmark_id")))
    assert columns(table) == [
        ("0000ab12", "0", 2), ("00c4d5e6", "1", 3), ("ff009911", "2", 4)
    ]  # fmt: skip
    assert table["source"].iloc[2] == str(tmp_path / root / "f/f/0/ff009911.jpg")


def test_the_index_of_google_landmarks_v2(tmp_path: Path) -> None:
    nested(tmp_path / "index")
    rows = [(one, "7") for one in LANDMARK_IDS]
    path = write_csv(tmp_path / "index_image_to_landmark.csv", rows, ("id", "landmark_id"))
    assert columns(read_table(path)) == [(one, "7", i) for i, one in enumerate(LANDMARK_IDS, 2)]


def test_the_first_photograph_may_be_the_missing_one(tmp_path: Path) -> None:
    nested(tmp_path / "photos", LANDMARK_IDS[1:])
    path = write_csv(tmp_path / "t.csv", [(one,) for one in LANDMARK_IDS], ("id",))
    assert "row 2: no photograph at" in refused(path)
    assert "(1 of 3 are missing)" in refused(path)


def test_a_mark_at_the_start_quotes_and_windows_lines_are_read(tmp_path: Path) -> None:
    photographs(tmp_path, "a, the first.jpg", "b.jpg")
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid, path ,landmark_id\r\na,"a, the first.jpg","L ""1"""\r\n\r\nb,b.jpg,L2\r\n'
    )
    assert columns(read_table(path)) == [("a", 'L "1"', 2), ("b", "L2", 4)]


def test_a_row_is_the_line_that_an_editor_shows(tmp_path: Path) -> None:
    photographs(tmp_path, "a.jpg")
    path = tmp_path / "t.csv"
    path.write_text('id,path,landmark_id\na,a.jpg,"two\nlines"\n\nb,b.jpg,L1\n')
    assert ", row 5: no photograph at" in refused(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": empty file"),
        ("id,path\n", ": no rows below the header"),
        ("name,path\na,a.jpg\n", ", row 1: no column id among name,path"),
        ("id,path,path\na,a.jpg,b.jpg\n", ", row 1: the column path stands twice (id,path,path)"),
        ("id,path\na,a.jpg\nb\n", ", row 3: 1 cells where the header has 2 (id,path)"),
        ("id,path\na,a.jpg,L1\n", ", row 2: 3 cells where the header has 2 (id,path)"),
        ("id,path\na,a.jpg\n ,a.jpg\n", ", row 3: the id is empty"),
        ("id,path\na,a.jpg\nb,\n", ", row 3: the path is empty"),
        ("id,path\na,a.jpg\n\na,a.jpg\na,a.jpg\n",
         ", row 4: id 'a' stands in row 2 already (2 duplicate ids in all)"),
        ("id,path\na,a.jpg\nb,b.jpg\n", ", row 3: no photograph at "),
        ("id,url\nab,https://photos.example/ab\n", ", row 2: id 'ab' is too short"),
        ("id,url\nabcd,https://photos.example/ab\n", ", row 2: no photograph of id 'abcd'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    photographs(tmp_path, "a.jpg")
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert refused(path).startswith(message)


def test_urls_that_are_not_fetched_yet_say_how(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [("abcd", "https://photos.example/")], ("id", "url"))
    assert f"landmarks data fetch {path}" in refused(path)


def test_what_is_no_table(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.csv") == ": no such file"
    (tmp_path / "photo.csv").write_bytes(b"id,path\n\xff\xd8\xff\xe0")
    assert refused(tmp_path / "photo.csv").startswith(", row 2: not in UTF-8 (the byte 0xff")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").startswith(": no photographs in folders")


def test_a_data_set(tmp_path: Path) -> None:
    data = load_data_set(write_data_set(tmp_path, landmarks=2, views=2, bank=3, queries=1))
    assert isinstance(data, DataSet)
    assert columns(data.gallery) == [
        ("m1v0", "L1", 2), ("m1v1", "L1", 3), ("m2v0", "L2", 4), ("m2v1", "L2", 5)
    ]  # fmt: skip
    assert data.bank["id"].tolist() == ["n0", "n1", "n2"]
    assert data.bank["landmark"].isna().all()
    assert data.test is not None
    assert data.test["landmark"].tolist()[:2] == ["L1", "L2"]
    assert data.names == {"L1": "Landmark 1", "L2": "Landmark 2"}


def test_the_tables_of_a_data_set_may_be_parquet(tmp_path: Path) -> None:
    wanted = load_data_set(write_data_set(tmp_path, landmarks=2, views=2, bank=3, queries=1))
    for name in ("index", "none", "test"):
        table = tmp_path / f"{name}.csv"
        pd.read_csv(table).to_parquet(table.with_suffix(".parquet"))
        table.unlink()
    found = load_data_set(tmp_path)
    assert wanted.test is not None
    assert found.test is not None
    for before, now in ((wanted.gallery, found.gallery), (wanted.bank, found.bank),
                        (wanted.test, found.test)):  # fmt: skip
        assert now[["id", "source", "landmark"]].equals(before[["id", "source", "landmark"]])
    assert find_test(tmp_path) is None
    # Where both lie there, the CSV counts.
    write_csv(tmp_path / "index.csv", [("a", "photos/m1v0.jpg", "L1")])
    assert load_data_set(tmp_path).gallery["id"].tolist() == ["a"]


def test_a_data_set_needs_no_more_than_its_gallery(tmp_path: Path) -> None:
    photographs(tmp_path, "a.jpg")
    write_csv(tmp_path / "index.csv", [("a", "a.jpg", "L1")])
    data = load_data_set(tmp_path)
    assert len(data.bank) == 0
    assert data.bank.columns.tolist() == data.gallery.columns.tolist()
    assert data.test is None
    assert data.names == {}


def test_another_gallery_is_looked_for_here_and_in_the_folder(tmp_path: Path) -> None:
    write_data_set(tmp_path, landmarks=2, views=1, bank=1, queries=1)
    other = write_csv(tmp_path / "other.csv", [("o", "photos/m1v0.jpg", "L9")])
    for given in (other, Path("other.csv")):
        assert load_data_set(tmp_path, given).gallery["landmark"].tolist() == ["L9"]
    with pytest.raises(TableError, match=r"absent\.csv: no such file, neither here nor in"):
        load_data_set(tmp_path, Path("absent.csv"))


def test_an_unlabelled_row_is_not_for_the_gallery(tmp_path: Path) -> None:
    photographs(tmp_path, "a.jpg", "b.jpg")
    write_csv(tmp_path / "index.csv", [("a", "a.jpg", "L1"), ("b", "b.jpg", "")])
    message = rf"{re.escape(str(tmp_path))}/index\.csv, row 3: .* \(1 rows have none\).*none\.csv"
    with pytest.raises(TableError, match=message):
        load_data_set(tmp_path)


def test_a_labelled_row_is_not_for_the_bank(tmp_path: Path) -> None:
    photographs(tmp_path, "a.jpg", "b.jpg")
    write_csv(tmp_path / "index.csv", [("a", "a.jpg", "L1")])
    write_csv(tmp_path / "none.csv", [("b", "b.jpg", "L1")])
    with pytest.raises(TableError, match=r"none\.csv, row 2: .* has landmark_id 'L1'"):
        load_data_set(tmp_path)


def test_an_id_is_not_for_both(tmp_path: Path) -> None:
    photographs(tmp_path, "a.jpg")
    write_csv(tmp_path / "index.csv", [("a", "a.jpg", "L1")])
    write_csv(tmp_path / "none.csv", [("a", "a.jpg", "")])
    with pytest.raises(TableError, match=r"none\.csv, row 2: id 'a' is in .*index\.csv too"):
        load_data_set(tmp_path)


def test_a_data_set_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"absent is not a folder"):
        load_data_set(tmp_path / "absent")


def test_names_from_google_landmarks_v2(tmp_path: Path) -> None:
    rows = [("1", "http://commons.example/wiki/Category:Old_Bridge_(Heidelberg)"), ("2", "Plain")]
    write_csv(tmp_path / "train_label_to_category.csv", rows, ("landmark_id", "category"))
    assert read_names(tmp_path) == {"1": "Old Bridge (Heidelberg)", "2": "Plain"}
    (tmp_path / "landmarks.csv").write_text("id,title\n1,x\n")
    with pytest.raises(TableError, match=r"landmarks\.csv: needs the columns landmark_id and name"):
        read_names(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": empty file"),
        ("1,Bridge,\n", ", row 2: 3 cells where the header has 2"),
        ("1,Bridge\n2,Tower, old\n", ", row 3: 3 cells where the header has 2"),
        ("1,Bridge\n\n1,Tower\n", ", row 4: the landmark '1' has a name in row 2 already"),
        ("1 ,Bridge\n", ", row 2: a blank stands before or behind the landmark '1 '"),
        ("1,Bridge\n,Tower\n", ", row 3: no landmark_id"),
        ('1,"Bridge\n2,Tower\n', ", row 2: a quote opens here that nothing closes"),
        ("Cafe\u0301,a\nCaf\u00e9,b\n", ", row 3: the landmark 'Caf\u00e9' has a name in row 2"),
    ],
)
def test_names_that_would_be_lost_or_wrong_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "landmarks.csv"
    path.write_text(f"landmark_id,name\n{text}" if text else "")
    with pytest.raises(TableError) as caught:
        read_names(tmp_path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_names_are_read_as_tables_are(tmp_path: Path) -> None:
    text = 'Name;Landmark_ID\n"Bridge; old";1\nTower, high;2\n'
    (tmp_path / "landmarks.csv").write_bytes(text.encode("utf-16"))
    assert read_names(tmp_path) == {"1": "Bridge; old", "2": "Tower, high"}


@pytest.mark.parametrize(
    "name",
    [
        "landmark",
        "Label",
        "CLASS",
        "landmarks",
        "Landmark ID",
        "class_name",
        "lanmark_id",
        "labels",
    ],
)
@pytest.mark.parametrize("bank", [False, True])
def test_landmarks_in_a_column_of_another_name(tmp_path: Path, name: str, bank: bool) -> None:
    photographs(tmp_path, "a.jpg")
    path = write_csv(tmp_path / "t.csv", [("a", "a.jpg", "L1")], ("id", "path", name))
    with pytest.raises(TableError, match=rf"row 1: .*did you mean {name}\? Name it landmark_id"):
        read_table(path, bank)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image_id,path,landmark_id", "did you mean image_id? Name it id"),
        ("id,Filename,landmark_id", "did you mean Filename? Name it path"),
    ],
)
def test_other_columns_of_another_name(tmp_path: Path, header: str, message: str) -> None:
    photographs(tmp_path, "a.jpg")
    path = write_csv(tmp_path / "t.csv", [("a", "a.jpg", "L1")], header.split(","))
    assert message in refused(path)


def test_columns_in_any_case_order_and_form(tmp_path: Path) -> None:
    photographs(tmp_path, "a, b.jpg")
    path = tmp_path / "t.csv"
    path.write_bytes(
        gzip.compress("\ufeffsep=;\nLandmark_ID;note;Path;ID\nL1;;a, b.jpg;a\n".encode())
    )
    assert columns(read_table(path)) == [("a", "L1", 3)]


def test_a_table_in_parquet(tmp_path: Path) -> None:
    photographs(tmp_path, "a.jpg", "b.jpg")
    path = tmp_path / "t.parquet"
    frame = {
        "id": ["a", "b"],
        "path": ["a.jpg", "b.jpg"],
        "landmark_id": [17.0, None],
        "x": [[], []],
    }
    pd.DataFrame(frame).to_parquet(path)
    assert columns(read_table(path)) == [("a", "17", 1), ("b", None, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,a.jpg,nan\n", ", row 2: the landmark 'nan' seems to say that there is none"),
        ("a,a.jpg,L1\n\nb,a.jpg, L1\n", ", row 4: a blank stands before or behind the landmark"),
        (" a,a.jpg,L1\n", ", row 2: a blank stands before or behind the id ' a'"),
        ("a,a.jpg,L1\n,,\n", ", row 3: the id is empty"),
        ('a,a.jpg,"L1\nb,a.jpg,L1\n', ", row 2: a quote opens here that nothing closes"),
        ("Caf\u00e9,a.jpg,L1\nCafe\u0301,a.jpg,L1\n",
         ", row 3: id 'Cafe\u0301' looks the same as, but is not, that of row 2"),
        ("a,a.jpg,L1\nb,a.jpg,L1\u200b\n", ", row 3: the landmark 'L1\\u200b' looks the same"),
    ],
)  # fmt: skip
def test_labels_and_ids_that_mislead_are_refused(tmp_path: Path, text: str, message: str) -> None:
    photographs(tmp_path, "a.jpg")
    path = tmp_path / "t.csv"
    path.write_text(f"id,path,landmark_id\n{text}")
    assert refused(path).startswith(message)


def test_landmarks_composed_in_two_ways_are_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photographs(tmp_path, "a.jpg")
    rows = [("a", "a.jpg", "Caf\u00e9"), ("b", "a.jpg", "Cafe\u0301"), ("c", "a.jpg", "NONE")]
    table = read_table(write_csv(tmp_path / "t.csv", rows))
    assert columns(table) == [("a", "Caf\u00e9", 2), ("b", "Caf\u00e9", 3), ("c", None, 4)]
    assert "1 landmarks hold characters in two parts" in caplog.text


def test_a_path_composed_otherwise_is_told(tmp_path: Path) -> None:
    photographs(tmp_path, "Cafe\u0301.jpg")
    path = write_csv(tmp_path / "t.csv", [("a", "Caf\u00e9.jpg", "L1")])
    assert "but at the same name composed otherwise (NFD: rename one)" in refused(path)


def test_landmarks_that_nothing_can_answer() -> None:
    table = make_table("abc", "abc", ["L1", None, "L9"])
    assert unknown_landmarks(table, ["L1", "L2"])["id"].tolist() == ["c"]


def test_rows_that_could_not_be_fetched_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nested(tmp_path / "photos", LANDMARK_IDS[:2])
    table = tmp_path / "index.csv"
    rows = [(one, f"http://example/{one}", "a") for one in LANDMARK_IDS]
    write_csv(table, rows, ("id", "url", "landmark_id"))
    assert "row 4" in refused(table)
    failed = (LANDMARK_IDS[2], "fetch_failed", "404")
    fetched = [*((one, "ok", "") for one in LANDMARK_IDS[:2]), failed]
    write_csv(tmp_path / "fetched-index.csv", fetched, ("id", "status", "reason"))
    assert list(read_table(table)["id"]) == LANDMARK_IDS[:2]
    assert "1 rows are left out" in caplog.text
