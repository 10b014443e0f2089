"""What is told of a data set before any work."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data import checking
from pipelines.data.checking import check_data_set, difference_hash
from tests.photographs import blank, encoded, picture, view, write_csv, write_photograph


def lines(path: Path, **options: bool) -> list[str]:
    return check_data_set(path, **options).lines


def saved_anew(source: Path, target: Path) -> Path:
    """The same photograph, smaller, brighter and of another quality."""
    image = Image.open(source).convert("RGB").point(lambda value: min(255, int(value * 1.1)))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encoded(image.resize((96, 72)), "JPEG", quality=70))
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A, B and none: five photographs of different things."""
    for seed, name in enumerate(("A/1.jpg", "A/2.jpg", "B/1.jpg", "B/2.jpg", "none/1.jpg")):
        write_photograph(tmp_path / "data" / name, picture(seed))
    return tmp_path / "data"


def test_a_sound_data_set(data: Path) -> None:
    check = check_data_set(data)
    assert check.usable
    assert check.lines == [
        "gallery: 24 photographs, 24 of 6 landmarks, 4 to 4 photographs each, 0 of none",
        "bank: 8 photographs, 0 of 0 landmarks, 8 of none",
        "test: 16 photographs, 12 of 6 landmarks, 2 to 2 photographs each, 4 of none",
        "8 photographs of none of untold sources (no column source), so that their variety is"
        " unknown: false accepts can be promised down to 11 % on photographs like them, and no"
        " lower; photographs of other kinds may be accepted more often",
        "opened: 48 of 48 photographs",
        "repeated: 0 groups of the same photographs, 0 of nearly the same",
    ]


def test_broken_photographs_are_named_with_the_reason(folder: Path) -> None:
    (folder / "A" / "2.jpg").write_bytes(b"")
    (folder / "B" / "1.jpg").write_bytes(b"<html>")
    (folder / "B" / "2.jpg").write_bytes(b"<html>")
    check = check_data_set(folder)
    assert check.usable
    assert "opened: 2 of 5 photographs" in check.lines
    assert f"broken: gallery, {folder / 'A/2.jpg'}: empty file" in check.lines
    assert any(line.startswith(f"broken: gallery, {folder / 'B/1.jpg'}: ") for line in check.lines)
    assert "gallery: none of the photographs of landmark 'B' can be opened" in check.lines
    assert not any("landmark 'A' can" in line for line in check.lines)
    # Failures are no duplicates of each other.
    assert "repeated: 0 groups of the same photographs, 0 of nearly the same" in check.lines


def test_quick_opens_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "A" / "2.jpg").write_bytes(b"")
    monkeypatch.setattr(checking, "read_photograph", None)
    check = check_data_set(folder, quick=True)
    assert check.usable
    assert len(check.lines) == 3


def test_a_row_of_a_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    write_photograph(tmp_path / "b.jpg", blank())
    table = write_csv(tmp_path / "t.csv", [("a", "a.jpg", "A"), ("b", "b.jpg", "B")])
    assert f"broken: t.csv, row 2, {tmp_path / 'a.jpg'}: empty file" in lines(table)


@pytest.mark.parametrize(
    ("copy", "said"),
    [
        ("A/9.jpg", ": A/1.jpg, A/9.jpg"),
        ("B/9.jpg", ", under 2 landmarks (A, B): A/1.jpg, B/9.jpg"),
        ("none/9.jpg", ", of a landmark and of none, in gallery and bank: A/1.jpg, none/9.jpg"),
    ],
)
@pytest.mark.parametrize("what", ["the same", "nearly the same"])
def test_a_photograph_that_is_there_twice(folder: Path, copy: str, said: str, what: str) -> None:
    again = shutil.copy if what == "the same" else saved_anew
    again(folder / "A/1.jpg", folder / copy)
    found = lines(folder)
    assert found[-1] == what + said
    exact, near = ("1 group", 0) if what == "the same" else ("0 groups", 1)
    assert f"repeated: {exact} of the same photographs, {near} of nearly the same" in found


