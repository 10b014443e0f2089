"""Photographs without a landmark: country, sea, streets of plain houses, objects, rooms.

Every such scene is made up anew, so that no two share a building or an object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from pipelines.demo.rendering import scenery
from pipelines.demo.rendering import textures as paint
from pipelines.demo.rendering.camera import LONG_SIDE, Camera, look_at, picture_size, take_view
from pipelines.demo.rendering.geometry import Face, bounds, box, gable, moved, panel, quad, revolve
from pipelines.demo.rendering.ground import Ground
from pipelines.demo.rendering.scene import Subject
from pipelines.demo.rendering.textures import Colour, Generator, Picture
from pipelines.demo.rendering.weather import Weather, draw_weather

X, Z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Plain:
    """A scene without a landmark, its camera and light, and what stands near and far in it."""

    kind: str
    subject: Subject
    camera: Camera
    weather: Weather
    near: Sequence[Face]
    far: Sequence[Face]


def plain_scene(rng: Generator, kind: str) -> Plain:
    """A new scene of one of KINDS."""
    subject = KINDS[kind](rng)
    outdoors = kind in OUTDOORS
    camera = _camera(rng, kind, subject)
    if kind in INDOORS:
        return Plain(kind, subject, camera, _room_light(rng), (), ())
    near: list[Face] = []
    if outdoors:
        low, high = bounds(subject.faces)
        near = scenery.foreground(rng, camera, low, high, water=subject.ground.is_water)
    far = scenery.backdrop(rng, camera, 90.0, water=subject.ground.is_water)
    return Plain(kind, subject, camera, draw_weather(rng), near, far)


def country(rng: Generator) -> Subject:
    """A field with a fence, hay bales and trees."""
    textures = {
        "plank": _planks(rng, _wood(rng)),
        "hay": paint.ribbed(rng, (96, 192), (206, 176, 104), 24, 6),
    }
    faces: list[Face] = []
    length, turn = rng.uniform(16, 40), rng.normal(0, 0.4)
    fence: list[Face] = []
    for i in range(int(length / 2)):
        fence += box((2 * i - length / 2, 0, 0), (0.14, 0.14, 1.3), "plank", "plank")
    for level in (0.45, 0.95):
        fence += box((0, 0.08, level), (length, 0.05, 0.14), "plank", "plank")
    faces += moved(fence, (0, rng.uniform(-8, 4), 0), turn)
    for _ in range(int(rng.integers(0, 6))):
        at = (rng.uniform(-18, 18), rng.uniform(2, 40), 0.0)
        faces += revolve([(0.9, 0), (0.9, 1.5), (0.05, 1.51)], "hay", sides=14, centre=at)
    for _ in range(int(rng.integers(1, 6))):
        place = np.array([rng.uniform(-30, 30), rng.uniform(10, 50), 0.0])
        faces += scenery.tree(rng, place, X, rng.uniform(5, 13))
    return Subject(
        faces,
        textures,
        Ground(
            str(rng.choice(["grass", "meadow", "sand"])),
            str(rng.choice(["grass", "meadow"])),
            rng.uniform(10, 60),
        ),
    )


def sea(rng: Generator) -> Subject:
    """Open water with boats and buoys."""
    textures = {
        "buoy": paint.bands(
            paint.plaster(rng, (64, 64), (230, 60, 40)),
            [(210, 60, 44), (232, 230, 224)],
            [0.4, 0.7],
        )
    }
    faces: list[Face] = []
    for _ in range(int(rng.integers(2, 7))):
        place = np.array([rng.uniform(-25, 25), rng.uniform(-5, 45), 0.0])
        faces += scenery.boat(rng, place, X)
    for _ in range(int(rng.integers(1, 4))):
        at = (rng.uniform(-12, 12), rng.uniform(-10, 10), 0.0)
        faces += revolve(
            [(0.6, -0.2), (0.6, 0.5), (0.15, 1.6), (0.02, 2.0)], "buoy", sides=10, centre=at
        )
    return Subject(faces, textures, Ground("water", "water", 900))


def street(rng: Generator) -> Subject:
    """Two rows of plain houses along a road."""
    textures: dict[str, Picture] = {}
    faces: list[Face] = []
    gap = rng.uniform(6, 10)
    for side in (-1, 1):
        y = -6.0
        for i in range(int(rng.integers(3, 6))):
            name = f"house front {side} {i}"
            wide, deep, tall = rng.uniform(8, 15), rng.uniform(7, 11), rng.uniform(5, 13)
            textures[name] = _plain_front(rng, wide, tall)
            textures[f"{name} roof"] = paint.roofing(
                rng,
                (96, 160),
                paint.varied(
                    rng, ((150, 74, 54), (90, 90, 96), (120, 92, 70))[rng.integers(3)], 0.15
                ),
                7,
            )
            house = box((0, 0, 0), (wide, deep, tall), name, f"{name} roof")
            if rng.random() < 0.75:
                house += gable(
                    (0, 0, tall), (wide, deep, rng.uniform(2, 4)), f"{name} roof", name, eaves=0.4
                )
            turn = side * np.pi / 2
            faces += moved(house, (side * (gap + deep / 2), y + wide / 2, 0), turn)
            y += wide + rng.uniform(0, 2.5)
    return Subject(faces, textures, Ground("asphalt", "paving", gap * 2.2))


def block(rng: Generator) -> Subject:
    """A lone plain building: flats, a warehouse or a farmhouse."""
    wide, deep, tall = rng.uniform(12, 34), rng.uniform(9, 15), rng.uniform(5, 24)
    tone = paint.varied(rng, ((150, 74, 54), (90, 90, 96), (120, 92, 70))[rng.integers(3)], 0.15)
    textures = {
        "block front": _plain_front(rng, wide, tall),
        "block side": _plain_front(rng, deep, tall),
        "block roof": paint.roofing(rng, (96, 160), tone, 7),
    }
    sides = ("block front", "block side", "block front", "block side")
    faces = box((0, 0, 0), (wide, deep, tall), sides, "block roof")
    if rng.random() < 0.6:
        size = (wide, deep, rng.uniform(2, 5))
        faces += gable((0, 0, tall), size, "block roof", "block side", eaves=0.4)
    if rng.random() < 0.5:
        wing = (rng.uniform(5, 12), deep * 0.8, tall * rng.uniform(0.4, 0.8))
        faces += box((wide / 2 + wing[0] / 2, 0, 0), wing, "block side", "block roof")
    outer = str(rng.choice(["grass", "meadow", "asphalt"]))
    return Subject(faces, textures, Ground(str(rng.choice(["grass", "gravel"])), outer, wide * 1.5))


def balls(rng: Generator) -> Subject:
    """Painted balls on the ground."""
    textures: dict[str, Picture] = {}
    faces: list[Face] = []
    for i, x in enumerate(np.arange(int(rng.integers(2, 7))) * 0.75):
        radius = rng.uniform(0.15, 0.36)
        stripes = [paint.varied(rng, _bright(rng), 0.1) for _ in range(int(rng.integers(2, 5)))]
        edges = np.sort(rng.uniform(0.1, 0.9, len(stripes) + 1)).tolist()
        textures[f"ball {i}"] = paint.bands(
            paint.plaster(rng, (96, 192), (220, 220, 220), 0.03), stripes, edges
        )
        turn = np.linspace(-np.pi / 2, np.pi / 2, 10)
        profile = [(radius * np.cos(a), radius * (1 + np.sin(a))) for a in turn]
        faces += revolve(profile, f"ball {i}", sides=16, centre=(x, rng.uniform(-0.6, 0.6), 0))
    return Subject(faces, textures, _floor(rng))


def crates(rng: Generator) -> Subject:
    """Wooden or cardboard boxes in a heap."""
    textures: dict[str, Picture] = {}
    faces: list[Face] = []
    for i in range(int(rng.integers(2, 6))):
        wall = _planks(rng, _wood(rng))
        paint.inscription(wall, (20, 36, 88, 40), rng, int(rng.integers(1, 3)))
        textures[f"crate {i}"] = wall
        size = (rng.uniform(0.5, 1.1), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.9))
        crate = box((0, 0, 0), size, f"crate {i}", f"crate {i}")
        if rng.random() < 0.4:
            crate += box(
                (0, 0, size[2]), (size[0] * 0.7, size[1] * 0.7, 0.4), f"crate {i}", f"crate {i}"
            )
        faces += moved(crate, (i * 1.2, rng.uniform(-0.3, 0.3), 0), rng.normal(0, 0.4))
    return Subject(faces, textures, _floor(rng))


def bottles(rng: Generator) -> Subject:
    """Bottles, jars and vases with labels, on a table."""
    textures = {"table": _planks(rng, _wood(rng)), "wallpaper": _wallpaper(rng)}
    faces = box((0, 0, 0.72), (1.7, 0.8, 0.05), "table", "table")
    faces += [
        face
        for x in (-0.8, 0.8)
        for y in (-0.34, 0.34)
        for face in box((x, y, 0), (0.07, 0.07, 0.72), "table")
    ]
    for i in range(int(rng.integers(2, 7))):
        tall, wide = rng.uniform(0.18, 0.36), rng.uniform(0.035, 0.09)
        glass = paint.plaster(rng, (128, 128), paint.varied(rng, _bright(rng), 0.2), 0.04)
        label = paint.varied(rng, (232, 222, 196), 0.1)
        cv2.rectangle(glass, (36, 60), (92, 104), label, -1)
        paint.inscription(glass, (40, 64, 48, 30), rng, 2)
        textures[f"bottle {i}"] = glass
        neck = wide * rng.uniform(0.3, 0.9)
        shape = [
            (wide * 0.9, 0),
            (wide, tall * 0.1),
            (wide * rng.uniform(0.8, 1.2), tall * 0.55),
            (neck, tall * 0.75),
            (neck, tall),
            (0.01, tall + 0.002),
        ]
        faces += revolve(
            shape, f"bottle {i}", sides=14, centre=(-0.65 + i * 0.22, rng.uniform(-0.2, 0.2), 0.77)
        )
    return Subject(faces, textures, Ground("boards", "boards", 9), _room(rng, 1.6))


def furniture(rng: Generator) -> Subject:
    """Chairs, a table and shelves in a room."""
    textures = {
        "wood": _planks(rng, _wood(rng)),
        "seat": paint.plaster(rng, (64, 64), _bright(rng)),
        "books": _books(rng),
        "wallpaper": _wallpaper(rng),
    }
    faces = box((0, 0, 0.7), (1.5, 0.85, 0.05), "wood", "wood")
    faces += [
        face
        for x in (-0.68, 0.68)
        for y in (-0.36, 0.36)
        for face in box((x, y, 0), (0.07, 0.07, 0.7), "wood")
    ]
    for _ in range(int(rng.integers(1, 4))):
        chair = box((0, 0, 0.42), (0.45, 0.45, 0.06), "seat", "seat")
        chair += [
            face
            for x in (-0.2, 0.2)
            for y in (-0.2, 0.2)
            for face in box((x, y, 0), (0.05, 0.05, 0.42), "wood")
        ]
        chair += box((0, 0.2, 0.48), (0.45, 0.04, rng.uniform(0.35, 0.6)), "wood", "wood")
        at = (rng.uniform(-1.3, 1.3), float(rng.choice([-0.8, 0.8])), 0.0)
        faces += moved(chair, at, rng.uniform(0, 2 * np.pi))
    faces += box(
        (rng.uniform(-1.5, 1.5), 1.5, 0),
        (rng.uniform(0.8, 1.6), 0.35, rng.uniform(1.4, 2.1)),
        ("books", "wood", "wood", "wood"),
        "wood",
    )
    return Subject(faces, textures, Ground("boards", "boards", 9), _room(rng, 1.75))


def cars(rng: Generator) -> Subject:
    """Parked cars and vans, three-dimensional."""
    textures: dict[str, Picture] = {}
    faces: list[Face] = []
    for i in range(int(rng.integers(1, 4))):
        textures[f"body {i}"] = paint.plaster(rng, (64, 128), _bright(rng), 0.03)
        textures[f"cabin {i}"] = _cabin(rng, _bright(rng))
        long, tall = rng.uniform(3.8, 5.2), rng.uniform(0.6, 1.1)
        vehicle = box((0, 0, 0.35), (long, 1.8, tall * 0.75), f"body {i}", f"body {i}", taper=0.97)
        vehicle += box(
            (rng.uniform(-0.4, 0.1), 0, 0.35 + tall * 0.75),
            (long * rng.uniform(0.5, 0.75), 1.65, tall * 0.75),
            f"cabin {i}",
            f"body {i}",
            taper=0.8,
        )
        turn = np.linspace(0, 2 * np.pi, 17)[:-1]
        disc = np.stack([0.36 * np.cos(turn), 0.36 + 0.36 * np.sin(turn)], axis=1)
        for x in (-long * 0.32, long * 0.32):
            for y in (-0.93, 0.93):
                for size, tint in ((1.0, 0.04), (0.55, 0.5)):
                    wheel = disc * size + [0, 0.36 * (1 - size)]
                    vehicle.append(
                        panel(
                            [x, y * (1.03 - 0.02 * size), 0],
                            X,
                            Z,
                            [wheel],
                            "smooth",
                            tint=(tint,) * 3,
                            two_sided=True,
                        )
                    )
        faces += moved(vehicle, (rng.uniform(-1, 1), i * 3.2, 0), rng.normal(0, 0.3))
    return Subject(faces, textures, Ground("asphalt", str(rng.choice(["grass", "paving"])), 12))


def plants(rng: Generator) -> Subject:
    """Pots with leaves and flowers."""
    textures: dict[str, Picture] = {}
    faces: list[Face] = []
    for i in range(int(rng.integers(1, 4))):
        textures[f"pot {i}"] = paint.bands(
            paint.plaster(rng, (64, 128), (196, 110, 72), 0.1),
            [paint.varied(rng, (196, 110, 72), 0.2), paint.varied(rng, _bright(rng), 0.2)],
            [rng.uniform(0.2, 0.4), rng.uniform(0.5, 0.7)],
        )
        tall, wide, x = rng.uniform(0.25, 0.5), rng.uniform(0.14, 0.26), i * 0.8
        faces += revolve(
            [(wide * 0.7, 0), (wide, tall), (wide * 1.1, tall + 0.03), (0.02, tall)],
            f"pot {i}",
            sides=14,
            centre=(x, 0, 0),
        )
        tint = np.array(scenery.GREENS[rng.integers(len(scenery.GREENS))])
        for _ in range(int(rng.integers(14, 40))):
            r, g, b = tint * rng.uniform(0.6, 1.5)
            faces.append(_leaf(rng, np.array([x, 0, tall]), wide, (r, g, b)))
    return Subject(faces, textures, _floor(rng))


def room_wall(rng: Generator) -> Subject:
    """A wall with pictures and a chest."""
    textures = {"wallpaper": _wallpaper(rng), "wood": _planks(rng, _wood(rng))}
    faces = box(
        (rng.uniform(-1, 1), 0.9, 0),
        (rng.uniform(0.9, 1.8), 0.5, rng.uniform(0.6, 1.0)),
        "wood",
        "wood",
    )
    for i in range(int(rng.integers(1, 5))):
        wide, tall = rng.uniform(0.3, 0.75), rng.uniform(0.3, 0.75)
        textures[f"painting {i}"] = _painting(rng)
        outline = [[-wide / 2, 0], [wide / 2, 0], [wide / 2, tall], [-wide / 2, tall]]
        place = [-1.5 + i * 0.85, 1.55, rng.uniform(1.25, 1.6)]
        faces.append(panel(place, X, Z, [outline], f"painting {i}"))
    return Subject(faces, textures, Ground("boards", "boards", 9), _room(rng, 1.6))


KINDS: dict[str, Callable[[Generator], Subject]] = {
    "country": country,
    "sea": sea,
    "street": street,
    "block": block,
    "balls": balls,
    "crates": crates,
    "bottles": bottles,
    "furniture": furniture,
    "cars": cars,
    "plants": plants,
    "room": room_wall,
}
OUTDOORS = {"country", "sea", "street", "block"}
INDOORS = {"bottles", "furniture", "room"}


def _camera(rng: Generator, kind: str, subject: Subject) -> Camera:
    if kind == "block":
        return take_view(rng, *bounds(subject.faces))
    if kind in OUTDOORS:
        return _outdoor_camera(rng, subject)
    return _close_camera(rng, subject)


def _outdoor_camera(rng: Generator, subject: Subject) -> Camera:
    size = picture_size(rng, 0.3)
    focal = LONG_SIDE / 2 / np.tan(rng.uniform(0.75, 1.15) / 2)
    low, _ = bounds(subject.faces)
    eye = np.array([rng.uniform(-3, 3), low[1] - rng.uniform(2, 14), rng.uniform(1.5, 4)])
    target = eye + np.array([rng.uniform(-12, 12), 40, rng.uniform(-3, 5)])
    return look_at(eye, target, focal, size, rng.normal(0, 0.02))


def _close_camera(rng: Generator, subject: Subject) -> Camera:
    """Before the objects, near enough that they fill about half the picture."""
    size = picture_size(rng, 0.35)
    focal = LONG_SIDE / 2 / np.tan(rng.uniform(0.7, 1.0) / 2)
    low, high = bounds(subject.faces)
    extent = float(np.linalg.norm(high - low))
    azimuth, elevation = rng.uniform(-0.6, 0.6), rng.uniform(0.12, 0.5)
    away = max(extent * focal / min(size) * rng.uniform(0.6, 1.0), 0.9)
    back = np.array([np.sin(azimuth), -np.cos(azimuth), np.tan(elevation)]) * np.cos(elevation)
    centre = (low + high) / 2 + rng.normal(0, 0.06, 3) * extent
    return look_at(centre + back * away, centre, focal, size, rng.normal(0, 0.03))


def _room_light(rng: Generator) -> Weather:
    """Light from a window behind the camera, and from the room's walls."""
    warm = np.array([1.0, rng.uniform(0.82, 0.98), rng.uniform(0.65, 0.95)])
    sun = np.array([rng.uniform(-0.7, 0.7), -0.8, rng.uniform(0.5, 1.0)])
    grey = np.full(3, 0.5)
    return Weather(
        sun / np.linalg.norm(sun),
        warm * rng.uniform(0.1, 0.7),
        warm * 0.5,
        grey,
        grey,
        grey,
        0.0,
        1e6,
    )


