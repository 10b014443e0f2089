"""Attention learns to look where landmarks are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from retrieval.errors import TrainingError
from retrieval.local.delf import DelfConfig, DelfDetector, build, save_attention
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.table import make_table
from retrieval.training.attention import AttentionConfig, Maps, _Learner, train_attention
from retrieval.training.watching import Watcher
from tests.photographs import write_photograph

SIDE, PATCH = 96, 32
COLOURS = ((160, 110, 110), (110, 160, 110), (110, 110, 160), (150, 150, 100))
CONFIG = AttentionConfig(hidden=32, size=SIDE, epochs=20, batch=8, rate=1e-2, validation=0.2)
DELF = DelfConfig(
    trunk="squeezenet1_1", layer="features.4", weights="none", size=SIDE, scales=(1.0,),
    keypoints=8, precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def detector() -> DelfDetector:
    return build(DELF, "cpu")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Four landmarks, each a smooth patch of its colour somewhere in noise of any colours."""
    folder = tmp_path_factory.mktemp("toy")
    names, sources, landmarks = [], [], []
    for number in range(48):
        random = np.random.default_rng(number)
        tints = np.kron(random.integers(0, 130, (4, 4, 3)), np.ones((24, 24, 1)))
        photograph = (tints + random.integers(0, 126, (SIDE, SIDE, 1))).astype(np.uint8)
        top, left = 8 * random.integers(0, (SIDE - PATCH) // 8, 2)
        photograph[top : top + PATCH, left : left + PATCH] = COLOURS[number % 4]
        names.append(f"{number}-{left}-{top}")
        sources.append(str(write_photograph(folder / f"{names[-1]}.png", photograph)))
        landmarks.append(f"landmark {number % 4}")
    return make_table(names, sources, landmarks)


class Counted(Watcher):
    """What was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def begin(self, what: str, total: int) -> None:
        self.told.append([what, total, 0, 0])

    def advance(self, rows: int, failed: int) -> None:
        self.told[-1][2] += rows
        self.told[-1][3] += failed


def learn(detector: DelfDetector, table: pd.DataFrame, folder: Path, seed: int = 0) -> Any:
    return train_attention(detector, table, CONFIG, folder, seed, Counted())


def inside(detector: DelfDetector, table: pd.DataFrame) -> float:
    """Share of keypoints that lie on their photograph's patch."""
    found = []
    for name, source in zip(table["id"], table["source"], strict=True):
        left, top = (int(one) for one in name.split("-")[1:])
        (features,) = detector.features([read_photograph(source)])
        away = features.points - (left + PATCH / 2, top + PATCH / 2)
        found.append((np.abs(away).max(axis=1) < PATCH / 2).mean())
    return float(np.mean(found))


@pytest.mark.slow
def test_it_looks_where_landmarks_are_told_apart(
    detector: DelfDetector, table: pd.DataFrame, tmp_path: Path
) -> None:
    watcher = Counted()
    attention, notes = train_attention(detector, table, CONFIG, tmp_path, 0, watcher)
    assert not list(tmp_path.iterdir())
    path = tmp_path / "attention.safetensors"
    save_attention(path, attention, detector.trunk, notes)
    learnt = build(DELF.model_copy(update={"attention": str(path)}), "cpu")
    assert inside(learnt, table) > 0.9
    # The longest columns are those of the noise.
    assert inside(detector, table) < 0.2
    assert notes["accuracy"] > 0.7
    assert (notes["landmarks"], notes["photographs"] + notes["held_out"]) == (4, 48)
    assert 6 <= notes["held_out"] <= 12
    taught = notes["photographs"]
    assert watcher.told == [["describing", 48, 48, 0], ["learning", 20 * taught, 20 * taught, 0]]


def test_the_same_seed_learns_the_same(
    detector: DelfDetector, table: pd.DataFrame, tmp_path: Path
) -> None:
    few = table.iloc[:16]
    one, other, third = (learn(detector, few, tmp_path, seed)[0] for seed in (0, 0, 1))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.hidden.weight, third.hidden.weight)


def test_attention_is_for_columns_as_they_are() -> None:
    """It is learnt on scaled ones."""
    columns = 7 * np.random.default_rng(0).random((20, 6)).astype(np.float16)
    maps = Maps(columns, np.array([0, 8, 20]))
    learner = _Learner.of(maps, np.array([0, 1]), 2, CONFIG, torch.device("cpu"))
    seen, _ = maps.of(np.array([0]))
    with torch.no_grad():
        scores = learner.attention(seen / learner.scale)
        torch.testing.assert_close(learner.finished()(seen), scores)
    assert learner.scale > 2


def test_what_cannot_be_read_teaches_nothing(
    detector: DelfDetector, table: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = table.iloc[:16].copy()
    broken.loc[broken.index[3], "source"] = str(tmp_path / "absent.png")
    watcher = Counted()
    _, notes = train_attention(detector, broken, CONFIG, tmp_path, 0, watcher)
    assert watcher.told[0] == ["describing", 16, 16, 1]
    assert notes["photographs"] + notes["held_out"] == 15
    assert "absent.png teaches nothing: no such file" in caplog.text
    broken["source"] = str(tmp_path / "absent.png")
    with pytest.raises(TrainingError, match="none of the photographs can be read"):
        learn(detector, broken, tmp_path)


def test_one_landmark_teaches_nothing(
    detector: DelfDetector, table: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="needs two landmarks"):
        learn(detector, table.iloc[::4], tmp_path)


def test_photographs_of_different_numbers_of_places() -> None:
    columns = np.arange(10, dtype=np.float16).reshape(5, 2)
    maps = Maps(columns, np.array([0, 2, 2, 5]))
    assert maps.counts.tolist() == [2, 0, 3]
    found, counts = maps.of(np.array([2, 0]))
    assert found.tolist() == columns[[2, 3, 4, 0, 1]].tolist()
    assert counts.tolist() == [3, 2]
