"""Landmarks that span: suspension bridges, stone bridges and viaducts. See `towers`."""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.demo.rendering import textures as paint
from pipelines.demo.rendering.geometry import (
    Array,
    Face,
    arch,
    box,
    moved,
    panel,
    pierced_wall,
    raised,
    revolve,
    slab,
    tube,
)
from pipelines.demo.rendering.ground import Ground
from pipelines.demo.rendering.scene import Subject
from pipelines.demo.rendering.style import Style, pick
from pipelines.demo.rendering.textures import Colour, Generator, Picture


def suspension_bridge(kin: Generator, own: Generator) -> Subject:
    """Two portal towers that carry a deck by main cables and hangers, over water."""
    style = Style.draw(kin).own(own)
    steel: Colour = ((168, 58, 42), (96, 122, 118), (132, 140, 148), (70, 92, 120))[kin.integers(4)]
    steel = paint.varied(own, steel, 0.08)
    stone_towers = own.random() < 0.5
    half, tall = own.uniform(20, 30), own.uniform(30, 40)
    deck, wide = own.uniform(9, 12), own.uniform(9, 12)
    textures = {
        "tower": _tower_face(own, style)
        if stone_towers
        else (paint.lattice(own, (384, 96), steel, int(own.integers(24, 44)))),
        "side": _tower_face(own, style)[:, :96]
        if stone_towers
        else (paint.lattice(own, (384, 64), steel, int(own.integers(20, 32)))),
        "girder": _girder(own, steel),
        "road": paint.plaster(own, (32, 128), (96, 96, 98)),
        "steel": paint.plaster(own, (32, 32), steel, 0.05),
        "bank": paint.foliage(own),
        "pier": style.stone(kin, 64, 96),
    }
    reach = half * own.uniform(1.7, 1.9)
    faces = box((0, 0, deck - 1.6), (2 * reach, wide, 1.6), "girder", "road")
    faces += _underside(reach, wide, deck - 1.6)
    for x in (-half, half):
        faces += moved(_portal(tall, deck, wide, stone_towers), (x, 0, 0))
    sag = tall - deck - own.uniform(2, 4)
    count = int(own.integers(13, 22))
    for y in (-wide / 2, wide / 2):
        faces += _cables(half, reach, tall, deck, sag, y, count)
    banks = [
        face
        for side in (-1, 1)
        for face in box(
            (side * (reach + 25), 38, -1),
            (62, 110, deck * 0.98),
            "bank",
            "bank",
            taper=0.8,
            tint=(0.30, 0.36, 0.18),
        )
    ]
    return Subject(faces, textures, Ground("water", "water", 400), banks)


def _portal(tall: float, deck: float, wide: float, stone: bool) -> list[Face]:
    """One tower: two legs with a pierced wall or cross-beams between; the road passes through."""
    leg = 5.0 if stone else 3.0
    faces = box((0, 0, -2), (leg + 4, wide + 6, 4.5), "pier", "pier")
    if not stone:
        for y in (-wide / 2, wide / 2):
            faces += box(
                (0, y, 2),
                (leg, 1.8, tall - 1),
                ("tower", "side", "tower", "side"),
                "steel",
                taper=0.8,
            )
        for level in np.linspace(deck + 6, tall - 1, 3):
            faces += box((0, 0, level), (leg * 0.7, wide, 1.6), "girder", "steel")
        return faces
    half = wide / 2 + 2
    holes = [
        raised(
            arch(-wide / 2 + 0.6 + i * (wide / 2), wide / 2 - 1.2, tall * 0.3, wide * 0.28), deck
        )
        for i in range(2)
    ]
    wall = pierced_wall((2 * half, tall), holes, leg, "tower", "side")
    faces += moved(moved(wall, (0, -leg / 2, 0)), turn=np.pi / 2)
    for y in (-half, half):
        faces += box((0, y, 0), (leg, 0.8, tall), "side", "pier")
    return faces + slab((0, 0, tall), (leg + 1, 2 * half + 1, 1.4), "pier", "pier")


