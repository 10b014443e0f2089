"""Everything of this project that runs on a GPU: the tests of it, then what it is worth.

Made for a bare machine with one GPU, lent for a few minutes and without a network: it uses what is
installed, says what it skipped for want of a package, needs neither weights nor photographs (random
parameters serve for time, and it renders a hundred photographs), prints each figure as it comes and
writes results/gpu.md anew after each, so that a run that is cut off was not for nothing.

    python benchmarks/gpu.py                        # make gpu
    python benchmarks/gpu.py --device cpu --small   # a dry run that measures nothing worth knowing

Rates of a network are shares of two others measured beside them: of the same network on batches
that lie ready on the card, and of the card's rate at one large product of bfloat16 matrices. Search
is beside FAISS on the processor, by two of its threads and by all.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from pipelines.demo.rendering.data_set import render_data_set
from retrieval.descriptors.cache import table_digest
from retrieval.descriptors.cnn import CnnConfig, CnnExtractor, build
from retrieval.descriptors.extraction import WINDOW, extract, worker_pool
from retrieval.devices import CPU, CUDA, cores, machine
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.networks.embedder import NeckConfig, NetworkConfig
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.table import load_data_set
from retrieval.storage.files import atomic_write
from retrieval.training.config import TrainingConfig
from retrieval.training.loop import fit
from retrieval.training.watching import Watcher
from retrieval.vectors.gpu import gpu_problem

HERE = Path(__file__).parent
OPTIONAL = ("kornia", "timm", "mahotas", "optuna", "poselib", "tensorboard")
TRUNKS = ("resnet50", "mobilenet_v2")
INDICES = ("Flat", "SQfp16", "IVF4096,Flat", "IVF4096,SQ8")
SIZE, NEIGHBOURS, NPROBE, DIMENSION, SHARED = 448, 50, 32, 256, 0.75
TEST_SECONDS = 150
PARTS = ("tests", "extraction", "training", "search")


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    photographs: int
    rows: int
    queries: int
    cpu_queries: int
    trained: int
    product: int
    seconds: float
    trunks: Sequence[str] = TRUNKS
    indices: Sequence[str] = INDICES
    size: int = SIZE
    copied: Sequence[str] = ("IVF4096,SQ8",)  # to the processor, rather than built there too


WHOLE = Scale(2048, 1_200_000, 10_000, 100, 2000, 8192, 1.5)
SMALL = Scale(24, 3000, 20, 10, 16, 256, 0.01, ("resnet18",), ("Flat", "SQfp16", "IVF16,SQ8"), 96)


@dataclass
class Report:
    """Figures as they come, on the terminal and in a file."""

    path: Path
    parts: list[str] = field(default_factory=list)

    def head(self, text: str) -> None:
        self._add(f"\n## {text}\n")

    def say(self, text: str) -> None:
        self._add(f"{text}\n")

    def table(self, columns: Sequence[str]) -> None:
        self._add(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")

    def row(self, *cells: Any) -> None:
        shown = [_cell(one) for one in cells]
        self._add(f"| {' | '.join(shown)} |")

    def _add(self, text: str) -> None:
        print(text, flush=True)
        self.parts.append(text)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path, ("\n".join(self.parts).strip() + "\n").encode())


def _cell(value: Any) -> str:
    if isinstance(value, float) and abs(value) < 100:
        return f"{value:,.3g}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=(CPU, CUDA), default=CUDA)
    parser.add_argument("--small", action="store_true", help="of everything a little")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="some of it")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.md")
    options = parser.parse_args()
    problem = None if options.device == CPU else missing()
    if problem:
        print(
            f"no GPU to measure ({problem}); with one, this runs tests/gpu and then measures"
            " extraction, search and training into benchmarks/results/gpu.md, in six minutes",
            file=sys.stderr,
        )
        sys.exit(2)
    begun = time.perf_counter()
    scale = SMALL if options.small else WHOLE
    if options.device == CPU:
        torch.set_num_threads(1)
    report = Report(options.out)
    conditions(report, options.device)
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        folder = Path(name)
        paths = rendered(folder / "photographs", options.small)
        if "tests" in options.parts:
            run_tests(report)
        if "extraction" in options.parts:
            extraction(report, scale, paths, options.device)
        if "training" in options.parts:
            epoch(report, scale, folder / "photographs", options.device)
        if "search" in options.parts:
            search(report, scale, options.device)
            if faiss.get_num_gpus() > 1:
                by_all_gpus(report, scale)
    report.say(f"\nAll of it took {time.perf_counter() - begun:.0f} seconds.")


def missing() -> str | None:
    """Why nothing can be measured here."""
    return gpu_problem() if torch.cuda.is_available() else "torch finds none"


def conditions(report: Report, device: str) -> None:
    card = torch.cuda.get_device_name(0) if device == CUDA else "no GPU: a dry run"
    absent = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    report.say("# The GPU\n\nBy `benchmarks/gpu.py` (`make gpu`), all in one run.\n")
    report.say(
        f"{card}; {cores()} cores of {machine()['processor']}; Python {platform.python_version()},"
        f" torch {torch.__version__}, FAISS {faiss.__version__}. Random weights; rendered"
        f" photographs. Not installed, and so not tried: {', '.join(absent) or 'nothing'}."
    )


def run_tests(report: Report) -> None:
    """tests/gpu in a process of its own, whose last line is the report's."""
    report.head("Tests (tests/gpu)")
    command = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "tests/gpu"]
    try:
        done = subprocess.run(
            command, cwd=HERE.parent, capture_output=True, text=True, timeout=TEST_SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        print((late.stdout or b"").decode()[-3000:])
        report.say(f"Not done after {TEST_SECONDS} seconds.")
        return
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-500:]]
    if done.returncode:
        print(done.stdout[-8000:], done.stderr[-2000:])
    told = [one for one in lines if one.startswith(("FAILED", "ERROR", "SKIPPED"))]
    report.say("\n".join([*(f"- {one}" for one in told), "", lines[-1].strip("= ")]))


