"""Training on the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from retrieval.descriptors.cache import table_digest
from retrieval.descriptors.extraction import extract
from retrieval.descriptors.trained import NETWORK, TrainedConfig, build
from retrieval.training.checkpoints import CHECKPOINTS
from retrieval.training.loop import fit
from retrieval.training.watching import Epoch, Watcher
from tests.photographs import picture
from tests.retrieval.training.toys import LAST, toy_config, toy_table


class KilledError(Exception):
    """Somebody pulled the plug."""


class Dying(Watcher):
    """Dies after an epoch."""

    def epoch(self, record: Epoch) -> None:
        if record.number == 2:
            raise KilledError


def test_a_broken_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    table = toy_table(tmp_path / "toy")
    config = toy_config(**LAST, epochs=4, head={"kind": "arcface"})
    mark = table_digest(table)

    def train(name: str, watcher: Watcher | None = None) -> dict[str, Any]:
        return fit(config, table, mark, tmp_path / name, "cuda", 0, watcher)

    with pytest.raises(KilledError):
        train("broken", Dying())
    assert any((tmp_path / "broken" / CHECKPOINTS).iterdir())
    broken, whole = train("broken"), train("whole")
    assert len(broken["epochs"]) == len(whole["epochs"]) == 4
    first, second = (load_file(tmp_path / name / NETWORK) for name in ("broken", "whole"))
    for key, value in first.items():
        np.testing.assert_allclose(value.float(), second[key].float(), atol=2e-2)


def test_what_was_trained_describes_alike_on_both(tmp_path: Path) -> None:
    table = toy_table(tmp_path / "toy")
    config = toy_config(epochs=10, head={"kind": "arcface", "negatives": True})
    told = fit(config, table, table_digest(table), tmp_path / "run", "cuda", 0)
    assert told["epochs"][-1]["loss"] < told["epochs"][0]["loss"]
    photographs = [picture(i) for i in range(6)]
    named = TrainedConfig(network=str(tmp_path / "run"), precision="float32")
    on_cpu, on_gpu = (
        np.stack(next(extract([photographs], build(named, device)))) for device in ("cpu", "cuda")
    )
    assert (on_cpu * on_gpu).sum(axis=1).min() > 0.999
