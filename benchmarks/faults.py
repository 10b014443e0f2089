"""What breaks does no harm: killed commands, full disks, flipped bits, odd photographs and configs.

Each command (index, classify, train, add, remove) is killed at random moments and given again: its
files are to be the bytes of a run that nobody killed. Each is given on a disk that is full, and on
one that is read-only: one line names file and remedy, and once there is room it goes on to the
same bytes. Every file of a run is damaged in several ways: the answers stay, or one line names the
file, and ``landmarks index`` makes it whole. Photographs and configs are mutated: none may end in
a traceback, or take longer than seconds. Nothing leaves this machine. A full disk is a file system
of 20 MB in memory, which takes the right to mount one; without it that part is skipped, and says
so.

    python benchmarks/faults.py            # ten minutes on two cores
    python benchmarks/faults.py --small    # a few of each
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from PIL import Image

from pipelines.building.index import build_run
from pipelines.building.replacing import begin_build
from pipelines.config import CONFIGS, config_names, load_config
from pipelines.demo.rendering.data_set import render_data_set
from retrieval.devices import machine
from retrieval.errors import LandmarksError, PhotographError
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.table import load_data_set
from retrieval.storage.files import atomic_write
from retrieval.system import System

RESULTS = Path(__file__).parent / "results"
PROCESSES: Final = multiprocessing.get_context("forkserver")
CLOCKS: Final = (".lock", "timings.json", "tensorboard")
"""What tells of the time of day."""
FORMATS: Final = {
    "JPEG": {"quality": 85}, "progressive JPEG": {"quality": 85, "progressive": True}, "PNG": {},
    "WebP": {"quality": 80}, "TIFF": {"compression": "tiff_deflate"}, "BMP": {}, "GIF": {},
}  # fmt: skip
SECONDS: Final = 10.0
"""A photograph or config that takes longer hangs."""
DISK: Final = 20 << 20
SYSTEM: Final[Mapping[str, Any]] = {
    "name": "faults",
    "extractor": {"kind": "hog", "side": 64, "cells": [16]},
    "whitening": {"dimension": 16},
    "local": {
        "detector": {"kind": "sift", "size": 128, "keypoints": 60},
        "words": {"kind": "asmk", "words": 16, "assignments": 2},
        "kept": {"features": 40, "dimension": 16},
    },
    "search": {"verification": {"top": 5}, "expansion": {"gallery": 2}},
    "classifiers": {"knn": {"kind": "knn", "k": 5}, "svm": {"kind": "svm"}},
}
LEARNER: Final[Mapping[str, Any]] = {
    "name": "learner",
    "training": {
        "network": {
            "trunk": "mobilenet_v3_small",
            "layer": "features.3",
            "weights": "none",
            "neck": {"dimension": 16},
        },
        "size": 96, "crop": 80, "epochs": 3, "batch": 8, "views": 2, "validation": 0.3,
        "checkpoint_every": 1, "precision": "float32",
    },
    "extractor": {"kind": "trained"},
    "whitening": None,
    "classifiers": {"knn": {"kind": "knn", "k": 5}},
}  # fmt: skip


@dataclass
class Tally:
    """What one kind of fault came to.

    Attributes:
        what: the fault.
        tried: how often.
        held: how often all was as it should be.
        said: further figures.
        broken: what was not, a line each.
    """

    what: str
    tried: int = 0
    held: int = 0
    said: str = ""
    broken: list[str] = field(default_factory=list)

    def note(self, broken: str = "") -> None:
        """One more try, and what was wrong with it."""
        self.tried += 1
        self.held += not broken
        if broken:
            self.broken.append(broken)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (negative: the signal), what it printed, how long."""

    code: int
    text: str
    seconds: float


def _obey(arguments: Sequence[str], log: str) -> None:
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from pipelines.main import main as landmarks

    sys.argv = ["landmarks", *arguments]
    landmarks()


def command(arguments: Sequence[str], kill_after: float | None = None) -> Outcome:
    """Run ``landmarks`` in a process of its own, killed after so many seconds if told."""
    with tempfile.NamedTemporaryFile() as log:
        process = PROCESSES.Process(target=_obey, args=(arguments, log.name))
        begun = time.perf_counter()
        process.start()
        process.join(kill_after if kill_after is not None else 20 * SECONDS)
        if process.is_alive():
            process.kill()
        process.join()
        seconds = time.perf_counter() - begun
        text = Path(log.name).read_text(errors="replace")
        return Outcome(process.exitcode or 0, text, seconds)


