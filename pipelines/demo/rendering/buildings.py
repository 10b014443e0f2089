"""Broad landmarks: palaces, domed halls, cathedrals and city gates. See `towers`."""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.demo.rendering import textures as paint
from pipelines.demo.rendering.geometry import (
    Face,
    arch,
    box,
    crenels,
    frustum,
    gable,
    moved,
    panel,
    pierced_wall,
    pointed_arch,
    revolve,
    slab,
)
from pipelines.demo.rendering.ground import Ground
from pipelines.demo.rendering.scene import Subject
from pipelines.demo.rendering.style import ROOFS, Style, pick
from pipelines.demo.rendering.textures import Generator, Picture


def column(
    at: tuple[float, float, float], height: float, radius: float, *, sides: int = 8
) -> list[Face]:
    """A column with base and capital; needs the texture "column"."""
    profile = [
        (radius * 1.35, 0),
        (radius * 1.05, height * 0.05),
        (radius * 0.86, height * 0.9),
        (radius * 1.4, height),
    ]
    return revolve(profile, "column", sides=sides, centre=at)


def pediment(
    at: tuple[float, float, float], size: tuple[float, float, float], roof: str = "roof"
) -> list[Face]:
    """A low gable towards -y over the middle of a front at `at`; needs the texture "pediment"."""
    width, depth, height = size
    x, y, z = at
    return gable(
        (x, y + depth / 2, z), (width, depth, height), roof, "pediment", along_x=False, eaves=0.5
    )


def fluted(own: Generator, style: Style) -> Picture:
    """The texture "column": flutes round a shaft."""
    return paint.ribbed(own, (128, 128), style.trim, int(pick(own, 8, 16)), 0)


def carved_pediment(own: Generator, style: Style) -> Picture:
    """The texture "pediment": a triangle with a relief in it."""
    wall = style.dressed(own, 96, 320)
    paint.carve(wall, (84, 22, 152, 70), paint.motif(own, 64), 2.6)
    for side in (30, 240):
        paint.carve(wall, (side, 58, 50, 34), paint.motif(own, 40), 2.2)
    for start in ((0, 95), (319, 95)):
        cv2.line(wall, start, (160, 2), (110, 102, 90), 4, cv2.LINE_AA)
    return wall


def _cornice(own: Generator, style: Style) -> Picture:
    band = style.dressed(own, 36, 512)
    paint.frieze(band, (0, 5, 512, 26), paint.motif(own, 24), int(own.integers(18, 34)))
    return band


def palace(kin: Generator, own: Generator) -> Subject:
    """A long front of repeated windows with a projecting middle, corner blocks and a roof."""
    style = Style.draw(kin).own(own)
    floors = int(pick(own, 2, 3, 3))
    wide, deep, tall = own.uniform(40, 54), own.uniform(13, 18), floors * own.uniform(4.6, 5.4)
    window = paint.WindowStyle.draw(own, style.trim)
    size = (own.uniform(0.34, 0.48), own.uniform(0.5, 0.64))
    columns = int(own.integers(11, 16))
    textures = {
        "front": _storeys(kin, own, style, window, floors, columns, size, 640),
        "middle": _storeys(kin, own, style, window, floors, 3, size, 208),
        "side": _storeys(kin, own, style, window, floors, 4, size, 224),
        "cornice": _cornice(own, style),
        "roof": style.covering(kin, 128, 512),
        "column": fluted(own, style),
        "pediment": carved_pediment(own, style),
        "dormer": _dormer(own, style, window),
    }
    block, out = wide * own.uniform(0.2, 0.28), own.uniform(1.5, 3.5)
    sides = ("front", "side", "front", "side")
    faces = box((0, 0, 0), (wide, deep, tall), sides)
    faces += slab((0, 0, tall), (wide + 0.9, deep + 0.9, 1.1), "cornice", "cornice")
    rise = own.uniform(3, 6)
    faces += frustum(
        (0, 0, tall + 1.1),
        (wide + 0.4, deep + 0.4),
        (wide * 0.92, deep * 0.5),
        rise,
        "roof",
        "roof",
    )
    high = tall + own.uniform(1.0, 3.0)
    faces += box(
        (0, -deep / 2 - out / 2, 0), (block, out, high), ("middle", "side", "side", "side")
    )
    faces += slab(
        (0, -deep / 2 - out / 2, high), (block + 0.9, out + 0.9, 0.9), "cornice", "cornice"
    )
    faces += _crowning(own, (0, -deep / 2 - out - 0.3, high + 0.9), block, deep * 0.5)
    if own.random() < 0.5:
        corner = wide * own.uniform(0.1, 0.14)
        for x in (-wide / 2, wide / 2):
            faces += box((x, -deep / 2 + corner / 2 - 1, 0), (corner, corner, tall + 1.4), "middle")
            faces += frustum(
                (x, -deep / 2 + corner / 2 - 1, tall + 1.4),
                (corner + 0.8, corner + 0.8),
                (0.6, 0.6),
                rise + 2.5,
                "roof",
            )
    count = int(own.integers(6, 10))
    for i in range(count):
        x = (i - (count - 1) / 2) * wide * 0.86 / count
        if abs(x) > block / 2 + 1:
            faces += _dormer_box((x, -deep / 2 + 0.9, tall + 1.1))
    return Subject(faces, textures, Ground("gravel", "grass", 46))


