"""Runs of several parts, whose networks have their weights in files that may move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pipelines.building.index import add_photographs, build_run
from retrieval.config import SystemConfig
from retrieval.errors import RunError
from retrieval.photographs.table import load_data_set, read_table
from retrieval.system import System
from tests.photographs import view, write_csv, write_data_set, write_photograph

TRUNK = "squeezenet1_1"
SIFT = {"kind": "sift", "size": 128, "keypoints": 40}
PARTS: list[dict[str, Any]] = [
    {"extractor": {"kind": "cnn", "trunk": TRUNK, "size": 96, "precision": "float32"}},
    {
        "weight": 0.5,
        "extractor": {
            "kind": "aggregated", "local": SIFT, "aggregation": {"kind": "vlad", "words": 2},
        },
        "whitening": {"dimension": 8},
    },
]  # fmt: skip


def weights(folder: Path, seed: int) -> Path:
    """A folder with random parameters."""
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torchvision.models.get_model(TRUNK, weights=None)
    save_file(network.state_dict(), folder / f"{TRUNK}.safetensors")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), landmarks=3, views=3, bank=4)


@pytest.fixture(scope="module")
def config() -> SystemConfig:
    return SystemConfig.model_validate(
        {
            "name": "together",
            "extractor": {"kind": "combination", "parts": PARTS},
            "whitening": {"dimension": 6},
            "classifiers": {"knn": {"kind": "knn"}},
        }
    )


@pytest.mark.slow
def test_a_run_goes_by_its_weights_and_not_by_their_place(
    config: SystemConfig, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, run = weights(tmp_path / "here", 1), tmp_path / "run"
    build_run(config.with_weights(here), load_data_set(data), run, "cpu")
    record = json.loads((run / "run.json").read_text())
    assert str(here) not in json.dumps(record["describer"])
    sources = read_table(data / "test.csv")["source"].tolist()
    answers = System.load(run, "cpu").classify(sources)

    there = here.rename(tmp_path / "there")
    pd.testing.assert_frame_equal(System.load(run, "cpu", there).classify(sources), answers)
    caplog.clear()
    with caplog.at_level("INFO"):
        build_run(config.with_weights(there), load_data_set(data), run, "cpu")
    assert "nothing changed, nothing to do" in caplog.text
    with pytest.raises(RunError, match="was built with other weights"):
        System.load(run, "cpu", weights(tmp_path / "others", 2))


@pytest.mark.slow
@pytest.mark.parametrize("extractor", ["combination", "aggregated"])
def test_photographs_are_added(
    extractor: str, config: SystemConfig, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    if extractor == "aggregated":
        values = {**config.model_dump(mode="json"), "extractor": PARTS[1]["extractor"]}
        config = SystemConfig.model_validate(values)
    located = config.with_weights(weights(tmp_path / "here", 1))
    build_run(located, load_data_set(data), run, "cpu")
    for i in range(3):
        write_photograph(tmp_path / f"{i}.jpg", view(77, i))
    rows = [(f"new{i}", f"{i}.jpg", "L77") for i in range(3)]
    record = add_photographs(run, read_table(write_csv(tmp_path / "more.csv", rows)), "cpu")
    assert (record["gallery"], record["failed"]) == (12, 0)
    assert "L77" in set(System.load(run, "cpu").rows["landmark"])