def one_line(outcome: Outcome, *named: str) -> str:
    """What is wrong with a refusal; empty where it is one that names what it should."""
    last = (outcome.text.strip().splitlines() or [""])[-1]
    if "Traceback" in outcome.text or outcome.code != 2:
        return f"exit {outcome.code}: {last[:200]}"
    return "" if all(one in last for one in named) else f"says no more than: {last[:200]}"


def contents(folder: Path) -> dict[str, Any]:
    """Every file below a folder by its path, but for what tells of the time of day."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not set(name.parts) & set(CLOCKS):
            found[str(name)] = path.read_bytes()
            if path.name == "run.json":
                record = json.loads(found[str(name)])
                found[str(name)] = {
                    k: v for k, v in record.items() if k not in ("timings", "sha256")
                }
    return found


def difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The first file in which two folders differ; empty where they are alike.

    What is kept for another whitening does not count: it is looked at when that is asked for.
    """
    for name in sorted(wanted.keys() | found.keys()):
        if "aggregated/" not in name and wanted.get(name) != found.get(name):
            return f"{name} differs"
    return ""


@dataclass(frozen=True)
class Stage:
    """A place to give commands in: photographs, configs, and a built run to copy.

    Attributes:
        folder: of all of it.
        rng: of what is random.
    """

    folder: Path
    rng: random.Random

    @classmethod
    def set_up(cls, folder: Path, seed: int, landmarks: int, none: int) -> Stage:
        """Render some small photographs, write the configs, build the run."""
        data = folder / "data"
        render_data_set(folder / "full", seed=seed, landmarks=landmarks, gallery_views=4,
                        query_views=1, none=none)  # fmt: skip
        for path in sorted((folder / "full").rglob("*")):
            if path.suffix == ".csv":
                shutil.copy(path, _parent(data / path.relative_to(folder / "full")))
            elif path.suffix == ".jpg":
                small = Image.open(path)
                small.thumbnail((128, 128))
                small.save(_parent(data / path.relative_to(folder / "full")), quality=90)
        for name, values in (("system", SYSTEM), ("learner", LEARNER)):
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(dict(values)))
        rows = (data / "test.csv").read_text().splitlines()
        header = rows[0].split(",")
        more = [dict(zip(header, row.split(","), strict=True)) for row in rows[1:]]
        lines = [f"{one['id']},{data / one['path']},{one['landmark_id']}" for one in more]
        (folder / "more.csv").write_text("\n".join(["id,path,landmark_id", *lines]) + "\n")
        photographs = sorted(data.rglob("*.jpg"))
        (folder / "list.csv").write_text(
            "\n".join(["id,url", *(f"{i},{one}" for i, one in enumerate(photographs))]) + "\n"
        )
        stage = cls(folder, random.Random(seed))
        built = command(stage.arguments("index", folder / "built"))
        if built.code:
            raise RuntimeError(built.text)
        return stage

    def arguments(self, name: str, run: Path) -> list[str]:
        """A command upon a run."""
        build = ["--data", str(self.folder / "data"), "--run", str(run), "--device", "cpu"]
        first = (self.folder / "data" / "index.csv").read_text().splitlines()[1].split(",")[0]
        return {
            "index": ["index", "--config", str(self.folder / "system.yaml"), *build],
            "train": ["train", str(self.folder / "learner.yaml"), *build],
            "add": ["add", str(self.folder / "more.csv"), "--run", str(run), "--device", "cpu"],
            "remove": ["remove", first, "--run", str(run), "--device", "cpu"],
            "classify": ["classify", str(self.folder / "list.csv"), "--run", str(run),
                         "--out", str(run / "predictions.csv"), "--device", "cpu"],
        }[name]  # fmt: skip

    def fresh(self, name: str, run: Path) -> Path:
        """A run as a command finds it."""
        shutil.rmtree(run, ignore_errors=True)
        if name not in ("index", "train"):
            shutil.copytree(self.folder / "built", run)
        return run


