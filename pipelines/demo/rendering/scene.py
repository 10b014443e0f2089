"""A scene, and a photograph of it: light, surroundings, lens and film together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.demo.rendering import camera as film
from pipelines.demo.rendering.camera import Camera
from pipelines.demo.rendering.geometry import Array, Face, bounds
from pipelines.demo.rendering.ground import Ground, paint_ground, ripple, water_share
from pipelines.demo.rendering.raster import Atlas, Mesh, draw, see_from_sun, shade
from pipelines.demo.rendering.scenery import scenery_textures
from pipelines.demo.rendering.textures import Picture
from pipelines.demo.rendering.weather import Weather, paint_sky, through_air

Floats = NDArray[np.float32]
OVERSAMPLING = 1.25  # pixels a side that are drawn for each of the photograph's


@dataclass(frozen=True)
class Subject:
    """Something to photograph: its faces, their textures by name, the ground it stands on.

    `surroundings` belong to it (banks, steps, side walls) but do not count towards its size.
    """

    faces: Sequence[Face]
    textures: Mapping[str, Picture]
    ground: Ground
    surroundings: Sequence[Face] = ()


@dataclass(frozen=True)
class Scene:
    """A subject made ready: `low` and `high` (3,) bound its faces, metres; `scale` is the height,
    metres, over which the ground darkens what stands on it."""

    mesh: Mesh
    atlas: Atlas
    ground: Ground
    low: Array
    high: Array
    scale: float

    @classmethod
    def of(cls, subject: Subject) -> Scene:
        """Packs the subject's textures together with those of the scenery."""
        atlas = Atlas.of({**scenery_textures(), **subject.textures})
        mesh = Mesh.of([*subject.faces, *subject.surroundings], atlas)
        low, high = bounds(subject.faces)
        return cls(mesh, atlas, subject.ground, low, high, 0.12 * float((high - low).max()))


def photograph(
    rng: np.random.Generator,
    scene: Scene,
    camera: Camera,
    weather: Weather,
    near: Sequence[Face] = (),
    far: Sequence[Face] = (),
) -> Picture:
    """The scene as a picture (h, w, 3) uint8 of the camera's size.

    `near` faces stand about and cast shadows; `far` ones make the horizon and do not.
    """
    view = camera.enlarged(OVERSAMPLING)
    light = render(rng, scene, view, weather, near, far)
    size = (camera.width, camera.height)
    small = cv2.resize(light, size, interpolation=cv2.INTER_AREA)
    return film.develop(rng, film.expose(rng, np.asarray(small, dtype=np.float32)))


def render(
    rng: np.random.Generator,
    scene: Scene,
    view: Camera,
    weather: Weather,
    near: Sequence[Face] = (),
    far: Sequence[Face] = (),
) -> Floats:
    """Linear light (h, w, 3) that reaches each pixel of the view."""
    casters = scene.mesh.joined(Mesh.of(near, scene.atlas)) if near else scene.mesh
    mesh = casters.joined(Mesh.of(far, scene.atlas)) if far else casters
    solid = len(mesh.frames)
    if scene.ground.is_water:
        mesh = mesh.joined(mesh.mirrored())
    sun = see_from_sun(casters, weather, scene.low, scene.high)
    rays = view.rays()
    buffer = draw(mesh, view)
    # Flat indices: far quicker than masks of two dimensions.
    seen = np.flatnonzero(buffer.owner >= 0)
    image = buffer.owner.reshape(-1)[seen] >= solid
    is_ground = rays[2] < -1e-4
    is_ground.reshape(-1)[seen[~image]] = False
    open_ground = np.flatnonzero(is_ground)
    light = paint_sky(rng, weather, view)
    depth = np.zeros(light.shape[:2], dtype=np.float32)  # the sky has its haze painted in
    lights, depths, every_ray = light.reshape(-1, 3), depth.reshape(-1), rays.reshape(3, -1)
    if len(open_ground):
        lights[open_ground], depths[open_ground] = paint_ground(
            rng, scene.ground, view, every_ray[:, open_ground], weather, sun, scene.scale
        )
    faces = shade(mesh, scene.atlas, view, buffer, every_ray, weather, sun, scene.scale)
    if scene.ground.is_water:
        share = np.where(image, water_share(every_ray[:, seen]), 1)[:, None].astype(np.float32)
        faces = faces * share + lights[seen] * (1 - share)
    lights[seen], depths[seen] = faces, 1 / buffer.near.reshape(-1)[seen]
    light = through_air(light, depth, weather)
    return ripple(light, is_ground, view) if scene.ground.is_water else light
