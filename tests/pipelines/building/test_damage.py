"""Damaged runs: the same answer or one line, and a remedy that works."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest

from benchmarks.faults import damages, difference
from pipelines.building.index import add_photographs, build_run, remove_photographs
from retrieval.config import SystemConfig
from retrieval.errors import LandmarksError, RunError, WriteError
from retrieval.photographs.table import load_data_set, read_table
from retrieval.storage.files import AGAIN, read_json, write_json
from retrieval.system import System
from tests.photographs import view, write_csv, write_photograph
from tests.pipelines.runs import LOCAL, contents

pytestmark = pytest.mark.slow

CONFIG = {
    **LOCAL,
    "classifiers": {
        "knn": {"kind": "knn", "k": 5},
        "both": {
            "kind": "ensemble",
            "members": {"svm": {"kind": "svm"}, "vote": {"kind": "knn"}},
        },
    },
    "calibration": {"kind": "isotonic"},
    "answer": "both",
}


@pytest.fixture(scope="module")
def built(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was added to and taken from."""
    folder = tmp_path_factory.mktemp("built")
    build_run(SystemConfig.model_validate(CONFIG), load_data_set(data), folder / "run", "cpu")
    rows = [
        (f"new{i}", write_photograph(folder / f"new{i}.png", view(i, 50)), f"m{i}")
        for i in range(1, 4)
    ]
    add_photographs(folder / "run", read_table(write_csv(folder / "new.csv", rows)), "cpu")
    remove_photographs(folder / "run", ["m1v0"], "cpu")
    return folder / "run"


