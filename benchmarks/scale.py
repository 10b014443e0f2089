"""How index, search and vote grow with the gallery: 10,000 to 1.2 million made-up descriptors.

The rows are unit vectors of 256 dimensions around 13,000 landmarks of uneven size: a row shares
0.75 of its direction with its landmark's centre and the rest is noise, so that two rows of one
landmark have a similarity of about 0.56. Made up, they say nothing of accuracy on photographs;
time and memory hang on the sizes alone, and recall is of the IVF against exact search.

Each index is built in a process of its own, then loaded (memory-mapped) and searched in another,
so that memory is of that step alone (some 140 MB of it are the libraries). Writes
results/scale.json and results/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.classifiers.base import Gallery
from retrieval.classifiers.vote import VoteClassifier, VoteConfig
from retrieval.index.faiss_index import FaissIndex, IndexConfig

RESULTS = Path(__file__).parent / "results"
SIZES = (10_000, 100_000, 1_200_000)
LANDMARKS = 13_000
DIMENSION = 256
BANK = 5_000
QUERIES = 1_000
NEIGHBOURS = 50
SHARED = 0.75
BLOCK = 50_000

COLUMNS = {
    "rows": "gallery rows",
    "index": "index",
    "nprobe": "nprobe",
    "build_seconds": "build, s",
    "build_peak_mb": "build peak, MB",
    "bytes_per_row": "bytes a row",
    "search_seconds": "search, s / 1,000",
    "recall1": "nearest found",
    "recall10": "recall@10",
    "vote_seconds": "vote, s / 1,000",
    "fit_seconds": "vote's fit, s",
    "resident_mb": "resident, MB",
    "mapped_mb": "of it mapped, MB",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="gallery sizes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    lines = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(prefix="scale-") as name:
            folder = Path(name)
            apart(make_gallery, folder, rows)
            for factory, nprobes in (("Flat", (1,)), (inverted_file(rows), (16, 64))):
                built = apart(build, folder, factory)
                lines += [built | line for line in apart(serve, folder, factory, nprobes)]
                print(f"{rows:,} rows, {factory}: done", flush=True)
            voted = apart(vote, folder)
            lines = [line | voted if line["rows"] == rows else line for line in lines]
    arguments.out.mkdir(parents=True, exist_ok=True)
    told = {"conditions": conditions(), "lines": lines}
    (arguments.out / "scale.json").write_text(json.dumps(told, indent=2) + "\n")
    (arguments.out / "scale.md").write_text(as_markdown(told))
    print(as_markdown(told))


def inverted_file(rows: int) -> str:
    """As many lists as autofaiss takes (the power of 2 nearest to 4 √n); a byte a dimension."""
    return f"IVF{2 ** round(np.log2(4 * np.sqrt(rows)))},SQ8"


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do the work in a fresh process, whose memory is the work's own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def make_gallery(folder: Path, rows: int) -> None:
    """Write gallery.npy block by block, codes.npy, queries.npy, query_codes.npy and bank.npy."""
    rng = np.random.default_rng(0)
    centres = noise(rng, LANDMARKS)
    # Sizes as uneven as real ones: a log-normal's, most landmarks with few photographs.
    weights = rng.lognormal(sigma=1.2, size=LANDMARKS)
    codes = rng.choice(LANDMARKS, rows, p=weights / weights.sum())
    shape = (rows, DIMENSION)
    gallery = np.lib.format.open_memmap(folder / "gallery.npy", "w+", np.float32, shape)
    for start in range(0, rows, BLOCK):
        gallery[start : start + BLOCK] = around(rng, centres[codes[start : start + BLOCK]])
    gallery.flush()
    np.save(folder / "codes.npy", codes)
    asked = codes[rng.choice(rows, QUERIES)]
    np.save(folder / "query_codes.npy", asked)
    np.save(folder / "queries.npy", around(rng, centres[asked]))
    np.save(folder / "bank.npy", noise(rng, BANK))


def noise(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((rows, DIMENSION), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def around(rng: np.random.Generator, centres: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = SHARED * centres + np.sqrt(1 - SHARED**2) * noise(rng, len(centres))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def build(folder: Path, factory: str) -> dict[str, Any]:
    """Train, add and save."""
    gallery = np.load(folder / "gallery.npy", mmap_mode="r")
    with peak_memory() as peak:
        start = time.perf_counter()
        index = FaissIndex.build(gallery, IndexConfig(factory=factory))
        seconds = time.perf_counter() - start
        index.save(folder / factory)
    size = (folder / factory / "index.faiss").stat().st_size
    return {
        "rows": len(gallery),
        "index": factory,
        "build_seconds": seconds,
        "build_peak_mb": max(peak) / 1e6,
        "bytes_per_row": size / len(gallery),
    }


def serve(folder: Path, factory: str, nprobes: Sequence[int]) -> list[dict[str, Any]]:
    """Load and search; the flat index's neighbours are what recall is measured against."""
    loaded = FaissIndex.load(folder / factory)
    queries = np.load(folder / "queries.npy")
    lines = []
    for nprobe in nprobes:
        index = replace(loaded, config=loaded.config.model_copy(update={"nprobe": nprobe}))
        seconds, found = timed(lambda index=index: index.search(queries, NEIGHBOURS))
        if factory == "Flat":
            np.save(folder / "exact.npy", found.rows)
        exact = np.load(folder / "exact.npy")[:, :10]
        hits = [len(np.intersect1d(a, b)) for a, b in zip(exact, found.rows[:, :10], strict=True)]
        first = [a[0] in b for a, b in zip(exact, found.rows, strict=True)]
        lines.append(
            {
                "nprobe": None if factory == "Flat" else nprobe,
                "search_seconds": seconds,
                "recall1": float(np.mean(first)),
                "recall10": float(np.mean(hits)) / 10,
                "resident_mb": memory("VmRSS") / 1e6,
                "mapped_mb": memory("RssFile") / 1e6,
            }
        )
    return lines


