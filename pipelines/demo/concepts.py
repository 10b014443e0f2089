"""Photographs of concepts for those who have none: rendered, a folder a concept, and others of
nothing in particular beside them.

Every one of them is a made-up scene. Patterns, sky and night are painted over scenes of the same
kinds as those in ``random``, so that a separator learns the concept and not the renderer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from pipelines.demo.rendering import camera as film
from pipelines.demo.rendering import scenery
from pipelines.demo.rendering import textures as paint
from pipelines.demo.rendering.buildings import column
from pipelines.demo.rendering.camera import take_view
from pipelines.demo.rendering.data_set import run_jobs, save
from pipelines.demo.rendering.geometry import box
from pipelines.demo.rendering.ground import Ground
from pipelines.demo.rendering.plain import KINDS, plain_scene
from pipelines.demo.rendering.scene import Scene, Subject, photograph
from pipelines.demo.rendering.textures import Floats, Generator, Picture
from pipelines.demo.rendering.towers import bell_tower, high_rise, lighthouse
from pipelines.demo.rendering.weather import draw_weather, paint_sky
from retrieval.explain.concepts import RANDOM
from retrieval.storage.files import writing

Progress = Callable[[int, int], None]

PHOTOGRAPHS: Final = 24
"""Of a concept."""
COUNTERPARTS: Final = 120
"""Of nothing in particular."""
BATCH: Final = 6
"""Photographs that a process renders at a time."""
DRY: Final = [kind for kind in KINDS if kind != "sea"]


def make_concepts(
    out: Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = lambda done, failed: None,
) -> int:
    """Render ``out/CONCEPT/NN.jpg`` for every concept, and ``out/random/NNN.jpg``.

    The same seed gives the same bytes. What is there already is left as it is, so that a killed
    call goes on.

    Args:
        out: a folder.
        seed: of the scenes.
        workers: processes that render; one a core unless given.
        progress: told of (photographs made since the last call, 0).

    Returns:
        how many photographs there are.

    Raises:
        WriteError: the folder cannot be made.
    """
    wanted = [(name, number) for name in CONCEPTS for number in range(PHOTOGRAPHS)]
    wanted += [(RANDOM, number) for number in range(COUNTERPARTS)]
    todo = [one for one in wanted if not _path(out, *one).exists()]
    progress(len(wanted) - len(todo), 0)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    jobs = [
        partial(_render, out, seed, todo[start : start + BATCH])
        for start in range(0, len(todo), BATCH)
    ]
    for done in run_jobs(jobs, workers or os.cpu_count() or 1):
        progress(len(done), 0)
    return len(wanted)


def _path(out: Path, name: str, number: int) -> Path:
    return out / name / f"{number:03d}.jpg"


def _render(out: Path, seed: int, wanted: Sequence[tuple[str, int]]) -> list[str]:
    names = [*CONCEPTS, RANDOM]
    for name, number in wanted:
        rng = np.random.default_rng([seed, 6, names.index(name), number])
        picture = scene(rng) if name == RANDOM else CONCEPTS[name](rng)
        save(_path(out, name, number), film.jpeg(rng, picture))
    return [name for name, _ in wanted]


def scene(rng: Generator, kinds: Sequence[str] = DRY) -> Picture:
    """A photograph of nothing in particular, without water."""
    plain = plain_scene(rng, str(rng.choice(list(kinds))))
    made = Scene.of(plain.subject)
    return photograph(rng, made, plain.camera, plain.weather, plain.near, plain.far)


def _of_subject(rng: Generator, subject: Subject) -> Picture:
    made = Scene.of(subject)
    shot = take_view(rng, made.low, made.high, spread=0.5)
    far = scenery.backdrop(rng, shot, 90.0, water=False)
    return photograph(rng, made, shot, draw_weather(rng), (), far)


def _covered(rng: Generator, pattern: Callable[[tuple[int, int]], Floats]) -> Picture:
    """A scene of which a part is covered by a pattern of two colours, seen at a slant.

    Args:
        rng: of all that is drawn.
        pattern: (h, w) from 0 to 1.
    """
    under = scene(rng)
    height, width = under.shape[:2]
    side = 2 * max(height, width)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.uniform(-25, 25)), 1.0)
    turn[:, 2] += np.array([width, height]) / 2 - side / 2
    share = cv2.warpAffine(pattern((side, side)), turn, (width, height), flags=cv2.INTER_AREA)
    colours = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    while abs(float((colours[0] - colours[1]).mean())) < 60:
        colours = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    painted = colours[0] + share[..., None] * (colours[1] - colours[0])
    painted *= (1 + 0.1 * paint.noise(rng, (height, width), 1.4))[..., None]
    reach = rng.uniform(0.6, 1.0, 2)
    tall, wide = (max(8, round(float(one))) for one in reach * (height, width))
    top, left = (int(rng.integers(0, most + 1)) for most in (height - tall, width - wide))
    covered = under.copy()
    part = slice(top, top + tall), slice(left, left + wide)
    covered[part] = np.clip(painted, 0, 255).astype(np.uint8)[part]
    return covered


def _stripes(rng: Generator) -> Picture:
    period = rng.uniform(16, 48)
    return _covered(
        rng,
        lambda size: np.tile(np.float32(np.arange(size[1]) % period < period / 2), (size[0], 1)),
    )


def _chequers(rng: Generator) -> Picture:
    cell = int(rng.integers(14, 40))

    def pattern(size: tuple[int, int]) -> Floats:
        rows, columns = (np.arange(one) // cell for one in size)
        return np.asarray((rows[:, None] + columns) % 2, np.float32)

    return _covered(rng, pattern)


def _dots(rng: Generator) -> Picture:
    period, share = rng.uniform(20, 44), rng.uniform(0.25, 0.4)

    def pattern(size: tuple[int, int]) -> Floats:
        away = [np.abs(np.arange(one) % period - period / 2) for one in size]
        return np.asarray(np.hypot(away[0][:, None], away[1]) < share * period, np.float32)

    return _covered(rng, pattern)


def _bricks(rng: Generator) -> Picture:
    course = rng.uniform(9, 20)
    colour = paint.varied(rng, (168, 88, 66), 0.2)
    under = scene(rng)
    height, width = under.shape[:2]
    wall = paint.masonry(rng, (height, width), colour, course, 2.4, jitter=0.14, joint=1.3)
    end = round(width * float(rng.uniform(0.6, 1.0)))
    under[:, :end] = wall[:, :end]
    return under


def _sky(rng: Generator) -> Picture:
    """The sky fills most of it, above a scene outdoors."""
    under = scene(rng, ("country", "street", "block"))
    height, width = under.shape[:2]
    shot = film.look_at(
        np.array([0.0, 0.0, 1.7]), np.array([0.0, 40.0, 22.0]), 0.9 * width, (width, height)
    )
    light = paint_sky(rng, draw_weather(rng), shot)
    above = film.develop(rng, film.expose(rng, light))
    end = round(height * float(rng.uniform(0.55, 0.8)))
    shown = np.vstack([above[:end], cv2.resize(under, (width, height - end))])
    return np.asarray(shown, np.uint8)


def _water(rng: Generator) -> Picture:
    return scene(rng, ("sea",))


def _night(rng: Generator) -> Picture:
    """Dark and bluish, with a few lamps."""
    under = scene(rng, ("country", "street", "block", "cars"))
    height, width = under.shape[:2]
    light = (under / 255.0) ** 1.6 * rng.uniform(0.1, 0.22) * np.array([0.8, 0.9, 1.2])
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(int(rng.integers(3, 9))):
        y, x = rng.uniform(0.2, 0.9) * height, rng.uniform(0, 1) * width
        away = np.hypot(rows - y, columns - x) / max(height, width)
        glow = 0.9 * np.exp(-away * 90) + 0.25 * np.exp(-away * 14)
        light += glow[..., None] * np.array([1.0, 0.85, 0.55])
    return film.develop(rng, np.clip(light, 0, 1).astype(np.float32))


def _columns(rng: Generator) -> Picture:
    """A row of columns on a base, under a beam, before a wall."""
    count, tall = int(rng.integers(4, 9)), float(rng.uniform(7, 12))
    step = tall * float(rng.uniform(0.3, 0.45))
    stone = paint.varied(rng, (206, 196, 174), 0.12)
    wide = step * count
    textures = {
        "column": paint.ribbed(rng, (128, 128), stone, int(rng.integers(8, 17))),
        "wall": paint.masonry(rng, (192, 320), paint.scaled(stone, 0.75), 16),
        "beam": paint.plaster(rng, (64, 320), stone),
    }
    faces = [
        *box((0, 2.5, 0), (wide, 1.5, tall + 1), "wall"),
        *box((0, 0, tall), (wide, 3.2, 1.0), "beam"),
    ]
    for place in range(count):
        faces += column(((place + 0.5) * step - wide / 2, 0, 0), tall, 0.09 * tall, sides=12)
    return _of_subject(rng, Subject(faces, textures, Ground("paving", "grass", 30.0)))


def _towers(rng: Generator) -> Picture:
    build = (lighthouse, bell_tower, high_rise)[int(rng.integers(3))]
    kin, own = (np.random.default_rng(rng.integers(2**32)) for _ in range(2))
    return _of_subject(rng, build(kin, own))


CONCEPTS: Final[dict[str, Callable[[Generator], Picture]]] = {
    "stripes": _stripes,
    "chequers": _chequers,
    "dots": _dots,
    "bricks": _bricks,
    "sky": _sky,
    "water": _water,
    "night": _night,
    "columns": _columns,
    "towers": _towers,
}
"""What is rendered, by name."""
TOTAL: Final = PHOTOGRAPHS * len(CONCEPTS) + COUNTERPARTS
"""Photographs in all."""
