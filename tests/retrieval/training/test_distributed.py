"""Two processes take the steps of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from retrieval.descriptors.trained import NETWORK, read_record
from retrieval.photographs.table import load_data_set
from tests.retrieval.training.toys import toy_config, toy_data, train

ROOT = Path(__file__).parents[3]
# Without batch norms: in training each process would see the statistics of its own part.
PLAIN = {"trunk": "squeezenet1_1", "layer": "features.4", "weights": "none",
         "neck": {"dimension": 16}}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "head": {"sampled": 3, "head": {"kind": "arcface", "negatives": True}},
    "last": {"train": "last", "trainable": ["features.4"]},
}


def together(data: Path, folder: Path, processes: int) -> None:
    """Train by a folder's configs in several processes, over gloo on the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.retrieval.training.worker", str(data), str(folder)]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    try:
        assert [one.wait(timeout=120) for one in started] == [0] * processes
    finally:
        for one in started:
            one.kill()


@pytest.mark.slow
def test_two_processes_have_the_loss_curves_of_one(tmp_path: Path) -> None:
    folder = toy_data(tmp_path / "photographs")
    data = load_data_set(folder)
    table = pd.concat([data.gallery, data.bank], ignore_index=True)
    configs = {kind: toy_config(network=PLAIN, epochs=3, **KINDS[kind]) for kind in KINDS}
    (tmp_path / "together").mkdir()
    for kind, config in configs.items():
        (tmp_path / "together" / f"{kind}.json").write_text(config.model_dump_json())
    together(folder, tmp_path / "together", 2)
    for kind, config in configs.items():
        alone = train(config, table, tmp_path / kind)
        found = read_record(tmp_path / "together" / kind)
        for one, other in zip(alone["epochs"], found["epochs"], strict=True):
            for figure in ("loss", "accuracy", "gap", "validation_accuracy"):
                assert other[figure] == pytest.approx(one[figure], rel=1e-4), (kind, figure)
        assert found["epochs"][-1]["loss"] < found["epochs"][0]["loss"]
        networks = [load_file(one / NETWORK) for one in
                    (tmp_path / kind, tmp_path / "together" / kind)]  # fmt: skip
        for name, value in networks[0].items():
            torch.testing.assert_close(networks[1][name], value, rtol=1e-3, atol=1e-4)
