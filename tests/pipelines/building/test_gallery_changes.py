"""A run's photographs listed, and chosen by ids, paths, landmarks and lists."""

from __future__ import annotations

import io
import os
import re
import sys
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from pipelines.building.gallery_changes import (
    Known,
    chosen_ids,
    landmark_rows,
    photograph_rows,
    summary,
)
from retrieval.errors import TableError
from retrieval.types import STRING

DECOMPOSED = unicodedata.normalize("NFD", "Café/1.jpg")
RUN = Path("runs/mine")


@pytest.fixture
def known(tmp_path: Path) -> Known:
    rows = [
        ("m1v0", "photos/m1v0.jpg", "L1", "ok"),
        ("m1v1", "photos/m1v1.jpg", "L1", "removed"),
        ("m2v0", str(tmp_path / "in" / "m2v0.jpg"), "L2", "ok"),
        ("m2v1", str(tmp_path / "in" / "deep" / "m2v1.jpg"), "L2", "decode_failed"),
        (DECOMPOSED, str(tmp_path / "inner" / "1.jpg"), "Café", "ok"),
        ("n0", "photos/n0.jpg", None, "ok"),
    ]
    table = pd.DataFrame(rows, columns=["id", "source", "landmark", "status"], dtype=STRING)
    return Known(table, {"L1": "Old Bridge", "L2": "Tower, the"})


def chosen(
    known: Known, *given: str, landmarks: tuple[str, ...] = (), stdin: str = ""
) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        return chosen_ids(known, RUN, given, landmarks)


def test_a_list_of_nothing_is_told(known: Known) -> None:
    with pytest.raises(TableError, match="standard input: nothing came; give a list of ids or"):
        chosen(known, "-")


def test_landmarks_are_listed_with_their_counts(known: Known) -> None:
    assert list(landmark_rows(known)) == [
        ["landmark", "name", "photographs"],
        ["Café", "", "1"], ["L1", "Old Bridge", "1"], ["L2", "Tower, the", "1"],
    ]  # fmt: skip
    assert summary(known) == "3 photographs of 3 landmarks, 1 of none, 1 failed, 1 taken out"


def test_photographs_are_listed(known: Known) -> None:
    listed = list(photograph_rows(known))
    assert listed[0] == ["id", "landmark", "source"]
    assert [row[:2] for row in listed[1:]] == [
        ["m1v0", "L1"], ["m2v0", "L2"], [DECOMPOSED, "Café"], ["n0", ""]
    ]  # fmt: skip
    assert [row[0] for row in photograph_rows(known, ["L1", "Tower, the"])] == [
        "id", "m1v0", "m2v0"
    ]  # fmt: skip


def test_ids_paths_and_folders(known: Known, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert chosen(known, "m1v0", "photos/n0.jpg", "./photos/../photos/m1v1.jpg") == [
        "m1v0", "n0", "m1v1"
    ]  # fmt: skip
    assert chosen(known, os.path.abspath("photos/m1v0.jpg")) == ["m1v0"]
    # All below it, and not those of a folder whose name goes on.
    assert chosen(known, str(tmp_path / "in")) == ["m2v0", "m2v1"]
    assert chosen(known, "m1v0", "m1v0", "photos/m1v0.jpg") == ["m1v0"]


def test_what_looks_the_same_is_meant_the_same(known: Known) -> None:
    assert chosen(known, unicodedata.normalize("NFC", DECOMPOSED)) == [DECOMPOSED]
    assert chosen(known, landmarks=(unicodedata.normalize("NFD", "Café"),)) == [DECOMPOSED]


def test_landmarks_by_id_and_by_name(known: Known) -> None:
    assert chosen(known, landmarks=("L1",)) == ["m1v0", "m1v1"]
    assert chosen(known, landmarks=("Tower, the", "Old Bridge")) == ["m2v0", "m2v1", "m1v0", "m1v1"]
    with pytest.raises(TableError, match=r"no landmark 'L3' in the run; nearest: L[12], L[12]"):
        chosen(known, landmarks=("L3",))
    with pytest.raises(TableError, match=r"no landmark 'old bridge' .*nearest: Old Bridge"):
        chosen(known, landmarks=("old bridge",))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "id,landmark\nm1v0,L1\nn0,\n"),
        ("a.csv", "ID;x\nm1v0;1\nn0;2\n"),
        ("a.csv", "id\nm1v0\nn0\n"),
        ("a.txt", "m1v0\n\nn0\n"),
        ("a.tsv", "id\tx\nm1v0\t1\nn0\t2\n"),
    ],
)
def test_lists_of_ids(known: Known, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert chosen(known, str(tmp_path / name)) == ["m1v0", "n0"]
    assert chosen(known, "-", stdin=text) == ["m1v0", "n0"]


def test_a_list_of_paths_is_relative_to_its_folder(known: Known, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path\nin/m2v0.jpg\n")
    assert chosen(known, str(tmp_path / "a.csv")) == ["m2v0"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "name,landmark\nm1v0,L1\n", "no column id or path among name, landmark"),
        ("a.csv", "id,x\nm1v0,1\n,2\n", "row 3: the id is empty"),
        ("a.csv", "id\nm1v0\nmlv0\n", "'mlv0' is neither an id nor the path of a photograph"),
    ],
)
def test_a_bad_list_is_refused(
    known: Known, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=re.escape(said)):
        chosen(known, str(tmp_path / name))


def test_an_unknown_id_shows_the_nearest(known: Known) -> None:
    with pytest.raises(TableError) as error:
        chosen(known, "m1v0", "m1vO", "absent")
    text = str(error.value)
    assert text.startswith("'m1vO' is neither an id nor the path of a photograph in runs/mine")
    assert "(2 such); nearest: " in text
    assert "m1v0" in text.partition("nearest: ")[2]
    assert text.endswith("(landmarks list --photographs tells all)")
    with pytest.raises(TableError, match=r"'1\.jpg' .*nearest: .*/1\.jpg"):
        chosen(known, "1.jpg")


def test_the_nearest_of_very_many(known: Known) -> None:
    many = pd.DataFrame({"id": [f"photo{i:06d}" for i in range(30_000)]}, dtype=STRING)
    many = many.assign(source=many["id"], landmark="L1", status="ok")
    with pytest.raises(TableError, match=r"nearest: .*photo012345"):
        chosen(Known(many, {}), "phot0012345")


def test_nothing_is_to_be_taken_out(known: Known) -> None:
    with pytest.raises(TableError, match="nothing is to be taken out"):
        chosen(known)
    with pytest.raises(TableError, match="nothing is to be taken out"):
        chosen(known, "-", stdin="id\n")
