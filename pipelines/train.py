"""Fit a network to a gallery: progress on the terminal, curves for TensorBoard."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from pipelines.progress import Report, console, progress_bar
from retrieval.extractors.describer import table_digest
from retrieval.photographs.table import DataSet
from retrieval.system import SystemConfig
from retrieval.training.config import TrainingConfig
from retrieval.training.distributed import World
from retrieval.training.loop import fit
from retrieval.training.watching import Epoch, Watcher


class Bars(Watcher):
    """A bar for each stage, and a table of the epochs at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._report: Report | None = None
        self.epochs: list[Epoch] = []

    def begin(self, what: str, total: int) -> None:
        self.close()
        if total:
            self._report = self._stack.enter_context(progress_bar(what, total))

    def advance(self, rows: int, failed: int) -> None:
        if self._report is not None:
            self._report(rows, failed)

    def epoch(self, record: Epoch) -> None:
        self.epochs.append(record)

    def close(self) -> None:
        """End the bar."""
        self._stack.close()
        self._report = None


def train_network(
    system: SystemConfig,
    config: TrainingConfig,
    data: DataSet,
    folder: Path,
    device: str,
    world: World | None = None,
) -> dict[str, Any]:
    """Train on gallery and bank, or find that it is done.

    Args:
        system: whose seed counts.
        config: of the training.
        data: its gallery and bank.
        folder: of the training.
        device: ``cpu`` or ``cuda``.
        world: the processes that do it together.

    Returns:
        what ``training.json`` says.
    """
    table = pd.concat([data.gallery, data.bank], ignore_index=True)
    watcher = Bars()
    try:
        return fit(config, table, table_digest(table), folder, device, system.seed, watcher, world)
    finally:
        watcher.close()


def epochs_table(record: dict[str, Any]) -> Table:
    """A training's epochs, the best one marked."""
    table = Table("epoch", "loss", "accuracy", "validation", "GAP", "")
    for one in record["epochs"]:
        figures = (one[key] for key in ("loss", "accuracy", "validation_accuracy", "gap"))
        mark = "best" if one["number"] == record["best"] else ""
        table.add_row(str(one["number"]), *(f"{figure:.4f}" for figure in figures), mark)
    return table


def say_trained(record: dict[str, Any], folder: Path) -> None:
    """Show what a training came to."""
    console.print(epochs_table(record))
    console.print(f"{folder}: GAP {record['gap']:.4f} in epoch {record['best']}", highlight=False)
