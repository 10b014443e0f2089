"""Whether explanations tell what answers hang on, and what they cost.

Of queries that a run answers right, drawn by a seed, a part of the photograph is greyed: where an
explanation has its largest values, in the middle, and at random. What the similarity to the best
neighbour loses says whether the explanation is true of the system; what is still answered right
where but the places with the largest values are left, whether it is enough. Beside what is lost
stands what the shares lead to expect: their sum over the largest, as a multiple of that over the
middle. Times are the processor's, beside that of describing photographs by the same networks.

    python benchmarks/explaining.py RUN... --data FOLDER [--weights FOLDER]

FOLDER holds the test.csv that the queries are taken from.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.devices import machine
from retrieval.errors import ExplainError
from retrieval.explain import SHARES, SIMILARITY
from retrieval.explain.derivable import derivable
from retrieval.explain.grad_cam import grad_cam
from retrieval.explain.grid import Grid
from retrieval.explain.layers import layers_of
from retrieval.explain.methods import METHODS
from retrieval.explain.occlusion import occlusion, without
from retrieval.explain.shares import shares
from retrieval.explain.splitting import grid_of, split
from retrieval.explain.targets import Asked, target_of
from retrieval.explain.visualisation import Colours, channel, visualise
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.table import load_data_set
from retrieval.storage.files import atomic_write
from retrieval.system import System
from retrieval.types import Photograph

RESULTS = Path(__file__).parent / "results"
GREYED, KEPT = 0.2, 0.4
RANDOM = 3
"""Draws of random places, averaged."""
Cells = NDArray[np.bool_]


@dataclass(frozen=True)
class Effect:
    """What one photograph loses, by what is greyed: the similarity before, and what it falls by.

    ``in_largest`` and ``in_middle`` are what the map has there, as a share of all its sizes.
    """

    similarity: float
    largest: float
    middle: float
    random: float
    kept: bool
    in_largest: float
    in_middle: float


def largest(values: NDArray[Any], share: float) -> Cells:
    """The cells with the largest values, so large a share of all."""
    count = max(1, round(share * values.size))
    chosen = np.zeros(values.size, np.bool_)
    chosen[np.argsort(-values.ravel(), kind="stable")[:count]] = True
    return chosen


def middle(grid: Grid, share: float) -> Cells:
    """The cells nearest to the middle, relative to the sides."""
    boxes = grid.boxes
    away = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5).max(axis=1)
    return largest(-away, share)


def effect(
    system: System, photograph: Photograph, row: int, code: int, values: NDArray[Any], seed: int
) -> Effect:
    """Grey parts of one photograph by (rows, columns) values."""
    grid, random = Grid(*values.shape), np.random.default_rng(seed)
    chosen = [largest(values, GREYED), middle(grid, GREYED)]
    chosen += [largest(random.random(values.shape), GREYED) for _ in range(RANDOM)]
    pictures = [without(photograph, grid, cells) for cells in chosen]
    left = without(photograph, grid, ~largest(values, KEPT))
    described = system.describer.describe([photograph, *pictures, left])
    found = described.vectors @ system.gallery.vectors[row]
    falls = found[0] - found[1:-1]
    answered = system.answers(described[-1:])
    kept = bool(answered.accepted[0]) and int(answered.scores.best[0]) == code
    most, central, others = float(falls[0]), float(falls[1]), float(falls[2:].mean())
    size = float(np.abs(values).sum())
    held = [float(values.ravel()[cells].sum()) / size for cells in chosen[:2]]
    return Effect(float(found[0]), most, central, others, kept, *held)


def right_answers(system: System, data: Path, count: int, seed: int) -> Iterator[tuple[str, int]]:
    """Queries that are answered right, drawn by a seed: paths, and codes of their landmarks."""
    table = load_data_set(data).test
    assert table is not None
    shown = table[table["landmark"].isin(system.landmarks)]
    found = 0
    for place in np.random.default_rng(seed).permutation(len(shown)):
        source, landmark = shown["source"].iloc[place], shown["landmark"].iloc[place]
        if found < count and system.classify(str(source))["landmark"].iloc[0] == landmark:
            found += 1
            yield str(source), list(system.landmarks).index(landmark)


def on_grid(values: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """(rows, columns) means of a map."""
    size = grid.columns, grid.rows
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def measured(
    system: System, asked: Sequence[tuple[str, int]], method: str, target: str
) -> list[Effect]:
    """The effects of a method, of every photograph."""
    found = []
    for seed, (source, code) in enumerate(asked):
        told = system.explain(source, method=method, target=target)
        photograph = read_photograph(source, system.describer.longest_side)
        if told.attribution is None:
            assert told.shares is not None
            values: NDArray[Any] = told.shares.query.map
        else:
            values = on_grid(told.attribution.map, grid_of(system.describer, photograph))
        found.append(effect(system, photograph, told.against.row, code, values, seed))
    return found


def row_of(name: str, method: str, found: Sequence[Effect], seconds: float) -> str:
    """A line of the table."""
    mean = {key: float(np.mean([getattr(one, key) for one in found])) for key in vars(found[0])}
    ratios = [mean["largest"] / max(mean[key], 1e-9) for key in ("middle", "random")]
    # Only shares say how much; the values of other methods order places.
    own = f"{mean['in_largest'] / mean['in_middle']:.1f}" if method == SHARES else ""
    return (
        f"| {name} | {method} | {mean['similarity']:.3f} | {mean['largest']:.3f} |"
        f" {mean['middle']:.3f} | {mean['random']:.3f} | {ratios[0]:.1f} | {own} |"
        f" {ratios[1]:.1f} | {mean['kept']:.0%} | {len(found)} | {seconds:.2f} |"
    )


def processor(work: Callable[[], object], times: int = 3) -> float:
    """The least processor time of a few, in seconds."""
    taken = []
    for _ in range(times):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken)


def costs(name: str, system: System, source: str) -> list[str]:
    """Lines on what an explanation costs beside describing, by the same networks."""
    by = system.explainer.in_float32
    told = system.explain(source)
    photograph, other = (
        read_photograph(one, by.longest_side) for one in (source, told.sources[told.against.row])
    )
    asked = Asked(by, photograph, other, told.against.code, system.classifiers, system.answer)
    target = target_of(SIMILARITY, asked)
    described = processor(lambda: by.describe([photograph, other]))
    apart = processor(lambda: shares(split(by, photograph), split(by, other)))
    patches = processor(lambda: occlusion(by, photograph, target, Grid(14, 14)), times=1)
    many = processor(lambda: by.describe([photograph] * 60), times=1)
    lines = [
        f"| {name} | match map | {apart:.3f} | {apart / described:.2f} descriptions of the two |",
        f"| {name} | occlusion, 14 × 14 | {patches:.2f} | {60 * patches / many:.0f} descriptions |",
    ]
    with contextlib.suppress(ExplainError):
        function = derivable(by, photograph)
        values = [one.values for one in function.seen]
        with torch.inference_mode():
            passed = processor(lambda: function(values))
        map_of = processor(lambda: grad_cam(function, target.function))
        lines.append(f"| {name} | Grad-CAM | {map_of:.3f} | {map_of / passed:.2f} forward passes |")
        last = layers_of(function)[-1]
        drawing = partial(visualise, function, channel(function, last, [0]), 1)
        drawn = processor(lambda: drawing(Colours.of([photograph])), times=1)
        lines.append(f"| {name} | a picture | {drawn:.2f} | {60 * drawn / many:.0f} descriptions |")
    return lines


def from_the_command_line(name: str, run: Path, source: str, weights: Path | None) -> str:
    """A line on what the whole command costs, from its start to the page."""
    with TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-c", "from pipelines.main import main; main()", "explain", source),
            *("--run", str(run), "--out", str(Path(folder) / "why.html"), "--device", "cpu"),
            *(() if weights is None else ("--weights", str(weights))),
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return f"| {name} | the command, to the page | {used:.2f} | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--data", type=Path, required=True, help="folder with test.csv")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=[SHARES, *METHODS])
    parser.add_argument("--target", default="similarity")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "explaining.md", help="a Markdown file"
    )
    options = parser.parse_args()
    lines = [
        f"{options.photographs} right answers a system, seed {options.seed}; {machine()}.", "",
        "| system | method | similarity | falls by: largest 20 % | middle 20 % | random 20 % |"
        " × middle | × middle by the map | × random | right of the largest 40 % | of | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    times: list[str] = []
    for run in options.runs:
        system = System.load(run, "cpu", options.weights)
        name = system.config.name
        asked = list(right_answers(system, options.data, options.photographs, options.seed))
        for method in options.methods:
            begun = time.process_time()
            try:
                found = measured(system, asked, method, options.target)
            except ExplainError as error:
                print(f"{name}, {method}: {error}", flush=True)
                continue
            each = (time.process_time() - begun) / len(asked)
            lines.append(row_of(name, method, found, each))
            print(lines[-1], flush=True)
        own = costs(name, system, asked[0][0])
        own.append(from_the_command_line(name, run, asked[0][0], options.weights))
        print(*own, sep="\n", flush=True)
        times += own
    lines += ["", "| system | what | s | ratio |", "|---|---|---|---|", *times]
    atomic_write(options.out, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
