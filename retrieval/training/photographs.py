"""Photographs for training: decoded once where memory allows, and varied by seeds alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from retrieval.extractors.base import Photograph
from retrieval.photographs.decoding import read_photograph
from retrieval.training.config import AugmentationConfig


class Photographs:
    """Photographs by their row, safe to read from several threads.

    Args:
        sources: paths.
        longest_side: what they are shrunk to.
        memory: bytes of photographs that are kept at most; the rest is read again each time.
    """

    def __init__(self, sources: Sequence[str], longest_side: int, memory: int):
        self._sources = sources
        self._longest_side = longest_side
        self._left = memory
        self._kept: dict[int, Photograph] = {}

    def read(self, row: int) -> Photograph:
        """(h, w, 3) uint8.

        Raises:
            DecodeError: it cannot be read.
        """
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        photograph = read_photograph(self._sources[row], self._longest_side)
        # Two threads may both think that there is room: the cap is a soft one.
        if photograph.nbytes <= self._left:
            self._left -= photograph.nbytes
            self._kept[row] = photograph
        return photograph


def draw(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Chance that belongs to a photograph in an epoch, whoever asks and whenever."""
    return np.random.default_rng((seed, epoch, row))


def varied(
    photograph: Photograph,
    shape: tuple[int, int],
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> Photograph:
    """A random crop of about the form of ``shape``, turned a little, mirrored, its colours changed.

    Args:
        photograph: (h, w, 3) uint8.
        shape: (height, width) of the result.
        config: how much of each.
        rng: of all of it; it is asked for the same numbers whatever the config says.
    """
    share, aspect, top, left, mirrored, angle = rng.random(6)
    colours = 1.0 + config.colour * rng.uniform(-1.0, 1.0, 3)
    turned = _turned(photograph, config.rotation * (2.0 * angle - 1.0))
    height, width = _crop(
        photograph.shape[:2],
        shape,
        config.least + share * (1.0 - config.least),
        config.aspect ** (2.0 * aspect - 1.0),
    )
    y = round(top * (photograph.shape[0] - height))
    x = round(left * (photograph.shape[1] - width))
    part = turned[y : y + height, x : x + width]
    cropped = np.asarray(cv2.resize(part, shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    if config.flip and mirrored < 0.5:
        cropped = cropped[:, ::-1]
    return _coloured(cropped, colours) if config.colour else np.ascontiguousarray(cropped)


def _crop(
    whole: tuple[int, ...], shape: tuple[int, int], share: float, aspect: float
) -> tuple[int, int]:
    """(height, width) of a part with a share of the area, as far as its form lets it."""
    form = shape[1] / shape[0] * aspect
    area = share * whole[0] * whole[1]
    height, width = math.sqrt(area / form), math.sqrt(area * form)
    # What is too wide or too high is made smaller, and keeps its form.
    fit = min(1.0, whole[0] / height, whole[1] / width)
    return max(1, round(height * fit)), max(1, round(width * fit))


def _turned(photograph: Photograph, degrees: float) -> Photograph:
    if not degrees:
        return photograph
    height, width = photograph.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = cv2.warpAffine(photograph, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, dtype=np.uint8)


def _coloured(photograph: Photograph, factors: NDArray[np.float64]) -> Photograph:
    """Brightness, then contrast about the mean, then saturation about each pixel's grey."""
    brightness, contrast, saturation = factors.astype(np.float32)
    values = photograph.astype(np.float32) * brightness
    grey = values.mean(axis=2, keepdims=True, dtype=np.float32)
    values = grey + saturation * (values - grey)
    mean = grey.mean(dtype=np.float32)
    coloured: Photograph = (mean + contrast * (values - mean)).clip(0, 255).astype(np.uint8)
    return coloured
