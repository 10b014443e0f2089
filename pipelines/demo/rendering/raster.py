"""Which face each pixel sees, and its colour there.

Faces are drawn one by one into a depth buffer that keeps only their number; colours follow in one
pass over the pixels (deferred shading). A flat face makes that exact: over the picture its inverse
depth is an affine function, and its texture coordinates are a homography. Textures lie in one
atlas, each at every combination of five widths and five heights, so that a face picks the version
that matches its size on the picture (a rip map: Larson and Shah, "Method for borderless texture
mapping", 1990; the same cure for aliasing as a mip map, without blurring slanted faces).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.demo.rendering.camera import Camera
from pipelines.demo.rendering.geometry import Array, Face
from pipelines.demo.rendering.weather import Weather, along

LEVELS = 5
NEAR = 0.3  # metres: nothing closer to the camera is drawn
FAR = 20_000.0  # metres: everything is nearer
FIXED = 4  # binary places of OpenCV's fixed-point polygon corners
SHADOW_PIXELS = 400

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Atlas:
    """All textures in one picture, and where: `places` (k, 4) left, top, width, height, pixels."""

    picture: NDArray[np.uint8]
    places: NDArray[np.int64]
    numbers: dict[str, int]

    @classmethod
    def of(cls, textures: Mapping[str, NDArray[np.uint8]]) -> Atlas:
        """Packs each texture with its shrunk versions, one texture under the other."""
        sizes = np.array([texture.shape[:2] for texture in textures.values()])
        picture = np.zeros((2 * sizes[:, 0].sum(), 2 * sizes[:, 1].max(), 3), dtype=np.uint8)
        places, top = [], 0
        for texture in textures.values():
            height, width = texture.shape[:2]
            places.append((0, top, width, height))
            tall: NDArray[Any] = texture
            for row in range(LEVELS):
                small: NDArray[Any] = tall
                for column in range(LEVELS):
                    x, y, w, h = version(np.array(places[-1]), np.array([column, row])).astype(int)
                    small = cv2.resize(small, (w, h), interpolation=cv2.INTER_AREA)
                    tall = small if column == 0 else tall
                    picture[y : y + h, x : x + w] = small
            top += 2 * height
        return cls(picture, np.array(places), {name: i for i, name in enumerate(textures)})


def version(place: NDArray[np.int64], levels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where in the atlas (…, 4) the version of a texture is whose width and height are halved
    `levels` (…, 2) times: left, top, width, height in pixels."""
    scale = 0.5**levels
    size = np.maximum(np.floor(place[..., 2:] * scale), 1)
    return np.concatenate([place[..., :2] + np.floor(place[..., 2:] * (2 - 2 * scale)), size], -1)


@dataclass(frozen=True)
class Mesh:
    """Faces as arrays over n faces and their v corners; see `Face` for the meaning of each."""

    frames: Array  # (n, 3, 3)
    charts: Array  # (n, 3, 3)
    normals: Array  # (n, 3, 3)
    regions: Array  # (n, 4)
    tints: Array  # (n, 3)
    textures: NDArray[np.int64]  # (n,)
    two_sided: NDArray[np.bool_]  # (n,)
    vertices: Array  # (v, 3)
    spans: tuple[
        tuple[tuple[int, int], ...], ...
    ]  # for each face, its contours' first, last corner

    @classmethod
    def of(cls, faces: Sequence[Face], atlas: Atlas) -> Mesh:
        """Stacks faces; KeyError for a texture that the atlas lacks."""
        spans, start = [], 0
        for face in faces:
            parts = []
            for contour in face.contours:
                parts.append((start, start + len(contour)))
                start += len(contour)
            spans.append(tuple(parts))
        return cls(
            np.stack([face.frame for face in faces]),
            np.stack([face.chart for face in faces]),
            np.stack([face.normals for face in faces]),
            np.array([face.region for face in faces]),
            np.array([face.tint for face in faces]),
            np.array([atlas.numbers[face.texture] for face in faces]),
            np.array([face.two_sided for face in faces]),
            np.vstack([face.vertices() for face in faces]),
            tuple(spans),
        )

    def joined(self, other: Mesh) -> Mesh:
        """Both meshes' faces, these first."""
        shift = len(self.vertices)
        moved = tuple(tuple((a + shift, b + shift) for a, b in face) for face in other.spans)
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in (
                "frames",
                "charts",
                "normals",
                "regions",
                "tints",
                "textures",
                "two_sided",
                "vertices",
            )
        }
        return Mesh(spans=self.spans + moved, **arrays)

    def starts(self) -> NDArray[np.int64]:
        """(n,) each face's first corner."""
        return np.array([face[0][0] for face in self.spans])

    def mirrored(self) -> Mesh:
        """The mesh's image in the plane z = 0, shaded like its original."""
        flip, back = np.array([1.0, 1.0, -1.0]), np.array([-1.0, 1.0, 1.0])
        frames = self.frames * flip
        frames[:, 0] *= -1  # keeps the normal on the outside
        charts = self.charts * back
        return replace(self, frames=frames, charts=charts, vertices=self.vertices * flip)

    def facing(self) -> Array:
        """(n, 3) geometric normals."""
        return np.cross(self.frames[:, 0], self.frames[:, 1])


