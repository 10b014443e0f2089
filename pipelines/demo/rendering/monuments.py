"""Smaller landmarks: triumphal arches and statues. See `towers`."""

from __future__ import annotations

import numpy as np

from pipelines.demo.rendering import textures as paint
from pipelines.demo.rendering.buildings import column, fluted
from pipelines.demo.rendering.geometry import (
    Face,
    Tint,
    arch,
    box,
    moved,
    pierced_wall,
    revolve,
    slab,
    tube,
)
from pipelines.demo.rendering.ground import Ground
from pipelines.demo.rendering.scene import Subject
from pipelines.demo.rendering.style import Style, pick
from pipelines.demo.rendering.textures import Colour, Generator, Picture


def triumphal_arch(kin: Generator, own: Generator) -> Subject:
    """One arch or three through a carved block, columns before it, an inscribed attic above."""
    style = Style.draw(kin).own(own)
    triple = own.random() < 0.5
    wide, deep, tall = own.uniform(19, 25), own.uniform(6.5, 9), own.uniform(12, 15)
    main = wide * (0.26 if triple else own.uniform(0.34, 0.4))
    openings = [arch(-main / 2, main, tall * 0.5, main * 0.5)]
    if triple:
        small = wide * 0.15
        for side in (-1, 1):
            openings.append(arch(side * wide * 0.305 - small / 2, small, tall * 0.32, small * 0.5))
    attic = own.uniform(3.4, 5.2)
    textures = {
        "front": _carved_front(own, style, triple),
        "end": _carved_end(own, style),
        "soffit": _coffers(own, style),
        "attic": _attic(own, style),
        "cornice": _rich_cornice(own, style),
        "column": fluted(own, style),
        "bronze": paint.plaster(own, (64, 64), (92, 116, 98), 0.15),
    }
    faces = moved(pierced_wall((wide, tall), openings, deep, "front", "soffit"), (0, -deep / 2, 0))
    for x, turn in ((wide / 2, np.pi / 2), (-wide / 2, -np.pi / 2)):
        end = box((0, -0.01, 0), (deep, 0.02, tall), "end")
        faces += moved(end, (x, 0, 0), turn)
    faces += slab((0, 0, tall), (wide + 1.4, deep + 1.4, 1.1), "cornice", "cornice")
    faces += box((0, 0, tall + 1.1), (wide * 0.97, deep * 0.97, attic), "attic")
    faces += slab((0, 0, tall + 1.1 + attic), (wide + 0.6, deep + 0.6, 0.8), "cornice", "cornice")
    places = (0.46, 0.405, 0.205, 0.16) if triple else (0.45, own.uniform(0.24, 0.3))
    for share in places[:: int(pick(own, 1, 2))]:
        for side in (-1, 1):
            at = side * wide * share
            faces += box((at, -deep / 2 - 0.7, 0), (1.6, 1.5, 2.6), "end", "cornice")
            faces += column((at, -deep / 2 - 0.7, 2.6), tall - 2.6, 0.55)
    faces += _crowning_group(own, tall + attic + 1.9)
    return Subject(faces, textures, Ground("slabs", "grass", 34))


def _carved_front(own: Generator, style: Style, triple: bool) -> Picture:
    wall = style.stone(own, 288, 448)
    paint.frieze(wall, (0, 3, 448, 22), paint.motif(own, 28), int(own.integers(12, 22)))
    for side in (0.06, 0.79):
        x = round(448 * side)
        paint.carve(wall, (x, 36, 68, 60), paint.motif(own, 56), 2.8)
        if not triple:
            paint.carve(wall, (x, 120, 68, 110), paint.motif(own, 80), 2.4)
    for side in (0.36, 0.56):
        paint.carve(wall, (round(448 * side), 34, 40, 44), paint.motif(own, 40), 2.6)
    paint.carve(wall, (208, 40, 32, 40), paint.motif(own, 32), 3.0)
    paint.moulding(wall, 0, 448, int(own.integers(100, 118)), 3)
    return wall


def _carved_end(own: Generator, style: Style) -> Picture:
    wall = style.stone(own, 256, 160)
    paint.carve(wall, (30, 40, 100, 84), paint.motif(own, 72), 2.6)
    paint.frieze(wall, (0, 3, 160, 20), paint.motif(own, 28), int(own.integers(5, 9)))
    return wall


def _coffers(own: Generator, style: Style) -> Picture:
    wall = style.dressed(own, 256, 96)
    ornament = paint.motif(own, 28)
    for row in range(8):
        for cell in range(3):
            paint.carve(wall, (cell * 32 + 3, row * 32 + 3, 26, 26), ornament, 2.2)
    return wall


