"""Damaged trainings: told of by name, and made whole by training again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from retrieval.descriptors.trained import NETWORK, RECORD, TrainedConfig, build
from retrieval.descriptors.trained_head import TrainedHead
from retrieval.errors import RunError
from retrieval.storage.files import read_json, write_json
from retrieval.training.checkpoints import CHECKPOINTS, PHOTOGRAPHS, STARTED, seen_photographs
from tests.retrieval.training.toys import toy_config, toy_table, train

KEEPING: dict[str, Any] = {"epochs": 3, "keep": 5}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return toy_table(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def trained(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "training"
    train(toy_config(**KEEPING), table, folder)
    return folder


@pytest.fixture
def training(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "training"))


def flipped(path: Path) -> None:
    """One bit in its middle is another."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def read(folder: Path) -> None:
    """All that is read of a training."""
    build(TrainedConfig(network=str(folder)), "cpu")
    TrainedHead.load(folder)
    seen_photographs(folder)


def whole(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*.*")}


@pytest.mark.slow
@pytest.mark.parametrize("file", [RECORD, NETWORK, PHOTOGRAPHS])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_training_is_one_line_and_made_again(
    training: Path, trained: Path, table: pd.DataFrame, file: str, damage: str
) -> None:
    path = training / file
    if damage == "flipped":
        flipped(path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:50])
    else:
        path.unlink()
    with pytest.raises(RunError, match=rf"({file}|training holds no finished).*train.*\(landmarks"):
        read(training)
    train(toy_config(**KEEPING), table, training)
    assert whole(training) == whole(trained)


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_training_goes_on_before_a_damaged_checkpoint(
    training: Path, trained: Path, table: pd.DataFrame, ending: str, place: int,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (training / RECORD).unlink()
    path = sorted((training / CHECKPOINTS).glob(f"*.{ending}"))[place]
    flipped(path)
    train(toy_config(**KEEPING), table, training)
    assert (training / NETWORK).read_bytes() == (trained / NETWORK).read_bytes()
    assert any("training goes on before it" in one for one in caplog.messages)


@pytest.mark.slow
def test_what_a_training_began_from_or_was_shown_is_made_again_where_it_is_damaged(
    training: Path, trained: Path, table: pd.DataFrame
) -> None:
    (training / STARTED).write_text("{")
    train(toy_config(**KEEPING), table, training)
    assert whole(training) == whole(trained)
    for name in (RECORD, NETWORK):
        (training / name).unlink()
    shutil.rmtree(training / CHECKPOINTS)
    flipped(next(training.rglob("view-001.npy")))
    train(toy_config(**KEEPING), table, training)
    assert whole(training) == whole(trained)


def test_a_training_by_a_version_without_checksums_is_read(training: Path) -> None:
    told = read_json(training / RECORD)
    write_json(training / RECORD, {k: v for k, v in told.items() if k not in ("sha256", "files")})
    read(training)
