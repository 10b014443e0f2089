"""Any system's descriptor taken apart, by the kind of its extractor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from retrieval.descriptors.aggregated import AggregatedExtractor
from retrieval.descriptors.base import Extractor
from retrieval.descriptors.cnn import CnnExtractor
from retrieval.descriptors.describer import NO_FEATURES, Describer
from retrieval.descriptors.hog import HogExtractor
from retrieval.descriptors.hough import HoughExtractor
from retrieval.descriptors.joint import JointExtractor
from retrieval.descriptors.trained import TrainedExtractor
from retrieval.errors import ExplainError
from retrieval.explain.aggregation import of_aggregated
from retrieval.explain.grid import Grid
from retrieval.explain.hog import of_hog
from retrieval.explain.hough import of_hough
from retrieval.explain.networks import of_cnn, of_trained
from retrieval.explain.split import Split, joined
from retrieval.photographs.decoding import shrink, shrink_further, shrunk_size
from retrieval.types import Photograph


def grid_of(describer: Describer, photograph: Photograph) -> Grid:
    """The places of a photograph of any size."""
    height, width = photograph.shape[:2]
    return Grid.of(shrunk_size(height, width, describer.longest_side))


def split(describer: Describer, photograph: Photograph) -> Split:
    """The descriptor of an (h, w, 3) RGB photograph, taken apart.

    Its ``total`` is the describer's vector but for rounding.

    Args:
        describer: whose networks run by torch, in float32 for exactness.
        photograph: of any size.

    Raises:
        ExplainError: there is nothing to describe, or no place can be told for any of it.
    """
    grid = grid_of(describer, photograph)
    found = _described(describer, shrink(photograph, describer.longest_side), grid)
    if not found.total.any():
        raise ExplainError(f"it cannot be explained: {NO_FEATURES}")
    if not found.pieces:
        raise ExplainError(
            "it is described by numbers that no place can be told for (a class token, or what"
            " stands behind a network's own pooling): take --method gradient or occlusion"
        )
    return found


def _described(describer: Describer, photograph: Photograph, grid: Grid) -> Split:
    small = shrink_further(photograph, describer.extractor.longest_side)
    found, whitening = of_extractor(describer.extractor, small, grid), describer.whitening
    if whitening is None:
        return found
    if not found.total.any():  # as the describer has it: nothing must not become minus the mean
        return Split(grid, (), np.zeros(whitening.dimension))
    return found.through(whitening.projection, whitening.mean).unit()


def of_extractor(extractor: Extractor, photograph: Photograph, grid: Grid) -> Split:
    """A raw descriptor taken apart.

    Raises:
        ExplainError: an extractor of which it is not known.
    """
    for kind, take_apart in APART.items():
        if isinstance(extractor, kind):
            return take_apart(extractor, photograph, grid)
    raise ExplainError(f"{type(extractor).__name__} cannot be split into shares of places")


def _joint(extractor: JointExtractor, photograph: Photograph, grid: Grid) -> Split:
    return joined(
        [
            _described(part.describer, photograph, grid).scaled(part.weight)
            for part in extractor.parts
        ]
    ).unit()


APART: Final[dict[type[Any], Callable[[Any, Photograph, Grid], Split]]] = {
    CnnExtractor: of_cnn,
    TrainedExtractor: of_trained,
    AggregatedExtractor: of_aggregated,
    HogExtractor: of_hog,
    HoughExtractor: of_hough,
    JointExtractor: _joint,
}
"""The kinds of extractor; a new one is a function and a line."""
