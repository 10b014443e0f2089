"""The colours and stone that a family of landmarks shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.demo.rendering import textures as paint
from pipelines.demo.rendering.textures import Colour, Generator, Picture

WALLS: tuple[Colour, ...] = (
    (206, 184, 142),
    (214, 206, 190),
    (164, 92, 70),
    (158, 154, 150),
    (226, 220, 208),
    (200, 160, 104),
    (182, 142, 118),
    (140, 128, 110),
)
ROOFS: tuple[Colour, ...] = ((150, 74, 54), (84, 90, 100), (106, 150, 132), (120, 92, 70))


@dataclass(frozen=True)
class Style:
    """wall, trim and roof: RGB, 0 to 255; course: the height of a course of stones in pixels of
    the texture; ratio: a stone's length by its height."""

    wall: Colour
    trim: Colour
    roof: Colour
    course: float
    ratio: float

    @classmethod
    def draw(cls, rng: Generator) -> Style:
        """A random style."""
        wall = WALLS[rng.integers(len(WALLS))]
        trim = paint.varied(rng, (222, 214, 198), 0.06)
        roof = ROOFS[rng.integers(len(ROOFS))]
        return cls(wall, trim, roof, float(rng.uniform(5, 10)), float(rng.uniform(1.4, 2.8)))

    def own(self, rng: Generator, amount: float = 0.07) -> Style:
        """A sibling's style: much the same colours, stones of about the same size."""
        return Style(
            paint.varied(rng, self.wall, amount),
            paint.varied(rng, self.trim, amount),
            paint.varied(rng, self.roof, amount),
            self.course * float(np.exp(rng.normal(0, 0.15))),
            self.ratio * float(np.exp(rng.normal(0, 0.15))),
        )

    def stone(self, rng: Generator, height: int, width: int) -> Picture:
        """A wall of the style's stones, (height, width) pixels."""
        return paint.masonry(rng, (height, width), self.wall, self.course, self.ratio)

    def dressed(self, rng: Generator, height: int, width: int) -> Picture:
        """Smooth stone for cornices, columns and sculpture."""
        return paint.masonry(rng, (height, width), self.trim, 24, 2.4, jitter=0.03, joint=0.85)

    def covering(self, rng: Generator, height: int = 128, width: int = 192) -> Picture:
        """The roof's tiles or slates."""
        return paint.roofing(rng, (height, width), self.roof)


def pick(rng: Generator, *options: float) -> float:
    """One of some numbers."""
    return float(options[rng.integers(len(options))])