def _attic(own: Generator, style: Style) -> Picture:
    wall = style.stone(own, 96, 448)
    inset = int(own.integers(90, 130))
    paint.inscription(wall, (inset, 16, 448 - 2 * inset, 64), own, int(own.integers(2, 4)))
    for x in (16, 448 - 72):
        paint.carve(wall, (x, 20, 56, 56), paint.motif(own, 48), 2.6)
    return wall


def _rich_cornice(own: Generator, style: Style) -> Picture:
    band = style.dressed(own, 32, 384)
    paint.frieze(band, (0, 3, 384, 26), paint.motif(own, 24), int(own.integers(16, 30)))
    return band


def _crowning_group(own: Generator, level: float) -> list[Face]:
    """Bronze figures on top: none, one, or a row."""
    count = int(pick(own, 0, 1, 3))
    faces: list[Face] = []
    for i in range(count):
        x = (i - (count - 1) / 2) * 4.2
        faces += slab((x, 0, level), (1.6, 1.6, 0.8), "cornice", "cornice")
        faces += moved(figure(own, "bronze", 3.4), (x, 0, level + 0.8))
    return faces


def statue(kin: Generator, own: Generator) -> Subject:
    """A figure on a carved plinth with steps."""
    style = Style.draw(kin).own(own)
    bronze: Colour = ((96, 124, 108), (84, 70, 54), (214, 208, 196))[kin.integers(3)]
    bronze = paint.varied(own, bronze, 0.06)
    wide, tall = own.uniform(2.6, 3.6), own.uniform(3.4, 5.4)
    textures = {
        "plinth": _plinth(own, style),
        "plinth side": _plinth(own, style),
        "steps": paint.masonry(kin, (48, 192), style.trim, 16, 4, jitter=0.05),
        "cornice": _rich_cornice(own, style),
        "skin": _patina(kin, own, bronze),
    }
    faces: list[Face] = []
    steps = int(own.integers(2, 5))
    for step in range(steps):
        size = wide + 3.2 - step * 0.8
        faces += box((0, 0, 0.4 * step), (size, size, 0.4), "steps", "steps")
    level = 0.4 * steps
    if own.random() < 0.35:
        faces += revolve(
            [(wide * 0.62, level), (wide * 0.55, level + 0.4), (wide * 0.5, level + tall)],
            "plinth",
            sides=16,
        )
    else:
        sides = ("plinth", "plinth side", "plinth", "plinth side")
        faces += box((0, 0, level), (wide, wide, tall), sides, taper=own.uniform(0.84, 1.0))
    faces += slab((0, 0, level + tall), (wide * 1.15, wide * 1.15, 0.5), "cornice", "cornice")
    level += tall + 0.5
    faces += moved(figure(own, "skin", own.uniform(4.4, 5.6)), (0, 0, level), own.normal(0, 0.25))
    return Subject(faces, textures, Ground("paving", "grass", 16))


def _plinth(own: Generator, style: Style) -> Picture:
    wall = style.dressed(own, 224, 160)
    if own.random() < 0.6:
        paint.carve(wall, (22, 34, 116, 90), paint.motif(own, 80), 2.6)
        paint.inscription(wall, (22, 136, 116, 58), own, int(own.integers(2, 4)))
    else:
        paint.inscription(wall, (22, 30, 116, 64), own, int(own.integers(2, 4)))
        paint.carve(wall, (22, 104, 116, 90), paint.motif(own, 80), 2.6)
    paint.frieze(wall, (0, 2, 160, 18), paint.motif(own, 24), int(own.integers(5, 9)))
    paint.frieze(wall, (0, 204, 160, 18), paint.motif(own, 24), int(own.integers(5, 9)))
    return wall


def _patina(kin: Generator, own: Generator, bronze: Colour) -> Picture:
    """Metal or marble with runs of weathering and the folds of a garment."""
    picture = paint.plaster(kin, (192, 192), bronze, 0.2)
    paint.carve(picture, (0, 0, 192, 192), paint.motif(own, 96), 3.0)
    return picture


def figure(own: Generator, texture: str, height: float) -> list[Face]:
    """A standing figure `height` metres tall, facing -y: robed or in breeches, arms in some pose,
    with something held or worn."""
    faces = _robe(own, texture) if own.random() < 0.5 else _legs(own, texture)
    faces += revolve(
        [(0.16, 0.98), (0.19, 1.15), (0.25, 1.38), (0.22, 1.5), (0.07, 1.56)],
        texture,
        sides=10,
        squash=0.62,
    )
    faces += revolve(
        [(0.06, 1.52), (0.07, 1.6), (0.12, 1.68), (0.125, 1.76), (0.09, 1.84), (0.02, 1.87)],
        texture,
        sides=10,
    )
    for side in (-1.0, 1.0):
        faces += _arm(own, texture, side)
    faces += _headgear(own, texture)
    if own.random() < 0.4:
        cloak = [(0.30, 0.25), (0.30, 0.8), (0.26, 1.3), (0.12, 1.52)]
        faces += moved(revolve(cloak, texture, sides=10, squash=0.45, tint=_DARK), (0, 0.12, 0))
    return _scaled(faces, height / 1.8)


