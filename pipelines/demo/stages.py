"""The whole job on rendered landmarks: photographs, index, evaluation, classification of URLs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas as pd
from rich.console import Console

from pipelines.answering.classify import classify_list
from pipelines.building.index import build_run
from pipelines.building.replacing import begin_build
from pipelines.building.train import train_run
from pipelines.demo.rendering.data_set import PHOTOGRAPHS, render_data_set
from pipelines.loopback import serve
from pipelines.measuring.evaluate import evaluate_runs
from pipelines.measuring.written import figures_table
from pipelines.progress import progress_bar
from retrieval.config import SystemConfig
from retrieval.descriptors.trained import RECORD
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.table import load_data_set
from retrieval.run import Run
from retrieval.storage.files import atomic_write, read_json, write_json
from retrieval.system import System

log = logging.getLogger(__name__)

MADE: Final = "made.json"
"""Beside the photographs once all are there: what they were made from."""
RENDERING: Final = 1
"""Version of the renderer's photographs: raised when they change."""
QUERIES: Final = 50
NEXT: Final = """next: look at the report; make demo-train trains a network beside it;
      make index DATA=photos RUN=data/runs/mine builds a system of your own photographs"""


def make_photographs(folder: Path, seed: int = 0) -> None:
    """Render the demo's data set into a folder, unless it is there already."""
    wanted = {"rendering": RENDERING, "seed": seed}
    note = folder / MADE
    if note.exists() and read_json(note) == wanted:
        log.info("%s: the demo's photographs are there already", folder)
        return
    with progress_bar("rendering", PHOTOGRAPHS) as progress:
        render_data_set(folder, seed=seed, progress=progress)
    write_json(note, wanted)


def run_demo(
    config: SystemConfig, learner: SystemConfig | None, folder: Path, run: Path, device: str,
    console: Console, replace: bool, agreed: Callable[[str], bool],
) -> dict[str, Any]:  # fmt: skip
    """Make the photographs, build a system or two, measure them, classify URLs.

    The URLs are of a server on this machine's loopback address, started and stopped here.

    Args:
        config: descriptor and machine learning model.
        learner: a network trained from nothing, to be measured beside it; or ``None``.
        folder: of the photographs.
        run: of the first system; the second's lies beside it.
        device: ``cpu`` or ``cuda``.
        console: what is found is told there.
        replace, agreed: as of :func:`pipelines.building.replacing.begin_build`.

    Returns:
        the figures of the systems' answers side by side.
    """
    heads = iter(_headings(config, learner))

    def head() -> None:
        console.print(next(heads), style="bold", highlight=False, soft_wrap=True)

    head()
    make_photographs(folder)
    data = load_data_set(folder)
    runs = {run: config}
    if learner is not None:
        runs[run.with_name(f"{run.name}-{learner.name}")] = learner
    for one, system in runs.items():
        begin_build(one, system, data, None, device, replace, agreed)
    for one, system in runs.items():
        head()
        if system.training is not None:
            # Ten photographs by heart first, and only then all of them.
            new = not (Run(one).training / RECORD).exists()
            train_run(system, data, one, device, sanity=new)
        build_run(system, data, one, device)
    head()
    systems = {one.name: System.load(one, device) for one in runs}
    out = run.with_name(f"{run.name}-evaluation")
    figures = evaluate_runs(systems, folder / "test.csv", out)
    console.print(figures_table(figures))
    head()
    tests = pd.read_csv(folder / "test.csv", dtype=str, keep_default_na=False)
    predictions = _classify_urls(systems[run.name], tests, folder, run)
    console.print(_summary(predictions, tests), highlight=False)
    for what, path in (
        ("photographs", folder),
        ("report", out / "report.html"),
        *((f"{name}", out / name / "report.html") for name in systems if len(systems) > 1),
        ("predictions", run / "predictions.csv"),
    ):
        console.print(f"{what + ':':<16} {path}", highlight=False)
    console.print(NEXT, highlight=False, soft_wrap=True)
    return figures


def _headings(config: SystemConfig, learner: SystemConfig | None) -> list[str]:
    """What is done, one line a stage."""
    stages = [
        "rendering photographs of landmarks that nobody has seen",
        f"building {config.name}: {config.description}",
        *([f"training and building {learner.name}: {learner.description}"] if learner else []),
        "asking the test's photographs",
        "classifying URLs, one of them dead",
    ]
    return [f"{i} of {len(stages)}: {what}" for i, what in enumerate(stages, 1)]


def _classify_urls(system: System, tests: pd.DataFrame, folder: Path, run: Path) -> pd.DataFrame:
    """Classify URLs of some of the test photographs, one of them dead."""
    chosen = tests.iloc[:: max(1, len(tests) // QUERIES)].head(QUERIES)
    out = run / "predictions.csv"
    with serve(folder) as address:
        urls = chosen[["id"]].assign(url=[f"{address}/{path}" for path in chosen["path"]])
        urls.loc[len(tests)] = ["no-such-photograph", f"{address}/photos/missing.jpg"]
        atomic_write(run / "urls.csv", urls.to_csv(index=False).encode())
        with progress_bar("classifying", len(urls)) as progress:
            # The server's port is another each time, so earlier answers are no use.
            classify_list(
                system, run / "urls.csv", out, fetch=FetchConfig(allow_private=True),
                restart=True, progress=progress,
            )  # fmt: skip
    return pd.read_csv(out, dtype=str, keep_default_na=False)


def _summary(predictions: pd.DataFrame, tests: pd.DataFrame) -> str:
    truth = tests.set_index("id")["landmark_id"].reindex(predictions["id"])
    ok = (predictions["status"] == "ok").to_numpy()
    right = int((truth.to_numpy()[ok] == predictions["landmark"].to_numpy()[ok]).sum())
    return (
        f"{len(predictions)} URLs: {right} of {ok.sum()} answered right (a landmark or none),"
        f" {(~ok).sum()} not fetched"
    )
