"""An explanation as a picture: maps over photographs, and the links between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from retrieval.types import Photograph, Reals

SIDE: Final = 4.2  # inches, of a picture's width
TITLE: Final = 0.35  # inches, of a line above pictures
INK: Final = "#1c2230"
ACCENT: Final = "#d94a00"


@dataclass(frozen=True)
class Panel:
    """A picture with its title."""

    picture: Photograph
    title: str


def figure(
    title: str,
    pair: tuple[Panel, Panel],
    links: Sequence[tuple[Reals, Reals]],
    others: Sequence[Panel],
) -> Figure:
    """Two photographs with places of them linked, and further pictures below, two a row.

    Args:
        title: above all.
        pair: the photographs.
        links: x and y in the one and in the other, as shares of the sides.
        others: any number.
    """
    panels = [*pair, *others]
    # Rows are as high as their pictures, lest wide ones lie far apart.
    sides = [panel.picture.shape[0] / panel.picture.shape[1] for panel in panels]
    heights = [max(sides[place : place + 2]) for place in range(0, len(sides), 2)]
    inches = SIDE * sum(heights) + TITLE * (len(heights) + 1)
    with rc_context({"font.family": "sans-serif", "text.parse_math": False}):
        made = Figure(figsize=(2 * SIDE + 0.4, inches), layout="constrained")
        made.suptitle(title, fontsize=13, color=INK)
        axes: Any = made.subplots(len(heights), 2, squeeze=False, height_ratios=heights)
        for axis, panel in zip(axes.ravel(), panels, strict=False):
            _show(axis, panel)
        for axis in axes.ravel():
            axis.set_axis_off()
        for one, other in links:
            ends = [
                (place[0] * panel.picture.shape[1], place[1] * panel.picture.shape[0])
                for place, panel in zip((one, other), pair, strict=True)
            ]
            link = ConnectionPatch(
                ends[0], ends[1], "data", "data", axesA=axes[0, 0], axesB=axes[0, 1],
                color=ACCENT, linewidth=1.0, alpha=0.7,
            )  # fmt: skip
            made.add_artist(link)
    return made


def _show(axis: Axes, panel: Panel) -> None:
    axis.imshow(panel.picture)
    axis.set_title(panel.title, fontsize=9.5, color=INK)
