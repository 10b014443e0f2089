"""The demo's data set on disk: photographs and tables."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from pipelines.demo.rendering import camera as film
from pipelines.demo.rendering import scenery
from pipelines.demo.rendering.landmarks import Landmark, landmark
from pipelines.demo.rendering.plain import KINDS, plain_scene
from pipelines.demo.rendering.scene import Scene, photograph
from pipelines.demo.rendering.weather import draw_weather

COLUMNS = ("id", "path", "landmark_id", "source")
SOURCE = "demo"
LANDMARKS, GALLERY_VIEWS, QUERY_VIEWS, NONE = 52, 10, 4, 150
PHOTOGRAPHS = LANDMARKS * (GALLERY_VIEWS + QUERY_VIEWS) + NONE
Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Rendered:
    """A photograph: its id, its table ("index", "test" or "none") and its landmark's id or ""."""

    id: str
    table: str
    landmark_id: str

    @property
    def path(self) -> str:
        """Where it lies below the data set's folder."""
        return f"photos/{'/'.join(self.id[:3])}/{self.id}.jpg"


def render_data_set(
    folder: Path,
    *,
    seed: int = 0,
    landmarks: int = LANDMARKS,
    gallery_views: int = GALLERY_VIEWS,
    query_views: int = QUERY_VIEWS,
    none: int = NONE,
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Renders the demo's photographs into `folder` and writes their tables.

    folder/photos/a/b/c/<id>.jpg; index.csv (gallery), test.csv (queries and half of the photographs
    without a landmark), none.csv (the other half, the bank): columns id, path (below the folder),
    landmark_id (empty for none), source; and landmarks.csv: landmark_id, name. The bytes depend on
    the seed and the counts alone, not on `workers` (processes; one a core unless given; 1 renders
    in this process). `progress` receives (photographs done since its last call, 0). The tables
    are written last, so that a folder with index.csv is complete.

    The work is many small calls of NumPy and OpenCV, which threads would take one after the other
    (they hold the interpreter's lock), hence processes; spawned ones, since forking a process that
    has loaded torch or faiss is not safe. A script that calls this needs the usual
    `if __name__ == "__main__"`.
    """
    subjects = [landmark(number) for number in range(landmarks)]
    jobs: list[Callable[[], list[Rendered]]] = [
        partial(_render_landmark, folder, seed, subject, gallery_views, query_views)
        for subject in subjects
    ]
    jobs += [
        partial(_render_plain, folder, seed, numbers)
        for numbers in _batches(range(none), gallery_views + query_views)
    ]
    rows: list[Rendered] = []
    for done in run_jobs(jobs, workers or os.cpu_count() or 1):
        rows += done
        if progress is not None:
            progress(len(done), 0)
    names = [(subject.id, subject.name) for subject in subjects]
    _write(folder / "landmarks.csv", ("landmark_id", "name"), names)
    for table in ("test", "none", "index"):
        chosen = sorted((row for row in rows if row.table == table), key=lambda row: row.id)
        _write(
            folder / f"{table}.csv",
            COLUMNS,
            [(row.id, row.path, row.landmark_id, SOURCE) for row in chosen],
        )


def render_plain(
    folder: Path,
    names: Sequence[str],
    *,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Renders photographs without a landmark, others than the demo's, to files of these names.

    A file that is there already is left as it is: it is there whole or not at all, and its bytes
    depend on the seed and on its place among the names alone. The rest as `render_data_set`.
    """
    todo = [number for number, name in enumerate(names) if not (folder / name).exists()]
    if progress is not None:
        progress(len(names) - len(todo), 0)
    jobs = [
        partial(_render_named, folder, seed, [(number, names[number]) for number in numbers])
        for numbers in _batches(todo, 4)
    ]
    for done in run_jobs(jobs, workers or os.cpu_count() or 1):
        if progress is not None:
            progress(len(done), 0)


def run_jobs(jobs: Sequence[Callable[[], list[T]]], workers: int) -> Iterator[list[T]]:
    """What each job gives, in their order, by so many processes; 1 is this one."""
    if workers == 1:
        yield from (job() for job in jobs)
        return
    with ProcessPoolExecutor(
        min(workers, max(len(jobs), 1)),
        get_context("spawn"),
        initializer=cv2.setNumThreads,
        initargs=(1,),
    ) as pool:
        yield from pool.map(_call, jobs)


def _call(job: Callable[[], list[T]]) -> list[T]:
    return job()


def _render_landmark(
    folder: Path, seed: int, subject: Landmark, gallery_views: int, query_views: int
) -> list[Rendered]:
    scene = Scene.of(subject.build(seed))
    rows = []
    for view in range(gallery_views + query_views):
        rng = np.random.default_rng([seed, 3, subject.number, view])
        shot = film.take_view(rng, scene.low, scene.high)
        water = scene.ground.is_water
        near = scenery.foreground(rng, shot, scene.low, scene.high, water=water)
        extent = float(np.linalg.norm(scene.high - scene.low))
        distance = float(np.linalg.norm(shot.position)) + extent
        far = scenery.backdrop(rng, shot, distance, water=water)
        picture = photograph(rng, scene, shot, draw_weather(rng), near, far)
        table = "index" if view < gallery_views else "test"
        row = Rendered(_identifier(seed, subject.id, view), table, subject.id)
        save(folder / row.path, film.jpeg(rng, picture))
        rows.append(row)
    return rows


def _render_plain(folder: Path, seed: int, numbers: Sequence[int]) -> list[Rendered]:
    rows = []
    kinds = list(KINDS)
    for number in numbers:
        rng = np.random.default_rng([seed, 4, number])
        data = _plain_photograph(rng, kinds[number // 2 % len(kinds)])
        row = Rendered(_identifier(seed, "none", number), "test" if number % 2 else "none", "")
        save(folder / row.path, data)
        rows.append(row)
    return rows


def _render_named(folder: Path, seed: int, named: Sequence[tuple[int, str]]) -> list[str]:
    kinds = list(KINDS)
    for number, name in named:
        rng = np.random.default_rng([seed, 5, number])
        save(folder / name, _plain_photograph(rng, kinds[number % len(kinds)]))
    return [name for _, name in named]


def _plain_photograph(rng: np.random.Generator, kind: str) -> bytes:
    plain = plain_scene(rng, kind)
    scene = Scene.of(plain.subject)
    picture = photograph(rng, scene, plain.camera, plain.weather, plain.near, plain.far)
    return film.jpeg(rng, picture)


def _identifier(seed: int, subject: str, view: int) -> str:
    return hashlib.sha256(f"{seed}/{subject}/{view}".encode()).hexdigest()[:16]


def _batches(numbers: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def save(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it; no fsync, since the seed keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partly = path.with_name(path.name + ".part")
    partly.write_bytes(data)
    partly.replace(path)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    save(path, text.getvalue().encode())
