"""A build whose photographs a Ray cluster describes, on two simulated machines."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.faults import difference
from retrieval import build
from retrieval.config import SystemConfig
from retrieval.describing import no_bar
from retrieval.errors import ConfigError, RunError
from retrieval.photographs.table import DataSet, load_data_set
from retrieval.ray_workers import describe_by_ray
from retrieval.run import Run
from tests.photographs import write_data_set
from tests.pipelines.runs import contents

CONFIG = SystemConfig.model_validate(
    {
        "name": "small",
        "extractor": {"kind": "hog", "side": 64, "cells": [16]},
        "whitening": {"dimension": 16},
        "fit_photographs": 100,
        "classifiers": {"knn": {"kind": "knn", "k": 5}},
    }
)
EACH = 640


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Two landmarks of many photographs: five shards."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in ("bridge", "tower"):
        (folder / name).mkdir()
        for number in range(EACH):
            pixels = rng.integers(0, 256, (320, 320, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return load_data_set(folder)


@pytest.fixture(scope="module")
def undivided(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = Run(tmp_path_factory.mktemp("undivided") / "run")
    build.build(CONFIG, data, run, "cpu")
    return contents(run.folder)


@pytest.mark.slow
def test_two_machines_make_the_bytes_of_one(
    data: DataSet, undivided: dict[str, bytes], cluster: Any, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    describe_by_ray(CONFIG, data, run, "cpu", cluster.address)
    build.build(CONFIG, data, run, "cpu")
    assert difference(undivided, contents(run.folder)) == ""
    describe_by_ray(CONFIG, data, run, "cpu", cluster.address)  # nothing is left to do
    build.build(CONFIG, data, run, "cpu")
    assert difference(undivided, contents(run.folder)) == ""


@pytest.mark.slow
def test_paths_start_from_where_the_command_is_given(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data_set(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    known = load_data_set(Path("data"))
    assert not Path(known.gallery["source"][0]).is_absolute()
    describe_by_ray(CONFIG, known, Run("far"), "cpu", cluster.address)
    for name in ("far", "near"):
        build.build(CONFIG, known, Run(name), "cpu")
    assert difference(contents(Path("near")), contents(Path("far"))) == ""


@pytest.mark.slow
def test_the_parts_of_a_lost_machine_are_done_again(
    data: DataSet,
    undivided: dict[str, bytes],
    cluster: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run(tmp_path / "run")
    lost = threading.Thread(target=_lose, args=(cluster, run))
    lost.start()
    describe_by_ray(CONFIG, data, run, "cpu", cluster.address)
    lost.join()
    assert "its work is done again" in caplog.text
    build.build(CONFIG, data, run, "cpu")
    assert difference(undivided, contents(run.folder)) == ""


def _lose(cluster: Any, run: Run) -> None:
    """Take the second machine away once both have begun."""
    while len(list(run.parts.glob("*/descriptors/000"))) < 2:
        threading.Event().wait(0.05)
    (other,) = [one for one in cluster.list_all_nodes() if not one.head]
    cluster.remove_node(other, allow_graceful=False)


def test_a_cluster_that_is_not_there(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # which is not asked
    run = Run(tmp_path / "run")
    with pytest.raises(RunError, match=r"--workers 127\.0\.0\.1:1: no Ray cluster answers there"):
        describe_by_ray(CONFIG, data, run, "cpu", "127.0.0.1:1", no_bar)
    assert not run.folder.exists()  # nothing was learnt


def test_without_ray(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install"):
        describe_by_ray(CONFIG, data, Run(tmp_path / "run"), "cpu", "ray", no_bar)
    assert not (tmp_path / "run").exists()