_UP = np.array([0.0, 0.0, 1.0])
_DARK: Tint = (0.82, 0.82, 0.82)


def _robe(own: Generator, texture: str) -> list[Face]:
    hem = own.uniform(0.28, 0.42)
    return revolve(
        [(hem, 0), (hem * 0.85, 0.3), (0.24, 0.8), (0.17, 1.02)], texture, sides=12, squash=0.8
    )


def _legs(own: Generator, texture: str) -> list[Face]:
    faces: list[Face] = []
    stride = own.uniform(-0.15, 0.15)
    for side in (-1, 1):
        hip, foot = [side * 0.1, 0, 1.0], [side * 0.15, side * stride, 0.06]
        knee = [side * 0.13, side * stride * 0.6 - 0.05, 0.52]
        faces += tube([foot, knee, hip], [0.07, 0.09, 0.13], texture)
        faces += box((foot[0], foot[1] - 0.05, 0), (0.12, 0.28, 0.1), texture, texture)
    skirt = [(own.uniform(0.2, 0.3), own.uniform(0.6, 0.85)), (0.18, 1.05)]
    return faces + revolve(skirt, texture, sides=10, squash=0.75)


def _arm(own: Generator, texture: str, side: float) -> list[Face]:
    """An arm raised, stretched, bent or hanging, and what its hand holds."""
    shoulder = np.array([side * 0.25, 0.0, 1.44])
    lift = own.choice([-1.2, -0.9, 0.1, 1.1])
    ahead = own.uniform(-0.5, 0.1)
    upper = np.array([side * np.cos(lift), ahead, np.sin(lift)]) * 0.3
    bend = lift + own.uniform(0.0, 0.9)
    lower = np.array([side * np.cos(bend) * 0.8, ahead - 0.3, np.sin(bend)]) * 0.28
    elbow, hand = shoulder + upper, shoulder + upper + lower
    faces = tube([shoulder, elbow, hand], [0.085, 0.07, 0.05], texture, sides=6)
    held = own.integers(6)
    if held == 0:  # a staff or spear
        faces += tube(
            [[hand[0], hand[1], 0.0], [hand[0], hand[1], hand[2] + 0.7]],
            [0.025, 0.02],
            texture,
            sides=5,
        )
    elif held == 1:  # a torch
        faces += tube([hand - 0.15 * _UP, hand + 0.22 * _UP], [0.025, 0.06], texture, sides=6)
        faces += revolve(
            [(0.08, 0), (0.1, 0.1), (0.02, 0.3)],
            texture,
            sides=6,
            centre=(hand[0], hand[1], hand[2] + 0.22),
            tint=(1.6, 1.3, 0.7),
        )
    elif held == 2:  # a book or tablet
        faces += box((hand[0], hand[1] - 0.06, hand[2] - 0.1), (0.22, 0.06, 0.3), texture, texture)
    elif held == 3:  # a shield
        faces += moved(
            revolve([(0.30, 0), (0.28, 0.04), (0.1, 0.08), (0.02, 0.09)], texture, sides=12), hand
        )
    return faces


def _headgear(own: Generator, texture: str) -> list[Face]:
    kind = own.integers(4)
    if kind == 0:  # rays
        faces: list[Face] = []
        for turn in np.linspace(0.15, np.pi - 0.15, 7):
            reach = np.array([np.cos(turn), 0.0, np.sin(turn)])
            middle = np.array([0.0, 0.0, 1.76])
            faces += tube(
                [middle + 0.1 * reach, middle + 0.3 * reach], [0.03, 0.005], texture, sides=4
            )
        return faces
    if kind == 1:  # a broad hat
        return revolve(
            [(0.24, 1.78), (0.24, 1.81), (0.12, 1.82), (0.10, 1.95), (0.02, 1.96)],
            texture,
            sides=12,
            tint=_DARK,
        )
    if kind == 2:  # a crested helmet
        crest = box((0, 0, 1.8), (0.04, 0.34, 0.2), texture, texture)
        return crest + revolve(
            [(0.14, 1.72), (0.13, 1.82), (0.02, 1.92)], texture, sides=10, tint=_DARK
        )
    return []


def _scaled(faces: list[Face], factor: float) -> list[Face]:
    """The faces `factor` times as large about the origin."""
    shrink = np.diag([1 / factor, 1 / factor, 1.0])
    return [
        Face(
            face.frame * [[1.0], [1.0], [factor]],
            tuple(part * factor for part in face.contours),
            face.texture,
            face.chart @ shrink,
            face.normals,
            face.region,
            face.tint,
            face.two_sided,
        )
        for face in faces
    ]