@dataclass(frozen=True)
class Buffer:
    """What each pixel sees: `owner` (h, w) a face's number or -1; `near` (h, w) its nearness."""

    owner: NDArray[np.int32]
    near: Floats


def draw(mesh: Mesh, camera: Camera) -> Buffer:
    """The depth buffer of a perspective view; nearness is 1 / depth, per metre."""
    to_eye = camera.position - mesh.frames[:, 2]
    facing = np.einsum("ij,ij->i", mesh.facing(), to_eye)
    visible = (facing > 1e-3) | (mesh.two_sided & (np.abs(facing) > 1e-3))
    inverse = _inverse_view(mesh, camera, visible)
    seen = camera.seen(mesh.vertices)
    flat = seen[:, :2] / np.maximum(seen[:, 2:], NEAR) * camera.focal + camera.centre
    starts = mesh.starts()
    nearest = np.minimum.reduceat(seen[:, 2], starts)
    visible &= np.maximum.reduceat(seen[:, 2], starts) > NEAR
    outlines = _Outlines.of(mesh, flat)
    for number in np.flatnonzero(visible & (nearest < NEAR)).tolist():
        outlines.replace(number, [_clipped(seen[a:b], camera) for a, b in mesh.spans[number]])
    drawn = _fill(
        outlines,
        visible,
        inverse[:, 2],
        1 / np.maximum(nearest, NEAR),
        (camera.height, camera.width),
    )
    # A pixel on the outline of a slanted face may lie just beyond the face's own horizon.
    return Buffer(drawn.owner, np.maximum(drawn.near, np.float32(1 / FAR)))


