"""The ground plane z = 0: grass, stone, sand, boards and water."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.demo.rendering.camera import Camera
from pipelines.demo.rendering.raster import SunView, linear, look_up, sun_reaches
from pipelines.demo.rendering.textures import TILE, Colour, Picture, masonry, noise_tile, shades
from pipelines.demo.rendering.weather import Weather, length, sky_light

Floats = NDArray[np.float32]
LEVELS = 7
FARTHEST = 20_000.0  # metres: where the ground ends, in haze

MATERIALS: dict[str, tuple[Colour, float]] = {  # colour, pixels per metre of the tile
    "grass": ((98, 116, 58), 40.0),
    "meadow": ((140, 134, 78), 25.0),
    "sand": ((206, 186, 148), 40.0),
    "gravel": ((168, 160, 148), 50.0),
    "asphalt": ((96, 96, 98), 40.0),
    "paving": ((176, 168, 156), 48.0),
    "cobbles": ((140, 132, 124), 64.0),
    "slabs": ((196, 188, 172), 22.0),
    "boards": ((150, 108, 70), 160.0),
    "water": ((38, 66, 72), 12.0),
}
_COURSES = {
    "paving": (26.0, 1.0),
    "cobbles": (8.0, 1.1),
    "slabs": (32.0, 1.6),
    "boards": (24.0, 9.0),
}


@dataclass(frozen=True)
class Ground:
    """`inner` material within `radius` metres of the origin, `outer` beyond it."""

    inner: str
    outer: str
    radius: float

    @property
    def is_water(self) -> bool:
        """Whether the landmark stands in water."""
        return self.inner == "water"


@lru_cache(maxsize=16)
def _tile(material: str) -> tuple[Picture, NDArray[np.int64]]:
    """The material's tile at every size in one picture, and the tops of these (LEVELS,)."""
    colour, _ = MATERIALS[material]
    rng = np.random.default_rng(sorted(MATERIALS).index(material))
    if material in _COURSES:
        course, ratio = _COURSES[material]
        tile = masonry(rng, (TILE, TILE), colour, course, ratio, jitter=0.07)
    else:
        flat = np.ones((TILE, TILE, 3), dtype=np.float32) * np.array(colour, dtype=np.float32)
        grain = 0.07 * noise_tile(0.4) + 0.08 * noise_tile(1.2)
        tile = shades(flat, 1 + grain)
    sizes = [TILE >> level for level in range(LEVELS)]
    tops = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    picture = np.zeros((sum(sizes), TILE, 3), dtype=np.uint8)
    for top, size in zip(tops, sizes, strict=True):
        picture[top : top + size, :size] = cv2.resize(
            tile, (size, size), interpolation=cv2.INTER_AREA
        )
    return picture, tops


def paint_ground(
    rng: np.random.Generator,
    ground: Ground,
    camera: Camera,
    rays: Floats,
    weather: Weather,
    sun: SunView,
    scale: float,
) -> tuple[Floats, Floats]:
    """(k, 3) light and (k,) distance in metres where the rays (3, k), all downwards, meet it."""
    reach = np.minimum(-np.float32(camera.position[2]) / rays[2], np.float32(FARTHEST))
    points = camera.position.astype(np.float32)[:, None] + rays * reach
    points[2] = 0
    spread = reach / np.float32(camera.focal)
    spread *= np.sqrt(np.maximum(reach / np.float32(camera.position[2]), 1))
    if ground.inner == ground.outer:
        colour = _material_at(rng, ground.inner, points, spread)
    else:
        colour = np.empty((len(reach), 3), dtype=np.float32)
        wobble = _noise_at(points / np.float32(max(ground.radius, 1.0) / 60))
        inside = np.hypot(points[0], points[1]) < ground.radius * (1 + 0.06 * wobble)
        for material, where in ((ground.inner, inside), (ground.outer, ~inside)):
            chosen = np.flatnonzero(where)
            colour[chosen] = _material_at(rng, material, points[:, chosen], spread[chosen])
    broad = _noise_at(points * np.float32(1.5 + 20 / scale))
    colour *= (1 + 0.12 * broad)[:, None]
    reached = np.ones(len(reach), dtype=np.float32)
    if weather.sunlight.max() > 0:
        reached = sun_reaches(sun, points, scale)
    direct = reached * np.float32(weather.sun[2])
    light = colour * (direct[:, None] * weather.sunlight + weather.ambient).astype(np.float32)
    if ground.is_water:
        light = _water(light, rays, points, weather)
    return light, reach


