"""From photographs to a trained run by the command line, and searches."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipelines.building.index import add_photographs, build_run
from pipelines.building.train import changed, search, train_run, trainings_table
from pipelines.config import load_config
from retrieval.classifiers.network import NetworkClassifier
from retrieval.config import SystemConfig
from retrieval.errors import ConfigError, RunError, TrainingError
from retrieval.photographs.table import load_data_set, read_table
from retrieval.system import System
from tests.photographs import view, write_csv, write_photograph
from tests.pipelines.runs import contents
from tests.retrieval.training.toys import LAST, toy_config, toy_data


def toy_system(**changes: Any) -> SystemConfig:
    training = toy_config(**{"epochs": 8, **changes}).model_dump(mode="json")
    return SystemConfig.model_validate(
        {
            "name": "toy", "training": training, "extractor": {"kind": "trained"},
            "whitening": None, "index": {"factory": "SQ8"},
            "classifiers": {"knn": {"kind": "knn", "k": 5}, "network": {"kind": "network"}},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_data(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    build_run(toy_system(), load_data_set(data), folder, "cpu")
    return folder


@pytest.mark.slow
def test_a_run_trains_indexes_and_answers_with_its_own_network(run: Path, data: Path) -> None:
    system = System.load(run)
    assert isinstance(system.classifiers["network"], NetworkClassifier)
    assert system.record["dimension"] == 16
    assert system.record["index"]["bytes_per_image"] < 32
    queries = [
        (view(landmark, 99) * np.array(tint)).astype(np.uint8)
        for landmark, tint in ((1, (1.0, 0.2, 0.2)), (3, (0.2, 0.2, 1.0)))
    ]
    assert system.classify(queries)["landmark"].tolist() == ["L1", "L3"]
    eligible = system.gallery.eligible
    assert eligible is not None
    assert 0 < eligible.sum() < len(eligible)


@pytest.mark.slow
def test_a_run_can_be_moved_and_is_not_trained_again(
    run: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    before = contents(moved)
    build_run(toy_system(), load_data_set(data), moved, "cpu")
    assert "trained already" in caplog.text
    assert "nothing changed, nothing to do" in caplog.text
    assert contents(moved) == before


def test_photographs_added_later_are_unseen(run: Path, tmp_path: Path) -> None:
    more = tmp_path / "run"
    shutil.copytree(run, more)
    path = write_photograph(tmp_path / "new.png", view(1, 77))
    rows = [("new", str(path), "L1")]
    add_photographs(more, read_table(write_csv(tmp_path / "new.csv", rows)), "cpu")
    system = System.load(more)
    assert system.gallery.eligible is not None
    assert system.gallery.eligible[system.rows["id"].tolist().index("new")]
    assert system.gallery.eligible.sum() == System.load(run).gallery.eligible.sum() + 1  # type: ignore[union-attr]


def test_curves_and_mistakes_are_drawn(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(run / "training" / "tensorboard"))
    curves.Reload()
    tags = curves.Tags()
    assert {"loss", "accuracy", "validation_accuracy", "gap", "rate/head"} <= set(tags["scalars"])
    assert [one.step for one in curves.Scalars("loss")] == list(range(1, 9))
    assert tags["graph"]
    assert any(name.startswith("mistakes") for name in tags["images"])


def test_without_tensorboard_training_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train_run(toy_system(epochs=1), load_data_set(data), tmp_path, "cpu", subset=0.5)
    assert caplog.text.count("TensorBoard is not installed") == 1
    record = json.loads((tmp_path / "training" / "training.json").read_text())
    assert sum(record["photographs"].values()) == 16


def test_the_check_comes_before_the_training(data: Path, tmp_path: Path) -> None:
    system = toy_system(sanity_steps=1)
    with pytest.raises(TrainingError, match="not learnt by heart"):
        train_run(system, load_data_set(data), tmp_path, "cpu", sanity=True)
    assert not (tmp_path / "training").exists()


@pytest.mark.slow
def test_a_search_writes_its_trials_and_names_the_best(data: Path, tmp_path: Path) -> None:
    space = {
        "head": [{"kind": "linear"}, {"kind": "arcface", "margin": 0.1}],
        "optimiser.rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "epochs": {"low": 1, "high": 2},
    }
    system, photographs = toy_system(search=space), load_data_set(data)
    search(system, photographs, tmp_path, "cpu", 2)
    folders = search(system, photographs, tmp_path, "cpu", 3)
    assert {one.name for one in folders} == {"000", "001", "002"}
    gaps, chosen = [], []
    for folder in folders:
        tried = json.loads((folder / "config.json").read_text())
        record = json.loads((folder / "training.json").read_text())
        assert set(tried["chosen"]) == set(space)
        assert record["config"] == tried["training"]
        assert record["config"]["optimiser"]["rate"] == tried["chosen"]["optimiser.rate"]
        gaps.append(record["gap"])
        chosen.append(tried["chosen"])
    assert gaps == sorted(gaps, reverse=True)
    best = load_config(str(tmp_path / "best.yaml"))
    assert best.training is not None
    assert best.training.epochs == chosen[0]["epochs"]
    assert best.training.head.kind == chosen[0]["head"]["kind"]
    # Views were pooled once for all.
    assert len(list((tmp_path / "trials" / "views").iterdir())) == 1
    table = trainings_table([tmp_path])
    assert table.row_count == 3
    headings = [str(column.header) for column in table.columns]
    assert "optimiser.rate" in headings
    assert "network.trunk" not in headings
    assert str(next(iter(table.columns[0].cells))).endswith(folders[0].name)


def test_what_cannot_be_searched_or_trained_is_refused(data: Path, tmp_path: Path) -> None:
    photographs = load_data_set(data)
    for space, message in (
        ({}, "names nothing"),
        ({"head.knid": ["linear"]}, "training.head.knid|head"),
        ({"optimiser.rate": {"low": 1}}, "expected a list, or low and high"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_run(toy_system(search=space), photographs, tmp_path, "cpu", trials=1)
    with pytest.raises(ConfigError, match="holds no keys"):
        changed(toy_system(), {"epochs.many": 3})
    with pytest.raises(ConfigError, match="no section training"):
        train_run(load_config("hog"), photographs, tmp_path, "cpu")
    with pytest.raises(RunError, match="no finished training"):
        trainings_table([tmp_path])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training": None}, "belongs to an extractor of kind trained"),
        ({"extractor": {"kind": "hog"}}, "belongs to an extractor of kind trained"),
        ({"whitening": {"dimension": 8}}, "needs the extractor trained, and whitening: null"),
        ({"training": toy_config(**LAST).model_dump() | {"trainable": ()}}, "names the stages"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SystemConfig.model_validate({**toy_system().model_dump(), **values})


def test_a_training_s_weights_are_given_like_an_extractor_s(tmp_path: Path) -> None:
    path = tmp_path / "mobilenet_v3_small.safetensors"
    path.touch()
    located = toy_system().with_weights(tmp_path)
    assert located.training is not None
    assert located.training.network.weights == str(path)
    assert yaml.safe_load(located.model_dump_json())["extractor"]["network"] is None
