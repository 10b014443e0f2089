"""False accepts on photographs of none from a source that the bank has none of.

Of a data folder whose none.csv and test.csv tell where photographs come from (a column source), one
source is left out of the bank at a time, and the system built anew by the rest. Measured are the
test photographs of none of that source, and, beside it, the same by the whole bank. Sources that
test.csv has and the bank has not are measured by the whole bank alone. Figures are of the
classifier that the build itself let answer. The last line of a system pools all test photographs
of none, each judged by a bank without its source.

    python benchmarks/sources_of_none.py --data DATA [--weights FOLDER] [--systems hog ...]

Features are extracted once, and kept in --work.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from extracted import Extracted  # type: ignore[import-not-found]
from numpy.typing import NDArray

from pipelines.config import load_config
from retrieval.config import SystemConfig
from retrieval.devices import CPU, machine
from retrieval.photographs.table import DataSet, bank_origins, load_data_set, read_origins
from retrieval.storage.files import atomic_write, write_json
from retrieval.system import System
from retrieval.types import Flags

RESULTS = Path(__file__).parent / "results"
SYSTEMS = ("hog", "rootsift-vlad", "classical-global", "mobilenet_v2-gem", "resnet50-gem")
ALL = "all"


@dataclass(frozen=True)
class Figures:
    """Of one system and one source."""

    system: str
    source: str
    bank: int
    queries: int
    without: float
    whole: float
    accepted: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="with none.csv and test.csv")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    parser.add_argument("--work", type=Path, default=Path("data/sources-of-none"))
    parser.add_argument("--out", type=Path, default=RESULTS / "sources-of-none.json")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    data = load_data_set(options.data)
    if data.test is None or not any(bank_origins(data)):
        parser.error(f"{options.data} has no test.csv, or none.csv no column source")
    none = data.test[data.test["landmark"].isna()]
    origins = np.array(read_origins(options.data / "test.csv", none["id"]), dtype=object)
    rows: list[Figures] = []
    for name in options.systems:
        config = load_config(name)
        if name.startswith(("mobilenet", "resnet")):
            config = config.with_weights(options.weights)
        for row in measured(config, data, none, origins, options.work / name):
            print(line(row), flush=True)
            rows.append(row)
        told = {"machine": machine(), "data": data.folder.name, "rows": [vars(r) for r in rows]}
        write_json(options.out, told)
    atomic_write(options.out.with_suffix(".md"), markdown(rows, data.folder.name).encode())
    print(markdown(rows, data.folder.name))


def measured(
    config: SystemConfig,
    data: DataSet,
    none: pd.DataFrame,
    origins: NDArray[np.object_],
    work: Path,
) -> list[Figures]:
    """A line a source of the test's photographs of none, and one of all of them."""
    table = data.photographs
    taught = Extracted.of(config, table, work / "taught")
    asked = Extracted.of(config, none, work / "none")
    of_bank = np.array(bank_origins(data), dtype=object)
    whole = accepted(config, data, taught, asked)
    pooled = whole.copy()
    rows = []
    for source in dict.fromkeys([*sorted(set(of_bank)), *sorted(set(origins))]):
        own, kept = origins == source, of_bank != source
        if not own.any():
            continue
        left = whole
        if not kept.all():
            bank = data.bank[kept].reset_index(drop=True)
            left = accepted(config, replace(data, bank=bank), taught, asked)
        pooled[own] = left[own]
        wrong = list(none["id"][own & left])
        rows.append(
            Figures(config.name, source, int(kept.sum()), int(own.sum()), float(left[own].mean()),
                    float(whole[own].mean()), wrong)
        )  # fmt: skip
    total = float(pooled.mean()), float(whole.mean())
    return [*rows, Figures(config.name, ALL, len(of_bank), len(none), *total, [])]


def accepted(config: SystemConfig, data: DataSet, taught: Extracted, asked: Extracted) -> Flags:
    """Which photographs a system built from the data takes for a landmark."""
    run = Path(tempfile.mkdtemp(prefix="sources-"))
    try:
        taught.build(config, data, run)
        system = System.load(run, CPU)
        described, _ = system.describer.from_outcomes(asked.outcomes(asked.ids))
        return system.answers(described).accepted
    finally:
        shutil.rmtree(run, ignore_errors=True)


def line(one: Figures) -> str:
    return (
        f"{one.system}, {one.source}: {one.queries} photographs, a bank of {one.bank}: false"
        f" accepts {one.without:.3f}, by the whole bank {one.whole:.3f}"
    )


def markdown(rows: Sequence[Figures], data: str) -> str:
    """A line a source, a pair of columns a system."""
    systems = list(dict.fromkeys(one.system for one in rows))
    by = {(one.system, one.source): one for one in rows}
    counts = Counter(one.source for one in rows)
    head = ["source", "photographs", "bank without it", *systems]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for source in counts:
        cells = []
        for system in systems:
            one = by[system, source]
            cells.append(f"{one.without:.3f} ({one.whole:.3f})")
        left = "" if source == ALL else f"{one.bank:,}"
        lines.append(f"| {' | '.join([source, f'{one.queries:,}', left, *cells])} |")
    return (
        f"# Sources of none\n\nFalse accepts on test photographs of none of {data} by a bank"
        " without their source, and, in brackets, by the whole bank;"
        " `benchmarks/sources_of_none.py` tells how.\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
