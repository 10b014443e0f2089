"""A whole run of 1.2 million made-up descriptors: time and memory of every stage, add and remove.

A run is built of a few small photographs, by HoG of 256 numbers; to these come 1.2 million
descriptors of scale.py around 13,000 landmarks, and 5,000 of none, written as ``describe`` writes
them. From there on everything is the program's own: index, classifiers, held-out thresholds, the
evaluation of 117,577 queries (as many as the challenge had) with its report, and the addition and
removal of 1,000 small photographs. Each part is a process of its own; memory is what it holds
itself at its peak, without pages of mapped files.

    python benchmarks/scale_run.py --folder DIR describe index classifiers evaluate add remove

Parts may be given one at a time; each adds its lines to results/scale-run.json.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import scale  # type: ignore[import-not-found]

ROWS = 1_200_000
QUERIES = 117_577
OF_NONE = 0.98  # of the challenge's queries, about
CHANGED = 1_000
DATA, RUN = "data", "run"
MADE = "001"
SVM = {"knn": {"kind": "knn"}, "svm": {"kind": "svm"}}
"""The classifiers of the shipped systems."""
STAND_IN = {"centroid": {"kind": "centroid"}}
"""What a plan takes in the SVM's place where it would take too long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--folder", type=Path, required=True, help="where the run is built")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--out", type=Path, default=scale.RESULTS)
    arguments = parser.parse_args()
    path = arguments.out / "scale-run.json"
    for part in arguments.parts:
        lines = scale.apart(PARTS[part], arguments.folder, arguments.rows)
        known = scale.read_lines(path)
        known = [one for one in known if (one["part"], one["rows"]) != (part, arguments.rows)]
        known += [{"part": part, "rows": arguments.rows, **one} for one in lines]
        known.sort(key=lambda one: (one["rows"], list(PARTS).index(one["part"])))
        scale.write_lines(path, known)
        for line in lines:
            print(part, line, flush=True)
    (arguments.out / "scale.md").write_text(scale.as_markdown(arguments.out))


def watched(lines: list[dict[str, Any]], owner: Any, name: str, told: str) -> None:
    """Have each call of a function add its time and peak memory to the lines."""
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        with measured(lines, told.format(*args)):
            return real(*args, **kwargs)

    setattr(owner, name, call)


@contextlib.contextmanager
def measured(lines: list[dict[str, Any]], stage: str) -> Iterator[None]:
    with scale.peak_memory() as peak:
        start, worked = time.perf_counter(), time.process_time()
        yield
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
    told = {"stage": stage, "seconds": seconds, "processor_seconds": worked}
    lines.append({**told, "peak_mb": max(peak) / 1e6})


def system(factory: str, classifiers: dict[str, Any]) -> Any:
    from retrieval.config import SystemConfig

    return SystemConfig.model_validate({
        "name": "made-up",
        "extractor": {"kind": "hog", "side": 80, "cells": [16], "orientations": 4},
        "whitening": None,
        "index": {"factory": factory, "nprobe": 64},
        "classifiers": classifiers,
    })  # fmt: skip


def photographs(folder: Path, landmarks: int, each: int, seed: int) -> list[tuple[str, str, str]]:
    """Small pictures of noise, and a table's lines on them."""
    rng, lines = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for landmark in range(landmarks):
        for number in range(each):
            path = folder / f"{landmark}-{number}.jpg"
            Image.fromarray(rng.integers(0, 255, (96, 128, 3), np.uint8)).save(path)
            lines.append((f"{folder.name}-{path.stem}", str(path), f"{folder.name}-{landmark}"))
    return lines


def table(lines: list[tuple[str, str, str]], path: Path) -> Path:
    frame = pd.DataFrame(lines, columns=["id", "path", "landmark_id"])
    frame.to_csv(path, index=False)
    return path


def made(rows: int, seed: int = 0) -> Iterator[tuple[Any, Any]]:
    """Codes and descriptors, block by block; -1 for the bank's, which come last."""
    rng = np.random.default_rng(seed)
    centres = scale.noise(np.random.default_rng(1), scale.LANDMARKS)
    weights = np.random.default_rng(2).lognormal(sigma=1.2, size=scale.LANDMARKS)
    for start in range(0, rows, scale.BLOCK):
        many = min(scale.BLOCK, rows - start)
        codes = rng.choice(scale.LANDMARKS, many, p=weights / weights.sum())
        yield codes, scale.around(rng, centres[codes])


