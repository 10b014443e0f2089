"""Rendered concepts, and one that is planted in rendered photographs."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.demo.concepts import scene
from tests.planted import NEEDED, require_found

TILES = 3
"""Of a scene along each side: no two show the same."""


@pytest.mark.slow
def test_a_planted_concept_is_found_in_rendered_photographs_and_chance_is_not() -> None:
    tiles = [
        tile
        for number in range(-(-NEEDED // TILES**2))
        for band in np.array_split(scene(np.random.default_rng(number)), TILES, axis=0)
        for tile in np.array_split(band, TILES, axis=1)
    ]
    # A set from few scenes would have a concept of its own: their weather.
    order = np.random.default_rng(0).permutation(len(tiles))[:NEEDED]
    require_found([tiles[place] for place in order], 0.9)
