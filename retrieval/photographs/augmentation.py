"""One photograph made into others: cropped, turned, mirrored, its colours changed.

By OpenCV on uint8 rather than by torchvision.transforms.v2, which resamples otherwise and rounds
after each change of colour: networks and whitenings learnt so far would come out different.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.photographs.decoding import read_photograph
from retrieval.types import Photograph, StrictModel

Share = Annotated[float, Field(ge=1e-3, le=1.0)]


class AugmentationConfig(StrictModel):
    """How a photograph is varied. There are no vertical flips: buildings stand upright.

    Attributes:
        least: share of the photograph's area that a crop has at least.
        aspect: a crop is at most this factor wider or higher than what it is resized to.
        flip: whether half of them are mirrored.
        colour: brightness, contrast and saturation change by up to this share each.
        rotation: largest angle in degrees, either way.
    """

    least: Share = 0.5
    aspect: float = Field(1.15, ge=1.0, le=4.0)
    flip: bool = True
    colour: float = Field(0.2, ge=0.0, lt=1.0)
    rotation: float = Field(4.0, ge=0.0, le=45.0)


FOR_WHITENING: Final = AugmentationConfig(least=0.25, aspect=1.3, colour=0.3, rotation=5.0)
"""How augmented photographs differ that a whitening is learnt from."""


def draw(seed: int, epoch: int, row: int) -> np.random.Generator:
    """The random numbers of a photograph in an epoch, whatever was drawn before."""
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
        rng: of all of it; the same numbers are drawn whatever the config says.
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


def augmented(source: str, name: str, count: int) -> list[Callable[[int], Photograph]]:
    """What opens each augmented copy of a photograph, given the longest side that it may have.

    Args:
        source: path.
        name: the photograph's id, which alone decides what its copies are.
        count: how many.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    seed = int.from_bytes(digest[:8], "little")
    return [partial(_augmented, source, seed, number) for number in range(count)]


def _augmented(source: str, seed: int, number: int, longest_side: int) -> Photograph:
    photograph = read_photograph(source, longest_side)
    height, width = photograph.shape[:2]
    return varied(photograph, (height, width), FOR_WHITENING, np.random.default_rng((seed, number)))
