"""What `landmarks score` takes on a recognition solution of the official size, start-up included.

117,577 made-up photographs: one in twenty of a landmark, some of several, some said to be None, a
third Ignored. The submission answers every one of them, which costs the most.
Writes results/scoring.json.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from retrieval.devices import machine
from retrieval.storage.files import write_json

RESULTS = Path(__file__).parent / "results"
PHOTOGRAPHS = 117_577
LANDMARKS = 200_000


def make(folder: Path) -> tuple[Path, Path]:
    """A submission and a solution."""
    dice = random.Random(0)
    ids = [f"{dice.getrandbits(64):016x}" for _ in range(PHOTOGRAPHS)]
    submission, solution = folder / "submission.csv", folder / "solution.csv"
    with submission.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "landmarks"])
        rows.writerows((one, f"{dice.randrange(LANDMARKS)} {dice.random()}") for one in ids)
    with solution.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "landmarks", "Usage"])
        for one in ids:
            shown = " ".join(str(dice.randrange(LANDMARKS)) for _ in range(dice.randint(1, 3)))
            cell = dice.choices((shown, "None", ""), (5, 5, 90))[0]
            rows.writerow([one, cell, dice.choice(("Public", "Private", "Ignored"))])
    return submission, solution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "scoring.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = make(Path(folder))
        taken = []
        for _ in range(options.rounds):
            begun = time.perf_counter()
            command = [str(Path(sys.executable).with_name("landmarks")), "score", *map(str, files)]
            subprocess.run(command, check=True, capture_output=True)
            taken.append(time.perf_counter() - begun)
    told = {"rows": PHOTOGRAPHS, "seconds": statistics.median(taken), "seconds_each": taken}
    print(f"{PHOTOGRAPHS:,} rows: {told['seconds']:.2f} s, the median of {options.rounds}")
    write_json(options.out, {**told, "machine": machine()})


if __name__ == "__main__":
    main()
