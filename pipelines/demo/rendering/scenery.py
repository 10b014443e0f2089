"""What stands around: trees, people, lamps, cars, boats, plain houses, hills and skylines.

Flat things (trees, people) are panels that face the camera. Their textures are grey; a tint gives
the colour.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from pipelines.demo.rendering import textures as paint
from pipelines.demo.rendering.camera import Camera
from pipelines.demo.rendering.geometry import Array, Face, Tint, box, cross, gable, moved, panel
from pipelines.demo.rendering.textures import Generator, Picture

GREENS: tuple[Tint, ...] = (
    (0.30, 0.42, 0.14),
    (0.20, 0.34, 0.12),
    (0.42, 0.44, 0.16),
    (0.16, 0.28, 0.14),
    (0.55, 0.40, 0.14),
)


@lru_cache(maxsize=1)
def scenery_textures() -> dict[str, Picture]:
    """Textures that every scene may use, by name."""
    rng = np.random.default_rng(7)
    grey = (235.0, 235.0, 235.0)
    found = {
        "leaves": paint.foliage(rng),
        "cloth": paint.plaster(rng, (64, 64), grey, 0.12),
        "smooth": paint.plaster(rng, (32, 32), (250.0, 250.0, 250.0), 0.01),
        "bark": paint.plaster(rng, (96, 32), (190.0, 160.0, 130.0), 0.3),
        "slates": paint.roofing(rng, (96, 128), (215.0, 210.0, 205.0), 6),
    }
    for i in range(4):
        front = paint.plaster(rng, (192, 192), grey, 0.05)
        style = paint.WindowStyle.draw(rng, (210.0, 208.0, 200.0), ("flat",))
        paint.paint_windows(
            front,
            (6, 6, 180, 176),
            int(rng.integers(3, 6)),
            int(rng.integers(3, 6)),
            style,
            rng,
            size=(0.36, 0.5),
        )
        found[f"house {i}"] = front
    return found


def tree(rng: Generator, place: Array, across: Array, height: float) -> list[Face]:
    """A tree of `height` metres at `place` (3,), flat towards the viewer's `across` (3,)."""
    tint = np.array(GREENS[rng.integers(len(GREENS))]) * np.exp(rng.normal(0, 0.12))
    kind = rng.choice(["round", "poplar", "conifer"], p=[0.6, 0.2, 0.2])
    trunk = height * 0.035
    stem = [[-trunk, 0], [trunk, 0], [trunk * 0.5, height * 0.6], [-trunk * 0.5, height * 0.6]]
    faces = [panel(place, across, [0, 0, 1], [stem], "bark", tint=(0.5, 0.5, 0.5), two_sided=True)]
    toward = cross(across, [0.0, 0.0, 1.0])
    count = {"round": 9, "poplar": 7, "conifer": 6}[kind]
    for i in range(count):
        share = (i + 0.5) / count
        if kind == "round":
            turn = rng.uniform(0, 2 * np.pi)
            reach = height * 0.22 * np.sqrt(rng.random())
            x, z = reach * np.cos(turn) * 1.15, height * 0.66 + reach * np.sin(turn)
            wide, high = height * rng.uniform(0.13, 0.21), height * rng.uniform(0.11, 0.17)
        else:
            slim = 0.10 if kind == "poplar" else 0.24 * (1.08 - share)
            x, z = rng.normal(0, 0.01) * height, height * (0.2 + 0.74 * share)
            wide, high = height * slim, height * 0.12
        shade = np.clip(0.55 + 0.6 * (z / height - 0.3) + rng.normal(0, 0.08), 0.35, 1.3)
        blob = _blob(rng, wide, high) + np.array([x, z])
        near = place + toward * (0.04 * height * rng.random())
        r, g, b = tint * shade
        face = panel(near, across, [0, 0, 1], [blob], "leaves", tint=(r, g, b), two_sided=True)
        faces.append(_rounded(face, across, toward))
    return faces


