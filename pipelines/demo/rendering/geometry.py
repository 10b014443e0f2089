"""Flat textured faces and the shapes built of them.

The world is right-handed: x to the right along a landmark's front, y away from somebody who
looks at that front, z up; all in metres. A face is a flat polygon, perhaps with holes, that is
seen from the side towards which its normal points (or from both).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Tint = tuple[float, float, float]
Region = tuple[float, float, float, float]

WHITE: Tint = (1.0, 1.0, 1.0)
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)
_NONE = np.zeros(3)
_CORNERS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], dtype=np.float32)


@dataclass(frozen=True)
class Face:
    """A flat polygon with a texture.

    frame: (3, 3) rows: the unit vectors across and up in the plane, and the plane's origin.
    contours: (k, 2) plane coordinates in metres; filled by the even-odd rule, so holes are free.
    chart: (3, 3) homography from plane coordinates to fractions (s, t) of `region`; s runs right
        and t down, as in a picture.
    normals: (3, 3) rows: the shading normal at s = t = 0, and its change along s and along t.
    region: the part (left, top, right, bottom) of the texture, in fractions.
    """

    frame: Array
    contours: tuple[Array, ...]
    texture: str
    chart: Array
    normals: Array
    region: Region = WHOLE
    tint: Tint = WHITE
    two_sided: bool = False

    def vertices(self) -> Array:
        """(k, 3) corners of every contour in the world, metres."""
        plane = self.contours[0] if len(self.contours) == 1 else np.vstack(self.contours)
        points: Array = plane @ self.frame[:2] + self.frame[2]
        return points


def quad(
    corners: ArrayLike,
    texture: str,
    region: Region = WHOLE,
    *,
    tint: Tint = WHITE,
    normals: ArrayLike | None = None,
    two_sided: bool = False,
) -> Face:
    """A flat quadrilateral; (4, 3) corners anticlockwise from bottom left, seen from outside.

    `normals` (4, 3), where given, bend the shading from corner to corner (Gouraud).
    """
    points = np.asarray(corners, dtype=np.float64)
    bottom, top = points[1] - points[0], points[2] - points[3]
    across = _unit(bottom if np.dot(bottom, bottom) >= np.dot(top, top) else top)
    normal = _unit(cross(across, points[3] - points[0] + points[2] - points[1]))
    frame = np.array((across, cross(normal, across), points[0]))
    plane = (points - points[0]) @ frame[:2].T
    chart: Array = np.asarray(
        cv2.getPerspectiveTransform(plane.astype(np.float32), _CORNERS), dtype=np.float64
    )
    bend = np.array((normal, _NONE, _NONE))
    if normals is not None:
        low_left, low_right, top_right, top_left = np.asarray(normals, dtype=np.float64)
        along_s = (top_right - top_left + low_right - low_left) / 2
        along_t = (low_left - top_left + low_right - top_right) / 2
        bend = np.array((top_left, along_s, along_t))
    return Face(frame, (plane,), texture, chart, bend, region, tint, two_sided)


def panel(
    origin: ArrayLike,
    across: ArrayLike,
    up: ArrayLike,
    contours: Sequence[ArrayLike],
    texture: str,
    *,
    extent: tuple[float, float, float, float] | None = None,
    region: Region = WHOLE,
    tint: Tint = WHITE,
    two_sided: bool = False,
) -> Face:
    """A flat polygon with holes; contours (k, 2) metres from the origin along `across` and `up`.

    `extent` (left, bottom, right, top) in metres is what the texture covers: the bounding box of
    the contours unless given.
    """
    outlines = tuple(np.asarray(contour, dtype=np.float64) for contour in contours)
    every = outlines[0] if len(outlines) == 1 else np.vstack(outlines)
    left, bottom, right, top = extent or (*every.min(axis=0), *every.max(axis=0))
    frame = np.array((_unit(across), _unit(up), np.asarray(origin, dtype=np.float64)))
    width, height = right - left, top - bottom
    chart = np.array([[1 / width, 0, -left / width], [0, -1 / height, top / height], [0, 0, 1]])
    normals = np.array((cross(frame[0], frame[1]), _NONE, _NONE))
    return Face(frame, outlines, texture, chart, normals, region, tint, two_sided)


def box(
    centre: tuple[float, float, float],
    size: tuple[float, float, float],
    sides: str | Sequence[str],
    top: str | None = None,
    *,
    taper: float = 1.0,
    tint: Tint = WHITE,
    regions: Sequence[Region] = (WHOLE,) * 4,
) -> list[Face]:
    """A block that stands on `centre` (middle of its bottom); size (width, depth, height), metres.

    `sides`: one texture, or those of front, right, back and left. `top`: the upper side's texture,
    left out where None. `taper` scales the upper side's width and depth.
    """
    width, depth, height = size
    return frustum(
        centre, (width, depth), (width * taper, depth * taper), height, sides, top, tint, regions
    )


def slab(
    centre: tuple[float, float, float], size: tuple[float, float, float], sides: str, top: str
) -> list[Face]:
    """A block that overhangs what it lies on, so that its underside (as `top`) shows too."""
    x, y, z = centre
    lower = moved([quad(_rectangle((size[0], size[1]), 0.0)[::-1], top)], centre)
    return [*box((x, y, z), size, sides, top), *lower]


def frustum(
    centre: tuple[float, float, float],
    bottom: tuple[float, float],
    top_size: tuple[float, float],
    height: float,
    sides: str | Sequence[str],
    top: str | None = None,
    tint: Tint = WHITE,
    regions: Sequence[Region] = (WHOLE,) * 4,
) -> list[Face]:
    """A block or hipped roof between two centred rectangles (width, depth), metres."""
    names = [sides] * 4 if isinstance(sides, str) else list(sides)
    base = np.asarray(centre, dtype=np.float64)
    low = base + _rectangle(bottom, 0.0)
    high = base + _rectangle((max(top_size[0], 0.02), max(top_size[1], 0.02)), height)
    faces = [
        quad(
            [low[i], low[(i + 1) % 4], high[(i + 1) % 4], high[i]],
            names[i],
            regions[i],
            tint=tint,
        )
        for i in range(4)
    ]
    if top is not None:
        faces.append(quad(high, top, tint=tint))
    return faces


def gable(
    centre: tuple[float, float, float],
    size: tuple[float, float, float],
    roof: str,
    ends: str,
    *,
    along_x: bool = True,
    eaves: float = 0.0,
    tint: Tint = WHITE,
) -> list[Face]:
    """A pitched roof with its two triangular ends; the ridge runs along x, or else along y.

    `eaves` metres of roof stand out beyond the walls on each side.
    """
    width, depth, height = size
    if not along_x:
        turned = gable((0, 0, 0), (depth, width, height), roof, ends, eaves=eaves, tint=tint)
        return moved(turned, centre, np.pi / 2)
    half, deep = width / 2, depth / 2
    drop = height * eaves / deep
    out, reach = deep + eaves, half + eaves
    triangle = [[-deep, 0], [deep, 0], [0, height]]
    faces = [
        quad(
            [[-reach, -out, -drop], [reach, -out, -drop], [reach, 0, height], [-reach, 0, height]],
            roof,
            tint=tint,
            two_sided=True,
        ),
        quad(
            [[reach, out, -drop], [-reach, out, -drop], [-reach, 0, height], [reach, 0, height]],
            roof,
            tint=tint,
            two_sided=True,
        ),
        panel([half, 0, 0], [0, 1, 0], [0, 0, 1], [triangle], ends, tint=tint),
        panel([-half, 0, 0], [0, -1, 0], [0, 0, 1], [triangle], ends, tint=tint),
    ]
    return moved(faces, centre)


def revolve(
    profile: Sequence[tuple[float, float]],
    texture: str,
    *,
    sides: int = 16,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    repeats: int = 1,
    tint: Tint = WHITE,
    smooth: bool = True,
    squash: float = 1.0,
) -> list[Face]:
    """A surface of revolution about a vertical axis; profile of (radius, height) from below up.

    The texture goes `repeats` times round and once from the lowest to the highest point, measured
    along the profile; `repeats` divides `sides`. With one repeat the texture's middle faces the
    front (-y). `squash` scales depth against width.
    """
    curve = np.maximum(np.asarray(profile, dtype=np.float64), [0.02, -np.inf])
    steps = np.diff(curve, axis=0)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
    along /= along[-1]
    angles = np.pi / 2 + np.arange(sides + 1) * 2 * np.pi / sides
    circle = np.stack([np.cos(angles), np.sin(angles) * squash, np.zeros_like(angles)], axis=1)
    faces = []
    for level, (run, rise) in enumerate(steps):
        low, high = curve[level], curve[level + 1]
        lower = circle * low[0] + [0, 0, low[1]] + np.asarray(centre)
        upper = circle * high[0] + [0, 0, high[1]] + np.asarray(centre)
        slope = np.array([rise, -run]) / np.hypot(run, rise)
        around = circle * slope[0] + [0, 0, slope[1]]
        for i in range(sides):
            start = i * repeats % sides
            region = (
                start / sides,
                1 - along[level + 1],
                (start + repeats) / sides,
                1 - along[level],
            )
            faces.append(
                quad(
                    [lower[i], lower[i + 1], upper[i + 1], upper[i]],
                    texture,
                    region,
                    tint=tint,
                    normals=around[[i, i + 1, i + 1, i]] if smooth else None,
                )
            )
    return faces


def tube(
    path: ArrayLike,
    radii: Sequence[float],
    texture: str,
    *,
    sides: int = 8,
    tint: Tint = WHITE,
) -> list[Face]:
    """A round bar along a path of (n, 3) points with a radius at each, metres: limbs, cables."""
    points = np.asarray(path, dtype=np.float64)
    faces = []
    angles = np.arange(sides + 1) * 2 * np.pi / sides
    for start, end, r0, r1 in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        axis = _unit(end - start)
        first = _unit(cross(axis, [0.0, 1.0, 0.0] if abs(axis[1]) < 0.9 else [1.0, 0.0, 0.0]))
        ring = np.outer(np.cos(angles), first) + np.outer(np.sin(angles), cross(axis, first))
        faces += [
            quad(
                [
                    start + r0 * ring[i],
                    start + r0 * ring[i + 1],
                    end + r1 * ring[i + 1],
                    end + r1 * ring[i],
                ],
                texture,
                (i / sides, 0.0, (i + 1) / sides, 1.0),
                tint=tint,
                normals=ring[[i, i + 1, i + 1, i]],
            )
            for i in range(sides)
        ]
    return faces


def arch(left: float, width: float, springing: float, rise: float, steps: int = 12) -> Array:
    """(steps + 3, 2) outline of an arched opening: its feet at height 0, metres.

    The curve is a half ellipse from the springing; a rise above half the width makes it stilted
    rather than pointed.
    """
    angles = np.linspace(np.pi, 0, steps + 1)
    curve = np.stack(
        [left + width / 2 + width / 2 * np.cos(angles), springing + rise * np.sin(angles)], axis=1
    )
    return np.vstack([[left, 0.0], curve, [left + width, 0.0]])


def pointed_arch(left: float, width: float, springing: float, rise: float) -> Array:
    """(k, 2) outline of an opening whose two sides curve to a point, feet at height 0, metres."""
    turn = np.linspace(0, 1, 6)
    half = width / 2 * (1 - turn**2)
    lift = springing + rise * turn**0.8
    return np.vstack(
        [
            [left, 0.0],
            np.stack([left + width / 2 - half, lift], axis=1),
            np.stack([left + width / 2 + half, lift], axis=1)[-2::-1],
            [left + width, 0.0],
        ]
    )


def raised(outline: Array, height: float) -> Array:
    """The outline (k, 2) `height` metres higher up."""
    higher: Array = outline + np.array([0.0, height])
    return higher


def lining(
    outline: Array, depth: float, texture: str, *, y: float = 0.0, tint: Tint = WHITE
) -> list[Face]:
    """The inner surface of an opening in a wall in the plane y, `depth` metres deep.

    `outline` (k, 2) runs clockwise from the left foot, as `arch` gives it.
    """
    x, z = outline[:, 0], outline[:, 1]
    return [
        quad(
            [
                [x[i], y, z[i]],
                [x[i], y + depth, z[i]],
                [x[i + 1], y + depth, z[i + 1]],
                [x[i + 1], y, z[i + 1]],
            ],
            texture,
            (0.0, i / len(x), 1.0, (i + 1) / len(x)),
            tint=tint,
            two_sided=True,
        )
        for i in range(len(x) - 1)
    ]


def pierced_wall(
    size: tuple[float, float],
    openings: Sequence[Array],
    depth: float,
    texture: str,
    inside: str,
    *,
    top: Sequence[tuple[float, float]] | None = None,
) -> list[Face]:
    """A wall along x with openings through it: front at y = 0, back at y = depth, metres.

    `top` (k, 2), from right to left, replaces the straight upper edge (battlements, gables).
    """
    width, height = size
    edge = top if top is not None else [(width / 2, height), (-width / 2, height)]
    outline = np.array([[-width / 2, 0.0], [width / 2, 0.0], *edge])
    front = panel([0, 0, 0], [1, 0, 0], [0, 0, 1], [outline, *openings], texture)
    mirrored = [contour * [-1, 1] for contour in (outline, *openings)]
    back = panel([0, depth, 0], [-1, 0, 0], [0, 0, 1], mirrored, texture)
    faces = [front, back]
    for opening in openings:
        faces += lining(opening, depth, inside)
    return faces


def crenels(width: float, height: float, merlon: float, rise: float) -> list[tuple[float, float]]:
    """Upper edge (k, 2), right to left, of a wall `width` wide with merlons of `merlon` metres."""
    count = max(1, round(width / merlon / 2))
    pitch = width / (2 * count + 1)
    edge = []
    for i in range(2 * count + 1):
        level = height + (rise if i % 2 == 0 else 0.0)
        edge += [(width / 2 - i * pitch, level), (width / 2 - (i + 1) * pitch, level)]
    return edge


def moved(
    faces: Iterable[Face],
    offset: ArrayLike = (0.0, 0.0, 0.0),
    turn: float = 0.0,
) -> list[Face]:
    """The faces turned about the z axis by `turn` radians (anticlockwise), then shifted, metres."""
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    shift = np.zeros((3, 3))
    shift[2] = offset
    return [
        replace(face, frame=face.frame @ rotation + shift, normals=face.normals @ rotation)
        for face in faces
    ]


def bounds(faces: Iterable[Face]) -> tuple[Array, Array]:
    """The least and greatest corner (3,) of the faces' bounding box, metres."""
    points = np.vstack([face.vertices() for face in faces])
    return points.min(axis=0), points.max(axis=0)


def cross(a: ArrayLike, b: ArrayLike) -> Array:
    """The vector product of two vectors (3,); a tenth of the time that np.cross takes."""
    (x, y, z), (u, v, w) = np.asarray(a).tolist(), np.asarray(b).tolist()
    return np.array([y * w - z * v, z * u - x * w, x * v - y * u])


def _rectangle(size: tuple[float, float], z: float) -> Array:
    x, y = size[0] / 2, size[1] / 2
    return np.array([[-x, -y, z], [x, -y, z], [x, y, z], [-x, y, z]])


def _unit(vector: ArrayLike) -> Array:
    array = np.asarray(vector, dtype=np.float64)
    return array / np.sqrt(array @ array)
