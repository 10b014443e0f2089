"""How fast `landmarks data fetch` keeps the photographs of a list, beside img2dataset.

Both fetch the same URLs from a loopback server in a process of its own, which waits before each
answer as a distant server would, with as many requests at a time; both decode every photograph
whole and keep its bytes as they came. Photographs of a data folder as they are, and enlarged to
12 megapixels as cameras make them. The two take turns, so that a drifting machine drifts for both;
each time is that of the whole command, from nothing. img2dataset wants an environment of its own;
where it is not found, that is said and nothing is measured.

    python benchmarks/fetching.py --data DATA --img2dataset VENV/bin/img2dataset
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from classify import served  # type: ignore[import-not-found]
from PIL import Image

from retrieval.devices import cores, machine
from retrieval.storage.files import atomic_write

RESULTS = Path(__file__).parent / "results"
MAIN = "from pipelines.main import main; main()"
LARGE = 4000
"""Pixels on the longer side of 12 megapixels."""


@dataclass(frozen=True)
class Figures:
    """Of one way to fetch: seconds by the clock and of the processor, the median of the turns."""

    seconds: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with photos below it")
    parser.add_argument("--img2dataset", default="img2dataset", help="its command")
    parser.add_argument("--count", type=int, default=2463, help="photographs as they are")
    parser.add_argument("--large", type=int, default=300, help="photographs of 12 megapixels")
    parser.add_argument("--latency", type=float, nargs="+", default=(0.02, 0.1), help="seconds")
    parser.add_argument("--requests", type=int, default=64, help="at a time")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "fetching.md")
    options = parser.parse_args()
    theirs = shutil.which(options.img2dataset)
    if theirs is None:
        print("img2dataset is not installed: pip install img2dataset into an environment of its"
              " own, and --img2dataset VENV/bin/img2dataset")  # fmt: skip
        return
    lines = []
    with tempfile.TemporaryDirectory(prefix="fetching-") as name:
        work = Path(name)
        for kind, size, count in (
            ("as they are", None, options.count),
            ("12 megapixels", LARGE, options.large),
        ):
            served_from = work / f"served-{size}"
            count = put(options.data, served_from, size, count)
            for latency in options.latency:
                with served(served_from, latency) as address:
                    found = compare(work, address, count, options.requests, options.turns, theirs)
                lines.append(line(kind, count, latency, found))
                print(lines[-1], flush=True)
    atomic_write(options.out, as_markdown(lines, options).encode())


def put(data: Path, folder: Path, size: int | None, count: int) -> int:
    """Copy photographs to where they are served from, enlarged if so asked; how many there are."""
    folder.mkdir()
    sources = list(islice(sorted((data / "photos").rglob("*.jpg")), count))
    for i, source in enumerate(sources):
        path = folder / f"{i:07d}.jpg"
        if size is None:
            shutil.copyfile(source, path)
            continue
        with Image.open(source) as image:
            scale = size / max(image.size)
            large = image.convert("RGB").resize([round(scale * side) for side in image.size])
            large.save(path, quality=92)
    return len(sources)


def compare(
    work: Path, address: str, count: int, requests: int, turns: int, theirs: str
) -> dict[str, Figures]:
    """Both ways in turn."""
    table = work / "urls.csv"
    rows = [f"{i:07d},{address}/{i:07d}.jpg" for i in range(count)]
    table.write_text("id,url\n" + "\n".join(rows) + "\n")
    out = work / "out"
    shard = min(256, math.ceil(count / cores() / 2))  # so that each of its processes has some
    ways: dict[str, Callable[[], Sequence[str]]] = {
        "landmarks": lambda: (
            sys.executable, "-c", MAIN, "data", "fetch", str(table), "--out", str(out),
            "--allow-private", "--per-host", str(requests), "--concurrency", str(requests),
        ),
        "img2dataset": lambda: (
            theirs, "--url_list", str(table), "--input_format", "csv", "--url_col", "url",
            "--output_folder", str(out), "--output_format", "files", "--resize_mode", "no",
            "--skip_reencode", "True", "--number_sample_per_shard", str(shard),
            "--processes_count", str(cores()), "--thread_count", str(max(1, requests // cores())),
        ),
    }  # fmt: skip
    taken: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, command in ways.items():
            shutil.rmtree(out, ignore_errors=True)
            taken[name].append(run(command()))
            kept = sum(1 for _ in out.rglob("*.jpg"))
            if kept != count:
                raise RuntimeError(f"{name} kept {kept} of {count} photographs: nothing to compare")
    return {
        name: Figures(
            statistics.median(one.seconds for one in some),
            statistics.median(one.processor for one in some),
        )
        for name, some in taken.items()
    }


def run(command: Sequence[str]) -> Figures:
    """Run a command, quietly; what it took."""
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    used = processor_seconds()
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return Figures(time.perf_counter() - begun, processor_seconds() - used)


def processor_seconds() -> float:
    """Of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def line(kind: str, count: int, latency: float, found: dict[str, Figures]) -> str:
    ours, theirs = found["landmarks"], found["img2dataset"]
    cells = (
        kind, f"{count:,}", f"{1000 * latency:.0f}", f"{ours.seconds:.1f}", f"{theirs.seconds:.1f}",
        f"{theirs.seconds / ours.seconds:.2f}", f"{ours.processor:.1f}", f"{theirs.processor:.1f}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def as_markdown(lines: Sequence[str], options: argparse.Namespace) -> str:
    under = machine()
    return "\n".join((
        "# Fetching",
        "",
        f"By `benchmarks/fetching.py`, whose head says how: {options.requests} requests at a time,"
        f" medians of {options.turns} turns, {under['cores']} cores of {under['processor']}, which"
        " the server shares. Seconds of whole commands, start-up included.",
        "",
        "| photographs | | ms a request | landmarks, s | img2dataset, s | times as fast"
        " | processor, s | of img2dataset |",
        "|---|---|---|---|---|---|---|---|",
        *lines,
        "",
    ))  # fmt: skip


if __name__ == "__main__":
    main()