def person(rng: Generator, place: Array, across: Array) -> list[Face]:
    """Somebody 1.5 to 1.9 m tall who stands at `place` (3,)."""
    size = rng.uniform(1.5, 1.9) / 1.75
    stride = rng.uniform(0.03, 0.2)
    skin = np.array([0.82, 0.62, 0.5]) * rng.uniform(0.4, 1.1)
    shirt, trousers, hair = (
        rng.uniform(0.05, 0.85, 3),
        rng.uniform(0.05, 0.4, 3),
        rng.random() * 0.3,
    )
    swing = rng.uniform(-0.08, 0.1)
    turn = np.linspace(0, 2 * np.pi, 11)[:-1]
    head = np.stack([0.1 * np.cos(turn), 1.62 + 0.13 * np.sin(turn)], axis=1)
    parts: list[tuple[list[list[float]] | Array, Array]] = [
        (
            [
                [-0.16 - stride, 0],
                [-0.03 - stride, 0],
                [0.0, 0.8],
                [0.03 + stride, 0],
                [0.16 + stride, 0],
                [0.17, 0.92],
                [-0.17, 0.92],
            ],
            trousers,
        ),
        (
            [[-0.18, 0.86], [0.18, 0.86], [0.23, 1.42], [0.08, 1.5], [-0.08, 1.5], [-0.23, 1.42]],
            shirt,
        ),
        ([[-0.22, 1.42], [-0.32 - swing, 0.85], [-0.25 - swing, 0.83], [-0.16, 1.3]], shirt * 0.8),
        ([[0.22, 1.42], [0.16, 1.3], [0.25 + swing, 0.83], [0.32 + swing, 0.85]], shirt * 0.8),
        (head, skin),
        (head[:6] * [1.08, 1.0] + [0, 0.03], np.array([hair, hair * 0.8, hair * 0.6])),
    ]
    toward = cross(across, [0.0, 0.0, 1.0])
    return [
        panel(
            place + toward * 0.02 * i,
            across,
            [0, 0, 1],
            [np.array(outline) * size],
            "cloth",
            tint=(float(tint[0]), float(tint[1]), float(tint[2])),
            two_sided=True,
        )
        for i, (outline, tint) in enumerate(parts)
    ]


def lamp(rng: Generator, place: Array, across: Array) -> list[Face]:
    """A street lamp of 4 to 7 metres."""
    height = rng.uniform(4, 7)
    post = [[-0.09, 0], [0.09, 0], [0.05, height], [-0.05, height]]
    head = [
        [-0.18, height],
        [0.18, height],
        [0.26, height + 0.55],
        [0, height + 0.8],
        [-0.26, height + 0.55],
    ]
    foot = [[-0.2, 0], [0.2, 0], [0.12, 0.9], [-0.12, 0.9]]
    dark, glass = (0.06, 0.07, 0.07), (0.8, 0.78, 0.66)
    return [
        panel(place, across, [0, 0, 1], [outline], "smooth", tint=tint, two_sided=True)
        for outline, tint in ((post, dark), (foot, dark), (head, glass))
    ]


def car(rng: Generator, place: Array, across: Array) -> list[Face]:
    """A parked car, four metres long, seen from its side."""
    colour = np.array(
        (
            (0.6, 0.05, 0.05),
            (0.75, 0.75, 0.76),
            (0.05, 0.05, 0.06),
            (0.08, 0.15, 0.4),
            (0.35, 0.36, 0.38),
            (0.7, 0.6, 0.2),
        )[rng.integers(6)]
    )
    roof = rng.uniform(1.35, 1.75)
    way = float(rng.choice([-1, 1]))
    body = [
        [-2.1, 0.3],
        [2.1, 0.3],
        [2.15, 0.75],
        [1.2, 0.95],
        [0.5, roof],
        [-1.2, roof],
        [-1.9, 0.95],
        [-2.12, 0.8],
    ]
    glass = [[1.0, 0.95], [0.45, roof - 0.1], [-1.1, roof - 0.1], [-1.6, 0.95]]
    pillar = [[-0.2, 0.9], [-0.1, 0.9], [-0.1, roof], [-0.2, roof]]
    turn = np.linspace(0, 2 * np.pi, 15)[:-1]
    wheel = np.stack([0.33 * np.cos(turn), 0.33 + 0.33 * np.sin(turn)], axis=1)
    dark, hub = np.array([0.03] * 3), np.array([0.45] * 3)
    parts = [(body, colour), (glass, np.array([0.08, 0.1, 0.12])), (pillar, colour)]
    for middle in (-1.35, 1.35):
        parts += [
            ((wheel + np.array([middle, 0])).tolist(), dark),
            ((wheel * 0.55 + np.array([middle, 0.15])).tolist(), hub),
        ]
    toward = cross(across, [0.0, 0.0, 1.0])
    return [
        panel(
            place + toward * 0.03 * i,
            across,
            [0, 0, 1],
            [np.array(outline) * [way, 1]],
            "smooth",
            tint=(float(tint[0]), float(tint[1]), float(tint[2])),
            two_sided=True,
        )
        for i, (outline, tint) in enumerate(parts)
    ]


