"""Small photographs and networks to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retrieval.descriptors.cache import table_digest
from retrieval.photographs.table import load_data_set
from retrieval.training.config import TrainingConfig
from retrieval.training.loop import fit
from retrieval.training.watching import Watcher
from tests.photographs import picture, view, write_csv, write_photograph

TINTS = [(1.0, 0.2, 0.2), (0.2, 1.0, 0.2), (0.2, 0.2, 1.0), (1.0, 1.0, 0.1)]


def toy_data(folder: Path, views: int = 6, bank: int = 8) -> Path:
    """A data set of four landmarks, each of a colour, and of grey photographs of none."""
    rows = []
    for landmark, tint in enumerate(TINTS, 1):
        for number in range(views):
            name = f"m{landmark}v{number}"
            shown = (view(landmark, number) * np.array(tint)).astype(np.uint8)
            write_photograph(folder / "photos" / f"{name}.png", shown)
            rows.append((name, f"photos/{name}.png", f"L{landmark}"))
    write_csv(folder / "index.csv", rows)
    names = [f"n{number}" for number in range(bank)]
    for number, name in enumerate(names):
        grey = picture(5000 + number).mean(axis=2, keepdims=True).astype(np.uint8)
        write_photograph(folder / "photos" / f"{name}.png", np.repeat(grey, 3, axis=2))
    write_csv(folder / "none.csv", [(name, f"photos/{name}.png", "") for name in names])
    return folder


def toy_table(folder: Path) -> pd.DataFrame:
    """The gallery and bank of the toy."""
    data = load_data_set(toy_data(folder))
    return pd.concat([data.gallery, data.bank], ignore_index=True)


def toy_config(**changes: Any) -> TrainingConfig:
    """A training of the first blocks of a network with batch norms; others keys as given."""
    network = {
        "trunk": "mobilenet_v3_small",
        "layer": "features.3",
        "weights": "none",
        "neck": {"dimension": 16},
    }
    values = {
        "network": network, "size": 96, "crop": 80, "epochs": 4, "batch": 8,
        "validation": 0.3, "checkpoint_every": 1, "precision": "float32", "sanity_steps": 100,
    }  # fmt: skip
    if changes.get("train", "head") == "head":
        values["views"] = 2
    return TrainingConfig.model_validate({**values, **changes})


LAST: dict[str, Any] = {"train": "last", "trainable": ["features.3"]}


def train(
    config: TrainingConfig, table: pd.DataFrame, folder: Path, watcher: Watcher | None = None
) -> dict[str, Any]:
    """Train on a processor with seed 0."""
    return fit(config, table, table_digest(table), folder, "cpu", 0, watcher)
