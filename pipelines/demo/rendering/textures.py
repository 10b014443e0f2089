"""Procedural textures: stone, brick, roofs, windows, ornament.

A texture is an RGB picture (h, w, 3) uint8 whose rows run from the top down. Painters change the
picture that they are given; boxes are (left, top, width, height) in pixels, colours 0 to 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]
Colour = tuple[float, float, float]
Box = tuple[int, int, int, int]
Generator = np.random.Generator

TILE = 512  # side of the noise tiles, pixels


@lru_cache(maxsize=8)
def noise_tile(roughness: float) -> Floats:
    """(512, 512) fractal noise that repeats seamlessly: mean 0, deviation 1.

    The spectrum falls with frequency to the power of `roughness`: 0 is grain, 2 is clouds.
    """
    rng = np.random.default_rng(int(roughness * 100))
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE))) / frequency**roughness
    tile = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return np.asarray((tile - tile.mean()) / tile.std(), dtype=np.float32)


def noise(rng: Generator, shape: tuple[int, int], roughness: float = 1.0) -> Floats:
    """A random (h, w) cutting of the noise tile of that roughness."""
    rows = (np.arange(shape[0]) + rng.integers(TILE)) % TILE
    columns = (np.arange(shape[1]) + rng.integers(TILE)) % TILE
    cutting: Floats = noise_tile(roughness)[np.ix_(rows, columns)]
    return cutting


def shades(picture: Floats | Picture, factor: Floats | float) -> Picture:
    """The picture times a factor, (h, w) or a number, within 0 to 255."""
    scale = factor[..., None] if isinstance(factor, np.ndarray) else factor
    return cast(Picture, np.clip(picture * scale, 0, 255).astype(np.uint8))


def varied(rng: Generator, colour: Colour, amount: float = 0.08) -> Colour:
    """A colour like the given one, each channel off by about `amount`, brightness by more."""
    factor = np.exp(rng.normal(0, amount / 3, 3) + rng.normal(0, amount))
    r, g, b = np.clip(np.array(colour) * factor, 0, 255)
    return (float(r), float(g), float(b))


def plaster(rng: Generator, shape: tuple[int, int], colour: Colour, dirt: float = 0.08) -> Picture:
    """Rendered wall with stains and streaks that run down."""
    blotches = noise(rng, shape, 1.4) * dirt + noise(rng, shape, 0.3) * 0.025
    streaks = cv2.resize(noise(rng, (4, shape[1]), 0.6), (shape[1], shape[0]))
    base = np.ones((*shape, 3), dtype=np.float32) * np.array(colour, dtype=np.float32)
    return shades(base, 1 + blotches + streaks * dirt * 0.5)


def masonry(
    rng: Generator,
    shape: tuple[int, int],
    colour: Colour,
    course: float,
    ratio: float = 2.0,
    *,
    jitter: float = 0.08,
    joint: float = 0.72,
    dirt: float = 0.07,
) -> Picture:
    """Blocks or bricks in courses `course` pixels high and `ratio` times as long.

    `jitter` is how much blocks differ in colour, `joint` the mortar's brightness.
    """
    height, width = shape
    picture = np.empty((height, width, 3), dtype=np.uint8)
    picture[:] = np.clip(np.array(colour) * joint, 0, 255)
    rows = max(1, round(height / course))
    edges = np.round(np.linspace(0, height, rows + 1)).astype(int)
    gap = 1 if course > 3.5 else 0
    for row in range(rows):
        count = max(2, round(width / (course * ratio)))
        cuts = (np.arange(count + 1) + (0.5 if row % 2 else 0) - 0.5) * width / count
        cuts[1:-1] += rng.uniform(-0.12, 0.12, count - 1) * width / count
        factors = rng.normal(0, jitter / 5, (count, 3)) + rng.normal(0, jitter, (count, 1))
        tones = np.clip(np.array(colour) * np.exp(factors), 0, 255).tolist()
        bottom = int(edges[row + 1]) - 1 - gap
        ends = np.round(cuts).astype(int).tolist()
        for left, right, tone in zip(ends[:-1], ends[1:], tones, strict=True):
            cv2.rectangle(picture, (left, int(edges[row])), (right - 1 - gap, bottom), tone, -1)
    return shades(picture, 1 + noise(rng, shape, 1.3) * dirt + noise(rng, shape, 0.2) * 0.04)


def roofing(rng: Generator, shape: tuple[int, int], colour: Colour, pitch: int = 8) -> Picture:
    """Rows of tiles or slates, `pitch` pixels from row to row."""
    picture = masonry(rng, shape, colour, pitch, 0.9, jitter=0.1, joint=0.6)
    row = (np.arange(shape[0]) % pitch / pitch).astype(np.float32)
    return shades(picture, np.repeat((1.08 - 0.3 * row)[:, None], shape[1], axis=1))


def ribbed(
    rng: Generator, shape: tuple[int, int], colour: Colour, ribs: int, courses: int = 0
) -> Picture:
    """Metal or stone with upright ribs, and seams across: domes, flutes, sheet roofs."""
    picture = plaster(rng, shape, colour, 0.06)
    phase = (np.arange(shape[1]) * ribs / shape[1]) % 1.0
    relief = 1 + 0.22 * np.exp(-(((phase - 0.5) * 7) ** 2)) - 0.3 * np.exp(-((phase * 9) ** 2))
    picture = shades(picture, np.repeat(relief.astype(np.float32)[None, :], shape[0], axis=0))
    for row in np.linspace(0, shape[0], courses + 2)[1:-1]:
        cv2.line(picture, (0, int(row)), (shape[1], int(row)), scaled(colour, 0.72), 1)
    return picture


def bands(picture: Picture, colours: Sequence[Colour], edges: Sequence[float]) -> Picture:
    """Paints level bands over a wall but keeps its grain; edges are fractions from the top."""
    grey = picture.astype(np.float32)
    grey /= grey.mean()
    rows = np.round(np.array([0.0, *edges, 1.0]) * len(picture)).astype(int)
    painted = np.empty_like(grey)
    for i, (top, bottom) in enumerate(pairwise(rows)):
        painted[top:bottom] = grey[top:bottom] * np.array(colours[i % len(colours)])
    return shades(painted, 1.0)


@dataclass(frozen=True)
class WindowStyle:
    """How a building's windows look. Sizes are fractions of the window's box.

    head: "flat", "round" or "pointed"; panes across and up; hood: "none", "ledge", "gable" or
    "arch" over it; shutters beside it, or none.
    """

    head: str
    panes: tuple[int, int]
    frame: Colour
    trim: Colour
    glass: Colour
    hood: str
    sill: bool
    shutters: Colour | None

    @classmethod
    def draw(
        cls, rng: Generator, trim: Colour, heads: Sequence[str] = ("flat", "round")
    ) -> WindowStyle:
        """A random style with the building's colour of trim."""
        frame: Colour = ((232, 230, 222), (70, 52, 40), (60, 66, 72), (54, 82, 66))[rng.integers(4)]
        shutters: tuple[Colour | None, ...] = (None, None, None, (66, 92, 78), (110, 60, 50))
        return cls(
            str(rng.choice(list(heads))),
            (int(rng.integers(2, 4)), int(rng.integers(2, 6))),
            frame,
            trim,
            varied(rng, (46, 56, 68), 0.2),
            str(rng.choice(["none", "ledge", "gable", "arch"])),
            bool(rng.random() < 0.7),
            shutters[rng.integers(len(shutters))],
        )