def boat(rng: Generator, place: Array, across: Array) -> list[Face]:
    """A small boat on the water, with or without a sail."""
    size, way = rng.uniform(0.8, 1.6), float(rng.choice([-1, 1]))
    hull = np.array([[-2.6, 0.0], [2.4, 0.0], [3.2, 0.9], [-2.8, 0.8]])
    parts = [(hull, rng.uniform(0.1, 0.9, 3))]
    if rng.random() < 0.6:
        parts += [
            (np.array([[0.3, 1.2], [2.6, 1.3], [0.35, 7.5]]), np.array([0.85, 0.83, 0.78])),
            (np.array([[-2.4, 1.3], [0.1, 1.2], [0.1, 8.2]]), np.array([0.9, 0.88, 0.84])),
        ]
    else:
        parts += [
            (
                np.array([[-1.2, 0.8], [0.6, 0.8], [0.3, 2.0], [-1.1, 2.0]]),
                np.array([0.85, 0.85, 0.82]),
            )
        ]
    return [
        panel(
            place,
            across,
            [0, 0, 1],
            [outline * [way * size, size]],
            "smooth",
            tint=(float(tint[0]), float(tint[1]), float(tint[2])),
            two_sided=True,
        )
        for outline, tint in parts
    ]


def house(rng: Generator, place: Array, turn: float, height: float | None = None) -> list[Face]:
    """A plain house at `place` (3,), its front turned by `turn` radians."""
    tall = rng.uniform(6, 16) if height is None else height
    size = (rng.uniform(8, 18), rng.uniform(8, 14), tall)
    wall = np.array([0.9, 0.85, 0.76]) * np.exp(rng.normal(0, 0.15, 3)) * rng.uniform(0.5, 1.0)
    tint = (float(wall[0]), float(wall[1]), float(wall[2]))
    front = f"house {rng.integers(4)}"
    faces = box((0, 0, 0), size, front, "cloth", tint=tint)
    if rng.random() < 0.6:
        roof = ((0.5, 0.25, 0.18), (0.3, 0.3, 0.33), (0.4, 0.32, 0.26))[rng.integers(3)]
        pitched = gable(
            (0, 0, tall),
            (size[0], size[1], rng.uniform(2.5, 4.5)),
            "slates",
            "cloth",
            eaves=0.4,
            tint=roof,
        )
        faces += pitched
    return moved(faces, place, turn)


def backdrop(rng: Generator, camera: Camera, distance: float, *, water: bool) -> list[Face]:
    """Hills, trees or houses on the horizon; nothing nearer to the camera than `distance` m."""
    ahead, across = _level_axes(camera)
    foot = camera.position * [1, 1, 0]
    faces: list[Face] = []
    for _ in range(int(rng.integers(0, 3))):
        faces.append(_hills(rng, foot, ahead, across, max(distance * 2, rng.uniform(400, 1500))))
    kind = rng.choice(["houses", "trees", "both", "nothing"], p=[0.3, 0.3, 0.2, 0.2])
    far = distance * rng.uniform(1.15, 1.8) + (60 if water else 10)
    half = far * max(camera.width, camera.height) / camera.focal / 2 * 1.2
    if water and kind != "nothing":
        faces += _shore(foot + ahead * far, across, half)
    if kind in ("houses", "both"):
        side = -half
        while side < half:
            place = foot + ahead * (far + rng.uniform(0, 25)) + across * side
            heading = float(np.arctan2(across[1], across[0]) + rng.normal(0, 0.3))
            faces += house(rng, place, heading)
            side += rng.uniform(10, 20) + half * rng.uniform(0.02, 0.25)
    if kind in ("trees", "both"):
        for side in rng.uniform(-half, half, int(rng.integers(4, 10))):
            place = foot + ahead * (far - 6 + rng.uniform(-4, 20)) + across * side
            faces += tree(rng, place, across, rng.uniform(7, 15))
    return faces


