"""How near `landmarks plan` comes to what then happens: seconds, memory and disk of whole builds.

Photographs of two data folders are put together to galleries of several sizes, three quarters with
a landmark. For each, and each system, the plan is asked, with its probe, and then the build is run
as a command from nothing. What it took by the clock, of memory and of disk is written beside what
was foretold. A busy machine is busy for both, if not evenly.

    python benchmarks/planning.py --data LANDMARKS52 --more HOLIDAYS --weights WEIGHTS
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.building.costs import STAGES
from pipelines.building.planning import Plan, Wishes, plan_of
from retrieval.devices import CPU, machine
from retrieval.storage.files import atomic_write, write_json

RESULTS = Path(__file__).parent / "results"
MAIN = "from pipelines.main import main; main()"
SIZES = (200, 800, 3000)
SYSTEMS = ("hog", "mobilenet_v2-gem")
SHOWN = 0.75
"""The share of photographs that show a landmark."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="index.csv, none.csv, test.csv")
    parser.add_argument("--more", type=Path, required=True, help="a folder of INRIA Holidays")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    parser.add_argument("--out", type=Path, default=RESULTS / "planning.md")
    options = parser.parse_args()
    pool = photographs(options.data, options.more)
    told: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="planning-") as name:
        for system in options.systems:
            for size in options.sizes:
                data = put(pool, size, Path(name) / f"data-{size}")
                wishes = Wishes(config=system, weights=options.weights, device=CPU)
                plan = plan_of(data, wishes)
                run = Path(name) / f"{system}-{size}"
                told.append(told_of(system, size, plan, built(system, data, run, options.weights)))
                print(json.dumps(told[-1]), flush=True)
    write_json(options.out.with_suffix(".json"), {"machine": machine(), "builds": told})
    atomic_write(options.out, as_markdown(told).encode())


def photographs(data: Path, more: Path) -> pd.DataFrame:
    """All photographs of both folders: ``path`` and ``landmark_id``, missing for none."""
    tables = [pd.read_csv(data / f"{name}.csv", dtype=str) for name in ("index", "none", "test")]
    own = pd.concat(tables)
    own["path"] = [str(data.resolve() / path) for path in own["path"]]
    others = sorted((more / "photos").glob("*.jpg"))
    groups = pd.DataFrame({
        "id": [f"h{one.stem}" for one in others],
        "path": [str(one.resolve()) for one in others],
        "landmark_id": [f"group{one.stem[:4]}" for one in others],
    })  # fmt: skip
    return pd.concat([own, groups])[["id", "path", "landmark_id"]]


def put(pool: pd.DataFrame, size: int, folder: Path) -> Path:
    """A data folder of so many of the photographs."""
    shown = pool["landmark_id"].notna()
    gallery = pool[shown].head(round(size * SHOWN))
    bank = pool[~shown].head(size - len(gallery))
    folder.mkdir(exist_ok=True)
    gallery.to_csv(folder / "index.csv", index=False)
    bank.to_csv(folder / "none.csv", index=False)
    return folder


def built(system: str, data: Path, run: Path, weights: Path | None) -> dict[str, Any]:
    """Build a run in a process of its own; what it took."""
    command = [sys.executable, "-c", MAIN, "index", "--config", system, "--data", str(data),
               "--run", str(run), "--device", CPU]  # fmt: skip
    if weights is not None:
        command += ["--weights", str(weights)]
    begun, used = time.perf_counter(), os.times()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(said.decode()[-2000:])
    now = os.times()
    files = [path for path in run.rglob("*") if path.is_file()]
    return {
        "seconds": time.perf_counter() - begun,
        "processor": now.children_user + now.children_system
        - used.children_user - used.children_system,
        "memory": usage.ru_maxrss * 1024 if sys.platform == "linux" else usage.ru_maxrss,
        "disk": sum(path.stat().st_size for path in files),
        "stages": json.loads((run / "run.json").read_text())["timings"],
        "load": os.getloadavg()[0],
    }  # fmt: skip


def told_of(system: str, size: int, plan: Plan, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "system": system,
        "photographs": size,
        "pace": plan.option.work.pace,
        "foretold": {
            "seconds": plan.seconds,
            "memory": plan.memory,
            "disk": plan.disk,
            "stages": {one.name: one.seconds for one in plan.stages},
        },
        "found": dict(found),
    }


def as_markdown(told: Sequence[Mapping[str, Any]]) -> str:
    under = machine()
    lines = [
        "# Planning",
        "",
        "By `benchmarks/planning.py`, whose head says how: what `landmarks plan` foretold, and what"
        f" `landmarks index` then took, on {under['cores']} cores of {under['processor']}. Pace:"
        " how many times as long as on an idle machine the probe's matrices took; load: processes"
        " that wanted a core when the build was done.",
        "",
        "| system | photographs | s | then | | memory, MB | then | | disk, MB | then |"
        " | processor, s | pace | load |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    stages = [
        "",
        "| system | photographs | " + " | ".join(f"{one}, s | then" for one in STAGES) + " |",
        "|---|---|" + "---|---|" * len(STAGES),
    ]
    for one in told:
        foretold, found = one["foretold"], one["found"]
        cells = [one["system"], f"{one['photographs']:,}"]
        for key, unit in (("seconds", 1), ("memory", 1e6), ("disk", 1e6)):
            before, then = foretold[key] / unit, found[key] / unit
            cells += [f"{before:,.0f}", f"{then:,.0f}", f"× {then / before:.2f}"]
        cells += [f"{found['processor']:.0f}", f"{one['pace']:.1f}", f"{found['load']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
        each = [
            f"{foretold['stages'].get(name, 0.0):.1f} | {found['stages'].get(name, 0.0):.1f}"
            for name in STAGES
        ]
        stages.append("| " + " | ".join([one["system"], f"{one['photographs']:,}", *each]) + " |")
    return "\n".join([*lines, *stages, ""])


if __name__ == "__main__":
    main()