def rendered(folder: Path, small: bool) -> list[str]:
    """A hundred photographs (a few, for a dry run), with their tables."""
    counts = (3, 4, 1, 4) if small else (6, 11, 2, 24)
    landmarks, gallery, queries, none = counts
    render_data_set(
        folder, landmarks=landmarks, gallery_views=gallery, query_views=queries, none=none,
        workers=min(cores(), 1 if small else 16),
    )  # fmt: skip
    return sorted(str(path) for path in folder.rglob("*.jpg"))


def product_rate(scale: Scale, device: str) -> float:
    """Floating-point operations a second of one large product of bfloat16 matrices."""
    side = scale.product
    one, two = (
        torch.randn(side, side, device=device, dtype=torch.float32).bfloat16() for _ in range(2)
    )
    seconds = timed(lambda: one @ two, scale.seconds / 3, device)
    return 2 * side**3 / seconds


def extraction(report: Report, scale: Scale, paths: list[str], device: str) -> None:
    peak = product_rate(scale, device)
    report.head(f"Describing photographs at {scale.size} pixels")
    report.say(
        f"{scale.photographs:,} photographs ({len(paths)} rendered ones, again and again; GeM, one"
        f" scale, bfloat16 where the device is fast at it). The card's product of {scale.product}²"
        f" bfloat16 matrices ran at {peak / 1e12:,.0f} TFLOP/s; a share of it counts the network's"
        " own operations.\n"
    )
    report.table(
        ["trunk", "bare network, photographs/s", "from decoded photographs", "share of bare",
         "from files", "share of bare", "bare: share of the product's rate"]
    )  # fmt: skip
    times = []
    for trunk in scale.trunks:
        extractor = build(CnnConfig(trunk=trunk, weights="none", size=scale.size), device, 0)
        decoded = [read_photograph(path, extractor.longest_side) for path in paths]
        ready = repeated(decoded, scale.photographs)
        bare, operations = bare_rate(extractor, decoded, scale, device)
        run(extractor, ready[: 2 * WINDOW])
        from_ready = best_rate(extractor, ready)
        from_files = best_rate(extractor, repeated(paths, scale.photographs))
        report.row(
            trunk, bare, from_ready, f"{from_ready / bare:.0%}", from_files,
            f"{from_files / bare:.0%}", f"{bare * operations / peak:.0%}",
        )  # fmt: skip
        times.append((trunk, where_time_goes(extractor, paths, scale, device)))
    report.say("\nWhere time goes, milliseconds a photograph, each stage by itself:\n")
    report.table(["trunk", *times[0][1]])
    for trunk, stages in times:
        report.row(trunk, *stages.values())


