"""The table of systems: its rows, its figures, and going on after it was cut short."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.building.index import build_run
from pipelines.config import load_config
from pipelines.measuring.evaluate import evaluate_run
from pipelines.studies.compare import run_comparison
from pipelines.studies.methods import Budget, catalogue
from retrieval.aggregation.registry import AGGREGATORS
from retrieval.descriptors import cache
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.hough import HoughConfig, HoughExtractor
from retrieval.errors import ConfigError, TableError
from retrieval.evaluation.protocols import holidays_map
from retrieval.local import sift
from retrieval.local.registry import DETECTORS
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.table import DataSet, load_data_set
from retrieval.storage.shards import ShardStore
from retrieval.system import System
from retrieval.vectors.whitening import WhiteningConfig
from tests.oracles.metrics import rankings_of
from tests.photographs import blank, view, write_data_set, write_photograph

pytestmark = pytest.mark.slow

BUDGET = Budget(
    size=128,
    keypoints=60,
    words=4,
    visual_words=32,
    whitening=WhiteningConfig(dimension=12, power=-0.4),
    verified=4,
)
AGGREGATIONS = ["vlad", "fisher", "bow", "asmk", "asmk + verification of the first 4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return load_data_set(write_data_set(tmp_path_factory.mktemp("data"), 4, 4, 5, 2))


@pytest.fixture(scope="module")
def holidays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four groups of three, one of whose photographs shows nothing."""
    folder = tmp_path_factory.mktemp("holidays")
    for group in range(4):
        for number in range(3):
            shown = blank() if (group, number) == (2, 1) else view(70 + group, number)
            write_photograph(folder / "photos" / f"{100_000 + 100 * group + number}.jpg", shown)
    return folder


@pytest.fixture(scope="module")
def table(
    data: DataSet, holidays: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """Where the whole table was written, and its rows."""
    folder = tmp_path_factory.mktemp("table")
    run_comparison(data, holidays, folder / "work", folder / "table.md", budget=BUDGET)
    return folder, rows_of(folder / "table.json")


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "photographs_per_second": None} for row in rows]


@pytest.mark.slow
def test_every_detector_stands_by_every_aggregation(
    table: tuple[Path, list[dict[str, Any]]],
) -> None:
    _, rows = table
    detectors = ["sift", "rootsift", "rootsift-oriented", "dense", "harris", "surf"]
    expected = [(name, one) for name in detectors for one in AGGREGATIONS]
    expected += [
        ("aliked", "–"),
        ("delf", "–"),
        *((n, "the whole photograph") for n in ("hog", "hog-cells")),
    ]
    expected += [("hough", "the whole photograph")]
    assert [(row["features"], row["aggregation"]) for row in rows] == expected
    for row in rows:
        if not row["skipped"]:
            assert 0 <= row["gap"] <= row["top1"] <= 1
            assert 0 < row["map"] <= 1
            assert row["photographs_per_second"] > 0


def test_nothing_of_the_registries_is_left_out() -> None:
    kinds = {getattr(one, "kind", "") for one in catalogue(BUDGET).values()}
    assert kinds >= set(DETECTORS)
    assert set(AGGREGATIONS) >= set(AGGREGATORS)


def test_local_features_find_what_they_should(table: tuple[Path, list[dict[str, Any]]]) -> None:
    """Made-up landmarks are easy: what mixes up rows or labels does not get there."""
    _, rows = table
    good = [row for row in rows if row["features"] == "rootsift"]
    assert min(row["top1"] for row in good) >= 0.75
    assert min(row["map"] for row in good) > 0.4  # 0.25 by chance
    assert good[0]["map"] > 0.6


def test_bytes_are_what_the_index_holds(table: tuple[Path, list[dict[str, Any]]]) -> None:
    _, rows = table
    sizes = {(row["features"], row["aggregation"]): row["bytes_per_photograph"] for row in rows}
    assert sizes["rootsift", "vlad"] == sizes["hough", "the whole photograph"] == 4 * 12
    assert 0 < sizes["rootsift", "bow"] <= 8 * 32  # a row and a weight for each word
    kept = sizes["rootsift", AGGREGATIONS[-1]] - sizes["rootsift", "asmk"]
    assert 0 < kept <= 60 * (8 + 32)  # place, scale and angle; 32 numbers