def shade(
    mesh: Mesh,
    atlas: Atlas,
    camera: Camera,
    buffer: Buffer,
    rays: Floats,
    weather: Weather,
    sun: SunView,
    scale: float,
) -> Floats:
    """(k, 3) linear light of the pixels that see a face, in reading order; rays (3, h * w).

    `scale` metres is the height over which the ground darkens what stands on it. What lies below
    the ground is a mirror image and lit like its original.
    """
    hit = np.flatnonzero(buffer.owner >= 0)
    owner = buffer.owner.reshape(-1)[hit]
    if not len(owner):
        return np.zeros((0, 3), dtype=np.float32)
    y, x = np.divmod(hit, camera.width)
    x, y = x.astype(np.float32), y.astype(np.float32)
    inverse = _inverse_view(mesh, camera, np.isin(np.arange(len(mesh.frames)), owner))
    maps = mesh.charts @ inverse
    h = _each(maps.reshape(-1, 9), owner)
    below = h[6] * x + h[7] * y + h[8]
    s = np.clip((h[0] * x + h[1] * y + h[2]) / below, 0, 1)
    t = np.clip((h[3] * x + h[4] * y + h[5]) / below, 0, 1)
    colour = _sample(atlas, _each(_choose_versions(mesh, atlas, maps, owner, x, y), owner), s, t)
    depth = np.reciprocal(buffer.near.reshape(-1)[hit])
    points: Floats = camera.position.astype(np.float32)[:, None] + rays[:, hit] * depth
    points[2] = np.abs(points[2])
    facing = mesh.facing()
    flipped = np.einsum("ij,ij->i", facing, camera.position - mesh.frames[:, 2]) < 0
    bent = np.where(flipped[:, None, None], -mesh.normals, mesh.normals)
    upward = _each(bent[:, :, 2], owner)
    sunny = _each(bent @ weather.sun, owner)
    direct: Floats = np.maximum(sunny[0] + s * sunny[1] + t * sunny[2], 0)
    if weather.sunlight.max() > 0:
        direct *= sun_reaches(sun, points, scale)
    open_sky = 0.62 + 0.38 * (upward[0] + s * upward[1] + t * upward[2])
    open_sky *= 1 - 0.45 * np.exp(-points[2] / np.float32(scale))
    for channel, tint in enumerate(_each(mesh.tints, owner)):
        sunlight, ambient = np.float32(weather.sunlight[channel]), weather.ambient[channel]
        colour[:, channel] *= tint * (direct * sunlight + open_sky * np.float32(ambient))
    return colour


def _each(values: Array, owner: NDArray[np.int32]) -> list[Floats]:
    """Each column of the faces' values (n, m) at the pixels (k,) that see the faces.

    Columns one by one, since arithmetic on the columns of one (k, m) array is far slower.
    """
    return [column.astype(np.float32)[owner] for column in values.T]


@dataclass(frozen=True)
class SunView:
    """What the sun sees, orthographically: `axes` (3, 3) rows right, up and towards the sun; the
    picture's `corner` (3,) on these; `density` in pixels per metre; `near` (h, w) how far towards
    the sun the nearest surface lies, metres."""

    axes: Array
    corner: Array
    density: float
    near: Floats


def sun_reaches(view: SunView, points: Floats, scale: float) -> Floats:
    """(k,) share of the sun's disc that each of (3, k) world points sees, 0 to 1."""
    x, y = (
        (along(points, axis) - np.float32(start)) * np.float32(view.density)
        for axis, start in zip(view.axes[:2], view.corner[:2], strict=True)
    )
    # A surface must not shade itself: allow for the shadow's coarse pixels.
    bias = np.float32(0.06 * scale + 1.5 / view.density)
    depth = along(points, view.axes[2]) + bias
    reached = np.zeros(len(depth), dtype=np.float32)
    for dx, dy in ((-0.5, -0.3), (0.5, 0.3)):
        seen = look_up(view.near, x + np.float32(dx), y + np.float32(dy), cv2.INTER_NEAREST)
        reached += seen < depth
    return reached * np.float32(0.5)


def see_from_sun(casters: Mesh, weather: Weather, low: Array, high: Array) -> SunView:
    """The casters from the sun, over the box from `low` to `high` (3,) metres."""
    right = np.cross([0.0, 0.0, 1.0], weather.sun)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(weather.sun, right), weather.sun])
    corners = np.array(np.meshgrid(*np.stack([low, high], axis=1))).reshape(3, -1).T @ axes.T
    least, most = corners.min(axis=0)[:2], corners.max(axis=0)[:2]
    side = 1.02 * float((most - least).max())
    corner = np.array([*((least + most) / 2 - side / 2), 0.0])
    density = SHADOW_PIXELS / side
    places = casters.vertices @ axes.T - corner
    towards = casters.facing() @ weather.sun
    chosen = (towards > 1e-3) | (casters.two_sided & (np.abs(towards) > 1e-3))
    frames = casters.frames[chosen].copy()
    frames[:, 2] -= corner @ axes
    forward = np.transpose(frames @ axes.T, (0, 2, 1)).copy()
    depth = forward[:, 2].copy()
    forward[:, :2] *= density
    forward[:, 2] = [0, 0, 1]
    planes = np.zeros((len(chosen), 3))
    planes[chosen] = np.einsum("ni,nij->nj", depth, np.linalg.inv(forward))
    outlines = _Outlines.of(casters, places[:, :2] * density)
    highest = np.maximum.reduceat(places[:, 2], casters.starts())
    drawn = _fill(outlines, chosen, planes, highest, (SHADOW_PIXELS, SHADOW_PIXELS))
    return SunView(axes, corner, density, drawn.near)