def _storeys(
    kin: Generator,
    own: Generator,
    style: Style,
    window: paint.WindowStyle,
    floors: int,
    columns: int,
    size: tuple[float, float],
    width: int,
) -> Picture:
    """A front with rows of windows, 72 pixels a floor, rusticated below."""
    height = 72 * floors
    wall = (
        style.stone(own, height, width)
        if kin.random() < 0.5
        else (paint.plaster(own, (height, width), style.wall))
    )
    wall[-66:] = paint.masonry(kin, (66, width), style.trim, 12, 2.5, jitter=0.05, joint=0.6)
    for floor in range(1, floors):
        paint.frieze(wall, (0, 72 * floor - 9, width, 9), _MEANDER, columns * 3)
    if kin.random() < 0.6:
        paint.pilasters(wall, (0, 2, width, height - 74), columns, style.trim, 0.14)
    paint.paint_windows(wall, (0, 4, width, height - 4), floors, columns, window, own, size=size)
    ornament = paint.motif(own, 24)
    for i in range(columns):
        if floors > 1:
            x = round(width * (i + 0.5) / columns)
            paint.carve(wall, (x - 9, 66, 18, 10), ornament, 2.5)
    return wall


_MEANDER = paint.motif(np.random.default_rng(3), 16)


def _crowning(
    own: Generator, at: tuple[float, float, float], wide: float, deep: float
) -> list[Face]:
    """What tops a front's middle: a pediment, a square dome or an attic."""
    x, y, z = at
    kind = own.integers(3)
    if kind == 0:
        return pediment(at, (wide, deep, wide * own.uniform(0.2, 0.3)))
    if kind == 1:
        high = wide * own.uniform(0.35, 0.55)
        lower = frustum(
            (x, y + deep / 2, z), (wide, deep), (wide * 0.85, deep * 0.8), high * 0.6, "roof"
        )
        return lower + frustum(
            (x, y + deep / 2, z + high * 0.6),
            (wide * 0.85, deep * 0.8),
            (wide * 0.3, deep * 0.25),
            high * 0.5,
            "roof",
            "cornice",
        )
    return box((x, y + deep / 2, z), (wide * 0.8, deep, 2.6), "middle", "cornice")


def _dormer(own: Generator, style: Style, window: paint.WindowStyle) -> Picture:
    wall = style.dressed(own, 64, 48)
    paint.paint_window(wall, (14, 18, 20, 38), window, own)
    return wall


def _dormer_box(at: tuple[float, float, float]) -> list[Face]:
    x, y, z = at
    faces = box((x, y + 1.0, z), (1.7, 2.4, 2.0), "dormer")
    return faces + gable((x, y + 1.0, z + 2.0), (1.9, 2.6, 0.8), "roof", "cornice", along_x=False)


