"""HoG: its size, its square, and what it is blind to."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from skimage.feature import hog

from retrieval.extractors.hog import HogConfig, HogExtractor
from tests.photographs import blank, picture


@pytest.mark.parametrize(
    ("side", "cell", "block", "orientations", "dimension"),
    [(160, 20, 2, 9, 1764), (64, 16, 1, 4, 64), (50, 12, 3, 8, 288)],
)
def test_the_dimension_is_that_of_what_comes_out(
    side: int, cell: int, block: int, orientations: int, dimension: int
) -> None:
    extractor = HogExtractor(
        HogConfig(side=side, cell=cell, block=block, orientations=orientations)
    )
    (values,) = extractor.features([picture(1)])
    assert extractor.dimension == len(values) == dimension
    assert values.dtype == np.float32


def test_a_square_photograph_is_scikit_image_s_hog_of_its_grey() -> None:
    grey = picture(1, 64, 64)[..., 0]
    photograph = np.repeat(grey[..., None], 3, axis=2)
    expected = hog(grey, 9, (16, 16), (2, 2), block_norm="L2-Hys")
    (values,) = HogExtractor(HogConfig(side=64, cell=16)).features([photograph])
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_light_and_stretching_change_little_and_turning_changes_much() -> None:
    extractor = HogExtractor(HogConfig(side=96, cell=12))
    photograph = picture(1)
    others = [photograph // 2 + 40, np.repeat(photograph, 2, axis=0), np.rot90(photograph).copy()]
    rows = extractor.aggregate(extractor.features([photograph, *others]))
    likeness = rows[1:] @ rows[0]
    assert likeness[0] > 0.95
    assert likeness[1] > 0.95
    assert likeness[2] < 0.9


def test_a_blank_photograph_gives_zeros() -> None:
    extractor = HogExtractor(HogConfig(side=64, cell=16))
    np.testing.assert_array_equal(extractor.aggregate(extractor.features([blank()])), 0)


def test_a_square_holds_a_block() -> None:
    with pytest.raises(ValidationError, match="at least one block of cells"):
        HogConfig(side=32, cell=20)