def _inverse_view(mesh: Mesh, camera: Camera, wanted: NDArray[np.bool_]) -> Array:
    """(n, 3, 3) from pixels (x, y, 1) to plane coordinates (u, v, 1) / depth; 0 if not wanted."""
    to_pixels = camera.matrix() @ camera.rotation
    frames = mesh.frames[wanted].copy()
    frames[:, 2] -= camera.position
    inverse = np.zeros_like(mesh.frames)
    inverse[wanted] = np.linalg.inv(to_pixels @ np.transpose(frames, (0, 2, 1)))
    return inverse


@dataclass(frozen=True)
class _Outlines:
    """Projected faces: `contours` for each face, in fixed point; `low` and `high` (n, 2) pixels."""

    contours: list[list[NDArray[np.int32]]]
    low: Array
    high: Array

    @classmethod
    def of(cls, mesh: Mesh, flat: Array) -> _Outlines:
        """From the projected corners (v, 2) of a mesh, pixels."""
        fixed = _fixed(flat)
        starts = mesh.starts()
        contours = [[fixed[a:b] for a, b in face] for face in mesh.spans]
        return cls(contours, np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts))

    def replace(self, number: int, contours: Sequence[Array]) -> None:
        """Gives a face other contours (k, 2), pixels."""
        kept = [contour for contour in contours if len(contour) > 2]
        self.contours[number] = [_fixed(contour) for contour in kept]
        every = np.vstack([*kept, np.zeros((0, 2))])
        self.low[number] = every.min(axis=0, initial=0)
        self.high[number] = every.max(axis=0, initial=0)


def _fixed(flat: Array) -> NDArray[np.int32]:
    """Pixels as OpenCV's fixed-point numbers; far outside the picture any number does."""
    limit = 1 << 20
    return np.asarray(np.rint(np.clip(flat * (1 << FIXED), -limit, limit)), dtype=np.int32)


def _fill(
    outlines: _Outlines,
    chosen: NDArray[np.bool_],
    planes: Array,
    highest: Array,
    shape: tuple[int, int],
) -> Buffer:
    """Draws the chosen faces into a depth buffer.

    `planes` (n, 3) give a face's nearness at pixel (x, y, 1) and `highest` (n,) its greatest:
    outlines are drawn a pixel wide, so a steep face would otherwise be extended far beyond its
    corners.
    """
    height, width = shape
    owner = np.full(shape, -1, dtype=np.int32)
    nearest = np.full(shape, -np.inf, dtype=np.float32)
    columns = np.arange(width, dtype=np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None]
    low = np.maximum(np.floor(outlines.low), 0).astype(int)
    high = np.minimum(np.ceil(outlines.high) + 1, [width, height]).astype(int)
    inside = chosen & (low < high).all(axis=1)
    values = zip(low.tolist(), high.tolist(), planes.tolist(), highest.tolist(), strict=True)
    for number, ((x0, y0), (x1, y1), (a, b, c), most) in enumerate(values):
        if not inside[number] or not outlines.contours[number]:
            continue
        mask = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
        corner = (-x0 << FIXED, -y0 << FIXED)  # in fixed point too
        cv2.fillPoly(mask, outlines.contours[number], 1, cv2.LINE_8, FIXED, corner)
        near = np.float32(a) * columns[x0:x1] + np.float32(c) + np.float32(b) * rows[y0:y1]
        near = np.minimum(near, np.float32(most))
        window = nearest[y0:y1, x0:x1]
        won = near > window
        won &= mask.view(np.bool_)
        np.copyto(window, near, where=won)
        np.copyto(owner[y0:y1, x0:x1], number, where=won)
    return Buffer(owner, nearest)