def domed_hall(kin: Generator, own: Generator) -> Subject:
    """A colonnaded porch before a block under a drum and a great dome."""
    style = Style.draw(kin).own(own)
    wide, deep, tall = own.uniform(28, 36), own.uniform(22, 26), own.uniform(9, 12)
    window = paint.WindowStyle.draw(own, style.trim, ("round", "flat"))
    textures = {
        "wall": _storeys(kin, own, style, window, 2, int(own.integers(6, 9)), (0.36, 0.56), 384),
        "drum": _drum(own, style, window),
        "dome": paint.ribbed(
            own,
            (256, 512),
            paint.varied(own, ROOFS[own.integers(len(ROOFS))]),
            int(pick(own, 8, 12, 16, 24)),
            int(own.integers(0, 7)),
        ),
        "cornice": _cornice(own, style),
        "column": fluted(own, style),
        "pediment": carved_pediment(own, style),
        "roof": style.covering(kin),
        "steps": paint.masonry(kin, (48, 256), style.trim, 8, 12, jitter=0.04),
    }
    faces = box((0, 0, 0), (wide, deep, tall), "wall", "cornice")
    faces += slab((0, 0, tall), (wide + 1, deep + 1, 1.2), "cornice", "cornice")
    faces += _porch(own, wide, deep, tall)
    radius, level = deep * own.uniform(0.32, 0.42), tall + 1.2
    drum = radius * own.uniform(0.45, 0.8)
    faces += revolve([(radius, level), (radius, level + drum)], "drum", sides=24)
    level += drum
    faces += revolve(
        [
            (radius + 0.1, level),
            (radius + 0.8, level + 0.4),
            (radius + 0.8, level + 0.9),
            (radius * 0.97, level + 1.0),
        ],
        "cornice",
        sides=24,
    )
    high = radius * own.uniform(0.85, 1.35)
    turn = np.linspace(0.0, np.pi / 2 * 0.9, 8)
    dome = [(radius * 0.97 * np.cos(a), level + 1 + high * np.sin(a)) for a in turn]
    faces += revolve(dome, "dome", sides=24)
    faces += _lantern(own, level + 1 + high * float(np.sin(turn[-1])), radius * 0.17)
    return Subject(faces, textures, Ground("paving", "grass", 40))


def _drum(own: Generator, style: Style, window: paint.WindowStyle) -> Picture:
    wall = style.stone(own, 112, 640)
    bays = int(pick(own, 16, 20, 24))
    paint.pilasters(wall, (0, 2, 640, 106), bays, style.trim, 0.24)
    paint.paint_windows(wall, (0, 6, 640, 96), 1, bays, window, own, size=(0.34, 0.6))
    paint.frieze(wall, (0, 0, 640, 13), paint.motif(own, 20), bays * 2)
    return wall


def _porch(own: Generator, wide: float, deep: float, tall: float) -> list[Face]:
    count, out = int(pick(own, 4, 6, 6, 8)), own.uniform(4, 6)
    porch, front = wide * own.uniform(0.42, 0.62), -deep / 2
    faces: list[Face] = []
    for step in range(3):
        faces += box(
            (0, front - out / 2 - 1.2 + 0.6 * step, 0),
            (porch + 4 - step, out + 3 - step, 0.5 * (step + 1)),
            "steps",
            "steps",
        )
    for i in range(count):
        x = (i - (count - 1) / 2) * (porch - 1.4) / (count - 1)
        faces += column((x, front - out + 0.7, 1.5), tall - 1.5, porch * 0.034)
    faces += slab((0, front - out / 2, tall), (porch, out, 1.5), "cornice", "cornice")
    return faces + pediment((0, front - out, tall + 1.5), (porch, out + 2, porch * 0.2))


def _lantern(own: Generator, level: float, radius: float) -> list[Face]:
    high = radius * own.uniform(1.6, 2.6)
    faces = revolve(
        [(radius * 1.3, level - 0.4), (radius, level + 0.2), (radius, level + high)],
        "drum",
        sides=12,
        repeats=1,
    )
    return faces + revolve(
        [
            (radius * 1.15, level + high),
            (radius * 0.8, level + high * 1.3),
            (0.15, level + high * 1.55),
            (0.06, level + high * 2.2),
        ],
        "dome",
        sides=12,
    )


def cathedral(kin: Generator, own: Generator) -> Subject:
    """A Gothic west front: portals, a rose window, two towers, and the nave behind."""
    style = Style.draw(kin).own(own)
    tower, nave = own.uniform(7, 9), own.uniform(10, 13)
    tall, high = own.uniform(17, 21), own.uniform(28, 36)
    textures = {
        "west": _west_front(kin, own, style),
        "tower": _gothic_tower(kin, own, style),
        "tower side": _gothic_tower(kin, own, style),
        "nave": _nave(kin, own, style),
        "roof": style.covering(kin, 160, 256),
        "gable": _gable_wall(own, style),
        "spire": paint.masonry(kin, (256, 128), style.roof, 10, 1.4),
        "trim": _cornice(own, style),
        "dark": paint.plaster(own, (32, 32), (44, 38, 36)),
        "soffit": style.stone(kin, 96, 64),
    }
    doors = [pointed_arch(-nave * 0.2, nave * 0.4, 3.2, own.uniform(2.2, 3.4))]
    wall = pierced_wall((nave, tall), doors, 1.2, "west", "soffit")
    faces = moved(wall, (0, -0.2, 0)) + box((0, 1.6, 0), (nave, 0.4, tall * 0.5), "dark")
    faces += gable(
        (0, 12, tall),
        (nave + 1, 26, nave * own.uniform(0.5, 0.8)),
        "roof",
        "gable",
        along_x=False,
        eaves=0.3,
    )
    faces += box((0, 14, 0), (nave, 24, tall), "nave")
    spires = int(own.integers(3))
    for side in (-1, 1):
        x = side * (nave + tower) / 2
        rise = high if side < 0 or own.random() < 0.7 else high * 0.88
        sides = ("tower", "tower side", "tower", "tower side")
        faces += box((x, tower / 2 - 0.8, 0), (tower, tower, rise), sides)
        faces += slab((x, tower / 2 - 0.8, rise), (tower + 0.8, tower + 0.8, 1.0), "trim", "trim")
        faces += _tower_top(spires, (x, tower / 2 - 0.8, rise + 1.0), tower)
    return Subject(faces, textures, Ground("cobbles", "grass", 40))


