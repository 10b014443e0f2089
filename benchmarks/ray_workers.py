"""What a Ray cluster costs: two workers of one core each, beside the threads of one process.

Both machines of the cluster are simulated on this one, which needs two cores. The same photographs
are described for a build (by parts, beside one part in this process), and classified from a list
of paths. Of each, two numbers of photographs are timed, in turn here and there, from the call to
its last file: connecting, starting workers and loading the system there are in it. Two numbers
give what a start takes and what a photograph takes, and so what more photographs and more machines
would.

    python benchmarks/ray_workers.py --photographs FOLDER... --weights WEIGHTS
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.answering.by_ray import answers_by_ray
from pipelines.answering.classify import classify_list
from pipelines.config import load_config
from retrieval.build import build, build_part, learn_run
from retrieval.config import SystemConfig
from retrieval.devices import CPU, cores, machine
from retrieval.parts import BuildPart
from retrieval.photographs.table import DataSet, load_data_set
from retrieval.ray_workers import describe_by_ray
from retrieval.run import Run
from retrieval.storage.files import atomic_write, write_json
from retrieval.system import System

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
LEARNT = 512
"""Photographs that codebook and whitening are learnt from; a build describes the others."""
SIZES = (512, 2048)
LANDMARKS = 50
GROWN = ((10_000, 1), (100_000, 1), (1_200_000, 1), (1_200_000, 10))
"""Photographs, and machines of as many cores as this one, that times are worked out for."""
DESCRIBE, CLASSIFY = "describe, for a build", "classify"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=Path, nargs="+", required=True, help="folders")
    parser.add_argument("--system", default="mobilenet_v2-gem")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "ray-workers.md")
    options = parser.parse_args()
    config = load_config(options.system, [f"fit_photographs={LEARNT}"])
    config = config.with_weights(options.weights)
    every = [path for one in options.photographs for path in sorted(one.rglob("*.jpg"))]
    told: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ray-workers-") as name, two_machines() as address:
        system = answering(config, every, Path(name))
        for number, size in itertools.product(range(options.rounds), sorted(options.sizes)):
            work = Path(name) / f"{number}-{size}"
            for what, workers, seconds in timed(config, system, every, size, work, address):
                told.append({"what": what, "photographs": size, "ray": workers, "seconds": seconds})
                print(json.dumps(told[-1]), flush=True)
    about = {"machine": machine(), "system": options.system, "timings": told}
    write_json(options.out.with_suffix(".json"), about)
    atomic_write(options.out, as_markdown(about).encode())


@contextmanager
def two_machines() -> Iterator[str]:
    """The address of a cluster of two machines, half of the cores each."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    ray_constants.ENABLE_RAY_CLUSTER = False  # all of it on loopback
    half = {"num_cpus": cores() // 2, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=half)
    try:
        cluster.add_node(num_cpus=cores() // 2, node_ip_address="127.0.0.1")
        yield cluster.address
    finally:
        cluster.shutdown()


def answering(config: SystemConfig, every: Sequence[Path], work: Path) -> System:
    """A system built from the first photographs."""
    run = Run(work / "run")
    build(config, data_set(every[:LEARNT], work / "gallery"), run, CPU)
    return System.load(run.folder, CPU)


def data_set(photographs: Sequence[Path], folder: Path) -> DataSet:
    """Photographs under made-up labels: what describes them does not look at these."""
    folder.mkdir(parents=True)
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "path", "landmark_id"))
        rows = enumerate(photographs)
        writer.writerows((i, path.resolve(), f"l{i % LANDMARKS}") for i, path in rows)
    return load_data_set(folder)


