"""Training to known ends: what moves, what stays, and going on after a break."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from retrieval.descriptors.trained import NETWORK, RECORD, TrainedConfig, build
from retrieval.errors import ConfigError, TrainingError
from retrieval.networks.embedder import Embedder, at_rest, set_trained
from retrieval.training.checkpoints import CHECKPOINTS, PHOTOGRAPHS
from retrieval.training.watching import Epoch, Watcher
from tests.photographs import features_of
from tests.retrieval.training.toys import LAST, toy_config, toy_table, train


class KilledError(Exception):
    """Somebody pulled the plug."""


class Dying(Watcher):
    """Dies after an epoch."""

    def __init__(self, after: int):
        self.after = after

    def epoch(self, record: Epoch) -> None:
        if record.number == self.after:
            raise KilledError


class Counted(Watcher):
    """Counts what was done."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.what = ""
        self.epochs: list[Epoch] = []

    def begin(self, what: str, total: int) -> None:
        self.what = what
        self.done.setdefault(what, 0)

    def advance(self, rows: int, failed: int) -> None:
        self.done[self.what] += rows

    def epoch(self, record: Epoch) -> None:
        self.epochs.append(record)


KEPT: dict[str, Any] = {**LAST, "views": 2}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return toy_table(tmp_path_factory.mktemp("toy"))


HEADS: list[dict[str, Any]] = [
    {"kind": "linear"},
    {"kind": "two-layer", "hidden": 32, "dropout": 0.1},
    {"kind": "arcface", "negatives": True},
    {"kind": "sub-centre", "centres": 2, "scale": 16.0},
    {"kind": "sigmoid"},
]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head["kind"])
def test_every_head_learns_the_toy(
    head: dict[str, Any], table: pd.DataFrame, tmp_path: Path
) -> None:
    config = toy_config(head=head, epochs=30, checkpoint_every=100)
    record = train(config, table, tmp_path)
    epochs = record["epochs"]
    assert epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]
    assert max(one["validation_accuracy"] for one in epochs) > 0.8
    assert record["gap"] == max(one["gap"] for one in epochs) > 0.6
    assert epochs[record["best"] - 1]["gap"] == record["gap"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, LAST, KEPT], ids=["head", "last", "kept"])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_training_that_was_cut_short_comes_to_the_same_bytes(
    changes: dict[str, Any], optimiser: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    head = {"kind": "two-layer", "hidden": 8}
    network = {**toy_config().network.model_dump(), "neck": {"dimension": 16, "batch_norm": True}}
    config = toy_config(
        **changes, head=head, network=network, optimiser={"kind": optimiser}, checkpoint_every=2
    )
    train(config, table, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(config, table, tmp_path / "cut", Dying(3))
    assert not (tmp_path / "cut" / RECORD).exists()
    watcher = Counted()
    train(config, table, tmp_path / "cut", watcher)
    assert len(watcher.epochs) in (1, 2)
    for name in (NETWORK, RECORD, PHOTOGRAPHS):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_training_is_not_done_again_and_another_config_begins_anew(
    table: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = train(toy_config(epochs=1), table, tmp_path)
    watcher = Counted()
    assert train(toy_config(epochs=1), table, tmp_path, watcher) == first
    assert not watcher.done
    assert "nothing to do" in caplog.text
    again = train(toy_config(epochs=2), table, tmp_path, watcher)
    assert "config.epochs changed" in caplog.text
    assert again["fingerprint"] != first["fingerprint"]
    # The views that were pooled are the same.
    assert watcher.done == {"describing views": 0, "training": 2 * 24}


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / NETWORK)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "moving"),
    [
        ({}, ()),
        (LAST, ("trunk.features.3.", "pooling.p")),
        (KEPT, ("trunk.features.3.", "pooling.p")),
        ({"train": "all"}, ("trunk.", "pooling.p")),
    ],
    ids=["head", "last", "kept", "all"],
)
def test_frozen_layers_do_not_move_nor_do_their_statistics(
    changes: dict[str, Any], moving: tuple[str, ...], table: pd.DataFrame, tmp_path: Path
) -> None:
    config = toy_config(**changes, epochs=1)
    train(config, table, tmp_path)
    before, after = Embedder(config.network, 0).state_dict(), parameters(tmp_path)
    counters = {name for name in before if name.endswith("num_batches_tracked")}
    assert any(name.endswith("running_mean") for name in before)
    for name in before.keys() - counters:
        same = torch.equal(before[name], after[name])
        if name.startswith(("neck.", *moving)):
            assert not same, name
        else:
            assert same, name


def test_head_neck_and_trunk_have_rates_of_their_own(table: pd.DataFrame, tmp_path: Path) -> None:
    watcher = Counted()
    optimiser = {"kind": "adam", "rate": 0.02, "neck_rate": 0.01, "trunk_rate": 0.0}
    config = toy_config(
        **LAST, optimiser=optimiser, epochs=4,
        schedule={"kind": "step", "every": 2, "factor": 0.1},
    )  # fmt: skip
    train(config, table, tmp_path, watcher)
    assert [one.rates["head"] for one in watcher.epochs] == pytest.approx([0.02, 0.02, 2e-3, 2e-3])
    assert [one.rates["neck"] for one in watcher.epochs] == pytest.approx([0.01, 0.01, 1e-3, 1e-3])
    # At a rate of nothing parameters stay, though batch norms go on counting.
    before = Embedder(config.network, 0).state_dict()["trunk.features.3.block.0.0.weight"]
    assert torch.equal(parameters(tmp_path)["trunk.features.3.block.0.0.weight"], before)


