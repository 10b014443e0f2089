"""A pinhole camera, where it stands before a landmark, and what lens and film do to the picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.demo.rendering.geometry import Array

LONG_SIDE = 480
ASPECTS = (4 / 3, 3 / 2, 16 / 9, 1.0)


@dataclass(frozen=True)
class Camera:
    """position (3,) in metres; rotation (3, 3) from world to camera axes (x right, y down, z
    ahead); focal length in pixels; width and height of the picture in pixels."""

    position: Array
    rotation: Array
    focal: float
    width: int
    height: int

    @property
    def centre(self) -> Array:
        """The picture's middle (x, y), pixels, with (0, 0) the middle of the first pixel."""
        return np.array([(self.width - 1) / 2, (self.height - 1) / 2])

    def matrix(self) -> Array:
        """(3, 3) from camera axes to pixels times depth."""
        x, y = self.centre
        return np.array([[self.focal, 0, x], [0, self.focal, y], [0, 0, 1.0]])

    def seen(self, points: ArrayLike) -> Array:
        """(n, 3) world points, metres, in camera axes: right, down, ahead."""
        return (np.asarray(points, dtype=np.float64) - self.position) @ self.rotation.T

    def project(self, points: ArrayLike) -> Array:
        """(n, 3) world points to (n, 3): x and y in pixels and the depth ahead in metres."""
        seen = self.seen(points)
        return np.column_stack([seen[:, :2] / seen[:, 2:] * self.focal + self.centre, seen[:, 2]])

    def rays(self) -> NDArray[np.float32]:
        """(3, height, width) directions in the world, of length 1 along the optical axis."""
        x = (np.arange(self.width) - self.centre[0]) / self.focal
        y = (np.arange(self.height) - self.centre[1]) / self.focal
        right, down, ahead = self.rotation
        row = (ahead[:, None] + np.outer(right, x)).astype(np.float32)
        column = np.outer(down, y).astype(np.float32)
        rays: NDArray[np.float32] = row[:, None, :] + column[:, :, None]
        return rays

    def enlarged(self, factor: float) -> Camera:
        """The same view on `factor` times as many pixels a side."""
        width, height = round(self.width * factor), round(self.height * factor)
        return Camera(self.position, self.rotation, self.focal * width / self.width, width, height)


def look_at(
    position: ArrayLike, target: ArrayLike, focal: float, size: tuple[int, int], roll: float = 0.0
) -> Camera:
    """A camera at `position` that points at `target` (3,), metres; size (width, height) pixels.

    `roll` in radians turns the picture about its middle.
    """
    place = np.asarray(position, dtype=np.float64)
    ahead = np.asarray(target, dtype=np.float64) - place
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    cos, sin = np.cos(roll), np.sin(roll)
    rotation = np.stack([cos * right + sin * down, cos * down - sin * right, ahead])
    return Camera(place, rotation, focal, *size)


def picture_size(rng: np.random.Generator, tall: float) -> tuple[int, int]:
    """A (width, height) in pixels, upright with the probability `tall`."""
    short = round(LONG_SIDE / rng.choice(ASPECTS))
    return (short, LONG_SIDE) if rng.random() < tall else (LONG_SIDE, short)


def take_view(rng: np.random.Generator, low: Array, high: Array, spread: float = 0.7) -> Camera:
    """A visitor's camera before the box from `low` to `high` (3,), metres, whose front is -y.

    It stands up to `spread` radians off the front, mostly on the ground, now and then higher up,
    and frames the whole, or a part, or the thing small in its surroundings.
    """
    width, depth, height = high - low
    size = picture_size(rng, tall=0.2 + 0.6 * height / (height + width))
    azimuth = rng.uniform(-spread, spread)
    field = rng.uniform(0.75, 1.15)
    focal = LONG_SIDE / 2 / np.tan(field / 2)
    across = abs(width * np.cos(azimuth)) + abs(depth * np.sin(azimuth))
    fill = np.exp(rng.uniform(np.log(0.8), np.log(1.4)))
    # Of something very tall or very wide, part may lie outside rather than all be tiny.
    low_share, high_share = sorted([across / size[0], height / size[1]])
    distance = focal * high_share**0.85 * low_share**0.15 / fill
    distance = max(distance, 0.55 * across, 0.6 * height) + depth / 2
    centre = (low + high) / 2
    elevated = rng.random() < 0.25
    eye = low[2] + (rng.uniform(0.1, 0.7) * height if elevated else rng.uniform(1.5, 3.0))
    position = np.array(
        [
            centre[0] + distance * np.sin(azimuth),
            centre[1] - distance * np.cos(azimuth),
            max(eye, 1.5),
        ]
    )
    slack = 0.12 + 0.25 * max(fill - 0.9, 0.0)
    target = centre + np.array(
        [rng.uniform(-slack, slack) * width, 0.0, rng.uniform(-slack, slack) * height]
    )
    return look_at(position, target, focal, size, roll=rng.normal(0, 0.02))


def expose(
    rng: np.random.Generator, light: NDArray[np.float32], *, stops: float = 0.35
) -> NDArray[np.float32]:
    """Linear light (h, w, 3) to a picture in [0, 1] as a camera would set it: exposure within
    about `stops` of the right one, white balance, contrast, darker corners."""
    height, width = light.shape[:2]
    # The sky's share of the picture must not leave the rest in the dark: bright parts count less.
    level = float(np.exp(np.mean(np.log(cv2.resize(light, (48, 48)) + 1e-3))))
    gain = 0.34 / level * 2 ** rng.normal(0, stops)
    balance = np.exp(rng.normal(0, 0.035, 3)) * gain
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    corners = (1 - rng.uniform(0.02, 0.16) * (x * x + y * y))[..., None]
    exposed = light * corners * balance.astype(np.float32)
    # A shoulder instead of clipping keeps the clouds' shape.
    rolled = exposed * (1 + exposed * 0.3) / (1 + exposed)
    picture = cv2.pow(rolled, 1 / 2.2)
    contrast = rng.uniform(0.95, 1.3)
    return np.asarray(np.clip((picture - 0.5) * contrast + 0.5, 0, 1), dtype=np.float32)


def develop(rng: np.random.Generator, picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blur (defocus or shake), sensor noise and 8 bits: (h, w, 3) in [0, 1] to uint8."""
    if rng.random() < 0.15:
        picture = _shake(rng, picture)
    elif rng.random() < 0.5:
        blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.0))
        picture = np.asarray(blurred, dtype=np.float32)
    noise = np.empty(picture.shape, dtype=np.float32)
    sigma = np.exp(rng.uniform(np.log(0.004), np.log(0.022)))
    rng.standard_normal(dtype=np.float32, out=noise)
    noisy = picture + noise * sigma * (1.3 - picture)
    return np.asarray(np.clip(noisy * 255 + 0.5, 0, 255), dtype=np.uint8)


def jpeg(rng: np.random.Generator, picture: NDArray[np.uint8]) -> bytes:
    """The RGB picture (h, w, 3) as a JPEG of a quality between 40 and 95."""
    options = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))]
    done, data = cv2.imencode(".jpg", picture[..., ::-1], options)
    assert done
    return bytes(data)


def _shake(rng: np.random.Generator, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Motion blur of a few pixels in one direction."""
    length, angle = rng.uniform(1.5, 5.0), rng.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    kernel = np.zeros((7, 7), dtype=np.float32)
    ends = np.round((np.array([reach, -reach]) + 3) * 16).astype(int)
    cv2.line(kernel, ends[0].tolist(), ends[1].tolist(), 1.0, 1, cv2.LINE_8, 4)
    return np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum()), dtype=np.float32)
