"""Lines' votes taken apart: what each line segment adds."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from retrieval.descriptors.hough import (
    HoughExtractor,
    find_segments,
    line_votes,
    place_votes,
    vanishing_votes,
)
from retrieval.explain.grid import Grid
from retrieval.explain.split import Matrix, Pieces, Split, joined, powered
from retrieval.types import Photograph


def of_hough(extractor: HoughExtractor, photograph: Photograph, grid: Grid) -> Split:
    """A pair's vote for a vanishing direction is half each line's."""
    config = extractor.config
    segments = find_segments(photograph, config.shortest, config.segments)
    height, width = photograph.shape[:2]
    paired = np.zeros((len(segments), config.angles, config.offsets))
    near = segments[: config.paired]
    paired[: len(near)] = vanishing_votes(near, config.angles, config.offsets, each=True)
    blocks = [
        line_votes(segments, config.angles, config.offsets, each=True),
        place_votes(segments, (height, width), config.angles, config.grid, each=True),
        paired,
    ]
    # Of the middle in half diagonals to shares of the sides.
    half = np.array([width, height]) / np.hypot(width, height)
    ends = ((segments / half + 1) / 2).reshape(-1, 4)
    spread = grid.spread_lines(ends)
    return joined(
        [powered(_votes(grid, block, spread, ends), config.power).unit() for block in blocks]
    ).unit()


def _votes(grid: Grid, votes: Matrix, spread: Matrix, ends: Matrix) -> Split:
    """The sum of (n, ...) votes of n lines."""
    votes = votes.reshape(len(votes), int(np.prod(votes.shape[1:])))
    pieces = (Pieces("lines", csr_array(votes), 0, spread, ends),) if len(votes) else ()
    return Split(grid, pieces, np.zeros(votes.shape[1]))