def opening(box: Box, head: str) -> NDArray[np.int32]:
    """(k, 2) outline in pixels of a window or door with the named head, within its box."""
    left, top, width, height = box
    right, bottom, middle = left + width, top + height, left + width / 2
    points: list[tuple[float, float]]
    if head == "flat":
        points = [(left, bottom), (left, top), (right, top), (right, bottom)]
    elif head == "round":
        turn = np.linspace(np.pi, 0, 9)
        points = [(left, bottom)]
        points += [
            (middle + width / 2 * np.cos(a), top + width / 2 * (1 - np.sin(a))) for a in turn
        ]
        points += [(right, bottom)]
    else:
        spring = top + min(0.8 * width, 0.6 * height)
        points = [
            (left, bottom),
            (left, spring),
            (left + width * 0.14, top + (spring - top) * 0.4),
            (middle, top),
            (right - width * 0.14, top + (spring - top) * 0.4),
            (right, spring),
            (right, bottom),
        ]
    return np.round(points).astype(np.int32)


def paint_window(picture: Picture, box: Box, style: WindowStyle, rng: Generator) -> None:
    """A window with frame, panes, sill, hood and shutters; it looks deeper than the wall."""
    left, top, width, height = box
    edge = max(1, round(width * 0.14))
    if style.shutters is not None and style.head == "flat":
        for x in (left - width // 2 - edge, left + width + edge):
            cv2.rectangle(picture, (x, top), (x + width // 2, top + height), style.shutters, -1)
            for y in range(top + 2, top + height, 3):
                cv2.line(picture, (x, y), (x + width // 2, y), scaled(style.shutters, 0.75), 1)
    surround = (left - edge, top - edge, width + 2 * edge, height + edge)
    cv2.fillPoly(picture, [opening(surround, style.head)], style.trim, cv2.LINE_AA)
    hole = opening(box, style.head)
    cv2.fillPoly(picture, [hole], varied(rng, style.glass, 0.25), cv2.LINE_AA)
    glint = opening((left, top + height // 2, width, height - height // 2), "flat")
    if rng.random() < 0.5:
        cv2.fillPoly(picture, [glint], scaled(style.glass, 1.5))
    across, up = style.panes
    for i in range(1, across):
        x = left + round(width * i / across)
        cv2.line(picture, (x, top + 1), (x, top + height), style.frame, 1)
    for i in range(1, up):
        y = top + round(height * i / up)
        cv2.line(picture, (left, y), (left + width, y), style.frame, 1)
    cv2.polylines(picture, [hole], True, style.frame, 1, cv2.LINE_AA)
    cv2.line(picture, (left, top + 1), (left + width, top + 1), scaled(style.glass, 0.4), 1)
    if style.sill:
        low = top + height
        cv2.rectangle(
            picture,
            (left - edge - 1, low),
            (left + width + edge + 1, low + edge),
            scaled(style.trim, 1.08),
            -1,
        )
        cv2.line(
            picture,
            (left - edge, low + edge + 1),
            (left + width + edge, low + edge + 1),
            scaled(style.trim, 0.55),
            1,
        )
    _paint_hood(picture, box, style, edge)


def _paint_hood(picture: Picture, box: Box, style: WindowStyle, edge: int) -> None:
    left, top, width, _ = box
    start, end, level = left - 2 * edge, left + width + 2 * edge, top - 2 * edge
    light, dark = scaled(style.trim, 1.1), scaled(style.trim, 0.5)
    if style.hood == "ledge":
        cv2.rectangle(picture, (start, level - edge), (end, level), light, -1)
        cv2.line(picture, (start, level + 1), (end, level + 1), dark, 1)
    elif style.hood == "gable":
        peak = np.array([[start, level], [end, level], [(start + end) // 2, level - width // 2]])
        cv2.fillPoly(picture, [peak.astype(np.int32)], light, cv2.LINE_AA)
        cv2.polylines(picture, [peak.astype(np.int32)], True, dark, 1, cv2.LINE_AA)
    elif style.hood == "arch":
        middle, size = ((start + end) // 2, level), ((end - start) // 2, width // 2)
        cv2.ellipse(picture, middle, size, 0, 180, 360, light, -1, cv2.LINE_AA)
        cv2.ellipse(picture, middle, size, 0, 180, 360, dark, 1, cv2.LINE_AA)


def paint_windows(
    picture: Picture,
    box: Box,
    rows: int,
    columns: int,
    style: WindowStyle,
    rng: Generator,
    *,
    size: tuple[float, float] = (0.4, 0.6),
) -> None:
    """A grid of windows over a box; `size` (width, height) as a share of the grid's cells."""
    left, top, width, height = box
    wide, high = width / columns, height / rows
    for row in range(rows):
        for column in range(columns):
            place = (
                round(left + wide * (column + 0.5 - size[0] / 2)),
                round(top + high * (row + 0.58 - size[1] / 2)),
                max(2, round(wide * size[0])),
                max(3, round(high * size[1])),
            )
            paint_window(picture, place, style, rng)


def motif(rng: Generator, size: int) -> Floats:
    """(size, size) relief of an ornament, heights 0 to 1, alike on the left and on the right."""
    half = np.zeros((size, size), dtype=np.uint8)
    for _ in range(int(rng.integers(4, 8))):
        centre = tuple(int(v) for v in rng.integers(0, size, 2))
        axes = tuple(int(v) for v in rng.integers(max(2, size // 10), max(3, size // 3), 2))
        turn, sweep = float(rng.uniform(0, 180)), float(rng.choice([360, 270, 180]))
        level = int(rng.integers(120, 256))
        thickness = -1 if rng.random() < 0.4 else max(1, size // 12)
        cv2.ellipse(half, centre, axes, turn, 0, sweep, level, thickness, cv2.LINE_AA)
    both = np.maximum(half, half[:, ::-1])
    return np.asarray(cv2.GaussianBlur(both, (3, 3), 0) / 255, dtype=np.float32)


def carve(picture: Picture, box: Box, height: Floats, depth: float = 1.6) -> None:
    """Carves a relief (any size) into a box of the picture, as if lit from the upper left."""
    left, top, width, tall = box
    if width < 3 or tall < 3:
        return
    relief = cv2.resize(height, (width, tall), interpolation=cv2.INTER_AREA)
    slope = np.gradient(relief)
    light = 1 + depth * (slope[0] + slope[1]) / 2 + 0.34 * (relief - 0.5)
    part = picture[top : top + tall, left : left + width]
    part[:] = shades(part, np.clip(light, 0.35, 1.6)[: part.shape[0], : part.shape[1]])


def frieze(picture: Picture, box: Box, ornament: Floats, count: int) -> None:
    """Repeats an ornament `count` times along a box, between two mouldings."""
    left, top, width, tall = box
    for i in range(count):
        start, end = left + width * i // count, left + width * (i + 1) // count
        carve(picture, (start, top + 1, end - start, tall - 2), ornament)
    moulding(picture, left, left + width, top)
    moulding(picture, left, left + width, top + tall - 1)


def moulding(picture: Picture, start: int, end: int, row: int, thick: int = 1) -> None:
    """A ledge across the wall: a light edge with its shadow beneath."""
    part = picture[max(row - thick, 0) : row + 1, start:end]
    part[:] = shades(part, 1.18)
    under = picture[row + 1 : row + 2 + thick, start:end]
    under[:] = shades(under, 0.55)


def pilasters(picture: Picture, box: Box, count: int, colour: Colour, share: float = 0.16) -> None:
    """Flat columns over a box, between `count` bays, with capital and base."""
    left, top, width, height = box
    wide = max(3, round(width / count * share))
    for i in range(count + 1):
        middle = round(left + wide / 2 + (width - wide) * i / count)
        x0, x1 = middle - wide // 2, middle - wide // 2 + wide - 1
        cv2.rectangle(picture, (x0, top), (x1, top + height), colour, -1)
        cv2.line(picture, (x0, top), (x0, top + height), scaled(colour, 1.15), 1)
        cv2.line(picture, (x1, top), (x1, top + height), scaled(colour, 0.6), 1)
        for y in (top, top + height - wide):
            cv2.rectangle(picture, (x0 - 1, y), (x1 + 1, y + wide), scaled(colour, 1.1), -1)
            cv2.line(picture, (x0 - 1, y + wide), (x1 + 1, y + wide), scaled(colour, 0.5), 1)


def inscription(picture: Picture, box: Box, rng: Generator, lines: int = 2) -> None:
    """Roman capitals cut into a tablet."""
    left, top, width, height = box
    part = picture[top : top + height, left : left + width]
    part[:] = shades(part, 1.08)
    cv2.rectangle(picture, (left, top), (left + width, top + height), scaled(_mean(part), 0.6), 1)
    size = height / lines / 34
    for line in range(lines):
        letters = "".join(rng.choice(list("AEIOUMNRSTLVXDCPQ ")) for _ in range(40))
        step = cv2.getTextSize("M", cv2.FONT_HERSHEY_COMPLEX, size, 1)[0][0]
        text = letters[: max(3, int(width * 0.86 / max(step * 0.85, 1)))]
        place = (left + round(width * 0.06), round(top + height * (line + 0.78) / lines))
        cv2.putText(
            picture,
            text,
            place,
            cv2.FONT_HERSHEY_COMPLEX,
            size,
            scaled(_mean(part), 0.4),
            1,
            cv2.LINE_AA,
        )


def clock(picture: Picture, centre: tuple[int, int], radius: int, rng: Generator) -> None:
    """A clock face with marks for the hours; its hands stand at a random time."""
    face: Colour = ((238, 234, 220), (40, 52, 86), (34, 34, 36))[rng.integers(3)]
    ink: Colour = (40, 34, 30) if sum(face) > 400 else (226, 190, 96)
    cv2.circle(picture, centre, radius + 2, scaled(ink, 0.8), -1, cv2.LINE_AA)
    cv2.circle(picture, centre, radius, face, -1, cv2.LINE_AA)
    middle = np.array(centre)
    for hour in range(12):
        direction = np.array([np.sin(hour * np.pi / 6), -np.cos(hour * np.pi / 6)])
        _stroke(
            picture, middle + direction * radius * 0.74, middle + direction * radius * 0.92, ink
        )
    for reach in (0.5, 0.75):
        turn = rng.uniform(0, 2 * np.pi)
        _stroke(
            picture, middle, middle + radius * reach * np.array([np.sin(turn), -np.cos(turn)]), ink
        )


def rose(picture: Picture, centre: tuple[int, int], radius: int, rng: Generator) -> None:
    """A rose window: glass behind stone petals, in one to three rings."""
    stone: Colour = (206, 198, 180)
    cv2.circle(picture, centre, radius + 3, scaled(stone, 0.9), -1, cv2.LINE_AA)
    cv2.circle(picture, centre, radius, (34, 36, 48), -1, cv2.LINE_AA)
    petals, middle = int(rng.choice([6, 8, 10, 12])), np.array(centre)
    for ring in rng.permutation([0.36, 0.6, 0.84])[: int(rng.integers(1, 4))]:
        for i in range(petals):
            turn = 2 * np.pi * i / petals
            place = middle + ring * radius * np.array([np.sin(turn), -np.cos(turn)])
            size = max(2, round(radius * 0.17))
            hue = varied(rng, ((70, 60, 130), (130, 50, 56), (60, 96, 110))[rng.integers(3)], 0.2)
            cv2.circle(picture, place.round().astype(int).tolist(), size, hue, -1, cv2.LINE_AA)
            cv2.circle(picture, place.round().astype(int).tolist(), size, stone, 1, cv2.LINE_AA)
    for i in range(petals):
        turn = 2 * np.pi * (i + 0.5) / petals
        spoke = np.array([np.sin(turn), -np.cos(turn)]) * radius
        _stroke(picture, middle + 0.15 * spoke, middle + spoke, stone)
    cv2.circle(picture, centre, max(2, radius // 6), stone, -1, cv2.LINE_AA)


def door(picture: Picture, box: Box, rng: Generator, colour: Colour, head: str = "round") -> None:
    """A double door of planks or panels in a stone surround."""
    left, top, width, height = box
    edge = max(1, width // 7)
    surround = opening((left - edge, top - edge, width + 2 * edge, height + edge), head)
    part = picture[max(top, 0) : top + height, max(left, 0) : left + width]
    cv2.fillPoly(picture, [surround], scaled(_mean(part), 1.15), cv2.LINE_AA)
    hole = opening(box, head)
    cv2.fillPoly(picture, [hole], colour, cv2.LINE_AA)
    cv2.polylines(picture, [hole], True, scaled(colour, 0.4), 1, cv2.LINE_AA)
    for i in range(1, int(rng.integers(4, 7))):
        y = top + height * i // 6 + height // 6
        cv2.line(picture, (left + 1, y), (left + width - 1, y), scaled(colour, 0.6), 1)
    middle = left + width // 2
    cv2.line(picture, (middle, top), (middle, top + height), scaled(colour, 0.35), 1)


def lattice(rng: Generator, shape: tuple[int, int], colour: Colour, cell: int) -> Picture:
    """Riveted girders crossed over a darker ground."""
    picture = plaster(rng, shape, scaled(colour, 0.4), 0.05)
    height, width = shape
    for start in range(-height, width, cell):
        cv2.line(picture, (start, 0), (start + height, height), colour, 2, cv2.LINE_AA)
        cv2.line(picture, (start + height, 0), (start, height), colour, 2, cv2.LINE_AA)
    cv2.rectangle(picture, (0, 0), (width - 1, height - 1), colour, max(2, cell // 5))
    return picture


def foliage(rng: Generator, shape: tuple[int, int] = (192, 192)) -> Picture:
    """Leaves in light and shade, grey so that a tint gives the colour."""
    fine, coarse = noise(rng, shape, 0.5), noise(rng, shape, 1.6)
    grey = np.clip(0.62 + 0.16 * fine + 0.13 * coarse, 0.12, 1)
    return shades(np.full((*shape, 3), 255, dtype=np.uint8), grey.astype(np.float32))


def scaled(colour: Sequence[float], factor: float) -> Colour:
    """A colour `factor` times as bright."""
    r, g, b = (min(channel * factor, 255.0) for channel in colour)
    return (r, g, b)


def _mean(part: Picture) -> Colour:
    r, g, b = part.reshape(-1, 3).mean(axis=0) if part.size else (128.0, 128.0, 128.0)
    return (float(r), float(g), float(b))


def _stroke(
    picture: Picture, start: NDArray[np.floating], end: NDArray[np.floating], colour: Colour
) -> None:
    ends = np.round(np.array([start, end])).astype(int).tolist()
    cv2.line(picture, ends[0], ends[1], colour, 1, cv2.LINE_AA)