def test_the_last_and_the_best_checkpoints_are_kept(table: pd.DataFrame, tmp_path: Path) -> None:
    record = train(toy_config(epochs=6, keep=2), table, tmp_path)
    found = sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir())
    numbers = sorted({record["best"], 5, 6})
    assert found == sorted(
        f"epoch-{number:03d}.{kind}" for number in numbers for kind in ("json", "safetensors")
    )


def test_patience_ends_a_training(table: pd.DataFrame, tmp_path: Path) -> None:
    record = train(toy_config(epochs=200, patience=3), table, tmp_path)
    assert len(record["epochs"]) == record["best"] + 3


def test_sampled_classes_learn_too(table: pd.DataFrame, tmp_path: Path) -> None:
    config = toy_config(sampled=4, batch=2, epochs=15, head={"kind": "arcface"})
    epochs = train(config, table, tmp_path)["epochs"]
    assert max(one["validation_accuracy"] for one in epochs) > 0.8


def test_a_photograph_that_cannot_be_read_teaches_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = toy_table(tmp_path / "photographs")
    Path(table["source"].iloc[0]).write_bytes(b"no photograph")
    for name, changes in (("head", {}), ("last", LAST), ("kept", KEPT)):
        caplog.clear()
        record = train(toy_config(**changes, epochs=1, validation=0.2), table, tmp_path / name)
        assert np.isfinite(record["epochs"][0]["loss"])
        assert "teaches nothing" in caplog.text


def test_what_is_frozen_sees_a_view_once(table: pd.DataFrame, tmp_path: Path) -> None:
    watcher = Counted()
    record = train(toy_config(**KEPT, epochs=12), table, tmp_path, watcher)
    assert watcher.done["describing views"] == 2 * 32
    assert record["epochs"][-1]["loss"] < 0.5 * record["epochs"][0]["loss"]
    (view, _) = [np.load(path) for path in sorted((tmp_path / "views").rglob("view-*.npy"))]
    # The map before the stage that learns, of the crops' side.
    assert view.shape == (32, 24, 10, 10)


@pytest.mark.parametrize("stages", [["features.3"], ["features.2", "features.3"]])
def test_halfway_and_on_is_the_whole_way(stages: list[str]) -> None:
    network = Embedder(toy_config().network, 0)
    set_trained(network, "last", stages)
    network.divide()
    photographs = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8)
    with at_rest(network), torch.no_grad():
        halfway = network.halfway(network.form.normalised(photographs))
        torch.testing.assert_close(network(halfway), network(photographs))


def test_stages_that_do_not_begin_at_one_place_are_refused() -> None:
    network = Embedder(toy_config().network, 0)
    # A branch within a block learns, and the sum behind it needs the other branch too.
    set_trained(network, "last", ["features.3.block.1"])
    with pytest.raises(ConfigError, match="begin in several places"):
        network.divide()


def test_a_loss_that_is_not_finite_ends_a_training(table: pd.DataFrame, tmp_path: Path) -> None:
    config = toy_config(**LAST, optimiser={"kind": "sgd", "rate": 1e6, "trunk_rate": 1e6})
    with pytest.raises(TrainingError, match=r"lower training.optimiser.rate"):
        train(config, table, tmp_path)


@pytest.mark.parametrize("changes", [{}, {"train": "all"}], ids=["head", "all"])
def test_transformers_are_trained_too(
    changes: dict[str, Any], table: pd.DataFrame, tmp_path: Path
) -> None:
    network = {"trunk": "timm/test_vit", "weights": "none", "neck": {"dimension": 16}}
    record = train(toy_config(network=network, epochs=2, crop=100, **changes), table, tmp_path)
    assert record["epochs"][1]["loss"] < record["epochs"][0]["loss"]
    extractor = build(TrainedConfig(network=str(tmp_path)), "cpu")
    assert extractor.dimension == 16


def test_a_stage_that_is_not_there_is_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no 'features.99'; it has features.0, "):
        train(toy_config(train="last", trainable=["features.99"]), table, tmp_path)


@pytest.mark.slow
def test_parameters_without_gradient_are_warned_of(
    table: pd.DataFrame,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(toy_config(epochs=1), table, tmp_path / "whole")
    assert "no gradient" not in caplog.text
    embedded = Embedder.embedded
    monkeypatch.setattr(Embedder, "embedded", lambda self, pooled: embedded(self, pooled).detach())
    train(toy_config(epochs=1), table, tmp_path / "cut")
    assert "no gradient reaches network.neck.0.weight, network.neck.0.bias" in caplog.text


def test_the_extractor_gives_what_training_saw(table: pd.DataFrame, tmp_path: Path) -> None:
    """Batch norms folded or not; and the neck starts at the whitening of what was pooled."""
    config = toy_config(
        epochs=1, optimiser={"kind": "adam", "rate": 1e-9, "neck_rate": 0.0}, views=1
    )
    train(config, table, tmp_path)
    extractor = build(TrainedConfig(network=str(tmp_path), precision="float32"), "cpu")
    assert extractor.longest_side == 96
    (view,) = [np.load(path) for path in (tmp_path / "views").rglob("view-000.npy")]
    rows = extractor.aggregate(features_of(extractor, [str(one) for one in table["source"]]))
    parts = pd.read_parquet(tmp_path / PHOTOGRAPHS)
    taught = (parts["part"] == "training").to_numpy(dtype=bool)
    learnt = np.linalg.svd(view[taught] - view[taught].mean(axis=0), full_matrices=False)
    variance = learnt[1][:16] ** 2 / taught.sum()
    white = (view - view[taught].mean(axis=0)) @ learnt[2][:16].T / np.sqrt(variance)
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    np.testing.assert_allclose(rows @ rows.T, white @ white.T, atol=2e-3)
    assert json.loads((tmp_path / RECORD).read_text())["landmarks"] == ["L1", "L2", "L3", "L4"]