def _clipped(seen: Array, camera: Camera) -> Array:
    """The part of a polygon (k, 3), in camera axes, beyond the near plane, projected to (m, 2)."""
    kept = []
    for start, end in zip(seen, np.roll(seen, -1, axis=0), strict=True):
        if start[2] >= NEAR:
            kept.append(start)
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            kept.append(start + (end - start) * (NEAR - start[2]) / (end[2] - start[2]))
    points = np.array(kept).reshape(-1, 3)
    flat: Array = points[:, :2] / points[:, 2:] * camera.focal + camera.centre
    return flat


def _choose_versions(
    mesh: Mesh,
    atlas: Atlas,
    maps: Array,
    owner: NDArray[np.int32],
    x: Floats,
    y: Floats,
) -> Array:
    """(n, 4) left, top, right, bottom in the atlas of each visible face's region, pixels.

    The version is chosen where the face's visible pixels have their middle.
    """
    count = np.bincount(owner, minlength=len(maps))
    total = np.maximum(count, 1)
    middle = np.stack(
        [
            np.bincount(owner, x, len(maps)) / total,
            np.bincount(owner, y, len(maps)) / total,
            np.ones(len(maps)),
        ],
        axis=1,
    )
    at = np.einsum("nij,nj->ni", maps, middle)
    below = np.where(count > 0, at[:, 2], 1.0)[:, None]
    # The gradient of (s, t) over the picture, by the quotient rule.
    change_s = (maps[:, 0, :2] - at[:, :1] / below * maps[:, 2, :2]) / below
    change_t = (maps[:, 1, :2] - at[:, 1:2] / below * maps[:, 2, :2]) / below
    regions = mesh.regions
    texels = atlas.places[mesh.textures, 2:] * (regions[:, 2:] - regions[:, :2])
    steps = np.stack([np.hypot(*change_s.T), np.hypot(*change_t.T)], axis=1) * texels
    levels = np.clip(np.rint(np.log2(np.maximum(steps, 1e-6)) + 0.1), 0, LEVELS - 1)
    place = version(atlas.places[mesh.textures], levels.astype(np.int64))
    start = place[:, :2] + regions[:, :2] * place[:, 2:]
    end = place[:, :2] + regions[:, 2:] * place[:, 2:]
    return np.concatenate([start, end], axis=1)


def _sample(atlas: Atlas, places: Sequence[Floats], s: Floats, t: Floats) -> Floats:
    """(k, 3) linear colours at fractions (k,) of the atlas's regions, given by four (k,) edges."""
    left, top, right, bottom = places
    # Pixel i covers [i, i + 1]: half a pixel's inset keeps neighbours in the atlas out.
    x = np.minimum(np.maximum(left + s * (right - left) - 0.5, np.ceil(left)), right - 1)
    y = np.minimum(np.maximum(top + t * (bottom - top) - 0.5, np.ceil(top)), bottom - 1)
    return linear(look_up(atlas.picture, x, y))


def look_up(
    picture: NDArray[Any], x: Floats, y: Floats, way: int = cv2.INTER_LINEAR
) -> NDArray[Any]:
    """Values at k places (pixels) of a picture (h, w, ...), as `way` interpolates; beyond its
    edges colours are black, and depths infinitely far."""
    row = 1024  # cv2.remap takes pictures, not lists, and none longer than 32,767
    padded = max(1, -(-len(x) // row)) * row
    maps = np.zeros((2, padded), dtype=np.float32)
    maps[0, : len(x)], maps[1, : len(x)] = x, y
    across, down = maps.reshape(2, -1, row)
    outside = 0 if picture.dtype == np.uint8 else -np.inf
    sampled = cv2.remap(picture, across, down, way, borderValue=(outside,) * 4)
    return sampled.reshape(padded, *picture.shape[2:])[: len(x)]


_LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)


def linear(colours: NDArray[np.uint8]) -> Floats:
    """Display values (0 to 255) as linear light (0 to 1)."""
    return np.asarray(_LINEAR[colours], dtype=np.float32)