def repeated(items: Sequence[Any], count: int) -> list[Any]:
    return [items[i % len(items)] for i in range(count)]


def run(extractor: CnnExtractor, sources: Sequence[Any]) -> None:
    windows = (sources[i : i + WINDOW] for i in range(0, len(sources), WINDOW))
    for _ in extract(windows, extractor):
        pass


def best_rate(extractor: CnnExtractor, sources: Sequence[Any]) -> float:
    """Photographs a second by the extraction loop, the better of two runs."""
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        run(extractor, sources)
        seconds.append(time.perf_counter() - begun)
    return len(sources) / min(seconds)


def batches_of(extractor: CnnExtractor, photographs: Sequence[Any]) -> list[list[Any]]:
    """The photographs in full batches of one shape."""
    groups: dict[tuple[int, int], list[Any]] = {}
    for one in photographs:
        groups.setdefault(extractor.shape(one), []).append(one)
    return [repeated(group, extractor.batch) for group in groups.values()]


def bare_rate(
    extractor: CnnExtractor, photographs: Sequence[Any], scale: Scale, device: str
) -> tuple[float, float]:
    """Photographs a second by the network alone, its batches ready on the device, and operations
    a photograph; each shape counts as often as photographs have it."""
    seconds = operations = 0.0
    for batch in batches_of(extractor, photographs):
        alike = sum(extractor.shape(one) == extractor.shape(batch[0]) for one in photographs)
        share = alike / len(photographs)
        with torch.inference_mode():
            (values,) = extractor.views(extractor.prepare(batch).to(device))
            with FlopCounterMode(display=False) as counter:
                extractor.trunk.network(values)
            operations += share * counter.get_total_flops() / len(batch)
            spent = timed(
                lambda values=values: extractor.trunk.network(values), scale.seconds, device
            )
        seconds += share * spent / len(batch)
    return 1 / seconds, operations


def timed(work: Callable[[], Any], least: float, device: str) -> float:
    """Seconds of one call, over calls for so long after a few to warm up."""
    for _ in range(3):
        work()
    settle(device)
    count, begun = 0, time.perf_counter()
    while True:
        for _ in range(5):
            work()
        settle(device)
        count += 5
        if time.perf_counter() - begun > least:
            return (time.perf_counter() - begun) / count


def settle(device: str) -> None:
    if device == CUDA:
        torch.cuda.synchronize()