def ripple(light: Floats, water: NDArray[np.bool_], camera: Camera) -> Floats:
    """Bends reflections (h, w, 3) by waves where the picture shows water (h, w)."""
    height, width = water.shape
    rows = np.arange(height, dtype=np.float32)[:, None]
    # Waves look flatter towards the horizon, where the eye meets them at a lower angle.
    horizon = camera.centre[1] + camera.focal * camera.rotation[2, 2] / max(
        abs(float(camera.rotation[1, 2])), 1e-3
    )
    below = np.maximum(rows - np.float32(horizon), 1) / np.float32(height)
    x = np.arange(width, dtype=np.float32)[None, :] / (0.15 + 2.2 * below)
    y = 60 / (below + np.float32(0.03)) + 0 * x
    wave = cv2.remap(
        noise_tile(0.9),
        (x % TILE).astype(np.float32),
        (y % TILE).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    shift = wave * water * (1 + 14 * below)
    columns = np.arange(width, dtype=np.float32)[None, :] + shift * 0.6
    lines = np.maximum(rows + shift * 0.9, 0)
    return np.asarray(
        cv2.remap(light, columns, lines, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        dtype=np.float32,
    )


def _material_at(rng: np.random.Generator, material: str, points: Floats, spread: Floats) -> Floats:
    """(k, 3) linear colours of a material at (3, k) points; a pixel covers `spread` metres."""
    picture, tops = _tile(material)
    density = np.float32(MATERIALS[material][1])
    shift = rng.uniform(0, TILE, 2).astype(np.float32)
    level = np.clip(np.rint(np.log2(np.maximum(spread * density, 1e-3))), 0, LEVELS - 1)
    level = level.astype(np.int64)
    scale = np.float32(0.5) ** level
    place = (points[:2] * density + shift[:, None]) % TILE * scale
    last = TILE * scale - 1
    x = np.clip(place[0] - 0.5, 0, last)
    y = np.clip(place[1] - 0.5, 0, last) + tops[level]
    return linear(look_up(picture, x.astype(np.float32), y.astype(np.float32)))


def _noise_at(points: Floats, roughness: float = 1.4) -> Floats:
    """(k,) slowly varying noise at (3, k) points given in pixels of the noise tile."""
    # TILE is a power of two: masking the bits is the remainder, for negative numbers too.
    column = points[0].astype(np.int32) & (TILE - 1)
    row = points[1].astype(np.int32) & (TILE - 1)
    found: Floats = noise_tile(roughness).reshape(-1)[row * TILE + column]
    return found


def _water(light: Floats, rays: Floats, points: Floats, weather: Weather) -> Floats:
    """Adds the mirrored sky to what comes out of the water (k, 3)."""
    mirrored = rays / length(rays)
    far = np.hypot(points[0], points[1])
    wave = _noise_at(points * np.float32(9.0), 0.9) / (1 + far / 60)
    mirrored[2] = np.maximum(0.10 * wave - mirrored[2], 0.02)
    share = 0.06 + 0.85 * (1 - np.clip(mirrored[2], 0, 1)) ** 5
    both: Floats = light + sky_light(weather, mirrored) * share[:, None]
    return both


def water_share(rays: Floats) -> Floats:
    """(k,) share of the light that water mirrors at the angles of the rays (3, k)."""
    steep = -rays[2] / length(rays)
    return np.asarray(0.12 + 0.78 * (1 - np.clip(steep, 0, 1)) ** 5, dtype=np.float32)
