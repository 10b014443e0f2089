"""Straight structures: where a photograph's lines lie, how they run, and where they meet.

Line segments (von Gioi et al., "LSD: a fast line segment detector with a false detection control",
PAMI 2010, by OpenCV) vote, each with its length, in three blocks:

- the plane of lines (Duda and Hart, "Use of the Hough transformation to detect lines and curves in
  pictures", CACM 1972): the normal's angle and the distance from the photograph's middle;
- angle by place: which way the lines run in each cell of a coarse grid;
- vanishing directions (Barnard, "Interpreting perspective images", Artificial Intelligence 1983): a
  line and the camera's centre span a plane; where two such planes meet lies the direction at whose
  vanishing point the two lines seem to meet. Every pair of lines votes on the sphere of directions.

Votes are shared between the nearest bins, so that a small shift changes little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.descriptors.base import VectorExtractor
from retrieval.frontend import Classical
from retrieval.types import Photograph, StrictModel, Vectors, unit_rows

Values = NDArray[np.float64]

MIN_SIDE: Final = 16
"""Smaller photographs hold no line worth the name."""
PIECES: Final = 8
"""A segment votes for the cells of the grid at this many places along it."""
CONVERGING: Final = np.deg2rad(45.0)
"""Lines at a larger angle, as a window's sides are, mostly meet at a corner and not far away."""


class HoughConfig(StrictModel):
    """A descriptor of a photograph's line segments.

    Attributes:
        size: longest side of the photograph in pixels.
        shortest: segments shorter than this share of the photograph's diagonal are left out.
        segments: the longest this many vote.
        paired: the longest this many vote in pairs; the pairs grow with its square.
        angles: bins over half a turn, of lines and of vanishing directions.
        offsets: bins of a line's distance from the middle, and of a direction's steepness.
        grid: cells along each side of the photograph.
        power: exponent of each bin, below 1 against bursts of parallel lines.
    """

    kind: Literal["hough"] = "hough"
    size: int = Field(480, ge=MIN_SIDE, le=4096)
    shortest: float = Field(0.01, ge=0.0, lt=1.0)
    segments: int = Field(500, ge=1, le=10_000)
    paired: int = Field(150, ge=2, le=1000)
    angles: int = Field(12, ge=2, le=180)
    offsets: int = Field(9, ge=2, le=100)
    grid: int = Field(4, ge=1, le=16)
    power: float = Field(0.5, ge=1e-3, le=1.0)


@dataclass(frozen=True)
class HoughExtractor(Classical, VectorExtractor):
    """See :class:`HoughConfig`."""

    config: HoughConfig

    @property
    def dimension(self) -> int:
        config = self.config
        return config.angles * (2 * config.offsets + config.grid**2)

    @property
    def longest_side(self) -> int:
        return self.config.size

    def identity(self) -> dict[str, Any]:
        return self.config.model_dump()

    def features(self, photographs: Sequence[Photograph]) -> list[Vectors]:
        return [self._one(photograph) for photograph in photographs]

    def _one(self, photograph: Photograph) -> Vectors:
        config = self.config
        segments = find_segments(photograph, config.shortest, config.segments)
        height, width = photograph.shape[:2]
        blocks = [
            line_votes(segments, config.angles, config.offsets),
            place_votes(segments, (height, width), config.angles, config.grid),
            vanishing_votes(segments[: config.paired], config.angles, config.offsets),
        ]
        return np.concatenate(
            [unit_rows(block.reshape(1, -1) ** config.power)[0] for block in blocks]
        )


def find_segments(photograph: Photograph, shortest: float, most: int) -> Values:
    """The longest line segments of an (h, w, 3) RGB photograph.

    Args:
        photograph: at the size at which lines are looked for.
        shortest: share of the diagonal.
        most: of the segments are kept, the longest.

    Returns:
        (n, 2, 2) float64: two ends each, (x, y) from the photograph's middle, where half the
        diagonal is 1; longest first.
    """
    height, width = photograph.shape[:2]
    if min(height, width) < MIN_SIDE:
        return np.zeros((0, 2, 2))
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    found: Any = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD).detect(grey)[0]
    if found is None:
        return np.zeros((0, 2, 2))
    middle = np.array([width - 1, height - 1]) / 2
    ends: Values = (np.float64(found).reshape(-1, 2, 2) - middle) / (np.hypot(width, height) / 2)
    lengths = _lengths(ends)
    order = np.lexsort((*ends.reshape(-1, 4).T, -lengths))
    return ends[order[lengths[order] >= 2 * shortest][:most]]


def line_votes(segments: Values, angles: int, offsets: int, each: bool = False) -> Values:
    """(angles, offsets) lengths of (n, 2, 2) segments, by normal angle and signed distance.

    With ``each``, (n, angles, offsets): of every segment by itself.
    """
    along = segments[:, 1] - segments[:, 0]
    normal = np.arctan2(along[:, 0], -along[:, 1])
    distance = (segments.mean(axis=1) * np.stack([np.cos(normal), np.sin(normal)], axis=1)).sum(
        axis=1
    )
    whose = np.arange(len(segments)) if each else None
    return _band(normal, distance, _lengths(segments), angles, offsets, whose, len(segments))


