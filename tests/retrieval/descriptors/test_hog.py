"""HoG: its size, its square, its grids, and what it is blind to."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from skimage.feature import hog

from retrieval.descriptors.hog import HogConfig, HogExtractor
from tests.photographs import blank, picture


def grey_square() -> NDArray[np.uint8]:
    return np.repeat(picture(1, 64, 64)[..., :1], 3, axis=2)


def scikit_image_s(square: NDArray[np.uint8], cell: int) -> NDArray[np.float64]:
    values = hog(square[..., 0], 9, (cell, cell), (2, 2), block_norm="L2-Hys")
    return np.asarray(values / np.linalg.norm(values))


@pytest.mark.parametrize(
    ("side", "cells", "block", "orientations", "dimension"),
    [
        (160, (20,), 2, 9, 1764),
        (64, (16,), 1, 4, 64),
        (50, (12,), 3, 8, 288),
        (160, (20, 40), 2, 9, 1764 + 324),
    ],
)
def test_the_dimension_is_that_of_what_comes_out(
    side: int, cells: tuple[int, ...], block: int, orientations: int, dimension: int
) -> None:
    extractor = HogExtractor(
        HogConfig(side=side, cells=cells, block=block, orientations=orientations)
    )
    (values,) = extractor.features([picture(1)])
    assert extractor.dimension == len(values) == dimension
    assert values.dtype == np.float32


def test_a_square_photograph_is_scikit_image_s_hog_of_its_grey() -> None:
    extractor = HogExtractor(HogConfig(side=64, cells=(16,)))
    rows = extractor.aggregate(extractor.features([grey_square()]))
    np.testing.assert_allclose(rows[0], scikit_image_s(grey_square(), 16), atol=1e-6)


def test_grids_weigh_the_same_however_many_cells_they_have() -> None:
    extractor = HogExtractor(HogConfig(side=64, cells=(8, 32)))
    rows = extractor.aggregate(extractor.features([grey_square()]))
    expected = np.concatenate([scikit_image_s(grey_square(), cell) for cell in (8, 32)])
    np.testing.assert_allclose(rows[0], expected / np.sqrt(2), atol=1e-6)


def test_light_and_stretching_change_little_and_turning_changes_much() -> None:
    extractor = HogExtractor(HogConfig(side=96, cells=(12,)))
    photograph = picture(1)
    others = [photograph // 2 + 40, np.repeat(photograph, 2, axis=0), np.rot90(photograph).copy()]
    rows = extractor.aggregate(extractor.features([photograph, *others]))
    likeness = rows[1:] @ rows[0]
    assert likeness[0] > 0.95
    assert likeness[1] > 0.95
    assert likeness[2] < 0.9


def test_a_blank_photograph_gives_zeros() -> None:
    extractor = HogExtractor(HogConfig(side=64, cells=(16, 32)))
    np.testing.assert_array_equal(extractor.aggregate(extractor.features([blank()])), 0)


def test_cells_are_a_list_in_yaml() -> None:
    values = {"cells": [10, 20]}
    assert HogConfig.model_validate(values) == HogConfig(cells=(10, 20))
    assert HogExtractor(HogConfig(cells=(10, 20))).identity()["cells"] == [10, 20]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ((16, 20), "at least one block of the largest cells"),
        ((8, 8), "must differ"),
        ((), "at least 1 item"),
        ((2,), "greater than or equal to 4"),
        (("8",), "valid integer"),
    ],
)
def test_cells_that_cannot_be_are_refused(cells: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HogConfig(side=32, cells=cells)
