"""Whether the memory that classify needs grows with the rows.

A loopback server serves 200 photographs over and over; classify runs in a process of its own for
each number of rows, with a describer that is fast for the purpose (mean colours), and says how
much memory it had at its peak, and how much of that the libraries had before the first row.

    python benchmarks/classify_memory.py --rows 2000 200000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipelines.answering.classify import classify_list
from retrieval.descriptors.base import VectorExtractor
from retrieval.descriptors.describer import Describer, Errors
from retrieval.descriptors.representation import Representation
from retrieval.frontend import Classical
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.predictions import blank_predictions
from retrieval.storage.files import write_json
from retrieval.types import Photograph, Vectors

PHOTOGRAPHS = 200
SIDE = 128

RESULTS = Path(__file__).parent / "results"


class MeanColours(Classical, VectorExtractor):
    """Describes a photograph by its mean colour."""

    longest_side = SIDE
    dimension = 3

    def identity(self) -> dict[str, Any]:
        return {}

    def features(self, photographs: Sequence[Photograph]) -> list[Vectors]:
        return [np.float32(cv2.mean(photograph)[:3]) for photograph in photographs]


class Brightest:
    """A system whose landmark is the strongest colour."""

    fingerprint = "brightest"
    query_describer = Describer(MeanColours(), None)

    def predictions(
        self,
        ids: Sequence[str],
        descriptors: Representation,
        top: int = 0,
        near: int = 1,
        errors: Errors | None = None,
    ) -> pd.DataFrame:
        columns = blank_predictions(len(ids), top, near)
        columns["id"][:] = ids
        columns["landmark"] = np.array(["red", "green", "blue"])[descriptors.vectors.argmax(axis=1)]
        columns["probability"] = descriptors.vectors.max(axis=1)
        columns["status"][:] = "ok"
        return pd.DataFrame(columns)


def make_photographs(folder: Path) -> None:
    """Noise at a coarse scale: a few kilobytes each, and no two alike."""
    random = np.random.default_rng(0)
    for i in range(PHOTOGRAPHS):
        coarse = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (SIDE, SIDE * 3 // 4), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.jpg"), pixels)


def measure(address: str, rows: int, folder: Path) -> dict[str, float]:
    """Classify that many rows in a process of its own."""
    table = folder / f"{rows}.csv"
    with table.open("w") as file:
        file.write("id,url\n")
        file.writelines(f"{i},{address}/{i % PHOTOGRAPHS}.jpg\n" for i in range(rows))
    command = [sys.executable, __file__, "--table", str(table)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(told.splitlines()[-1])
    return figures


def classify_here(table: Path) -> None:
    libraries, begun = peak_mb(), time.perf_counter()
    fetch = FetchConfig(allow_private=True, per_host=32)
    summary = classify_list(Brightest(), table, table.with_suffix(".out.csv"), fetch=fetch)
    figures = {
        "rows": summary.rows,
        "failed": summary.failed,
        "seconds": round(time.perf_counter() - begun, 1),
        "libraries_mb": libraries,
        "peak_mb": peak_mb(),
    }
    print(json.dumps(figures))


def peak_mb() -> float:
    """The most memory that this process has had so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs=2, default=(2_000, 200_000))
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "classify-memory.json", help="a JSON file"
    )
    parser.add_argument("--table", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table is not None:
        classify_here(options.table)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photographs(folder)
        command = [sys.executable, "-m", "pipelines.loopback", str(folder)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            measured = []
            for rows in options.rows:
                measured.append(measure(address, rows, folder))
                print(
                    "{rows:,} rows: {peak_mb} MB at the peak, {libraries_mb} MB of it libraries;"
                    " {seconds} s, {failed} failed".format(**measured[-1]),
                    flush=True,
                )
            server.stdin.close()
    ratio = measured[1]["peak_mb"] / measured[0]["peak_mb"]
    print(f"{ratio:.3f} times the memory for {options.rows[1] // options.rows[0]} times the rows")
    write_json(options.out, {"measured": measured, "ratio": ratio})


if __name__ == "__main__":
    main()