def _cables(
    half: float, reach: float, tall: float, deck: float, sag: float, y: float, count: int
) -> list[Face]:
    x = np.linspace(-half, half, 17)
    middle = np.stack([x, np.full(17, y), tall - sag * (1 - (x / half) ** 2)], axis=1)
    faces = tube(middle, [0.28] * 17, "steel", sides=4)
    for side in (-1, 1):
        faces += tube(
            [[side * half, y, tall], [side * reach, y, deck]], [0.28, 0.28], "steel", sides=4
        )
    for place in np.linspace(-half, half, count + 2)[1:-1]:
        level = tall - sag * (1 - (place / half) ** 2)
        faces.append(_hanger(place, y, deck, level))
    for place in np.linspace(half, reach, count // 3 + 2)[1:-1]:
        level = tall + (deck - tall) * (place - half) / (reach - half)
        faces += [_hanger(place, y, deck, level), _hanger(-place, y, deck, level)]
    return faces


def _hanger(x: float, y: float, low: float, high: float) -> Face:
    outline = [[-0.09, low], [0.09, low], [0.09, high], [-0.09, high]]
    return panel([x, y, 0], [1, 0, 0], [0, 0, 1], [outline], "steel", two_sided=True)


def _underside(reach: float, wide: float, level: float) -> list[Face]:
    outline = [[-reach, -wide / 2], [reach, -wide / 2], [reach, wide / 2], [-reach, wide / 2]]
    return [panel([0, 0, level], [1, 0, 0], [0, -1, 0], [outline], "steel")]


def _girder(own: Generator, steel: Colour) -> Picture:
    """A truss along the deck with railing, 1024 pixels long."""
    picture = paint.plaster(own, (40, 1024), paint.scaled(steel, 0.5), 0.05)
    step = int(pick(own, 16, 24, 32))
    for x in range(0, 1024, step):
        cv2.line(picture, (x, 14), (x + step // 2, 36), steel, 2, cv2.LINE_AA)
        cv2.line(picture, (x + step // 2, 36), (x + step, 14), steel, 2, cv2.LINE_AA)
        picture[:14, x : x + 2] = steel
    for row in (0, 13, 37):
        picture[row : row + 3] = steel
    return picture


def _tower_face(own: Generator, style: Style) -> Picture:
    wall = style.stone(own, 384, 192)
    window = paint.WindowStyle.draw(own, style.trim, ("round", "pointed", "flat"))
    paint.paint_windows(
        wall,
        (8, 44, 176, 240),
        int(own.integers(2, 5)),
        4,
        window,
        own,
        size=(0.3, own.uniform(0.4, 0.7)),
    )
    for level in np.sort(own.uniform(0.1, 0.7, 3)):
        paint.moulding(wall, 0, 192, int(384 * level), 2)
    for left in (6, 102):
        paint.carve(wall, (left, 292, 84, 84), paint.motif(own, 64), 2.8)
    paint.frieze(wall, (0, 4, 192, 24), paint.motif(own, 24), int(own.integers(6, 12)))
    paint.pilasters(wall, (0, 40, 192, 340), 2, style.trim, 0.12)
    return wall


def stone_bridge(kin: Generator, own: Generator) -> Subject:
    """Round stone arches over a river, with cutwaters, a parapet and lamps or statues."""
    style = Style.draw(kin).own(own)
    count, span = int(pick(own, 3, 3, 4, 5)), own.uniform(13, 17)
    pier, deep = own.uniform(2.4, 3.6), own.uniform(7, 9)
    length = count * span + (count + 1) * pier
    rise = span * own.uniform(0.34, 0.48)
    height = rise + own.uniform(3.6, 5.0)
    spring = own.uniform(1.0, 2.0)
    openings = [
        arch(-length / 2 + pier + i * (span + pier), span, spring, rise) for i in range(count)
    ]
    top = height + spring - 1.0
    textures = {
        "spandrel": _spandrel(own, style, openings, (length, top)),
        "soffit": style.stone(kin, 160, 96),
        "parapet": _parapet(own, style),
        "road": paint.plaster(own, (32, 256), (150, 144, 134)),
        "cutwater": _cutwater(kin, own, style),
        "trim": style.dressed(own, 64, 64),
        "bank": paint.foliage(own),
    }
    faces = moved(
        pierced_wall((length, top), openings, deep, "spandrel", "soffit"), (0, -deep / 2, 0)
    )
    for y in (-deep / 2, deep / 2 - 0.5):
        faces += box((0, y + 0.25, top), (length, 0.5, 1.2), "parapet", "trim")
    faces += [
        panel(
            [0, 0, top],
            [1, 0, 0],
            [0, 1, 0],
            [
                [
                    [-length / 2, -deep / 2],
                    [length / 2, -deep / 2],
                    [length / 2, deep / 2],
                    [-length / 2, deep / 2],
                ]
            ],
            "road",
        )
    ]
    tall = spring + rise * own.uniform(0.3, 0.9)
    ornament = int(own.integers(3))
    for i in range(count + 1):
        x = -length / 2 + pier / 2 + i * (span + pier)
        for side in (-1, 1):
            at = (x, side * deep / 2, 0.0)
            faces += revolve(
                [(pier * 0.5, -0.5), (pier * 0.5, tall), (0.1, tall + 1.6)],
                "cutwater",
                sides=8,
                centre=at,
                smooth=False,
            )
            faces += _finial(ornament, (x, side * (deep / 2 - 0.25), top + 1.2))
    banks = [
        face
        for side in (-1, 1)
        for face in box(
            (side * (length / 2 + 29), 32, -1),
            (62, 90, top + 0.8),
            "bank",
            "bank",
            taper=0.92,
            tint=(0.32, 0.38, 0.2),
        )
    ]
    return Subject(faces, textures, Ground("water", "water", 400), banks)


def _finial(kind: int, at: tuple[float, float, float]) -> list[Face]:
    """What stands on a parapet over a pier: a lamp, a ball or an obelisk."""
    x, y, z = at
    faces = slab((x, y, z - 0.6), (1.1, 1.1, 1.0), "trim", "trim")
    profiles = (
        [(0.1, 0.4), (0.08, 3.0), (0.34, 3.2), (0.42, 3.8), (0.05, 4.2)],
        [(0.15, 0.4), (0.6, 0.8), (0.75, 1.3), (0.5, 1.8), (0.05, 2.0)],
        [(0.5, 0.4), (0.32, 3.0), (0.02, 3.6)],
    )
    return faces + revolve(profiles[kind], "trim", sides=6, centre=at)


def _spandrel(
    own: Generator, style: Style, openings: list[Array], size: tuple[float, float]
) -> Picture:
    """The bridge's side, 14 pixels to the metre, with a ring of voussoirs round every arch."""
    scale = min(14.0, 1000 / size[0])
    width, height = round(size[0] * scale), round(size[1] * scale)
    wall = style.stone(own, height, width)
    medallion = paint.motif(own, 32)
    ring = own.uniform(0.8, 1.3) * scale
    for outline in openings:
        x = (outline[1:-1, 0] + size[0] / 2) * scale
        y = (size[1] - outline[1:-1, 1]) * scale
        middle = np.array([x.mean(), y[0]])
        inner = np.stack([x, y], axis=1)
        outward = inner - middle
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        outer = inner + outward * ring
        for i in range(len(inner) - 1):
            stone = np.array([inner[i], inner[i + 1], outer[i + 1], outer[i]])
            shade = paint.varied(own, style.trim, 0.07)
            cv2.fillPoly(wall, [np.round(stone).astype(np.int32)], shade)
            cv2.polylines(wall, [np.round(stone).astype(np.int32)], True, (96, 88, 76), 1)
    ornament = own.integers(3)
    pier = float(openings[1][0, 0] - openings[0][-1, 0]) * scale
    for outline in openings[1:]:
        centre = round(float(outline[0, 0] + size[0] / 2) * scale - pier / 2), round(height * 0.3)
        big = round(pier * 0.42)
        if ornament == 0:
            cv2.circle(wall, centre, big, (52, 46, 42), -1, cv2.LINE_AA)
            cv2.circle(wall, centre, big, style.trim, 2, cv2.LINE_AA)
        elif ornament == 1:
            corner = (centre[0] - big, centre[1] - big)
            paint.carve(wall, (*corner, 2 * big, 2 * big), medallion, 2.5)
    paint.frieze(
        wall,
        (0, 2, width, max(6, round(0.7 * scale))),
        paint.motif(own, 20),
        int(own.integers(60, 110)),
    )
    return wall


def _parapet(own: Generator, style: Style) -> Picture:
    picture = style.dressed(own, 24, 1024)
    step = int(pick(own, 8, 12, 20))
    if own.random() < 0.7:
        for x in range(0, 1024, step):
            picture[5:20, x : x + step // 2] = (84, 78, 70)
    return picture


def _cutwater(kin: Generator, own: Generator, style: Style) -> Picture:
    wall = style.stone(kin, 128, 160)
    paint.moulding(wall, 0, 160, int(own.integers(30, 60)), 3)
    return wall


def viaduct(kin: Generator, own: Generator) -> Subject:
    """One, two or three rows of arches on slender piers across a valley."""
    style = Style.draw(kin).own(own)
    tiers, bays = int(pick(own, 1, 2, 2, 3)), int(own.integers(5, 9))
    span, pier = own.uniform(8, 11), own.uniform(2.0, 3.0)
    length, deep = bays * (span + pier) + pier, own.uniform(4, 6)
    textures = {
        "soffit": style.stone(kin, 128, 64),
        "trim": _parapet(own, style),
        "bank": paint.foliage(own),
    }
    faces: list[Face] = []
    level = 0.0
    for tier in range(tiers):
        split = 3 if tier == 2 else 1  # the uppermost row has small arches, as aqueducts do
        tall = (own.uniform(16, 20) if tiers == 1 else own.uniform(9, 13)) / (2 if split > 1 else 1)
        width = (span + pier) / split - pier / (1.6 if split > 1 else 1)
        step = (span + pier) / split
        openings = [
            arch(
                -bays * (span + pier) / 2 + (i + 0.5) * step - width / 2,
                width,
                tall - width * 0.5 - 1.6,
                width * 0.5,
            )
            for i in range(bays * split)
        ]
        name = f"tier {tier}"
        textures[name] = _arcade(own, style, openings, (length, tall))
        thick = deep * (1 - 0.12 * tier)
        faces += moved(
            pierced_wall((length, tall), openings, thick, name, "soffit"), (0, -thick / 2, level)
        )
        faces += slab((0, 0, level + tall), (length, thick + 0.9, 0.8), "trim", "trim")
        level += tall + 0.8
    faces += slab((0, -deep * 0.3, level), (length, 0.4, 1.1), "trim", "trim")
    banks = [
        face
        for side in (-1, 1)
        for face in box(
            (side * (length / 2 + 28), 22, -1),
            (66, 70, level * 0.9),
            "bank",
            "bank",
            taper=0.86,
            tint=(0.34, 0.40, 0.2),
        )
    ]
    return Subject(faces, textures, Ground("grass", "meadow", 60), banks)


def _arcade(
    own: Generator, style: Style, openings: list[Array], size: tuple[float, float]
) -> Picture:
    wall = _spandrel(own, style, openings, size)
    height, width = wall.shape[:2]
    scale = width / size[0]
    belt = int(own.integers(2, 5))
    for row in np.linspace(0.25, 0.95, belt):
        paint.moulding(wall, 0, width, round(height * row), 1)
    if own.random() < 0.5:
        for outline in openings:
            x = round((outline[0, 0] + size[0] / 2) * scale)
            wall[:, max(x - 6, 0) : max(x - 2, 0)] = paint.shades(
                wall[:, max(x - 6, 0) : max(x - 2, 0)], 1.18
            )
    return wall