def timed(
    config: SystemConfig,
    system: System,
    every: Sequence[Path],
    size: int,
    work: Path,
    address: str,
) -> Iterator[tuple[str, bool, float]]:
    """What was done, whether by Ray, and in how many seconds."""
    data = data_set(every[: LEARNT + size], work / "data")
    learn_run(config, data, Run(work / "learnt"), CPU)
    for by_ray in (False, True):
        run = Run(work / f"described-{by_ray}")
        shutil.copytree(work / "learnt", run.folder)
        describe = (
            partial(describe_by_ray, config, data, run, CPU, address)
            if by_ray
            else partial(build_part, config, data, run, BuildPart(1, 1), CPU)
        )
        yield DESCRIBE, by_ray, seconds(describe)
    listed = work / "list.txt"
    listed.write_text("".join(f"{path.resolve()}\n" for path in every[LEARNT : LEARNT + size]))
    for by_ray in (False, True):
        elsewhere = partial(answers_by_ray, address, system) if by_ray else None
        out = work / f"predictions-{by_ray}.csv"
        yield (
            CLASSIFY,
            by_ray,
            seconds(partial(classify_list, system, listed, out, elsewhere=elsewhere)),
        )
    if (work / "predictions-True.csv").read_bytes() != out.with_stem(
        "predictions-False"
    ).read_bytes():
        raise RuntimeError("the two have other predictions: nothing to compare")


def seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def line_of(told: Sequence[Mapping[str, Any]], what: str, ray: bool) -> tuple[float, float]:
    """Seconds of a start, and of each photograph, by the smallest squares."""
    found = [one for one in told if one["what"] == what and one["ray"] == ray]
    sizes, times = ([one[name] for one in found] for name in ("photographs", "seconds"))
    each, start = np.polyfit(sizes, times, 1)
    return float(start), float(each)


def as_markdown(about: Mapping[str, Any]) -> str:
    told = about["timings"]
    on = about["machine"]
    lines = [
        "# Ray workers beside threads",
        "",
        "By `benchmarks/ray_workers.py`, whose head says how: two workers of"
        f" {on['cores'] // 2} core each and one process with {on['cores']} threads, on"
        f" {on['processor']}, by `{about['system']}`. Seconds of single calls; those by Ray have"
        " connecting, starting two processes and loading the system twice in them.",
        "",
        "| | photographs | threads, s | Ray, s | |",
        "|---|---|---|---|---|",
    ]
    keys = ("what", "photographs")
    grouped: dict[tuple[Any, ...], dict[bool, list[float]]] = {}
    for one in told:
        times = grouped.setdefault(tuple(one[key] for key in keys), {False: [], True: []})
        times[one["ray"]].append(one["seconds"])
    for (what, size), times in sorted(grouped.items(), key=lambda pair: pair[0]):
        here, there = (float(np.mean(times[ray])) for ray in (False, True))
        lines.append(f"| {what} | {size:,} | {here:.1f} | {there:.1f} | × {there / here:.2f} |")
    lines += [
        "",
        "From these, a start and a photograph:",
        "",
        "| | threads: start, s | a photograph, ms | Ray: start, s | a photograph, ms | |",
        "|---|---|---|---|---|---|",
    ]
    for what in (DESCRIBE, CLASSIFY):
        (here, each), (there, by_ray) = (line_of(told, what, ray) for ray in (False, True))
        lines.append(
            f"| {what} | {here:.1f} | {1000 * each:.1f} | {there:.1f} | {1000 * by_ray:.1f} |"
            f" × {by_ray / each:.2f} |"
        )
    lines += [
        "",
        "And so, worked out, not measured:",
        "",
        "| | photographs | machines | threads of one, s | Ray, s | |",
        "|---|---|---|---|---|---|",
    ]
    for what, (many, machines) in itertools.product((DESCRIBE, CLASSIFY), GROWN):
        (start, each), (there, by_ray) = (line_of(told, what, ray) for ray in (False, True))
        here, spread = start + many * each, there + many * by_ray / machines
        lines.append(
            f"| {what} | {many:,} | {machines} | {here:,.0f} | {spread:,.0f} |"
            f" × {spread / here:.2f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
