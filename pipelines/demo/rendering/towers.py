"""Tall landmarks: lighthouses, bell towers, pagodas and high-rises.

Every family is a function of two generators: `kin` gives the same numbers to all its members,
`own` each member's own.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.demo.rendering import textures as paint
from pipelines.demo.rendering.geometry import (
    Face,
    arch,
    box,
    frustum,
    gable,
    moved,
    panel,
    pointed_arch,
    quad,
    raised,
    revolve,
    slab,
)
from pipelines.demo.rendering.ground import Ground
from pipelines.demo.rendering.scene import Subject
from pipelines.demo.rendering.style import Style, pick
from pipelines.demo.rendering.textures import Colour, Generator, Picture


def lighthouse(kin: Generator, own: Generator) -> Subject:
    """A tapering round tower with painted bands, a gallery and a lantern, beside a cottage."""
    style = Style.draw(kin).own(own)
    height, foot = own.uniform(24, 34), own.uniform(3.4, 4.6)
    neck = foot * own.uniform(0.55, 0.72)
    textures = {
        "shaft": _banded_shaft(kin, own, style),
        "rail": _railing(own),
        "lamp": _lantern(own),
        "cap": paint.ribbed(
            own,
            (64, 256),
            ((150, 40, 36), (52, 60, 62), (84, 128, 112))[own.integers(3)],
            int(own.integers(8, 17)),
            1,
        ),
        "rock": paint.masonry(kin, (96, 256), (128, 122, 114), 16, 1.6, jitter=0.16),
        "cottage": _cottage_wall(own, style),
        "roof": style.covering(own),
    }
    bulge = own.uniform(0.0, 0.5)
    shaft = [
        (foot, 1.5),
        (foot * 0.86 + neck * 0.14 - bulge * 0.4, height * 0.25),
        ((foot + neck) / 2 - bulge * 0.5, height * 0.55),
        (neck, height),
    ]
    wide = neck + own.uniform(0.7, 1.2)
    glass, lamp_height = neck * own.uniform(0.6, 0.75), own.uniform(2.4, 3.4)
    top = height + lamp_height + 0.4
    dome = own.uniform(0.9, 2.0)
    faces = [
        *revolve([(foot + 2.2, 0), (foot + 1.4, 1.5), (foot, 1.5)], "rock", sides=16),
        *revolve(shaft, "shaft", sides=20),
        *revolve(
            [(neck, height - 0.8), (wide, height), (wide, height + 0.35), (glass, height + 0.36)],
            "cap",
            sides=20,
            tint=(0.85, 0.85, 0.85),
        ),
        *revolve([(wide - 0.06, height + 0.3), (wide - 0.06, height + 1.4)], "rail", sides=20),
        *revolve([(glass, height + 0.3), (glass, top)], "lamp", sides=12, smooth=False),
        *revolve(
            [
                (glass + 0.4, top),
                (glass * 0.8, top + dome * 0.55),
                (0.25, top + dome),
                (0.08, top + dome + 1.6),
            ],
            "cap",
            sides=16,
        ),
    ]
    side = float(own.choice([-1, 1]))
    size = (own.uniform(7, 11), own.uniform(5, 7), own.uniform(3, 4.2))
    at = (side * (foot + 3 + size[0] / 2), 1.0, 0.0)
    cottage = box(at, size, "cottage")
    cottage += gable(
        (at[0], at[1], size[2]),
        (size[0], size[1], own.uniform(1.8, 3)),
        "roof",
        "cottage",
        eaves=0.3,
    )
    return Subject(faces + cottage, textures, Ground("gravel", "meadow", 14))


def _banded_shaft(kin: Generator, own: Generator, style: Style) -> Picture:
    white: Colour = (232, 230, 222)
    stone = paint.masonry(kin, (512, 512), white, style.course * 1.6, 2.4, jitter=0.03, joint=0.86)
    bold: Colour = ((176, 44, 38), (38, 42, 52), (36, 70, 120))[own.integers(3)]
    bold = paint.varied(own, bold, 0.1)
    count = int(own.integers(1, 4))
    edges = (
        np.sort(own.uniform(0.06, 0.94, 2 * count))
        if own.random() < 0.4
        else (np.linspace(0, 1, 2 * count + 2)[1:-1])
    )
    order = (white, bold) if own.random() < 0.5 else (bold, white)
    wall = paint.bands(stone, order, edges.tolist())
    window = paint.WindowStyle.draw(own, style.trim)
    rows = int(own.integers(3, 5))
    for column in (0.24, 0.36, 0.5, 0.64, 0.78):
        for row in range(rows):
            if own.random() < 0.5:
                place = (round(512 * column) - 7, 60 + row * 380 // rows, 14, 26)
                paint.paint_window(wall, place, window, own)
    paint.door(wall, (236, 450, 36, 62), own, paint.varied(own, (90, 60, 40), 0.3))
    return wall


def _railing(own: Generator) -> Picture:
    picture = paint.plaster(own, (48, 512), (190, 196, 200), 0.02)
    step = int(own.integers(10, 20))
    for x in range(0, 512, step):
        picture[:, x : x + 3] = (40, 44, 46)
    picture[:5], picture[22:25], picture[-5:] = (40, 44, 46), (40, 44, 46), (40, 44, 46)
    return picture


def _lantern(own: Generator) -> Picture:
    picture = paint.plaster(own, (96, 384), (150, 170, 172), 0.12)
    picture[30:70:2, :] = (226, 214, 160)
    slant = int(own.choice([0, 32]))
    for x in range(0, 385, 32):
        for way in (slant, -slant):
            ends = ((x, 0), (x + way, 96))
            cv2.line(picture, *ends, (44, 48, 48), 3)
    picture[:6], picture[-10:] = (44, 48, 48), (44, 48, 48)
    return picture


def _cottage_wall(own: Generator, style: Style) -> Picture:
    wall = paint.plaster(own, (96, 224), (228, 222, 208), 0.08)
    window = paint.WindowStyle.draw(own, style.trim, ("flat",))
    paint.paint_windows(
        wall, (8, 10, 208, 76), 1, int(own.integers(3, 6)), window, own, size=(0.36, 0.42)
    )
    paint.door(wall, (100, 44, 24, 52), own, paint.varied(own, (70, 90, 96), 0.3), "flat")
    return wall


def bell_tower(kin: Generator, own: Generator) -> Subject:
    """A square tower with string courses, clock and open belfry under a spire."""
    style = Style.draw(kin).own(own)
    wide, shaft = own.uniform(6.5, 8.5), own.uniform(22, 32)
    belfry, spire = wide * own.uniform(0.85, 1.2), wide * own.uniform(0.9, 2.3)
    fronts = [_tower_wall(kin, own, style) for _ in range(2)]
    textures = {
        "front": fronts[0],
        "side": fronts[1],
        "belfry": _ornate_wall(kin, own, style, 192, 192),
        "dark": paint.plaster(own, (32, 32), (40, 36, 34)),
        "trim": _cornice(own, style),
        "spire": style.covering(own, 256, 192)
        if own.random() < 0.6
        else (paint.ribbed(own, (256, 192), style.roof, int(own.integers(3, 7)), 6)),
        "door": style.dressed(kin, 64, 64),
    }
    faces = [
        *box((0, 0, 0), (wide + 1.2, wide + 1.2, 1.6), "trim", "trim"),
        *box((0, 0, 1.6), (wide, wide, shaft), ("front", "side", "front", "side")),
        *slab((0, 0, 1.6 + shaft), (wide + 1.0, wide + 1.0, 0.9), "trim", "trim"),
    ]
    level = shaft + 2.5
    faces += _open_storey(own, wide, belfry, level)
    level += belfry
    faces += slab((0, 0, level), (wide + 1.3, wide + 1.3, 1.0), "trim", "trim")
    faces += _spire(own, wide, spire, level + 1.0)
    if own.random() < 0.5:
        for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            at = (x * wide * 0.5, y * wide * 0.5, level + 1.0)
            faces += frustum(at, (1.1, 1.1), (0.1, 0.1), own.uniform(2.4, 2.6), "trim")
    return Subject(faces, textures, Ground("paving", "grass", 34))


def _tower_wall(kin: Generator, own: Generator, style: Style) -> Picture:
    wall = style.stone(kin, 512, 160)
    levels = np.sort(own.uniform(0.12, 0.85, int(own.integers(2, 5))))
    for level in levels:
        paint.moulding(wall, 0, 160, int(512 * level), 3)
    ornament = paint.motif(own, 24)
    if own.random() < 0.6:
        top = int(512 * levels[0]) + 6
        paint.frieze(wall, (0, top, 160, 20), ornament, 7)
    if own.random() < 0.7:
        paint.pilasters(wall, (0, 40, 160, 470), int(own.integers(1, 3)), style.trim, 0.1)
    window = paint.WindowStyle.draw(own, style.trim, ("flat", "round", "pointed"))
    rows, columns = int(own.integers(3, 6)), int(own.integers(1, 3))
    paint.paint_windows(
        wall,
        (24, 120, 112, 340),
        rows,
        columns,
        window,
        own,
        size=(0.22 * columns, own.uniform(0.35, 0.6)),
    )
    paint.clock(wall, (80, 64), int(own.integers(30, 44)), own)
    return wall


def _ornate_wall(kin: Generator, own: Generator, style: Style, height: int, width: int) -> Picture:
    wall = style.stone(kin, height, width)
    ornament = paint.motif(own, 28)
    paint.frieze(wall, (0, 4, width, 26), ornament, int(own.integers(6, 10)))
    paint.frieze(wall, (0, height - 30, width, 26), paint.motif(own, 28), int(own.integers(5, 9)))
    return wall


def _cornice(own: Generator, style: Style) -> Picture:
    band = style.dressed(own, 40, 256)
    paint.frieze(band, (0, 6, 256, 28), paint.motif(own, 24), int(own.integers(9, 16)))
    return band


def _open_storey(own: Generator, wide: float, height: float, level: float) -> list[Face]:
    """Four walls with arched openings round a dark core."""
    count = int(own.integers(1, 4))
    step = wide / count
    gap, spring = step * own.uniform(0.5, 0.66), height * own.uniform(0.4, 0.55)
    make = pointed_arch if own.random() < 0.3 else arch
    holes = [
        raised(make((i + 0.5) * step - gap / 2 - wide / 2, gap, spring, gap * 0.5), height * 0.12)
        for i in range(count)
    ]
    outline = np.array([[-wide / 2, 0], [wide / 2, 0], [wide / 2, height], [-wide / 2, height]])
    wall = panel([0, -wide / 2, level], [1, 0, 0], [0, 0, 1], [outline, *holes], "belfry")
    faces = [face for i in range(4) for face in moved([wall], turn=i * np.pi / 2)]
    return faces + box((0, 0, level), (wide * 0.86, wide * 0.86, height), "dark", "dark")


def _spire(own: Generator, wide: float, height: float, level: float) -> list[Face]:
    kind = own.integers(3)
    if kind == 0:
        faces = frustum((0, 0, level), (wide + 0.6, wide + 0.6), (0.1, 0.1), height, "spire")
    elif kind == 1:
        faces = revolve(
            [
                (wide * 0.5, level),
                (wide * 0.46, level + height * 0.12),
                (0.05, level + height * 1.15),
            ],
            "spire",
            sides=8,
            smooth=False,
        )
    else:
        profile = [
            (0.42, 0),
            (0.5, 0.16),
            (0.5, 0.3),
            (0.36, 0.5),
            (0.16, 0.66),
            (0.08, 0.8),
            (0.02, 1.0),
        ]
        faces = revolve(
            [(wide * r, level + height * 1.1 * z) for r, z in profile], "spire", sides=16
        )
    tip = level + height * (1.0, 1.15, 1.1)[kind]
    return faces + revolve([(0.07, tip - 0.5), (0.06, tip + 2.0)], "dark", sides=6)


def pagoda(kin: Generator, own: Generator) -> Subject:
    """Storeys that shrink upwards, each under a wide roof with lifted corners."""
    style = Style.draw(kin)
    red = paint.varied(own, (158, 52, 40), 0.12)
    tiers, sides = int(own.integers(4, 8)), int(pick(own, 4, 4, 6, 8))
    textures = {
        "wall": _pagoda_wall(own, red),
        "tiles": paint.ribbed(kin, (96, 192), paint.varied(own, (86, 104, 96), 0.12), 18, 4),
        "eaves": _eaves(own, red),
        "base": _ornate_wall(kin, own, style, 64, 256),
        "gold": paint.ribbed(own, (64, 64), (196, 156, 70), 4, 8),
    }
    radius, level = own.uniform(4.6, 6.0), 1.8
    faces = revolve(
        [(radius * 1.7, 0), (radius * 1.7, 1.8), (0.1, 1.81)], "base", sides=sides, smooth=False
    )
    shrink, lift = own.uniform(0.84, 0.92), own.uniform(0.25, 0.7)
    reach = own.uniform(1.35, 1.6)
    for tier in range(tiers):
        high = radius * (0.75 if tier else 1.0)
        faces += revolve(
            [(radius, level), (radius, level + high)], "wall", sides=sides, smooth=False
        )
        level += high
        faces += _curved_roof(
            radius * reach, radius * shrink * 0.92, level, radius * 0.45, lift, sides
        )
        level += radius * 0.45 - 0.05
        radius *= shrink
    spire = own.uniform(3, 7)
    rings = [(0.15 + 0.35 * (i % 2) * (1 - i / 12), level + spire * i / 11) for i in range(11)]
    faces += revolve(
        [(radius * 1.1, level - 0.2), (0.5, level + 0.3), *rings[1:], (0.04, level + spire + 1)],
        "gold",
        sides=8,
    )
    spin = np.pi / sides if sides == 4 else 0.0
    return Subject(moved(faces, turn=spin), textures, Ground("gravel", "grass", 22))


def _curved_roof(
    eave: float, inner: float, level: float, rise: float, lift: float, sides: int
) -> list[Face]:
    """A roof whose corners curl upwards: two rings of quads a side, split in the middle."""
    faces = []
    turn = np.pi / 2 + np.arange(2 * sides + 1) * np.pi / sides
    flat = np.cos(np.pi / sides)
    corner = np.where(np.arange(2 * sides + 1) % 2 == 0, 1.0, flat)
    curl = np.where(np.arange(2 * sides + 1) % 2 == 0, lift, 0.0)

    def ring(radius: float, height: float, share: float) -> np.ndarray:
        size = radius * corner
        return np.stack([size * np.cos(turn), size * np.sin(turn), height + share * curl], axis=1)

    rings = [
        ring(eave, level - 0.1, 1.0),
        ring((eave + inner) * 0.46, level + rise * 0.45, 0.25),
        ring(inner, level + rise, 0.0),
    ]
    under = ring(inner * 0.9, level - 0.35, 0.0)
    for low, high, region in ((rings[0], rings[1], (0.5, 1.0)), (rings[1], rings[2], (0.0, 0.5))):
        for i in range(2 * sides):
            half = (
                (0.0, region[0], 0.5, region[1]) if i % 2 == 0 else (0.5, region[0], 1.0, region[1])
            )
            faces.append(quad([low[i], low[i + 1], high[i + 1], high[i]], "tiles", half))
    for i in range(2 * sides):
        faces.append(
            quad([under[i], under[i + 1], rings[0][i + 1], rings[0][i]], "eaves", two_sided=True)
        )
    return faces


def _pagoda_wall(own: Generator, red: Colour) -> Picture:
    wall = paint.plaster(own, (96, 512), paint.varied(own, (226, 212, 186), 0.08), 0.06)
    bays = int(pick(own, 16, 24))
    paint.pilasters(wall, (0, 0, 512, 96), bays, red, 0.18)
    wide = 512 / bays
    kind = own.integers(3)
    for i in range(bays):
        place = (round((i + 0.26) * wide), 24, round(wide * 0.52), 56)
        if kind == 0 or (kind == 1 and i % 2):
            style = paint.WindowStyle("flat", (3, 6), red, red, (52, 40, 34), "none", False, None)
            paint.paint_window(wall, place, style, own)
        else:
            paint.door(wall, place, own, red, "round" if kind == 2 else "flat")
    paint.frieze(wall, (0, 0, 512, 16), paint.motif(own, 20), bays * 2)
    return wall


def _eaves(own: Generator, red: Colour) -> Picture:
    picture = paint.plaster(own, (32, 128), red, 0.05)
    for x in range(0, 128, int(own.integers(6, 12))):
        cv2.line(picture, (x, 0), (x, 31), (92, 40, 28), 3)
    return picture


def high_rise(kin: Generator, own: Generator) -> Subject:
    """A stepped office tower with ribbons or piers of windows and a mast."""
    style = Style.draw(kin)
    tiers, wide = int(own.integers(2, 5)), own.uniform(22, 30)
    textures = {f"tier {i}": _curtain_wall(kin, own, style, i) for i in range(2)}
    textures |= {
        "crown": _crown(own, style),
        "roof": paint.plaster(own, (64, 64), (120, 118, 116)),
        "lobby": _lobby(own, style),
        "mast": paint.lattice(own, (128, 32), (190, 190, 194), 16),
    }
    level, faces = 6.0, box((0, 0, 0), (wide + 3, wide + 3, 6), "lobby", "roof")
    height = own.uniform(90, 130)
    shares = own.dirichlet(np.full(tiers, 6.0))
    for tier, share in enumerate(shares):
        tall = height * share
        faces += box(
            (0, 0, level),
            (wide, wide, tall),
            f"tier {tier % 2}",
            "roof",
            regions=((0.0, 1 - min(1.0, tall / 70), 1.0, 1.0),) * 4,
        )
        level += tall
        faces += slab((0, 0, level), (wide + 0.8, wide + 0.8, 2.0), "crown", "roof")
        level += 2.0
        wide *= own.uniform(0.68, 0.84)
    kind = own.integers(3)
    if kind == 0:
        faces += frustum((0, 0, level), (wide, wide), (0.4, 0.4), wide * 1.6, "crown")
        level += wide * 1.6
    elif kind == 1:
        faces += revolve(
            [
                (wide * 0.5, level),
                (wide * 0.46, level + wide * 0.3),
                (wide * 0.25, level + wide * 0.55),
                (0.3, level + wide * 0.65),
            ],
            "crown",
            sides=16,
        )
        level += wide * 0.6
    faces += frustum((0, 0, level - 0.5), (1.4, 1.4), (0.2, 0.2), own.uniform(10, 22), "mast")
    return Subject(faces, textures, Ground("paving", "grass", 90))


def _curtain_wall(kin: Generator, own: Generator, style: Style, tier: int) -> Picture:
    """70 metres of office windows, 512 by 256 pixels."""
    glass = paint.varied(own, ((70, 96, 116), (92, 84, 70), (56, 76, 76))[kin.integers(3)], 0.08)
    frame = paint.varied(own, style.wall, 0.06)
    wall = paint.plaster(kin, (512, 256), frame, 0.04)
    floors, bays = int(own.integers(18, 24)), int(own.integers(8, 15))
    high, wide = 512 / floors, 256 / bays
    share_x, share_y = own.uniform(0.55, 0.9), own.uniform(0.45, 0.75)
    group = int(own.integers(2, 5))
    for floor in range(floors):
        for bay in range(bays):
            x, y = round(bay * wide + wide * (1 - share_x) / 2), round(floor * high + 2)
            tone = paint.varied(own, glass, 0.25)
            if own.random() < 0.08:
                tone = (214, 196, 150)
            cv2.rectangle(
                wall, (x, y), (x + round(wide * share_x), y + round(high * share_y)), tone, -1
            )
        if floor % (group * 3) == 0:
            paint.moulding(wall, 0, 256, round(floor * high), 2)
    for bay in range(0, bays + 1, group):
        x = min(round(bay * wide), 252)
        wall[:, x : x + 4] = paint.shades(wall[:, x : x + 4], 1.25)
    if tier:
        wall = paint.shades(wall, 0.92)
    return wall


def _crown(own: Generator, style: Style) -> Picture:
    band = style.dressed(own, 64, 256)
    paint.frieze(band, (0, 4, 256, 54), paint.motif(own, 40), int(own.integers(5, 10)))
    return band


def _lobby(own: Generator, style: Style) -> Picture:
    wall = style.dressed(own, 72, 320)
    window = paint.WindowStyle.draw(own, style.trim)
    paint.paint_windows(
        wall, (4, 8, 312, 60), 1, int(own.integers(7, 12)), window, own, size=(0.6, 0.75)
    )
    return wall
