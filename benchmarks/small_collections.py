"""How far a system's "none" can be trusted on a small collection, of which most people have one.

Collections are drawn from a data folder by seed: 4 to 12 landmarks of 3 to 14 photographs, and 20
to 80 photographs of none. Each is built as ``landmarks index`` builds it, and measured on the test
photographs of its landmarks and on all those of none. Figures are of the classifier that the build
itself let answer. What it expected of photographs of none is counted on those that it held out:
of b photographs a were accepted, and (a + 1) / (b + 1) is what a further one is accepted with.

    python benchmarks/small_collections.py --data DATA [--weights FOLDER] [--systems hog ...]

Features of all photographs are extracted once for all collections, and kept in --work.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from extracted import Extracted  # type: ignore[import-not-found]

from pipelines.config import load_config
from retrieval.classifiers.registry import held_out_scores
from retrieval.classifiers.rejection import fit_rejection
from retrieval.config import SystemConfig
from retrieval.devices import CPU, machine
from retrieval.evaluation.metrics import (
    Truth,
    global_average_precision,
    reliability,
    top_k_accuracy,
)
from retrieval.photographs.table import DataSet, load_data_set
from retrieval.storage.files import atomic_write, write_json
from retrieval.system import System

RESULTS = Path(__file__).parent / "results"
SYSTEMS = ("hog", "rootsift-vlad", "classical-global", "mobilenet_v2-gem")
LANDMARKS, PHOTOGRAPHS, NONE = (4, 12), (3, 14), (20, 80)
ASKED = 0.9


@dataclass(frozen=True)
class Figures:
    """Of one system on one collection."""

    system: str
    seed: int
    answer: str
    landmarks: int
    gallery: int
    bank: int
    queries: int
    top1: float
    gap: float
    right: float
    false_accepts: float
    expected: float
    calibration_error: float | None
    precision: float
    precise: float | None
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="with test.csv")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    parser.add_argument("--collections", type=int, default=12)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("data/small-collections"))
    parser.add_argument("--out", type=Path, default=RESULTS / "small-collections.json")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    data = load_data_set(options.data)
    if data.test is None:
        parser.error(f"{options.data} has no test.csv")
    seeds = range(options.first_seed, options.first_seed + options.collections)
    rows: list[Figures] = []
    for name in options.systems:
        config = load_config(name)
        if name.startswith(("mobilenet", "resnet")):
            config = config.with_weights(options.weights)
        table = data.photographs
        taught = Extracted.of(config, table, options.work / name / "taught")
        asked = Extracted.of(config, data.test, options.work / name / "test")
        for seed in seeds:
            rows.append(measured(config, drawn(data, seed), taught, asked, seed))
            print(line(rows[-1]), flush=True)
        told = {"machine": machine(), "data": data.folder.name, "rows": [vars(r) for r in rows]}
        write_json(options.out, told)
        atomic_write(options.out.with_suffix(".md"), markdown(rows, data.folder.name).encode())
    print(markdown(rows, data.folder.name))


def drawn(data: DataSet, seed: int) -> DataSet:
    """A small collection, and of the test the queries that show one of its landmarks or none."""
    random = np.random.default_rng(seed)
    labels = data.gallery["landmark"].to_numpy(dtype=object)
    chosen = random.choice(sorted(set(labels)), random.integers(*LANDMARKS, endpoint=True), False)
    rows: list[int] = []
    for landmark in chosen:
        own = np.flatnonzero(labels == landmark)
        count = min(len(own), int(random.integers(*PHOTOGRAPHS, endpoint=True)))
        rows += sorted(random.choice(own, count, replace=False).tolist())
    count = min(len(data.bank), int(random.integers(*NONE, endpoint=True)))
    none = sorted(random.choice(len(data.bank), count, replace=False).tolist())
    assert data.test is not None
    asked = data.test["landmark"].isna() | data.test["landmark"].isin(chosen)
    return replace(
        data,
        gallery=data.gallery.iloc[rows].reset_index(drop=True),
        bank=data.bank.iloc[none].reset_index(drop=True),
        test=data.test[asked.to_numpy(dtype=bool)],
    )


def measured(
    config: SystemConfig, data: DataSet, taught: Extracted, queries: Extracted, seed: int
) -> Figures:
    """Build a collection and ask it the test's photographs."""
    assert data.test is not None
    begun = time.perf_counter()
    run = Path(tempfile.mkdtemp(prefix="small-"))
    try:
        taught.build(config, data, run)
        seconds = time.perf_counter() - begun
        system = System.load(run, CPU)
        described, _ = system.describer.from_outcomes(queries.outcomes(data.test["id"]))
        judged = system.answers(described)
        one = system.config.classifiers[system.answer]
        galleries = system.calibration_galleries()
        held = held_out_scores(one, galleries, system.config.seed)
        rejection, held = fit_rejection(
            held, galleries, system.config.rejection, system.config.calibration, config.seed
        )
        careful = system.config.rejection.model_copy(update={"target_precision": ASKED})
        asked, _ = fit_rejection(held, galleries, careful, system.config.calibration)
    finally:
        shutil.rmtree(run, ignore_errors=True)
    codes = {landmark: code for code, landmark in enumerate(system.landmarks)}
    truth = np.array([codes.get(one, -1) for one in data.test["landmark"].astype(object)])
    best, confidence = judged.scores.best, judged.scores.confidence
    right, none = (best == truth) & (truth >= 0), truth < 0
    accepted, bank = judged.accepted, held.bank.confidence
    told = ~np.isnan(judged.probability)  # none where too few were held out to learn them from
    # Precision is promised of photographs half of which show a landmark.
    weight = np.where(none, 0.5 / none.sum(), 0.5 / (~none).sum())
    sure = np.where(confidence >= asked.threshold, weight, 0.0)
    ids = list(data.test["id"])
    return Figures(
        system=config.name,
        seed=seed,
        answer=system.answer,
        landmarks=len(system.landmarks),
        gallery=len(data.gallery),
        bank=len(data.bank),
        queries=int((~none).sum()),
        top1=top_k_accuracy(best[:, None], Truth.of_codes(truth), 1),
        gap=global_average_precision(ids, best, confidence, Truth.of_codes(truth)),
        right=float((accepted & right).sum() / (~none).sum()),
        false_accepts=float(accepted[none].mean()),
        expected=float(((bank >= rejection.threshold).sum() + 1) / (len(bank) + 1)),
        calibration_error=reliability(judged.probability[told], right[told]).error
        if told.any() else None,
        precision=float((accepted & right).sum() / max(accepted.sum(), 1)),
        precise=float(sure[right].sum() / sure.sum())
        if sure.any() and not asked.unkept else None,
        seconds=seconds,
    )  # fmt: skip