def foreground(
    rng: Generator, camera: Camera, low: Array, high: Array, *, water: bool, crowd: float = 1.0
) -> list[Face]:
    """People, trees, lamps, cars (on water: boats) between the camera and the box low to high."""
    ahead, across = _level_axes(camera)
    centre = (low + high) / 2
    distance = float(np.dot(centre - camera.position, ahead))
    faces: list[Face] = []

    def stand(
        count: float,
        near: float,
        far: float,
        keep_aside: float,
        make: Callable[[Array], list[Face]],
    ) -> None:
        for _ in range(int(rng.poisson(count * crowd))):
            away = near + (far - near) * np.sqrt(rng.random())
            half = away * camera.width / camera.focal / 2
            side = half * rng.uniform(keep_aside, 1.05) * float(rng.choice([-1, 1]))
            place = (camera.position + ahead * away + across * side) * [1, 1, 0]
            if np.any(place[:2] < low[:2] - 1.5) or np.any(place[:2] > high[:2] + 1.5):
                faces.extend(make(place))

    if water:
        stand(1.2, 12, distance, 0.05, lambda place: boat(rng, place, across))
        stand(0.3, 6, 14, 0.6, lambda place: tree(rng, place, across, rng.uniform(5, 9)))
    else:
        stand(2.4, 5, max(distance * 0.9, 8), 0.0, lambda place: person(rng, place, across))
        stand(
            0.7,
            max(distance * 0.35, 9),
            max(distance, 12),
            0.35,
            lambda place: tree(rng, place, across, rng.uniform(5, 12)),
        )
        stand(0.5, 8, max(distance * 0.8, 10), 0.15, lambda place: lamp(rng, place, across))
        stand(0.35, 9, max(distance * 0.8, 12), 0.1, lambda place: car(rng, place, across))
    if rng.random() < 0.12 * crowd:
        faces += _branch(rng, camera, across)
    return faces


def _branch(rng: Generator, camera: Camera, across: Array) -> list[Face]:
    """Leaves that hang into an upper corner of the picture, three metres away."""
    _, down, ahead = camera.rotation
    away = 3.0
    half = np.array([camera.width, camera.height]) / camera.focal / 2 * away
    corner = (
        camera.position
        + ahead * away
        - down * half[1]
        + (camera.rotation[0] * half[0] * float(rng.choice([-1, 1])))
    )
    tint = np.array(GREENS[rng.integers(len(GREENS))]) * 0.7
    faces = []
    for _ in range(6):
        place = corner + rng.normal(0, 0.22, 3) * half.mean()
        r, g, b = tint * rng.uniform(0.7, 1.2)
        outline = _blob(rng, 0.3, 0.22)
        faces.append(
            panel(place, across, [0, 0, 1], [outline], "leaves", tint=(r, g, b), two_sided=True)
        )
    return faces


def _hills(rng: Generator, foot: Array, ahead: Array, across: Array, distance: float) -> Face:
    reach = distance * 1.6
    x = np.linspace(-reach, reach, 60)
    wave = sum(
        np.sin(x / reach * rng.uniform(2, 5) * 2**octave + rng.uniform(0, 6)) / 2**octave
        for octave in range(4)
    )
    rise = distance * rng.uniform(0.03, 0.1) * (1 + 0.5 * wave)
    outline = np.vstack([[-reach, -5], [reach, -5], np.stack([x, rise], axis=1)[::-1]])
    shade = rng.uniform(0.5, 1.0)
    return panel(
        foot + ahead * distance,
        across,
        [0, 0, 1],
        [outline],
        "leaves",
        tint=(0.24 * shade, 0.31 * shade, 0.18 * shade),
        two_sided=True,
    )


def _shore(middle: Array, across: Array, half: float) -> list[Face]:
    """A low bank under what stands at the water's far side, 3 `half` metres long."""
    bank = box((0, 25, -0.5), (3 * half, 70, 1.6), "leaves", "leaves", tint=(0.24, 0.28, 0.14))
    return moved(bank, middle, float(np.arctan2(across[1], across[0])))


def _level_axes(camera: Camera) -> tuple[Array, Array]:
    """(3,) the camera's direction and its right, both level."""
    ahead = camera.rotation[2] * [1, 1, 0]
    ahead = ahead / np.linalg.norm(ahead)
    return ahead, np.array([ahead[1], -ahead[0], 0.0])


def _blob(rng: Generator, wide: float, high: float) -> Array:
    """(40, 2) leafy outline about the origin, half axes in metres."""
    turn = np.arange(40) * 2 * np.pi / 40
    edge = 1 + rng.normal(0, 0.11, 40)
    return np.stack([wide * edge * np.cos(turn), high * edge * np.sin(turn)], axis=1)


def _rounded(face: Face, across: Array, toward: Array) -> Face:
    """The face shaded like a ball that bulges `toward` the viewer."""
    up = np.array([0.0, 0.0, 1.0])
    normals = np.stack([0.6 * toward - 0.6 * across + 0.8 * up, 1.2 * across, -1.3 * up])
    return Face(
        face.frame,
        face.contours,
        face.texture,
        face.chart,
        normals,
        face.region,
        face.tint,
        face.two_sided,
    )