def place_votes(
    segments: Values, size: tuple[int, int], angles: int, grid: int, each: bool = False
) -> Values:
    """(grid, grid, angles) lengths of (n, 2, 2) segments, by row, column and angle.

    Args:
        segments: as :func:`find_segments` gives them.
        size: (height, width) of the photograph.
        angles: bins over half a turn.
        grid: cells along each side.
        each: (n, grid, grid, angles), of every segment by itself.
    """
    steps = (np.arange(PIECES) + 0.5) / PIECES
    starts, along = segments[:, None, 0], segments[:, None, 1] - segments[:, None, 0]
    places = (starts + steps[None, :, None] * along).reshape(-1, 2)
    height, width = size
    half = np.array([width, height]) / np.hypot(width, height)
    cells = np.clip((places / half + 1) / 2 * grid - 0.5, 0, grid - 1)
    turn = np.arctan2(along[..., 1], along[..., 0]).repeat(PIECES) / np.pi * angles
    weights = (_lengths(segments) / PIECES).repeat(PIECES)
    whose: Any = np.arange(len(segments)).repeat(PIECES) if each else 0
    votes = np.zeros((len(segments) if each else 1, grid, grid, angles))
    for row, by_row in _nearest(cells[:, 1]):
        for column, by_column in _nearest(cells[:, 0]):
            for angle, by_angle in _nearest(turn):
                bins = (np.minimum(row, grid - 1), np.minimum(column, grid - 1), angle % angles)
                np.add.at(votes, (whose, *bins), weights * by_row * by_column * by_angle)
    return votes if each else votes[0]


def vanishing_votes(segments: Values, angles: int, offsets: int, each: bool = False) -> Values:
    """(angles, offsets) votes of pairs of (n, 2, 2) segments for directions in space.

    With ``each``, (n, angles, offsets): half of its pairs' votes for every segment.

    The focal length is taken to be half the diagonal, a common lens. A direction is told by the
    angle of its vanishing point around the middle, and by how steeply it leads away from the
    camera: offset 0 in the middle for the directions that the photograph's plane holds, whose
    vanishing point is infinitely far away. A pair weighs the product of its lengths and the sine
    between its planes: two pieces of one line say nothing.
    """
    lengths = _lengths(segments)
    homogeneous = np.concatenate([segments, np.ones((len(segments), 2, 1))], axis=2)
    planes = np.cross(homogeneous[:, 0], homogeneous[:, 1])
    planes /= np.maximum(np.linalg.norm(planes, axis=1, keepdims=True), 1e-12)
    one, other = np.triu_indices(len(segments), 1)
    along = (segments[:, 1] - segments[:, 0]) / np.maximum(lengths[:, None], 1e-12)
    chosen = np.abs((along[one] * along[other]).sum(axis=1)) >= np.cos(CONVERGING)
    one, other = one[chosen], other[chosen]
    meeting = np.cross(planes[one], planes[other])
    sines = np.linalg.norm(meeting, axis=1)
    steepness = meeting[:, 2] / np.maximum(sines, 1e-12)
    around = np.arctan2(meeting[:, 1], meeting[:, 0])
    weights = lengths[one] * lengths[other] * sines
    if not each:
        return _band(around, steepness, weights, angles, offsets)
    halves = [
        _band(around, steepness, weights / 2, angles, offsets, whose, len(segments))
        for whose in (one, other)
    ]
    return halves[0] + halves[1]


def _band(
    angle: Values,
    offset: Values,
    weights: Values,
    angles: int,
    offsets: int,
    whose: NDArray[np.int64] | None = None,
    voters: int = 1,
) -> Values:
    """(angles, offsets) votes on a Möbius band: half a turn on, an offset is its negative.

    So it is with a line's normal and distance, and with a direction and its opposite.

    Args:
        angle: (n,) in radians.
        offset: (n,) from -1 to 1.
        weights: (n,) of the votes.
        angles, offsets: bins.
        whose: (n,) whose each vote is, for (voters, angles, offsets) of them apart.
        voters: how many there are.
    """
    apart, owner = whose is not None, np.int64(0) if whose is None else whose
    votes = np.zeros((voters if apart else 1, angles, offsets))
    middle = (offsets - 1) / 2
    for turn, by_turn in _nearest(angle / np.pi * angles):
        turned = np.where(turn // angles % 2 == 0, offset, -offset)
        for place, by_place in _nearest((np.clip(turned, -1, 1) + 1) * middle):
            bins: Any = (owner, turn % angles, np.minimum(place, offsets - 1))
            np.add.at(votes, bins, weights * by_turn * by_place)
    return votes if apart else votes[0]


def _nearest(places: Values) -> list[tuple[NDArray[np.int64], Values]]:
    """The bins below and above each of (n,) places, and its share in each."""
    below = np.floor(places)
    share = places - below
    first = below.astype(np.int64)
    return [(first, 1 - share), (first + 1, share)]


def _lengths(segments: Values) -> Values:
    lengths: Values = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)
    return lengths