def test_a_skipped_row_says_why(table: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = table
    (line,) = [one for one in (folder / "table.md").read_text().splitlines() if "| aliked |" in one]
    assert "skipped: the detector aliked needs" in line


def test_a_system_whose_whitening_learns_from_views_is_a_skipped_row(
    data: DataSet, holidays: Path, tmp_path: Path
) -> None:
    config = load_config("hog", ["whitening.views=2"])
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    (row,) = run_comparison(
        data, holidays, tmp_path, tmp_path / "t.md",
        budget=BUDGET, configs=[str(path)], only=[str(path)],
    )  # fmt: skip
    assert "views are described by landmarks index alone" in row.skipped


def test_more_words_than_features_are_a_skipped_row(
    data: DataSet, holidays: Path, table: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, rows = table
    budget = BUDGET.model_copy(update={"words": 4_000})
    found = run_comparison(
        data, holidays, folder / "work", tmp_path / "t.md", budget=budget, only=["sift"]
    )
    assert ["4000 words" in row.skipped for row in found] == [True, True, False, False, False]
    assert timeless(rows_of(tmp_path / "t.json"))[2:] == timeless(rows)[2:5]


@pytest.mark.slow
def test_cut_short_it_goes_on_to_the_same_table(
    data: DataSet,
    holidays: Path,
    table: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def again() -> list[dict[str, Any]]:
        out = tmp_path / "table.md"
        run_comparison(data, holidays, tmp_path, out, budget=BUDGET, only=["rootsift"])
        return rows_of(tmp_path / "table.json")

    monkeypatch.setattr(cache, "WINDOW", 6)
    written: list[int] = []
    write, detect = ShardStore.write, sift.detect

    def deadly(store: ShardStore, number: int, *more: Any) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(number)
        write(store, number, *more)

    with monkeypatch.context() as patched:
        patched.setattr(ShardStore, "write", deadly)
        with pytest.raises(KeyboardInterrupt):
            again()
    detected: list[int] = []
    monkeypatch.setattr(sift, "detect", lambda *a: (detected.append(1), detect(*a))[1])
    rows = again()
    photographs = 4 * 4 + 5 + 4 * 2 + 4 + 12
    assert len(detected) == photographs - (6 + 6 + 6 + 3 + 6)
    assert timeless(rows) == timeless([row for row in table[1] if row["features"] == "rootsift"])
    detected.clear()
    assert timeless(again()) == timeless(rows)
    assert not detected


@pytest.mark.slow
@pytest.mark.parametrize("learnt_on", ["all", "pairs"])
def test_a_shipped_system_is_measured_as_its_run_is(
    learnt_on: str, data: DataSet, holidays: Path, tmp_path: Path
) -> None:
    config = load_config("hog", [f"whitening.learnt_on={learnt_on}", "whitening.shrinkage=0.2"])
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    (row,) = run_comparison(
        data, holidays, tmp_path, tmp_path / "t.md",
        budget=BUDGET, configs=[str(path)], only=[str(path)],
    )  # fmt: skip
    build_run(config, data, tmp_path / "run", "cpu")
    figures = evaluate_run(
        System.load(tmp_path / "run", "cpu"), data.folder / "test.csv", tmp_path / "evaluation"
    )
    assert (row.top1, row.gap) == (figures["knn"]["top1"], figures["knn"]["gap"])
    assert row.bytes_per_photograph == figures["bytes_per_image"]


def test_holidays_teaches_nothing(
    data: DataSet, holidays: Path, table: tuple[Path, list[dict[str, Any]]]
) -> None:
    """Mean average precision as by hand, with everything learnt on gallery and bank."""
    extractor = HoughExtractor(HoughConfig())
    sources = [*data.gallery["source"], *data.bank["source"]]
    paths = sorted((holidays / "photos").glob("*.jpg"))
    taught = [read_photograph(one, extractor.longest_side) for one in sources]
    fitted = Describer.fit(extractor, extractor.features(taught), BUDGET.whitening, 0)
    rows = fitted.describe([read_photograph(str(p), extractor.longest_side) for p in paths]).vectors
    similarities = rows[::3] @ rows.T
    similarities[:, ~rows.any(axis=1)] = -np.inf
    expected = holidays_map([path.stem for path in paths], rankings_of(similarities))
    (row,) = [one for one in table[1] if one["features"] == "hough"]
    # What shows nothing comes last by hand, and is never found in the table: a little apart.
    assert row["map"] == pytest.approx(expected, abs=0.02)


def test_mistakes_are_named(data: DataSet, holidays: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.md"
    with pytest.raises(ConfigError, match="--only root: no such features; there are sift, rootsi"):
        run_comparison(data, holidays, tmp_path, out, budget=BUDGET, only=["root"])
    with pytest.raises(TableError, match=r"no photographs photos/NNNNNN\.jpg"):
        run_comparison(data, tmp_path, tmp_path, out, budget=BUDGET)
    with pytest.raises(TableError, match=r"no test\.csv"):
        run_comparison(replace(data, test=None), holidays, tmp_path, out, budget=BUDGET)
    assert not out.exists()


@pytest.mark.usefixtures("root_logger")
def test_the_command_writes_the_table(data: DataSet, holidays: Path, tmp_path: Path) -> None:
    arguments = {
        "--data": data.folder, "--holidays": holidays, "--out": tmp_path / "sub" / "t.md",
        "--work": tmp_path / "work", "--only": "hough", "--dimension": 5, "--device": "cpu",
    }  # fmt: skip
    words = [str(word) for pair in arguments.items() for word in pair]
    assert CliRunner().invoke(cli.app, ["compare", *words]).exit_code == 0
    (row,) = rows_of(tmp_path / "sub" / "t.json")
    assert row["bytes_per_photograph"] == 4 * 5
    text = (tmp_path / "sub" / "t.md").read_text()
    assert text.splitlines()[2].startswith("| features | aggregation | mAP |")
    assert "12 photographs of Holidays, 4 queries" in text
    assert "whitened to 5 numbers, eigenvalues to the power -0.4" in text
