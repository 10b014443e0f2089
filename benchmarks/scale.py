"""How index, search and vote grow with the gallery: 10,000 to 5 million made-up descriptors.

The rows are unit vectors of 256 dimensions around 13,000 landmarks (200,000 for 5 million) of
uneven size: a row shares 0.75 of its direction with its landmark's centre and the rest is noise, so
that two rows of one landmark have a similarity of about 0.56. Made up, they say nothing of accuracy
on photographs; time and memory hang on the sizes alone, and recall is of the IVF against exact
search. Above two million rows no flat index is built, and the vote is fitted to a tenth of the rows
(each is searched for in the bank by itself).

With --autofaiss, autofaiss chooses and builds an index of 300,000 of the rows, in the memory that
ours takes; it is no part of the project (pip install autofaiss), and where it is not installed that
is said.

With --shard, indices are divided into shards of so many rows.

Each index is built in a process of its own, then loaded (memory-mapped) and searched in another,
so that memory is of that step alone (some 460 MB of it are the libraries). Writes its lines among
those of other sizes into results/scale.json, and all of them into results/scale.md, with those of
scale_run.py.
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
from importlib.util import find_spec
from multiprocessing import TimeoutError as MultiprocessingTimeout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.classifiers.vote import VoteClassifier, VoteConfig
from retrieval.index.faiss_factory import IndexConfig, lists_of
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.gallery import Gallery, bank_similarity

RESULTS = Path(__file__).parent / "results"
SIZES = (10_000, 100_000, 1_200_000, 5_000_000)
LANDMARKS = 13_000
MANY_ROWS, MANY_LANDMARKS = 2_000_000, 200_000
DIMENSION = 256
BANK = 5_000
QUERIES = 1_000
NEIGHBOURS = 50
SHARED = 0.75
BLOCK = 50_000

COLUMNS = {
    "rows": "gallery rows",
    "index": "index",
    "shard": "rows a shard",
    "nprobe": "nprobe",
    "build_seconds": "build, s",
    "build_processor_seconds": "of the processor, s",
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
GROWTH = {
    "rows": "gallery rows",
    "build": "build, s a million rows",
    "fit": "vote's fit, s a million rows",
    "search_seconds": "search, s / 1,000 queries",
    "vote_seconds": "vote, s / 1,000 queries",
    "memory": "resident, MB a million rows",
}
STAGES = {
    "part": "part",
    "rows": "gallery rows",
    "stage": "stage",
    "seconds": "s",
    "processor_seconds": "of the processor, s",
    "peak_mb": "peak, MB",
}
SHORT = (
    "index",
    "build_seconds",
    "build_processor_seconds",
    "build_peak_mb",
    "bytes_per_row",
    "search_seconds",
    "recall10",
)
AUTOFAISS = {"by": "by", "rows": "rows", **{name: COLUMNS[name] for name in SHORT}}
AUTOFAISS_ROWS, AUTOFAISS_SECONDS = 300_000, 3_600
TABLES = (
    ("scale.json", "Index, search and vote", COLUMNS),
    ("scale-run.json", "A whole run", STAGES),
    ("scale-autofaiss.json", "Beside autofaiss", AUTOFAISS),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES, help="gallery sizes")
    parser.add_argument("--shard", type=int, help="rows of a shard")
    parser.add_argument("--folder", type=Path, help="where descriptors and indices go meanwhile")
    parser.add_argument("--autofaiss", action="store_true", help="compare with autofaiss")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    path = arguments.out / "scale.json"
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(prefix="scale-", dir=arguments.folder) as name:
            lines = of_size(Path(name), rows, arguments.shard)
        kept = [one for one in read_lines(path) if key_of(one) not in map(key_of, lines)]
        write_lines(path, sorted([*kept, *lines], key=key_of))
    if arguments.autofaiss:
        with tempfile.TemporaryDirectory(prefix="scale-", dir=arguments.folder) as name:
            lines = against_autofaiss(Path(name))
        write_lines(arguments.out / "scale-autofaiss.json", lines)
    (arguments.out / "scale.md").write_text(as_markdown(arguments.out))
    print(as_markdown(arguments.out))


def key_of(line: Mapping[str, Any]) -> tuple[int, int, str, int]:
    """What a line is of, in the order of the table."""
    return line["rows"], line.get("shard") or 0, line["index"], line["nprobe"] or 0


def of_size(folder: Path, rows: int, shard: int | None) -> list[dict[str, Any]]:
    """Build, search and vote among so many rows, all of them in one shard or several."""
    apart(make_gallery, folder, rows)
    lines: list[dict[str, Any]] = []
    kinds: list[tuple[str, tuple[int, ...]]] = [(inverted_file(rows), (16, 64))]
    if rows <= MANY_ROWS and shard is None:
        kinds.insert(0, ("Flat", (1,)))
    else:
        apart(find_exactly, folder)
    for factory, nprobes in kinds:
        built = apart(build, folder, factory, shard)
        lines += [built | line for line in apart(serve, folder, factory, nprobes)]
        print(f"{rows:,} rows, {factory}: {lines[-1]}", flush=True)
    voted = apart(vote, folder, kinds[0][0])
    return [line | voted for line in lines]


def landmarks_of(rows: int) -> int:
    return LANDMARKS if rows <= MANY_ROWS else MANY_LANDMARKS


def inverted_file(rows: int) -> str:
    """A byte a dimension."""
    return f"IVF{lists_of(rows)},SQ8"


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do the work in a fresh process, whose memory is the work's own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def make_gallery(folder: Path, rows: int) -> None:
    """Write gallery.npy block by block, codes.npy, queries.npy, query_codes.npy and bank.npy."""
    rng, landmarks = np.random.default_rng(0), landmarks_of(rows)
    centres = noise(rng, landmarks)
    # Sizes as uneven as real ones: a log-normal's, most landmarks with few photographs.
    weights = rng.lognormal(sigma=1.2, size=landmarks)
    codes = rng.choice(landmarks, rows, p=weights / weights.sum())
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


def find_exactly(folder: Path) -> None:
    """The nearest rows of the queries, by products with all rows, block by block."""
    gallery, queries = (
        np.load(folder / "gallery.npy", mmap_mode="r"),
        np.load(folder / "queries.npy"),
    )
    rows = np.empty((len(queries), 0), np.int64)
    similarities = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(gallery), BLOCK):
        here = queries @ gallery[start : start + BLOCK].T
        near = np.argpartition(-here, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        similarities = np.hstack([similarities, np.take_along_axis(here, near, 1)])
        rows = np.hstack([rows, near + start])
        first = np.argsort(-similarities, axis=1)[:, :NEIGHBOURS]
        similarities, rows = (np.take_along_axis(one, first, 1) for one in (similarities, rows))
    np.save(folder / "exact.npy", rows)


def build(folder: Path, factory: str, shard: int | None = None) -> dict[str, Any]:
    """Train, add and write."""
    gallery = np.load(folder / "gallery.npy", mmap_mode="r")
    with peak_memory() as peak:
        start, worked = time.perf_counter(), time.process_time()
        FaissIndex.build_into(folder / factory, gallery, IndexConfig(factory=factory, shard=shard))
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
    size = sum(one.stat().st_size for one in (folder / factory).glob("*.faiss"))
    return {
        "rows": len(gallery),
        "index": factory,
        "shard": shard,
        "build_seconds": seconds,
        "build_processor_seconds": worked,
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


def vote(folder: Path, factory: str) -> dict[str, float]:
    """Fit the vote (every row's similarity to the bank) and let neighbours vote, whose index is
    all the same to it; of very many rows a tenth."""
    codes, queries, bank = (
        np.load(folder / f"{name}.npy") for name in ("codes", "queries", "bank")
    )
    descriptors = np.load(folder / "gallery.npy", mmap_mode="r")
    landmarks = [f"{code:06d}" for code in range(landmarks_of(len(codes)))]
    index = FaissIndex.load(folder / factory)
    gallery = Gallery.of(descriptors, codes.astype(np.int64), landmarks, bank, index)
    found = index.search(queries, NEIGHBOURS)
    config = VoteConfig(k=NEIGHBOURS)
    start = time.perf_counter()
    if len(codes) <= MANY_ROWS:
        classifier = VoteClassifier.fit(config, gallery)
    else:
        some = gallery.descriptors[: len(codes) // 10]
        found_for_some = bank_similarity(some, gallery.bank_searcher, config.bank_neighbours)
        corrections = np.resize(found_for_some, len(codes))
        classifier = VoteClassifier(config, gallery.codes, gallery.bank_searcher, corrections)
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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What was measured before; nothing at first."""
    return list(json.loads(path.read_text())["lines"]) if path.exists() else []


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"conditions": conditions(), "lines": lines}, indent=2) + "\n")


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
        "landmarks": f"{LANDMARKS} ({MANY_LANDMARKS} of five million rows)",
        "dimension": DIMENSION,
        "queries": QUERIES,
        "k": NEIGHBOURS,
        "bank": BANK,
    }