COMMANDS: Final = ("index", "classify", "train", "add", "remove")


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def killed(stage: Stage, name: str, times: int) -> Tally:
    """Kill a command at random moments; the same command again has to end in the same bytes."""
    tally = Tally(f"`{name}` killed, given again")
    run = stage.folder / "killed"
    outcome = command(stage.arguments(name, stage.fresh(name, run)))
    wanted = contents(run)
    if outcome.code:
        raise RuntimeError(outcome.text)
    cut = 0
    for _ in range(times):
        stage.fresh(name, run)
        moment = stage.rng.uniform(0, outcome.seconds)
        cut += command(stage.arguments(name, run), moment).code < 0
        again = command(stage.arguments(name, run))
        wrong = difference(wanted, contents(run)) if again.code == 0 else one_line(again)
        tally.note(wrong and f"killed after {moment:.2f} s: {wrong}")
    tally.said = f"{cut} cut short, {outcome.seconds:.1f} s each"
    return tally


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of 20 MB in memory at a folder; whether it could be had."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def full(stage: Stage, name: str, rooms: Sequence[int]) -> Tally:
    """Give a command on a disk with little room: one line, and then with room the same bytes."""
    tally = Tally(f"`{name}` on a full disk")
    run = stage.folder / "whole"
    command(stage.arguments(name, stage.fresh(name, run)))
    wanted = contents(run)
    disk = stage.folder / "disk"
    with small_disk(disk) as mounted:
        if not mounted:
            tally.said = "skipped: no right to mount a file system"
            return tally
        for room in rooms:
            stage.fresh(name, disk / "run")
            filler = disk / "filler"
            space = os.statvfs(disk)
            filler.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - room)))
            refused = command(stage.arguments(name, disk / "run"))
            wrong = "" if refused.code == 0 else one_line(refused, str(disk), "make room")
            filler.unlink()
            again = command(stage.arguments(name, disk / "run"))
            same = difference(_at(wanted, run, disk / "run"), contents(disk / "run"))
            wrong = wrong or (one_line(again) if again.code else same)
            tally.note(wrong and f"{room:,} bytes left: {wrong}")
    return tally


def _at(files: Mapping[str, Any], here: Path, there: Path) -> dict[str, Any]:
    """The contents of a run, as they are in another folder."""
    old, new = str(here).encode(), str(there).encode()
    return {k: one.replace(old, new) if isinstance(one, bytes) else one for k, one in files.items()}


def read_only(stage: Stage, names: Sequence[str]) -> Tally:
    """Give each command upon a run on a read-only file system: one line."""
    tally = Tally("each command in a read-only folder")
    disk = stage.folder / "disk"
    with small_disk(disk) as mounted:
        if not mounted:
            tally.said = "skipped: no right to mount a file system"
            return tally
        for name in names:
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            stage.fresh(name, disk / "run")
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            wrong = one_line(command(stage.arguments(name, disk / "run")), str(disk))
            tally.note(wrong and f"{name}: {wrong}")
    return tally


