"""One process of trainings, as ``torchrun`` starts it: python -m ... DATA FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from retrieval.descriptors.cache import table_digest
from retrieval.photographs.table import load_data_set
from retrieval.training.config import TrainingConfig
from retrieval.training.distributed import joined
from retrieval.training.loop import fit


def main(data: str, folder: str) -> None:
    """Train by each config in the folder, with whoever else was started."""
    read = load_data_set(Path(data))
    table = pd.concat([read.gallery, read.bank], ignore_index=True)
    with joined("cpu") as world:
        for path in sorted(Path(folder).glob("*.json")):
            config = TrainingConfig.model_validate_json(path.read_text())
            out = path.with_suffix("")
            fit(config, table, table_digest(table), out, "cpu", 0, world=world)


if __name__ == "__main__":
    main(*sys.argv[1:])