def against_autofaiss(folder: Path) -> list[dict[str, Any]]:
    """Both on the same rows: time to build, recall and time of a query."""
    apart(make_gallery, folder, AUTOFAISS_ROWS)
    apart(find_exactly, folder)
    factory = inverted_file(AUTOFAISS_ROWS)
    ours = apart(build, folder, factory) | apart(serve, folder, factory, (64,))[0]
    told = {"by": "landmarks", **ours}
    if find_spec("autofaiss") is None:
        return [told, {"by": "autofaiss", "index": "not installed"}]
    size = int(ours["bytes_per_row"] * AUTOFAISS_ROWS)
    pool = get_context("spawn").Pool(1)
    try:
        theirs = pool.apply_async(autofaiss_build, (folder, size)).get(AUTOFAISS_SECONDS)
    except MultiprocessingTimeout:
        theirs = {"index": f"did not end in {AUTOFAISS_SECONDS} s"}
    finally:
        pool.terminate()
    return [told, {"by": "autofaiss", "rows": AUTOFAISS_ROWS, **theirs}]


def autofaiss_build(folder: Path, size: int) -> dict[str, Any]:
    """What autofaiss makes of the rows in so many bytes, at a millisecond a query."""
    from autofaiss import build_index  # type: ignore[import-not-found]

    # autofaiss 2.18 names an argument as FAISS did before 1.15.
    opq = faiss.OPQMatrix
    faiss.OPQMatrix = lambda d, M, d2: opq(d, M, d2)  # noqa: N803
    gallery, queries = np.load(folder / "gallery.npy"), np.load(folder / "queries.npy")
    exact = np.load(folder / "exact.npy")[:, :10]
    with peak_memory() as peak:
        start, worked = time.perf_counter(), time.process_time()
        index, told = build_index(
            gallery, save_on_disk=False, metric_type="ip", max_index_query_time_ms=1.0,
            max_index_memory_usage=f"{size // 1000}KB", current_memory_available="16GB",
            nb_cores=len(os.sched_getaffinity(0)), should_be_memory_mappable=True,
        )  # fmt: skip
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
    search, found = timed(lambda: index.search(queries, NEIGHBOURS)[1][:, :10])
    hits = [len(np.intersect1d(a, b)) for a, b in zip(exact, found, strict=True)]
    return {
        "index": told["index_key"],
        "build_seconds": seconds,
        "build_processor_seconds": worked,
        "build_peak_mb": max(peak) / 1e6,
        "bytes_per_row": told["size in bytes"] / len(gallery),
        "search_seconds": search,
        "recall10": float(np.mean(hits)) / 10,
    }