def vote(folder: Path) -> dict[str, float]:
    """Fit the vote (every row's similarity to the bank) and let neighbours vote, whose index is
    all the same to it."""
    codes, queries, bank = (
        np.load(folder / f"{name}.npy") for name in ("codes", "queries", "bank")
    )
    descriptors = np.load(folder / "gallery.npy", mmap_mode="r")
    landmarks = [f"{code:05d}" for code in range(LANDMARKS)]
    index = FaissIndex.load(folder / "Flat")
    gallery = Gallery.of(descriptors, codes.astype(np.int64), landmarks, bank, index)
    found = index.search(queries, NEIGHBOURS)
    start = time.perf_counter()
    classifier = VoteClassifier.fit(VoteConfig(k=NEIGHBOURS), gallery)
    fitted = time.perf_counter() - start
    seconds, _ = timed(lambda: classifier.scores(queries, found))
    return {"vote_seconds": seconds, "fit_seconds": fitted}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """The median of three after one to warm up, and what the work gave."""
    result = work()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), result


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Bytes that this process holds, looked at every 20 ms; no pages of mapped files, which the
    system takes back when it needs them."""
    seen = [memory("RssAnon")]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            seen.append(memory("RssAnon"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def memory(name: str) -> int:
    """Bytes of this process, as Linux tells them: VmRSS, RssAnon, RssFile."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)


def conditions() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "faiss": faiss.__version__,
        "landmarks": LANDMARKS,
        "dimension": DIMENSION,
        "queries": QUERIES,
        "k": NEIGHBOURS,
        "bank": BANK,
    }


def as_cells(line: Mapping[str, Any]) -> list[str]:
    cells = []
    for name in COLUMNS:
        value = line[name]
        if isinstance(value, float):
            digits = 3 if name in {"recall1", "recall10", "search_seconds", "vote_seconds"} else 0
            value = f"{value:,.{digits}f}"
        elif isinstance(value, int):
            value = f"{value:,}"
        cells.append("" if value is None else value)
    return cells


def as_markdown(told: Mapping[str, Any]) -> str:
    """The table, headed by the conditions that it was measured under."""
    under = ", ".join(f"{name} {value}" for name, value in told["conditions"].items())
    rows = [list(COLUMNS.values()), ["---"] * len(COLUMNS), *map(as_cells, told["lines"])]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    return f"# Scale\n\nBy `benchmarks/scale.py`, on made-up descriptors: {under}.\n\n{table}\n"


if __name__ == "__main__":
    main()
