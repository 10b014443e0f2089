"""Photographs turned and scaled by known amounts, and how well local features follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from retrieval.local.features import LocalFeatures

Photograph = NDArray[np.uint8]
Detect = Callable[[Photograph], LocalFeatures]
CLOSE = 3.0
"""Pixels within which a keypoint is found again."""
INSIDE = 30
"""Keypoints nearer than this to the border, before or after, are not asked for."""


def textured(seed: int, height: int = 300, width: int = 360) -> Photograph:
    """A photograph with structure at many scales: clouds of noise under boxes of any slant."""
    random = np.random.default_rng(seed)
    canvas = np.full((height, width), 120.0)
    for sigma in (2, 4, 8, 16):
        noise = cv2.GaussianBlur(random.normal(size=(height, width)), (0, 0), sigma)
        canvas += 12 * noise / noise.std()
    for _ in range(60):
        centre = random.uniform((0, 0), (width, height))
        box = (tuple(centre), tuple(random.uniform(8, 50, size=2)), float(random.uniform(0, 180)))
        cv2.fillPoly(canvas, [np.rint(cv2.boxPoints(box)).astype(int)], random.uniform(0, 255))
    grey = cv2.GaussianBlur(canvas, (0, 0), 0.8).clip(0, 255)
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def warped(photograph: Photograph, degrees: float, scale: float) -> tuple[Photograph, NDArray]:
    """The photograph turned about its middle and scaled, on a canvas of the same size.

    Returns:
        it, and the (2, 3) matrix that takes its pixels there.
    """
    height, width = photograph.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    if scale < 1:
        photograph = cv2.GaussianBlur(photograph, (0, 0), 0.5 * np.sqrt(1 / scale**2 - 1))
    moved = cv2.warpAffine(photograph, matrix, (width, height), flags=cv2.INTER_CUBIC)
    return moved, matrix


@dataclass(frozen=True)
class Following:
    """How local features of a photograph are found again in its warp.

    Attributes:
        found: share of keypoints with one near their new place, of about their new scale.
        right: share of mutually nearest descriptors that are of the same place.
        matches: how many of those are.
        ratio: median of new over old scales of right matches.
        turn: median of new less old angles of right matches, in degrees.
    """

    found: float
    right: float
    matches: int
    ratio: float
    turn: float


def following(detect: Detect, degrees: float, scale: float, seed: int = 0) -> Following:
    """Warp a photograph, and look for its keypoints."""
    photograph = textured(seed)
    moved, matrix = warped(photograph, degrees, scale)
    before, after = detect(photograph), detect(moved)
    places = before.points @ matrix[:, :2].T + matrix[:, 2]
    asked = _inside(before.points, before.size) & _inside(places, after.size)
    apart = np.linalg.norm(places[:, None] - after.points[None], axis=2)
    octaves = np.log2(after.scales[None] / before.scales[:, None] / scale)
    found = ((apart < CLOSE) & (np.abs(octaves) < 0.5)).any(axis=1)[asked].mean()
    likeness = before.descriptors @ after.descriptors.T
    nearest = likeness.argmax(axis=1)
    mutual = asked & (likeness.argmax(axis=0)[nearest] == np.arange(len(before)))
    right = np.flatnonzero(mutual & (apart[np.arange(len(before)), nearest] < CLOSE))
    turns = after.angles[nearest[right]] - before.angles[right]
    return Following(
        found=float(found),
        right=len(right) / max(mutual.sum(), 1),
        matches=len(right),
        ratio=float(np.median(after.scales[nearest[right]] / before.scales[right]))
        if len(right)
        else float("nan"),
        turn=float(np.degrees(np.angle(np.exp(1j * turns).sum()))),
    )


def _inside(points: NDArray, size: tuple[int, int]) -> NDArray[np.bool_]:
    limits = np.array([size[1], size[0]]) - 1 - INSIDE
    return ((points >= INSIDE) & (points <= limits)).all(axis=1)