def where_time_goes(
    extractor: CnnExtractor, paths: Sequence[str], scale: Scale, device: str
) -> dict[str, float]:
    """Milliseconds a photograph of each stage, nothing else going on."""
    found: dict[str, float] = {}

    def clocked(name: str, work: Callable[[], Any], photographs: int) -> None:
        settle(device)
        begun = time.perf_counter()
        work()
        settle(device)
        found[name] = 1000 * (time.perf_counter() - begun) / photographs

    many = repeated(paths, 4 * len(paths))
    with worker_pool() as pool:
        clocked("decoding, one core", lambda: [read_photograph(p, extractor.longest_side)
                                               for p in paths], len(paths))  # fmt: skip
        clocked("decoding, all cores", lambda: list(
            pool.map(lambda path: read_photograph(path, extractor.longest_side), many)),
            len(many))  # fmt: skip
    decoded = [read_photograph(path, extractor.longest_side) for path in paths]
    batches = batches_of(extractor, decoded) * 4
    count = sum(len(batch) for batch in batches)
    stacks: list[Any] = [extractor.prepare(batch) for batch in batches]
    clocked("stacking", lambda: stacks.__setitem__(
        slice(None), [extractor.prepare(batch) for batch in batches]), count)  # fmt: skip
    clocked("copying to the device", lambda: stacks.__setitem__(
        slice(None), [one.to(device, non_blocking=True) for one in stacks]), count)  # fmt: skip
    with torch.inference_mode():
        views = [next(extractor.views(one)) for one in stacks]
        clocked("normalising", lambda: [next(extractor.views(one)) for one in stacks], count)
        clocked("network", lambda: [extractor.trunk.network(one) for one in views], count)
        clocked("all but decoding", lambda: [extractor.pooled(one).cpu() for one in stacks], count)
    return found


def search(report: Report, scale: Scale, device: str) -> None:
    report.head(f"Search of {scale.rows:,} × {DIMENSION}, k = {NEIGHBOURS}")
    report.say(
        f"Made-up unit rows around 13,000 landmarks; nprobe {NPROBE}; {scale.queries:,} queries on"
        f" the device, {scale.cpu_queries} on the processor, in batches of at most 1,024. Recall is"
        f" of the {NEIGHBOURS} nearest against the flat index's.\n"
    )
    gallery, queries = made_up(scale, device)
    report.table(
        ["index", "build, s", "on the processor, s", "queries/s", "by two cores", "times those",
         "by all cores", "times those", "recall", "on the processor"]
    )  # fmt: skip
    few = queries[: scale.cpu_queries]
    exact: NDArray[np.int64] | None = None
    for factory in scale.indices:
        config = IndexConfig(factory=factory, nprobe=NPROBE)
        seconds, index = clock(lambda config=config: FaissIndex.build(gallery, config, device))
        index.search(queries[:1024], NEIGHBOURS)
        spent, found = clock(lambda index=index: index.search(queries, NEIGHBOURS))
        cpu_seconds: Any = "copied"
        if factory in scale.copied:
            beside = on_processor(index)
        else:
            cpu_seconds, beside = clock(
                lambda config=config: FaissIndex.build(gallery, config, CPU)
            )
        del index
        rates = []
        for threads in (2, cores()):
            with faiss_threads(threads):
                slow, on_cpu = clock(lambda beside=beside: beside.search(few, NEIGHBOURS))
                rates.append(len(few) / slow)
        exact = found.rows if exact is None else exact
        rate = len(queries) / spent
        report.row(
            factory, seconds, cpu_seconds, rate, rates[0], rate / rates[0], rates[1],
            rate / rates[1], recall(exact, found.rows), recall(exact, on_cpu.rows),
        )  # fmt: skip