def test_a_test_photograph_in_the_gallery(tmp_path: Path) -> None:
    write_photograph(tmp_path / "train/A/1.jpg", picture(1))
    write_photograph(tmp_path / "train/B/1.jpg", picture(2))
    write_photograph(tmp_path / "test/A/1.jpg", picture(1))
    assert "the same, in gallery and test: train/A/1.jpg, test/A/1.jpg" in lines(tmp_path)


def test_contradictions_are_told_first(folder: Path) -> None:
    shutil.copy(folder / "A/1.jpg", folder / "A/9.jpg")
    shutil.copy(folder / "B/1.jpg", folder / "A/99.jpg")
    told = [line for line in lines(folder) if line.startswith("the same")]
    assert [", under" in line for line in told] == [True, False]


def test_views_of_a_landmark_are_not_the_same(tmp_path: Path) -> None:
    for landmark in range(2):
        for number in range(3):
            shown = view(landmark, number, 240, 320)
            write_photograph(tmp_path / f"L{landmark}" / f"{number}.jpg", shown)
    assert lines(tmp_path)[-1] == (
        "repeated: 0 groups of the same photographs, 0 of nearly the same"
    )


def test_findings_of_a_kind_are_cut_unless_all_are_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "LINES", 2)
    for i in range(5):
        (folder / "A" / f"x{i}.jpg").write_bytes(b"")
    cut = lines(folder)
    assert sum(line.startswith("broken: ") for line in cut) == 2
    assert "… and 3 more of these (--all tells all)" in cut
    whole = lines(folder, tell_all=True)
    assert sum(line.startswith("broken: ") for line in whole) == 5


def test_what_is_left_out_is_told(folder: Path) -> None:
    (folder / "A" / "notes.txt").write_text("")
    said = f"{folder}: 1 file left out, no photograph by the ending: .txt 1"
    assert said in lines(folder, quick=True)


def test_labels_that_look_alike(folder: Path) -> None:
    write_photograph(folder / "a" / "1.jpg", picture(9))
    said = "2 landmarks whose labels differ only in case, blanks, _ or -: A, a"
    assert said in lines(folder, quick=True)


def test_queries_that_nothing_can_answer(folder: Path) -> None:
    write_csv(folder / "test.csv", [("t", "A/1.jpg", "Z")])
    assert any("no photograph of 'Z'" in line for line in lines(folder, quick=True))


def test_nothing_can_be_built_where_no_gallery_photograph_opens(folder: Path) -> None:
    for name in ("A/1.jpg", "A/2.jpg", "B/1.jpg", "B/2.jpg"):
        (folder / name).write_bytes(b"")
    assert not check_data_set(folder).usable


def test_photographs_are_opened_block_by_block(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "AT_A_TIME", 2)
    (folder / "A" / "2.jpg").write_bytes(b"")
    told: list[tuple[int, int]] = []
    check_data_set(folder, progress=lambda total: lambda *done: told.append(done))
    assert told == [(2, 1), (2, 0), (1, 0)]


def test_the_difference_hash_by_its_definition() -> None:
    slope = np.repeat(np.arange(90, dtype=np.uint8)[None, :, None], 90, axis=0).repeat(3, axis=2)
    bits = np.unpackbits(difference_hash(slope))
    assert bits[:64].all()  # brighter to the right
    assert not bits[64:].any()  # and not downwards
    turned = np.unpackbits(difference_hash(np.ascontiguousarray(np.rot90(slope, -1))))
    assert not turned[:64].any()
    assert turned[64:].all()


def test_urls_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photograph(tmp_path / "A/1.jpg", picture(1))
    table = checking.read_table(tmp_path)
    table.loc[0, "source"] = "http://photos.example/1.jpg"
    monkeypatch.setattr(checking, "read_table", lambda path, bank, say: table)
    path = tmp_path / "t.csv"
    path.write_text("")
    check = check_data_set(path)
    assert check.usable
    assert "1 URL not opened" in check.lines
    assert re.match(r"opened: 0 of 0", check.lines[-1])
