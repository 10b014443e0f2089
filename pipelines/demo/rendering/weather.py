"""Sun, sky and air: what the light is like at some hour of some day."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.demo.rendering.camera import Camera
from pipelines.demo.rendering.geometry import Array
from pipelines.demo.rendering.textures import TILE, noise_tile

Floats = NDArray[np.float32]
SKY_STEP = 2  # the sky is so smooth that it is painted on half the pixels a side


@dataclass(frozen=True)
class Weather:
    """Light in linear units, in which a white wall in full sun is about 1.

    sun: (3,) unit vector towards the sun; sunlight, ambient, zenith, horizon, cloud: (3,) RGB;
    cover: share of the sky under clouds, 0 to 1; sight: metres after which haze has taken 63 %.
    """

    sun: Array
    sunlight: Array
    ambient: Array
    zenith: Array
    horizon: Array
    cloud: Array
    cover: float
    sight: float


@dataclass(frozen=True)
class _Hour:
    """Ranges from which a kind of light is drawn; elevations in degrees."""

    share: float
    elevation: tuple[float, float]
    sunlight: tuple[float, float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    cloud: tuple[float, float, float]
    cover: tuple[float, float]
    sight: tuple[float, float]


HOURS = {
    "clear": _Hour(
        0.42,
        (32, 66),
        (1.0, 0.95, 0.86),
        (0.30, 0.36, 0.46),
        (0.10, 0.24, 0.60),
        (0.52, 0.68, 0.86),
        (0.98, 0.98, 1.0),
        (0.0, 0.45),
        (1500, 5000),
    ),
    "low sun": _Hour(
        0.24,
        (9, 22),
        (1.0, 0.70, 0.42),
        (0.22, 0.25, 0.34),
        (0.14, 0.29, 0.52),
        (0.86, 0.75, 0.56),
        (1.0, 0.78, 0.60),
        (0.1, 0.55),
        (800, 3000),
    ),
    "dusk": _Hour(
        0.08,
        (5, 9),
        (0.50, 0.26, 0.18),
        (0.15, 0.16, 0.27),
        (0.06, 0.11, 0.24),
        (0.66, 0.46, 0.32),
        (0.44, 0.33, 0.32),
        (0.1, 0.6),
        (600, 2500),
    ),
    "overcast": _Hour(
        0.20,
        (35, 60),
        (0.0, 0.0, 0.0),
        (0.66, 0.69, 0.74),
        (0.52, 0.56, 0.62),
        (0.76, 0.78, 0.80),
        (0.80, 0.81, 0.83),
        (0.75, 1.0),
        (600, 2500),
    ),
    "haze": _Hour(
        0.06,
        (25, 50),
        (0.55, 0.51, 0.45),
        (0.46, 0.48, 0.50),
        (0.50, 0.58, 0.68),
        (0.80, 0.80, 0.78),
        (0.86, 0.86, 0.86),
        (0.2, 0.6),
        (250, 700),
    ),
}


def draw_weather(rng: np.random.Generator) -> Weather:
    """Some weather at some hour; the sun stands mostly on the viewer's side (-y)."""
    shares = np.array([hour.share for hour in HOURS.values()])
    hour = list(HOURS.values())[int(rng.choice(len(shares), p=shares / shares.sum()))]
    elevation = np.deg2rad(rng.uniform(*hour.elevation))
    azimuth = rng.normal(0, 1.0)
    sun = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            -np.cos(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
    )
    cast = np.exp(rng.normal(0, 0.03, 3))
    dim = np.exp(rng.normal(0, 0.12))
    return Weather(
        sun,
        np.array(hour.sunlight) * cast * dim * 0.95,
        np.array(hour.ambient) * np.exp(rng.normal(0, 0.04, 3)),
        np.array(hour.zenith) * cast,
        np.array(hour.horizon) * cast,
        np.array(hour.cloud) * cast,
        rng.uniform(*hour.cover),
        rng.uniform(*hour.sight),
    )


def sky_light(weather: Weather, rays: Floats) -> Floats:
    """(..., 3) light of the cloudless sky in the directions (3, ...)."""
    norm = length(rays)
    height = np.sqrt(np.clip(rays[2] / norm, 0, 1))[..., None]
    light: Floats = weather.horizon.astype(np.float32) * (1 - height)
    light += weather.zenith.astype(np.float32) * height
    if weather.sunlight.max() > 0:
        away = 1 - along(rays, weather.sun) / norm
        glow = 0.35 * np.exp(-8 * away) + 2 * np.exp(-300 * away) + 12 * (away < 5e-5)
        light += glow[..., None].astype(np.float32) * weather.sunlight.astype(np.float32)
    return light


def paint_sky(rng: np.random.Generator, weather: Weather, camera: Camera) -> Floats:
    """(h, w, 3) light of the sky, with clouds on a layer overhead."""
    rays = camera.enlarged(1 / SKY_STEP).rays()
    light = sky_light(weather, rays)
    rise = np.maximum(rays[2], 0)
    spread = np.float32(rng.uniform(90, 200)) / (rise + np.float32(0.09))
    turn, shift = rng.uniform(0, 2 * np.pi), rng.uniform(0, TILE, 2)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x = ((cos * rays[0] - sin * rays[1]) * spread + np.float32(shift[0])) % TILE
    y = ((sin * rays[0] + cos * rays[1]) * spread + np.float32(shift[1])) % TILE
    cloud = cv2.remap(noise_tile(1.8), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    thick = np.clip((cloud + 2.4 * weather.cover - 1.35) * 1.1, 0, 1)
    thick *= np.clip(rise * 9, 0, 1) if weather.cover < 0.7 else 1
    shaded = weather.cloud.astype(np.float32) * (1.08 - 0.38 * thick * thick)[..., None]
    light += (shaded - light) * (thick * np.float32(0.95))[..., None]
    return np.asarray(cv2.resize(light, (camera.width, camera.height)), dtype=np.float32)


def along(vectors: Floats, direction: Array) -> Floats:
    """(...) component of vectors (3, ...) along a direction (3,).

    Not a matrix product: BLAS would start threads for it, in every worker.
    """
    a, b, c = direction.astype(np.float32)
    component: Floats = vectors[0] * a + vectors[1] * b + vectors[2] * c
    return component


def length(vectors: Floats) -> Floats:
    """(...) lengths of vectors (3, ...)."""
    lengths: Floats = np.sqrt(vectors[0] ** 2 + vectors[1] ** 2 + vectors[2] ** 2)
    return lengths


def through_air(light: Floats, depth: Floats, weather: Weather) -> Floats:
    """(..., 3) light after `depth` (...) metres of hazy air."""
    share = (1 - np.exp(-depth / np.float32(weather.sight)))[..., None]
    air = (0.75 * weather.horizon + 0.25 * weather.zenith).astype(np.float32)
    hazy: Floats = light + (air - light) * share
    return hazy