def _tower_top(kind: int, at: tuple[float, float, float], wide: float) -> list[Face]:
    x, y, z = at
    faces: list[Face] = []
    for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        corner = (x + dx * wide * 0.44, y + dy * wide * 0.44, z)
        faces += frustum(corner, (0.9, 0.9), (0.05, 0.05), wide * 0.42, "trim")
    if kind == 0:
        faces += revolve(
            [(wide * 0.44, z), (0.04, z + wide * 1.9)],
            "spire",
            sides=8,
            centre=(x, y, 0),
            smooth=False,
        )
    elif kind == 1:
        faces += frustum(at, (wide * 0.9, wide * 0.9), (0.1, 0.1), wide * 0.95, "roof")
    return faces


def _west_front(kin: Generator, own: Generator, style: Style) -> Picture:
    """The middle of the front: portal below, gallery of niches, rose above; 352 by 224."""
    wall = style.stone(kin, 384, 224)
    paint.rose(wall, (112, int(own.integers(84, 110))), int(own.integers(52, 70)), own)
    niches = int(own.integers(6, 11))
    gallery = paint.WindowStyle(
        str(own.choice(["pointed", "round"])),
        (1, 1),
        style.trim,
        style.trim,
        (62, 54, 50),
        "none",
        True,
        None,
    )
    paint.paint_windows(wall, (4, 178, 216, 52), 1, niches, gallery, own, size=(0.55, 0.8))
    paint.frieze(wall, (0, 4, 224, 20), paint.motif(own, 24), int(own.integers(7, 12)))
    paint.frieze(wall, (0, 234, 224, 16), paint.motif(own, 24), int(own.integers(9, 15)))
    return wall


def _gothic_tower(kin: Generator, own: Generator, style: Style) -> Picture:
    wall = style.stone(kin, 512, 144)
    paint.pilasters(wall, (0, 0, 144, 510), 1, style.trim, 0.12)
    levels = np.array([0.0, own.uniform(0.28, 0.36), own.uniform(0.52, 0.62), 1.0]) * 512
    for floor in range(3):
        top, bottom = int(levels[floor]), int(levels[floor + 1])
        lights = int(own.integers(1, 4))
        window = paint.WindowStyle.draw(own, style.trim, ("pointed", "pointed", "round"))
        tall = (bottom - top) if floor < 2 else (bottom - top) // 2
        paint.paint_windows(
            wall,
            (20, top + 16, 104, tall - 20),
            1,
            lights,
            window,
            own,
            size=(0.55, own.uniform(0.6, 0.85)),
        )
        paint.frieze(wall, (0, top + 1, 144, 15), paint.motif(own, 24), int(own.integers(5, 9)))
    if own.random() < 0.6:
        paint.door(wall, (46, 404, 52, 108), own, (84, 58, 40), "pointed")
    return wall


def _nave(kin: Generator, own: Generator, style: Style) -> Picture:
    wall = style.stone(kin, 192, 256)
    window = paint.WindowStyle.draw(own, style.trim, ("pointed",))
    bays = int(own.integers(5, 8))
    paint.paint_windows(wall, (0, 20, 256, 140), 1, bays, window, own, size=(0.4, 0.85))
    paint.pilasters(wall, (0, 6, 256, 186), bays, style.trim, 0.2)
    return wall


def _gable_wall(own: Generator, style: Style) -> Picture:
    wall = style.dressed(own, 128, 192)
    paint.carve(wall, (64, 50, 64, 64), paint.motif(own, 48), 2.6)
    return wall


