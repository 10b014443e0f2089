"""A map laid over its photograph."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from retrieval.types import Photograph

STRONG: Final = np.array([217.0, 74.0, 0.0])
AGAINST: Final = np.array([30.0, 92.0, 200.0])
OPAQUE: Final = 0.7
"""How much of a full colour covers the photograph. Colours and greying are those of the page that
draws its maps itself (why.css, why.js), so that one scale holds for all."""
TOP: Final = 99.0
"""The percentile of a map that is drawn in full colour."""


def overlay(photograph: Photograph, values: NDArray[Any], signed: bool = True) -> Photograph:
    """A photograph, greyed, with a map of any size over it: warm where it speaks for, cold where
    it speaks against."""
    height, width = photograph.shape[:2]
    laid = cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    top = max(float(np.percentile(np.abs(laid), TOP)), 1e-12)
    strength = np.clip(laid / top, -1 if signed else 0, 1)[..., None]
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float64)
    base = 27 + 0.864 * (0.35 * photograph + 0.65 * grey)
    colour = np.where(strength >= 0, STRONG, AGAINST)
    alpha = OPAQUE * np.abs(strength) ** 0.8
    mixed = (1 - alpha) * base + alpha * colour
    drawn: Photograph = np.clip(mixed, 0, 255).astype(np.uint8)
    return drawn