def describe(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Build a small run, and write the made-up descriptors into it as an addition."""
    from retrieval.descriptors.cache import WINDOW, described_from, table_digest
    from retrieval.photographs.table import load_data_set
    from retrieval.run import Run
    from retrieval.storage import shards
    from retrieval.system import System
    from retrieval.types import STRING

    data = folder / DATA
    table(photographs(data / "first", 10, 4, 0), data.parent / "index.csv").rename(
        data / "index.csv"
    )
    System.build(system("Flat", STAND_IN), load_data_set(data), folder / RUN, "cpu")
    run = Run(folder / RUN)
    parts = [
        *made(rows),
        (np.full(scale.BANK, -1), scale.noise(np.random.default_rng(3), scale.BANK)),
    ]
    codes, vectors = (np.concatenate(one) for one in zip(*parts, strict=True))
    del parts
    labels = [f"{code:05d}" if code >= 0 else None for code in codes]
    ids = [f"{number:016x}" for number in range(len(codes))]
    frame = pd.DataFrame({
        "id": pd.array(ids, dtype=STRING),
        "source": pd.array([f"/photographs/{one[:4]}/{one}.jpg" for one in ids], dtype=STRING),
        "landmark": pd.array(labels, dtype=STRING),
        "row": np.arange(len(ids)) + 2,
    })  # fmt: skip
    lines: list[dict[str, Any]] = []
    written = 0.0
    real = shards.append

    def timed(*args: Any) -> None:
        nonlocal written
        begun = time.perf_counter()
        real(*args)
        written += time.perf_counter() - begun

    shards.append = timed  # type: ignore[assignment]
    with measured(lines, "lists of photographs, and shards of descriptors with their manifest"):
        listed = run.write_rows(MADE, frame)
        recipe = run.read_record()["describer"]
        store = shards.ShardStore(
            run.descriptors / MADE, described_from(recipe, table_digest(listed)), run.timings
        )
        for number, start in enumerate(range(0, len(ids), WINDOW)):
            block = vectors[start : start + WINDOW]
            store.write(number, shards.Shard.of({"descriptors": block}, [None] * len(block)))
    size = (store.folder / shards.MANIFEST).stat().st_size
    lines.append({"stage": f"of it {size / 1e6:.1f} MB of manifest", "seconds": written})
    return lines


def index(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Collect and index; fit the SVM's stand-in."""
    return built(folder, rows, STAND_IN)


def classifiers(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Fit vote and SVM, and their thresholds on what is held out."""
    return built(folder, rows, SVM)


def built(folder: Path, rows: int, kinds: dict[str, Any]) -> list[dict[str, Any]]:
    from retrieval import build
    from retrieval.classifiers.members import Fitting
    from retrieval.index.faiss_index import FaissIndex
    from retrieval.photographs.table import load_data_set
    from retrieval.run import Run

    lines: list[dict[str, Any]] = []
    watched(lines, build, "collect_rows", "rows collected from shards")
    real = FaissIndex.build_into.__func__  # type: ignore[attr-defined]

    def built_index(cls: Any, folder: Path, vectors: Any, config: Any, *more: Any) -> Any:
        with measured(lines, f"index trained, filled and written: {config.factory}"):
            return real(cls, folder, vectors, config, *more)

    FaissIndex.build_into = classmethod(built_index)  # type: ignore[method-assign, assignment]
    watched(lines, Fitting, "fitted", "{1.kind} fitted")
    watched(lines, Fitting, "held_out", "{1.kind}: held-out scores")
    watched(lines, build, "fit_rejection", "threshold and probabilities")
    data = load_data_set(folder / DATA)
    with measured(lines, "in all"):
        config = system(scale.inverted_file(rows), kinds)
        build.build(config, data, Run(folder / RUN), "cpu")
    return lines


def evaluate(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Judge the queries by every classifier, and write the figures and the report."""
    from pipelines.measuring.evaluate import measure
    from pipelines.measuring.written import write_evaluation
    from retrieval.descriptors.cache import Described
    from retrieval.descriptors.representation import Representation
    from retrieval.system import System
    from retrieval.types import STRING

    shown = round(QUERIES * (1 - OF_NONE))
    ((codes, known),) = made(shown, seed=4)
    vectors = np.concatenate([known, scale.noise(np.random.default_rng(5), QUERIES - shown)])
    labels = [*(f"{code:05d}" for code in codes), *[None] * (QUERIES - shown)]
    ids = [f"q{number:07d}" for number in range(QUERIES)]
    frame = pd.DataFrame({
        "id": pd.array(ids, dtype=STRING),
        "source": pd.array([f"/queries/{one}.jpg" for one in ids], dtype=STRING),
        "landmark": pd.array(labels, dtype=STRING),
        "row": np.arange(QUERIES) + 2,
        "status": "ok",
        "reason": "",
    })  # fmt: skip
    lines: list[dict[str, Any]] = []
    with measured(lines, "loaded, files checked"):
        loaded = System.load(folder / RUN, "cpu")
    with measured(lines, f"{QUERIES:,} queries judged by {', '.join(loaded.classifiers)}"):
        described = Described(frame, Representation(vectors), 0.0, "")
        found = measure(
            loaded, frame, described, config="made-up", bytes_per_image=None, conditions={},
        )  # fmt: skip
    with measured(lines, "figures, predictions, report"):
        write_evaluation(found, folder / "evaluation")
    return lines


def add(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Add small photographs of old and new landmarks."""
    from pipelines.building.index import add_photographs
    from retrieval.photographs.table import read_table

    number = len(list(folder.glob("more-*.csv")))  # each time others
    listed = photographs(folder / f"more-{number}", CHANGED // 4, 4, 10 + number)
    path = table(listed, folder / f"more-{number}.csv")
    lines: list[dict[str, Any]] = []
    with measured(lines, f"{CHANGED:,} photographs of {CHANGED // 4} landmarks added"):
        add_photographs(folder / RUN, read_table(path), "cpu")
    return lines


def remove(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Remove made-up ones, from all over the gallery."""
    from retrieval import build
    from retrieval.run import Run

    listed = Run(folder / RUN).read_rows(MADE)["id"][:rows]
    left = listed[~listed.isin(Run(folder / RUN).removed().get(MADE, []))]
    ids = left.sample(CHANGED, random_state=6).tolist()
    lines: list[dict[str, Any]] = []
    with measured(lines, f"{CHANGED:,} photographs removed"):
        build.remove(Run(folder / RUN), ids, "cpu")
    return lines


PARTS: dict[str, Callable[[Path, int], list[dict[str, Any]]]] = {
    one.__name__: one for one in (describe, index, classifiers, evaluate, add, remove)
}


if __name__ == "__main__":
    main()