def as_cell(name: str, value: Any) -> str:
    if isinstance(value, float):
        precise = name.startswith("recall") or name in {"search_seconds", "vote_seconds"}
        small = name.endswith("seconds") and value < 10
        return f"{value:,.{3 if precise else 1 if small else 0}f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def as_table(columns: Mapping[str, str], lines: Sequence[Mapping[str, Any]]) -> str:
    rows = [list(columns.values()), ["---"] * len(columns)]
    rows += [[as_cell(name, line.get(name)) for name in columns] for line in lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def growth(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a million rows take of each stage, by size: the same where time grows as rows do."""
    found = []
    for line in lines:
        if line["nprobe"] == 64 and line.get("shard") is None:
            many = line["rows"] / 1e6
            fitted = many if line["rows"] <= MANY_ROWS else many / 10
            found.append({
                "rows": line["rows"],
                "build": line["build_seconds"] / many,
                "fit": line["fit_seconds"] / fitted,
                "search_seconds": line["search_seconds"],
                "vote_seconds": line["vote_seconds"],
                "memory": line["resident_mb"] / many,
            })  # fmt: skip
    return found


def as_markdown(folder: Path) -> str:
    """All tables, headed by the conditions that each was measured under."""
    by = "`benchmarks/scale.py` and `benchmarks/scale_run.py`"
    pages = [f"# Scale\n\nBy {by}, on made-up descriptors.\n"]
    for file, title, columns in TABLES:
        path = folder / file
        if path.exists():
            told = json.loads(path.read_text())
            under = ", ".join(f"{name} {value}" for name, value in told["conditions"].items())
            pages.append(
                f"## {title}\n\n{as_table(columns, told['lines'])}\nMeasured under: {under}.\n"
            )
            if file == "scale.json":
                plot = "![Seconds of each stage by the rows of the gallery](scale-growth.svg)\n"
                pages.append(f"## Growth\n\n{as_table(GROWTH, growth(told['lines']))}\n{plot}")
    return "\n".join(pages)


if __name__ == "__main__":
    main()