@pytest.fixture(scope="module")
def changed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with one photograph fewer."""
    run = Path(shutil.copytree(built, tmp_path_factory.mktemp("changed") / "run"))
    remove_photographs(run, ["m2v0"], "cpu")
    return run


def answers(run: Path) -> tuple[pd.DataFrame, list[str]]:
    """What a run answers for four photographs, and its gallery."""
    system = System.load(run, "cpu")
    return system.classify([view(one, 9) for one in (1, 3, 5, 99)]), system.rows["id"].tolist()


def same(one: tuple[pd.DataFrame, list[str]], other: tuple[pd.DataFrame, list[str]]) -> bool:
    return one[0].equals(other[0]) and one[1] == other[1]


def refusal(work: Callable[[], Any]) -> Any:
    """What comes of work: its result, or the one line that refuses it."""
    try:
        return work()
    except LandmarksError as error:
        return str(error) if str(error).isprintable() else repr(error)


REMEDIES = (AGAIN, "(landmarks index)", "(landmarks add)", "(landmarks remove)")
FILES = (
    "aggregated/rows-000/manifest.jsonl", "aggregated/rows-000/shard-00000.safetensors",
    "aggregated/rows-001/manifest.jsonl", "aggregated/rows-001/shard-00000.safetensors",
    "calibration/0/whitening/whitening.safetensors",
    "classifiers/both/ensemble.json", "classifiers/both/rejection.json",
    "classifiers/both/svm/svm.safetensors", "classifiers/both/vote/knn.safetensors",
    "classifiers/knn/knn.safetensors", "classifiers/knn/rejection.json",
    "descriptors/000/manifest.jsonl", "descriptors/000/rows.parquet",
    "descriptors/000/shard-00000.safetensors", "descriptors/001/manifest.jsonl",
    "descriptors/001/shard-00000.safetensors",
    "features/manifest.jsonl", "features/shard-00000.safetensors", "index/bank-rows.parquet",
    "index/bank/descriptors.npy", "index/bank/inverted.safetensors", "index/bank/kept.codes.npy",
    "index/bank/words.words.npy", "index/gallery/descriptors.npy",
    "index/gallery/inverted.safetensors", "index/gallery/kept.points.npy",
    "index/gallery/kept.starts.npy", "index/gallery/words.values.npy", "index/index.faiss",
    "index/index.json", "index/rows.parquet", "local/asmk.safetensors", "local/kept.safetensors",
    "run.json", "stages/classifiers.json", "stages/describer.json", "stages/extractor.json",
    "stages/index.json", "timings.json", "whitening/whitening.safetensors",
)  # fmt: skip
USERS = ("descriptors/001/rows.parquet", "descriptors/removed.json")
"""What nothing but the user can tell again."""


def test_every_file_of_a_run_is_damaged_below(built: Path) -> None:
    found = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()}
    alike = {
        name for name in found if name.startswith(("calibration/", "index/bank/", "index/gallery/"))
    }
    assert set(FILES) | set(USERS) <= found
    assert found - alike - {".lock"} <= {*FILES, *USERS}


@pytest.mark.parametrize("file", FILES)
def test_damage_is_one_line_or_no_matter_and_index_mends_it(
    built: Path, data: Path, tmp_path: Path, file: str
) -> None:
    run = Path(shutil.copytree(built, tmp_path / "run"))
    before, whole, path = answers(run), contents(run), run / file
    tried = some_damages(path, 3)
    for how, damage in tried:
        path.write_bytes(damage)
        told = refusal(lambda: same(answers(run), before))
        assert told is True or remedied(told, path), (how, told)
    if file.endswith(("json", "rows.parquet")):
        path.unlink()
        told = refusal(lambda: same(answers(run), before))
        assert told is True or remedied(told, path), told
    build_run(SystemConfig.model_validate(CONFIG), load_data_set(data), run, "cpu")
    assert difference(whole, contents(run)) == "", tried
    assert same(answers(run), before), tried


@pytest.mark.parametrize("file", [*FILES[::3], *USERS])
def test_what_is_changed_upon_damage_is_what_is_changed_without(
    built: Path, changed: Path, tmp_path: Path, file: str
) -> None:
    """Nothing wrong is added to a run, nor left in it: one line, or the same as without damage."""
    run = Path(shutil.copytree(built, tmp_path / "run"))
    ((how, damage),) = some_damages(run / file, 1)
    (run / file).write_bytes(damage)
    told = refusal(lambda: remove_photographs(run, ["m2v0"], "cpu"))
    if isinstance(told, str):
        assert remedied(told, run / file), (how, told)
    else:
        assert same(answers(run), answers(changed)), how


def some_damages(path: Path, count: int) -> list[tuple[str, bytes]]:
    """Some ways in which a file may lie there, others for each file."""
    rng = random.Random(f"{path.parent.name}/{path.name}")
    return rng.sample(list(damages(path.read_bytes(), rng)), count)


def remedied(told: str, path: Path) -> bool:
    """Whether a line names the file, and what to do."""
    return path.name in told and told.replace("`", "").endswith(REMEDIES)


def test_lost_additions_are_told_of_and_can_be_made_again(
    built: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(built, tmp_path / "run"))
    config, whole = SystemConfig.model_validate(CONFIG), load_data_set(data)
    before = answers(run)
    rows = run / "descriptors" / "001" / "rows.parquet"
    table = pd.read_parquet(rows)
    rows.write_bytes(rows.read_bytes()[:-9])
    assert same(answers(run), before)
    with pytest.raises(RunError, match=r"rows\.parquet is .*damaged.*: delete .*001, run landmarks"
                       r" index again, and add those photographs once more"):  # fmt: skip
        build_run(config, whole, run, "cpu")
    shutil.rmtree(rows.parent)
    with pytest.raises(RunError, match=r"001/rows\.parquet is missing .*index again"):
        remove_photographs(run, ["m2v0"], "cpu")
    assert build_run(config, whole, run, "cpu")["gallery"] == 23
    assert any("001 is gone, and with it the photographs" in one for one in caplog.messages)
    table = table.astype(dict.fromkeys(("id", "source", "landmark"), "string[pyarrow]"))
    add_photographs(run, table, "cpu")
    assert same(answers(run), before)


def test_lost_removals_are_told_of_and_can_be_made_again(
    built: Path, data: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(built, tmp_path / "run"))
    config, before = SystemConfig.model_validate(CONFIG), answers(run)
    removed = run / "descriptors" / "removed.json"
    removed.write_bytes(removed.read_bytes().replace(b"m1v0", b"m1v1"))
    with pytest.raises(RunError, match=r"removed\.json is .*damaged.*: delete it, and take the"):
        build_run(config, load_data_set(data), run, "cpu")
    removed.unlink()
    remove_photographs(run, ["m1v0"], "cpu")
    assert same(answers(run), before)


def test_a_run_by_a_version_without_checksums_is_indexed_again(
    built: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(built, tmp_path / "run"))
    before = answers(run)
    for name in ("features", "descriptors/000", "descriptors/001"):
        first, *lines = map(json.loads, (run / name / "manifest.jsonl").read_text().splitlines())
        (run / name / "manifest.jsonl").unlink()
        shards = {one["name"]: one["shard"] for one in lines}
        write_json(
            run / name / "manifest.json", {"made_from": first["made_from"], "shards": shards}
        )
    for name in ("run.json", "stages/describer.json"):
        told = read_json(run / name)
        write_json(run / name, {k: v for k, v in told.items() if k not in ("sha256", "files")})
    write_json(run / "descriptors" / "removed.json", ["m1v0"])
    with pytest.raises(RunError, match=r"run\.json .*index again"):
        System.load(run, "cpu")
    caplog.set_level(logging.INFO)
    with patch("retrieval.descriptors.extraction.read_photograph", side_effect=AssertionError):
        build_run(SystemConfig.model_validate(CONFIG), load_data_set(data), run, "cpu")
    assert same(answers(run), before)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file/run\.json cannot be written \(.*\): make the"):
        write_json(tmp_path / "file" / "run.json", {})