def damages(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """A file's bytes in ways in which disks and copies leave them."""
    for _ in range(3 if data else 0):
        place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        yield f"bit {bit} of byte {place}", _with(data, place, bytes([data[place] ^ bit]))
    if len(data) > 8:
        yield "the first half", data[: len(data) // 2]
        yield "no last byte", data[:-1]
        start = rng.randrange(len(data) // 2)
        yield "a zeroed middle", _with(data, start, bytes(len(data) // 4 + 1))
    yield "nothing", b""
    yield "other bytes", rng.randbytes(len(data) + 1)


def _with(data: bytes, place: int, other: bytes) -> bytes:
    return data[:place] + other + data[place + len(other) :]


def damageable(run: Path) -> list[str]:
    """Files of a run that are read again, by their paths in it."""
    names = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file()]
    return [str(name) for name in names if name.name != ".lock" and "predictions" not in name.name]


def damaged(stage: Stage, most: int) -> Tally:
    """Damage every file of a run: same answers or one line that names it, and then the remedy."""
    tally = Tally("files of a run damaged")
    run = stage.folder / "damaged"
    shutil.copytree(stage.folder / "built", run)
    photographs = sorted(map(str, (stage.folder / "data").rglob("*.jpg")))[:4]
    names = damageable(run)[:most]
    works = [
        (name, (run, stage.folder, photographs, stage.rng.randrange(1 << 30))) for name in names
    ]
    in_a_process(works, "damage", tally)
    tally.said = "each: 8 damages, then `index` again to the same bytes"
    return tally


def _damage(name: str, run: Path, folder: Path, photographs: Sequence[str], seed: int) -> str:
    """Damage one file in turn; what is wrong with what a system answers from it, and `index`."""
    answers = System.load(run, "cpu").classify(photographs)
    wanted, data = contents(run), (run / name).read_bytes()
    wrong = ""
    for how, bytes_now in damages(data, random.Random(seed)):
        (run / name).write_bytes(bytes_now)

        def answered() -> None:
            if not System.load(run, "cpu").classify(photographs).equals(answers):
                raise AssertionError("another answer, in silence")

        wrong = wrong or _with_name(
            _timed(answered, LandmarksError, (Path(name).name, "again")), how
        )
    config, data_set = load_config(str(folder / "system.yaml")), load_data_set(folder / "data")

    def indexed() -> None:
        begin_build(run, config, data_set, None, "cpu", replace=False, agreed=lambda held: False)
        build_run(config, data_set, run, "cpu")

    wrong = wrong or _timed(indexed, LandmarksError)
    wrong = wrong or difference(wanted, contents(run))
    if wrong:
        shutil.rmtree(run)
        shutil.copytree(folder / "built", run)
    return wrong


def _with_name(wrong: str, how: str) -> str:
    return wrong and f"{how}: {wrong}"


def _timed(work: Callable[[], object], allowed: type[Exception], named: Sequence[str] = ()) -> str:
    """What is wrong with how something bad was taken; empty where it was refused or read."""
    begun = time.perf_counter()
    try:
        work()
    except allowed as error:
        if "\n" in str(error) or len(str(error)) > 1000:
            return f"a message of {len(str(error))} letters: {str(error)[:100]!r}"
        if not all(one in str(error) for one in named):
            return f"says no more than {str(error)[:200]!r}"
    except Exception:
        return traceback.format_exc().strip().splitlines()[-1]
    taken = time.perf_counter() - begun
    return "" if taken < SECONDS else f"took {taken:.0f} s"


def _each(works: Sequence[tuple[str, Any]], queue: Any, kind: str) -> None:
    for what, one in works:
        if kind == "damage":
            wrong = _damage(what, *one)
        elif kind == "photographs":
            wrong = _timed(lambda one=one: read_photograph(one, 512), PhotographError)
        else:
            wrong = _timed(lambda one=one: load_config(one), LandmarksError)
        queue.put((what, wrong))


def in_a_process(works: Sequence[tuple[str, Any]], kind: str, tally: Tally) -> None:
    """Do works one by one in a process that may crash or hang: what it stopped at is named."""
    left = list(works)
    while left:
        queue = PROCESSES.SimpleQueue()
        process = PROCESSES.Process(target=_each, args=(left, queue, kind))
        process.start()
        while left:
            deadline = time.perf_counter() + 3 * SECONDS
            while queue.empty() and process.is_alive() and time.perf_counter() < deadline:
                time.sleep(0.005)
            if queue.empty():
                break
            what, wrong = queue.get()
            tally.note(wrong and f"{what}: {wrong}")
            left.pop(0)
        if left:
            how = "hangs" if process.is_alive() else f"ends the process ({process.exitcode})"
            process.kill()
            tally.note(f"{left.pop(0)[0]}: {how}")
        process.join()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file's bytes with some of them others, gone, twice or cut off."""
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(min(len(data), 200) if rng.random() < 0.4 else len(data))
        other = rng.choice((rng.randbytes(1), rng.randbytes(4), b"\xff" * 4, bytes(4), b""))
        how = rng.random()
        if how < 0.6:
            data = _with(data, place, other)
        elif how < 0.75:
            data = data[:place] + other + data[place:]
        elif how < 0.9:
            data = data[:place] + data[place + rng.randrange(64) :]
        else:
            data = data[: place + 1]
        data = data or b"\0"
    return data


def odd_photographs(stage: Stage, count: int) -> Tally:
    """Decode mutated photographs of seven formats."""
    tally = Tally(f"photographs of {len(FORMATS)} formats mutated")
    folder = stage.folder / "odd"
    folder.mkdir()
    shown = [Image.open(path) for path in sorted((stage.folder / "data").rglob("*.jpg"))[:4]]
    works = []
    for number in range(count):
        name, options = list(FORMATS.items())[number % len(FORMATS)]
        path = folder / f"{number}.{name.split()[-1].lower()}"
        image = shown[stage.rng.randrange(len(shown))]
        image.save(path, name.split()[-1], **options)
        path.write_bytes(mutated(path.read_bytes(), stage.rng))
        works.append((f"photograph {number}, {name}", str(path)))
    in_a_process(works, "photographs", tally)
    return tally


def odd_configs(stage: Stage, count: int) -> Tally:
    """Read mutated configs: letters, lines and values."""
    tally = Tally("configs mutated")
    folder = stage.folder / "configs"
    folder.mkdir()
    texts = [(CONFIGS / f"{name}.yaml").read_text() for name in config_names()]
    values = (
        "1e300", "-1e300", "1e-300", "1e400", ".nan", ".inf", str(10**30), "9" * 5000, "2001-99-99",
        "[" * 5000, "{a: " * 500, "&a [*a]", "!!python/name:os.system", "../../x", "/x", "null",
        "[]", "{}", "-1", "0", "true", '"\\ud800"', "'" + "x" * 9000 + "'",
    )  # fmt: skip
    works = []
    for number in range(count):
        text = texts[stage.rng.randrange(len(texts))]
        lines = text.splitlines()
        place = stage.rng.randrange(len(lines))
        how = stage.rng.random()
        if how < 0.6:
            key = lines[place].partition(":")[0]
            lines[place] = f"{key}: {stage.rng.choice(values)}"
        elif how < 0.8:
            lines.insert(place, lines[stage.rng.randrange(len(lines))])
        data = "\n".join(lines).encode()
        path = folder / f"{number}.yaml"
        path.write_bytes(data if how < 0.7 else mutated(data, stage.rng))
        works.append((f"config {number}", str(path)))
    in_a_process(works, "configs", tally)
    return tally


def measure(stage: Stage, small: bool) -> Iterator[Tally]:
    """All of it, one kind after the other."""
    times = 1 if small else 20
    names = ("remove",) if small else COMMANDS
    for name in names:
        yield killed(stage, name, times)
    for name in names:
        yield full(stage, name, (0,) if small else (0, 4096, 65_536, 262_144))
    yield read_only(stage, names)
    yield damaged(stage, 2 if small else 10_000)
    yield odd_photographs(stage, 42 if small else 1000)
    yield odd_configs(stage, 40 if small else 1000)


def markdown(tallies: Sequence[Tally], seconds: float) -> str:
    """The tallies as a page."""
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    lines = [
        "# Faults",
        "",
        f"By `benchmarks/faults.py`, in {seconds:.0f} s: {where}.",
        "",
        "| what | tried | as it should be | |",
        "| --- | --- | --- | --- |",
        *(f"| {one.what} | {one.tried:,} | {one.held:,} | {one.said} |" for one in tallies),
    ]
    broken = [f"- {one.what}: {line}" for one in tallies for line in one.broken]
    return "\n".join([*lines, *(["", "What was not:", "", *broken] if broken else [])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a few of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "faults.md", help="a Markdown file")
    options = parser.parse_args()
    PROCESSES.set_forkserver_preload(
        [
            "pipelines.cli",
            "pipelines.building.index",
            "retrieval.system",
            "pipelines.building.train",
            "pipelines.answering.classify",
            "pipelines.config",
        ]
    )
    begun = time.perf_counter()
    tallies = []
    with tempfile.TemporaryDirectory() as name:
        stage = Stage.set_up(Path(name), options.seed, *((2, 4) if options.small else (6, 8)))
        for one in measure(stage, options.small):
            tallies.append(one)
            print(f"{one.what}: {one.held} of {one.tried} {one.said}", flush=True)
            for line in one.broken:
                print(f"  {line}", flush=True)
    text = markdown(tallies, time.perf_counter() - begun)
    atomic_write(options.out, text.encode())
    sys.exit(any(one.broken for one in tallies))


if __name__ == "__main__":
    main()
