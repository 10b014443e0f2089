"""Photographs of no landmark: rendered, and listed as tables are."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipelines.demo.bank import make_bank
from retrieval.errors import ConfigError
from retrieval.photographs.table import load_data_set, read_table
from tests.photographs import picture, write_photograph


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bank")
    summary = make_bank(out, count=3, workers=1)
    assert str(summary) == f"3 photographs of no landmark, rendered → {out / 'none.csv'}"
    return out


def test_rendered_scenes_are_a_bank_in_either_form(rendered: Path, tmp_path: Path) -> None:
    listed = rows(rendered / "none.csv")
    assert list(listed[0]) == ["id", "path", "landmark_id", "source"]
    assert {(row["landmark_id"], row["source"]) for row in listed} == {("", "rendered")}
    for form in (rendered, rendered / "none.csv"):
        table = read_table(form, bank=True)
        assert len(table) == 3
        assert table["landmark"].isna().all()
    assert len(set(contents(rendered / "none").values())) == 3


def test_a_folder_of_landmarks_gets_its_bank(tmp_path: Path, rendered: Path) -> None:
    for name in ("A/1.jpg", "B/1.jpg"):
        write_photograph(tmp_path / name, picture(1))
    assert not len(load_data_set(tmp_path).bank)
    make_bank(tmp_path, count=1, workers=1)
    data = load_data_set(tmp_path)
    assert (len(data.gallery), len(data.bank)) == (2, 1)


def test_the_same_seed_gives_the_same_bytes_however_often_it_was_begun(
    rendered: Path, tmp_path: Path
) -> None:
    steps: list[int] = []
    make_bank(tmp_path, count=1, workers=1)
    (first,) = (tmp_path / "none").iterdir()
    begun = first.stat().st_mtime_ns
    make_bank(tmp_path, count=3, workers=1, progress=lambda done, failed: steps.append(done))
    assert contents(tmp_path) == contents(rendered)
    assert first.stat().st_mtime_ns == begun
    assert sum(steps) == 3
    make_bank(tmp_path, count=1, seed=1, workers=1)
    assert len(rows(tmp_path / "none.csv")) == 1
    assert not set(contents(tmp_path).values()) & set(contents(rendered).values())


def test_a_bank_of_ones_own_is_not_written_over(tmp_path: Path) -> None:
    for text in ("id,path,landmark_id,source\na,x.jpg,,coco\n", "id,path\na,x.jpg\n"):
        (tmp_path / "none.csv").write_text(text)
        with pytest.raises(ConfigError, match=r"other photographs of no landmark.*--out"):
            make_bank(tmp_path, count=1, workers=1)
        assert (tmp_path / "none.csv").read_text() == text
