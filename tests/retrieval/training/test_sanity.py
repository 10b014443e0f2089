"""The check before a training: it passes a sound network, and says what a cut one lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from retrieval.errors import TrainingError
from retrieval.networks.embedder import Embedder, LearntGem
from retrieval.training.sanity import check_sanity
from tests.retrieval.training.toys import LAST, toy_config, toy_table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return toy_table(tmp_path_factory.mktemp("toy"))


@pytest.mark.parametrize("changes", [{}, LAST], ids=["head", "last"])
def test_a_sound_network_learns_ten_photographs(
    changes: dict[str, Any], table: pd.DataFrame
) -> None:
    found = check_sanity(toy_config(**changes), table, "cpu", 0)
    assert 0 < found.steps <= 100


def cut(method: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *values: method(*values).detach()


@pytest.mark.parametrize(
    ("owner", "name", "unreached"),
    [
        (Embedder, "embedded", "network.neck.0.bias"),
        (LearntGem, "forward", "network.pooling.p"),
        (Embedder, "maps", "network.trunk.features.3"),
    ],
)
def test_a_cut_graph_is_found(
    owner: type, name: str, unreached: str, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, cut(getattr(owner, name)))
    with pytest.raises(TrainingError, match="something before is cut off") as caught:
        check_sanity(toy_config(**LAST), table, "cpu", 0)
    assert f"no gradient reaches {unreached}" in str(caught.value)


def test_a_head_that_sees_the_same_everywhere_is_found(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = Embedder.embedded
    monkeypatch.setattr(
        Embedder, "embedded", lambda self, pooled: embedded(self, pooled * 0 + pooled.mean(0))
    )
    with pytest.raises(TrainingError, match="same embedding for every photograph"):
        check_sanity(toy_config(), table, "cpu", 0)


def test_too_few_steps_are_said_to_be_few(table: pd.DataFrame) -> None:
    config = toy_config(sanity_steps=2, optimiser={"kind": "adam", "rate": 1e-6})
    with pytest.raises(TrainingError, match="nothing is disconnected; allow more"):
        check_sanity(config, table, "cpu", 0)


def test_a_loss_that_is_not_finite_is_found(table: pd.DataFrame) -> None:
    config = toy_config(**LAST, optimiser={"kind": "sgd", "rate": 1e6, "trunk_rate": 1e6})
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d"):
        check_sanity(config, table, "cpu", 0)


def test_few_photographs_of_two_landmarks_do(tmp_path: Path) -> None:
    table = toy_table(tmp_path)
    few = table[table["landmark"].isin(["L1", "L2"])].groupby("landmark").head(3)
    assert check_sanity(toy_config(), few, "cpu", 0).steps > 0