def by_all_gpus(report: Report, scale: Scale) -> None:
    gallery, queries = made_up(scale, CUDA)
    report.head("Search by all GPUs, a shard on each")
    report.table(["index", "GPUs", "build, s", "queries/s"])
    for factory in scale.indices:
        for many in (1, faiss.get_num_gpus()):
            config = IndexConfig(factory=factory, nprobe=NPROBE, shard=-(-len(gallery) // many))
            seconds, index = clock(lambda config=config: FaissIndex.build(gallery, config, CUDA))
            index.search(queries[:1024], NEIGHBOURS)
            spent, _ = clock(lambda index=index: index.search(queries, NEIGHBOURS))
            report.row(factory, many, seconds, len(queries) / spent)
            del index


def on_processor(index: FaissIndex) -> FaissIndex:
    with tempfile.TemporaryDirectory(prefix="gpu-index-") as folder:
        index.save(Path(folder))
        return FaissIndex.load(Path(folder), CPU)


class faiss_threads:  # noqa: N801 - a context manager
    """FAISS on the processor by so many threads."""

    def __init__(self, threads: int) -> None:
        self.threads, self.before = threads, faiss.omp_get_max_threads()

    def __enter__(self) -> None:
        faiss.omp_set_num_threads(self.threads)

    def __exit__(self, *_: object) -> None:
        faiss.omp_set_num_threads(self.before)


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def recall(exact: NDArray[np.int64], rows: NDArray[np.int64]) -> float:
    """The share of the exact neighbours (q, k) that were found, of the first queries."""
    many = min(len(rows), 200)
    hits = [len(np.intersect1d(exact[i], rows[i])) for i in range(many)]
    return sum(hits) / (many * exact.shape[1])


def made_up(scale: Scale, device: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit rows that share three quarters of their direction with their landmark's centre."""
    source = torch.Generator(device).manual_seed(0)

    def noise(rows: int) -> torch.Tensor:
        made = torch.randn(rows, DIMENSION, device=device, generator=source)
        return torch.nn.functional.normalize(made)

    centres = noise(13_000)

    def around(rows: int) -> NDArray[np.float32]:
        codes = torch.randint(len(centres), (rows,), device=device, generator=source)
        made = SHARED * centres[codes] + (1 - SHARED**2) ** 0.5 * noise(rows)
        return np.asarray(torch.nn.functional.normalize(made).cpu().numpy())

    return around(scale.rows), around(scale.queries)


class Clock(Watcher):
    """Remembers when each epoch ended, and tells the terminal."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.ends: list[float] = []

    def begin(self, what: str, total: int) -> None:
        print(f"{time.perf_counter() - self.begun:.1f} s: {what}, {total}", flush=True)

    def epoch(self, record: Any) -> None:
        self.ends.append(time.perf_counter())
        print(f"{self.ends[-1] - self.begun:.1f} s: epoch {record.number}", flush=True)


def epoch(report: Report, scale: Scale, data: Path, device: str) -> None:
    """Epochs of a training whose last stage and head learn; the second is the one that counts."""
    report.head("Training")
    found = load_data_set(data)
    table = found.photographs
    table = pd.concat([table] * -(-scale.trained // len(table)), ignore_index=True)
    table = table.head(scale.trained)
    table["id"] = [f"{name}-{place}" for place, name in enumerate(table["id"])]
    trunk = "mobilenet_v2" if scale is WHOLE else "resnet18"
    last = "features.17" if scale is WHOLE else "layer4"
    for which, trained in (("the last stage and the head", "last"), ("all of the network", "all")):
        config = TrainingConfig.model_validate(
            {
                "network": NetworkConfig(trunk=trunk, weights="none", neck=NeckConfig()),
                "head": {"kind": "arcface"}, "train": trained, "size": scale.size,
                "trainable": [last] if trained == "last" else [],
                "epochs": 2, "batch": 64 if scale is WHOLE else 8, "validation": 0.1,
            }
        )  # fmt: skip
        watcher = Clock()
        print(f"training, {which} learning: the end of each epoch follows", flush=True)
        with tempfile.TemporaryDirectory(prefix="gpu-training-") as folder:
            fit(config, table, table_digest(table), Path(folder), device, 0, watcher)
        seconds = watcher.ends[1] - watcher.ends[0]
        report.say(
            f"- {trunk} at {scale.size} pixels, ArcFace, {which} learning: {seconds:.1f} s for an"
            f" epoch on {len(table):,} photographs, decoding, crops and validation included"
            f" ({len(table) / seconds:,.0f} photographs/s)."
        )


if __name__ == "__main__":
    main()
