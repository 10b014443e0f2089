"""How fast classify answers a CSV of URLs, beside the plain loop of requests.

Both fetch the same photographs from a loopback server in a process of its own, which waits
--latency seconds before each answer as a distant server would (0.02 and 0.1 unless told), and both
answer with the same built run. The plain loop takes one URL at a time: urllib, Pillow at full
size, a network in float32 by torch with its own threads, one photograph a batch. Runs alternate, so
that a drifting machine drifts for both; measure on an idle one, since torch's own threads crawl
where anything else runs, which flatters classify.

    python benchmarks/classify.py --run RUN --weights FILE
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.answering.classify import classify_list
from retrieval.descriptors.cnn import CnnExtractor, build
from retrieval.descriptors.describer import Describer
from retrieval.devices import machine
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.storage.files import write_json
from retrieval.system import System

RESULTS = Path(__file__).parent / "results"


@contextmanager
def served(folder: Path, latency: float) -> Iterator[str]:
    """A loopback server that shares no lock with what is measured."""
    command = [sys.executable, "-m", "pipelines.loopback", str(folder), "--latency", str(latency)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def plain_describer(system: System) -> Describer:
    """The run's describer with its network in float32, run by torch."""
    extractor = system.describer.extractor
    if not isinstance(extractor, CnnExtractor):
        return system.describer
    config = extractor.config.model_copy(update={"precision": "float32", "runtime": "torch"})
    return dataclasses.replace(system.describer, extractor=build(config, "cpu", 0))


def plain_loop(system: System, describer: Describer, urls: Sequence[str]) -> None:
    """What a first script does."""
    side = describer.longest_side
    for url in urls:
        with urllib.request.urlopen(url) as answer:
            image = Image.open(io.BytesIO(answer.read())).convert("RGB")
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
        features = describer.extractor.features([np.asarray(image)])
        system.predictions([url], describer.from_features(features))


def ours(system: System, table: Path, fetch: FetchConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        summary = classify_list(system, table, Path(folder) / "predictions.csv", fetch=fetch)
    if summary.failed:
        raise RuntimeError(f"{summary.failed} rows failed: nothing to compare")


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """By the clock, and of the processor."""
    begun, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("data/runs/demo"), help="a built run")
    parser.add_argument("--weights", type=Path, default=None, help="as for landmarks classify")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=384, help="URLs")
    parser.add_argument(
        "--latency", type=float, nargs="+", default=(0.02, 0.1), help="seconds before each answer"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "classify.json", help="a JSON file")
    options = parser.parse_args()
    if not options.run.is_dir():
        print(f"no run at {options.run}: make demo, or --run RUN")
        return

    system = System.load(options.run, options.device, options.weights)
    plain = plain_describer(system)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = list(system.rows["source"])
        for i in range(options.count):
            shutil.copyfile(sources[i % len(sources)], folder / f"{i}.jpg")
        figures = [compare(system, plain, folder, latency, options) for latency in options.latency]
    told = {"system": system.config.name, "figures": figures, "machine": machine()}
    write_json(options.out, told)


def compare(
    system: System, plain: Describer, folder: Path, latency: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Both ways in turn, at one latency."""
    with served(folder, latency) as address:
        urls = [f"{address}/{i}.jpg" for i in range(options.count)]
        table = folder / "urls.csv"
        table.write_text("url\n" + "\n".join(urls) + "\n")
        fetch = FetchConfig(allow_private=True)
        plain_loop(system, plain, urls[:4])
        rounds = [
            {
                "classify": seconds(lambda: ours(system, table, fetch)),
                "plain loop": seconds(lambda: plain_loop(system, plain, urls)),
            }
            for _ in range(options.rounds)
        ]
    times = statistics.median(one["plain loop"][0] / one["classify"][0] for one in rounds)
    print(f"{system.config.name}, {options.count} URLs, {1000 * latency:.0f} ms a request")
    for name in ("classify", "plain loop"):
        taken, used = (statistics.median(one[name][i] for one in rounds) for i in (0, 1))
        each = 1000 * used / options.count
        print(f"{name:<12} {options.count / taken:8.1f} photographs/s, {each:.1f} ms of processor")
    print(f"{times:.2f} times the plain loop", flush=True)
    return {
        "urls": options.count,
        "latency_seconds": latency,
        "seconds_and_processor_seconds": rounds,
        "times_plain_loop": times,
    }


if __name__ == "__main__":
    main()