def city_gate(kin: Generator, own: Generator) -> Subject:
    """An arched passage between two round towers, with battlements and roofs."""
    style = Style.draw(kin).own(own)
    radius, tall = own.uniform(3.6, 4.8), own.uniform(15, 21)
    middle, wall_height = own.uniform(9, 12), own.uniform(11, 15)
    textures = {
        "tower": _gate_tower(kin, own, style),
        "middle": _gate_middle(kin, own, style),
        "wall": _rampart(kin, own, style),
        "soffit": style.stone(kin, 96, 96),
        "roof": paint.roofing(kin, (192, 256), style.roof),
        "trim": _cornice(own, style),
        "gate": paint.lattice(own, (128, 96), (96, 70, 48), int(own.integers(14, 24))),
    }
    wide = middle * own.uniform(0.4, 0.5)
    make = pointed_arch if own.random() < 0.4 else arch
    door = make(-wide / 2, wide, 3.2, wide * 0.5)
    edge = crenels(middle, wall_height, own.uniform(0.8, 1.3), 1.1)
    faces = moved(
        pierced_wall((middle, wall_height), [door], 5.0, "middle", "soffit", top=edge), (0, -1.5, 0)
    )
    faces += [panel([0, 1.5, 0], [1, 0, 0], [0, 0, 1], [door], "gate")]
    for side in (-1, 1):
        faces += _gate_side(own, side * (middle / 2 + radius * 0.75), radius, tall)
    walls: list[Face] = []
    for side in (-1, 1):
        length = 26.0
        top = crenels(length, wall_height * 0.62, 1.0, 1.0)
        x = side * (middle / 2 + radius * 1.5 + length / 2)
        walls += moved(
            pierced_wall((length, wall_height * 0.62), [], 2.0, "wall", "soffit", top=top),
            (x, 0.5, 0),
        )
    return Subject(faces, textures, Ground("cobbles", "grass", 26), walls)


def _gate_side(own: Generator, x: float, radius: float, tall: float) -> list[Face]:
    faces = revolve(
        [(radius * 1.08, 0), (radius, tall * 0.2), (radius, tall)],
        "tower",
        sides=20,
        centre=(x, 0, 0),
    )
    ledge = [(radius, tall - 0.6), (radius + 0.5, tall), (radius + 0.5, tall + 1.0)]
    faces += revolve(ledge, "trim", sides=20, centre=(x, 0, 0))
    faces += revolve(
        [(radius + 0.5, tall + 1.0), (0.1, tall + 1.01)], "soffit", sides=20, centre=(x, 0, 0)
    )
    count = 10
    for i in range(count):
        merlon = box((0, -radius, tall + 1.0), (1.2, 0.5, 1.0), "soffit", "soffit")
        faces += moved(merlon, (x, 0, 0), 2 * np.pi * i / count)
    if own.random() < 0.6:
        faces += revolve(
            [(radius * 0.95, tall + 1.0), (0.05, tall + 1 + radius * 1.9)],
            "roof",
            sides=20,
            centre=(x, 0, 0),
        )
    return faces


def _gate_tower(kin: Generator, own: Generator, style: Style) -> Picture:
    wall = style.stone(kin, 320, 448)
    slits = paint.WindowStyle.draw(own, style.trim, ("flat", "round", "pointed"))
    for row in range(int(own.integers(2, 4))):
        for column_at in own.permutation(7)[:5]:
            place = (60 + 54 * int(column_at), 50 + 84 * row + int(own.integers(-12, 12)), 9, 30)
            paint.paint_window(wall, place, slits, own)
    for level in own.uniform(0.15, 0.9, int(own.integers(1, 4))):
        paint.moulding(wall, 0, 448, int(320 * level), 2)
    paint.frieze(wall, (0, 4, 448, 20), paint.motif(own, 24), int(own.integers(16, 28)))
    return wall


def _gate_middle(kin: Generator, own: Generator, style: Style) -> Picture:
    wall = style.stone(kin, 288, 224)
    window = paint.WindowStyle.draw(own, style.trim, ("round", "pointed", "flat"))
    paint.paint_windows(
        wall, (20, 40, 184, 60), 1, int(own.integers(2, 6)), window, own, size=(0.4, 0.75)
    )
    paint.carve(wall, (86, 106, 52, 56), paint.motif(own, 48), 2.8)
    paint.frieze(wall, (0, 26, 224, 14), paint.motif(own, 20), int(own.integers(9, 16)))
    return wall


def _rampart(kin: Generator, own: Generator, style: Style) -> Picture:
    wall = style.stone(kin, 160, 320)
    paint.moulding(wall, 0, 320, int(own.integers(30, 60)), 2)
    return wall