def _room(rng: Generator, back: float) -> list[Face]:
    """Three walls of a room, 3 metres high; the back one at y = `back` metres."""
    half = rng.uniform(2.4, 3.4)
    corners = [(-half, -6.0), (-half, back), (half, back), (half, -6.0)]
    faces = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        faces.append(quad([[x0, y0, 0], [x1, y1, 0], [x1, y1, 3.0], [x0, y0, 3.0]], "wallpaper"))
    return faces


def _floor(rng: Generator) -> Ground:
    inner = str(rng.choice(["grass", "paving", "sand", "slabs", "cobbles", "gravel"]))
    return Ground(inner, "grass", rng.uniform(3, 12))


def _bright(rng: Generator) -> Colour:
    r, g, b = rng.uniform(30, 235, 3)
    return (float(r), float(g), float(b))


def _wood(rng: Generator) -> Colour:
    return paint.varied(rng, ((150, 106, 66), (196, 158, 108), (100, 66, 44))[rng.integers(3)], 0.1)


def _planks(rng: Generator, wood: Colour) -> Picture:
    return paint.masonry(rng, (128, 128), wood, float(rng.uniform(10, 26)), 9, jitter=0.06)


def _wallpaper(rng: Generator) -> Picture:
    wall = paint.plaster(rng, (256, 256), paint.varied(rng, (206, 200, 184), 0.2), 0.03)
    count = int(rng.integers(8, 20))
    if rng.random() < 0.5:
        ornament = paint.motif(rng, 24)
        for row in range(count):
            paint.frieze(wall, (0, 256 * row // count, 256, 256 // count), ornament, count)
    elif rng.random() < 0.5:
        for x in range(0, 256, 256 // count):
            wall[:, x : x + 3] = paint.shades(wall[:, x : x + 3], 0.85)
    return wall


def _books(rng: Generator) -> Picture:
    shelf = paint.plaster(rng, (192, 128), (70, 50, 36), 0.1)
    for row in range(4):
        x = 5
        while x < 114:
            wide, tall = int(rng.integers(4, 10)), int(rng.integers(28, 40))
            bottom = 44 + row * 48
            cv2.rectangle(shelf, (x, bottom - tall), (x + wide - 1, bottom), _bright(rng), -1)
            x += wide + 1
    return shelf


def _painting(rng: Generator) -> Picture:
    picture = paint.plaster(rng, (96, 96), _bright(rng), 0.2)
    for _ in range(int(rng.integers(4, 14))):
        centre = rng.integers(0, 96, 2).tolist()
        axes = rng.integers(4, 40, 2).tolist()
        cv2.ellipse(
            picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, _bright(rng), -1, cv2.LINE_AA
        )
    cv2.rectangle(picture, (0, 0), (95, 95), _wood(rng), 8)
    return picture


def _plain_front(rng: Generator, wide: float, tall: float) -> Picture:
    """A house front of bare plaster or brick with a few flat windows and a door."""
    shape = (160, round(160 * np.clip(wide / tall, 0.6, 2.4)))
    colour = paint.varied(
        rng,
        ((220, 206, 180), (190, 120, 96), (200, 204, 206), (226, 196, 130))[rng.integers(4)],
        0.15,
    )
    wall = (
        paint.plaster(rng, shape, colour)
        if rng.random() < 0.6
        else (paint.masonry(rng, shape, colour, float(rng.uniform(4, 7))))
    )
    style = paint.WindowStyle.draw(rng, paint.varied(rng, (214, 210, 204), 0.1), ("flat",))
    floors = max(1, round(tall / 3.2))
    paint.paint_windows(
        wall,
        (4, 2, shape[1] - 8, 150),
        floors,
        int(rng.integers(2, 6)),
        style,
        rng,
        size=(rng.uniform(0.25, 0.5), rng.uniform(0.4, 0.6)),
    )
    paint.door(
        wall,
        (int(rng.integers(10, shape[1] - 40)), 160 - 120 // floors, 20, 120 // floors),
        rng,
        _wood(rng),
        "flat",
    )
    return wall


def _cabin(rng: Generator, colour: Colour) -> Picture:
    wall = paint.plaster(rng, (64, 128), colour, 0.02)
    panes = int(rng.integers(1, 4))
    for i in range(panes):
        left = 6 + i * 118 // panes
        cv2.rectangle(wall, (left, 8), (left + 108 // panes, 52), (46, 54, 60), -1)
    return wall


def _leaf(rng: Generator, root: np.ndarray, size: float, tint: tuple[float, float, float]) -> Face:
    turn, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.4)
    out = np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)])
    across = np.array([-np.sin(turn), np.cos(turn), 0.0])
    long, wide = size * rng.uniform(1.0, 3.2), size * rng.uniform(0.15, 0.5)
    outline: list[list[float]] = [
        [0, 0],
        [wide * 0.8, long * 0.35],
        [wide, long * 0.6],
        [0, long],
        [-wide, long * 0.6],
        [-wide * 0.8, long * 0.35],
    ]
    return panel(
        root + rng.normal(0, 0.25, 3) * size * [1, 1, 0],
        across,
        out,
        [outline],
        "leaves",
        tint=tint,
        two_sided=True,
    )