def line(one: Figures) -> str:
    return (
        f"{one.system} {one.seed}: {one.landmarks} landmarks, {one.gallery} + {one.bank}"
        f" photographs, {one.answer}: false accepts {one.false_accepts:.3f} (expected"
        f" {one.expected:.3f}), right {one.right:.3f}, GAP {one.gap:.3f}, calibration error"
        f" {'–' if one.calibration_error is None else f'{one.calibration_error:.3f}'},"
        f" {one.seconds:.0f} s"
    )


def markdown(rows: Sequence[Figures], data: str) -> str:
    """Means over the collections, a line a system."""
    head = [
        *("system", "false accepts", "most", "expected", "away from it", "calibration error"),
        *("answered right", "precision", f"precision where {ASKED} was asked", "top-1", "GAP"),
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for system in dict.fromkeys(one.system for one in rows):
        own = pd.DataFrame([vars(one) for one in rows if one.system == system])
        away = (own["false_accepts"] - own["expected"]).abs()
        cells: list[Any] = [
            own["false_accepts"].mean(), own["false_accepts"].max(), own["expected"].mean(),
            away.mean(), own["calibration_error"].astype(float).mean(), own["right"].mean(),
            own["precision"].mean(), own["precise"].astype(float).mean(), own["top1"].mean(),
            own["gap"].mean(),
        ]  # fmt: skip
        lines.append(f"| {system} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    count = len({one.seed for one in rows})
    return (
        f"# Small collections\n\nMeans over {count} collections of {data}, by"
        " `benchmarks/small_collections.py`; its head says what they are.\n\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
