"""Build, add to and take from a run for a shell: with bars, and telling what became otherwise."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.building.gallery_changes import under_own_ids
from pipelines.building.train import BOARD, Bars
from pipelines.progress import progress_bar
from retrieval import build
from retrieval.classifiers.rejection import Rejection
from retrieval.config import SystemConfig
from retrieval.errors import RunError
from retrieval.parts import BuildPart
from retrieval.photographs.table import DataSet
from retrieval.ray_workers import describe_by_ray
from retrieval.run import Run
from retrieval.storage.shards import ShardStore

log = logging.getLogger(__name__)


def build_run(
    config: SystemConfig, data: DataSet, run: Path, device: str, workers: str | None = None
) -> dict[str, Any]:
    """As :func:`retrieval.build.build`; photographs are described by ``workers``, where given."""
    files = Run(run)
    with contextlib.closing(Bars(files.training / BOARD)) as watcher:
        if workers is not None:
            describe_by_ray(config, data, files, device, workers, progress_bar, watcher)
        return build.build(config, data, files, device, progress_bar, watcher)


def describe_part(
    config: SystemConfig, data: DataSet, run: Path, part: BuildPart, device: str
) -> ShardStore | None:
    """As :func:`retrieval.build.build_part`."""
    files = Run(run)
    with contextlib.closing(Bars(files.training / BOARD)) as watcher:
        return build.build_part(config, data, files, part, device, progress_bar, watcher)


def add_photographs(
    run: Path,
    table: pd.DataFrame,
    device: str,
    weights: Path | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """As :func:`retrieval.build.add`.

    Args:
        run: the run's folder.
        table: the photographs.
        device: ``cpu`` or ``cuda``.
        weights: where networks find theirs.
        folder: that the photographs were found in, if their ids are the paths below it: those are
            made unique then.
    """
    files = Run(run)
    before = answering(files)
    if folder is not None:
        table = under_own_ids(table, folder, files)
    after = build.add(files, table, device, weights, progress_bar)
    say_changes(before, answering(files))
    return after


def remove_photographs(run: Path, ids: Sequence[str], device: str) -> dict[str, Any]:
    """As :func:`retrieval.build.remove`."""
    files = Run(run)
    before = answering(files)
    after = build.remove(files, ids, device)
    say_changes(before, answering(files))
    return after


def answering(run: Run) -> dict[str, Any]:
    """Which classifier answers, and each one's threshold; nothing where the run is not whole."""
    try:
        record, config = run.read_finished()
        thresholds = {
            name: f"{Rejection.load(run.classifiers / name).threshold:.4g}"
            for name in config.classifiers
        }
    except RunError:
        return {}
    return {"answer": record["answer"], "thresholds": thresholds}


def say_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Log in what two states of :func:`answering` differ."""
    if not before or not after:
        return
    if before["answer"] != after["answer"]:
        log.warning("%s answers now, %s did before", after["answer"], before["answer"])
    changed = [
        f"{name} {before['thresholds'].get(name)} → {now}"
        for name, now in after["thresholds"].items()
        if before["thresholds"].get(name) != now
    ]
    if changed:
        log.info("thresholds changed: %s", ", ".join(changed))
