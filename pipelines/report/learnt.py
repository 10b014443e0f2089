"""The sheet of what a network has learnt: a page, or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.figure import Figure

from pipelines.report.forms import styled, write_form
from pipelines.report.page import environment, pictured
from retrieval.explain.learnt import LearntRow
from retrieval.types import Photograph

PATCH: Final = 72
"""Side of a patch, in pixels."""
INCHES: Final = 1.5
"""Of a picture of the figure."""
DPI: Final = 120


def write(rows: Sequence[LearntRow], system: str, out: Path) -> None:
    """Write the sheet, by the ending of its name.

    Raises:
        ConfigError: the name ends neither in .html nor in .png.
        WriteError: it cannot be written.
    """
    write_form(out, partial(render, rows, system), partial(figure, rows), DPI)


def render(rows: Sequence[LearntRow], system: str) -> bytes:
    """The page as UTF-8 HTML."""
    shown = [
        {
            "name": row.name,
            "pictures": [
                {
                    "name": one.name,
                    "picture": pictured(one.picture),
                    "patches": [pictured(_square(patch)) for patch in one.patches],
                }
                for one in row.pictures
            ],
        }
        for row in rows
    ]
    html = (
        environment()
        .get_template("learnt.html.j2")
        .render(rows=shown, system=system, style=styled("learnt.css"))
    )
    return html.lstrip().encode("utf-8", errors="replace")


def figure(rows: Sequence[LearntRow]) -> Figure:
    """The pictures without patches, a row a layer."""
    columns = max(len(row.pictures) for row in rows)
    size = columns * INCHES + 0.3, len(rows) * (INCHES + 0.45)
    made = Figure(figsize=size, layout="constrained")
    axes: Any = made.subplots(len(rows), columns, squeeze=False)
    for row, own in zip(rows, axes, strict=True):
        for axis in own:
            axis.set_axis_off()
        for axis, one in zip(own, row.pictures, strict=False):
            axis.imshow(one.picture)
            axis.set_title(f"{row.name}\n{one.name}", fontsize=6, parse_math=False)
    return made


def _square(patch: Photograph) -> Photograph:
    small = cv2.resize(patch, (PATCH, PATCH), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)
