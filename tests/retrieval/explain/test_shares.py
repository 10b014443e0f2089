"""Similarities split over places, of every extractor of the registry."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.registry import build_extractor
from retrieval.errors import ExplainError
from retrieval.explain.shares import Shares, mixed, shares, towards
from retrieval.explain.splitting import split
from retrieval.vectors.whitening import WhiteningConfig
from tests.photographs import blank, features_of, view
from tests.retrieval.descriptors.test_contract import (
    ANY_SIZE,
    EXAMPLES,
    PHOTOGRAPHS,
    SMALL,
    extractor,
)

examples = pytest.mark.parametrize("name", EXAMPLES)
WHITENINGS = {
    "plain": None,
    "whitened": WhiteningConfig(dimension=4, power=-0.5),
    "shrunk": WhiteningConfig(dimension=5, power=-0.3, shrinkage=0.1),
}
ONE, OTHER = view(1, 0), view(1, 1, 128, 96)


@cache
def describer(name: str, whitening: str) -> Describer:
    features = features_of(extractor(name), PHOTOGRAPHS)
    return Describer.fit(extractor(name), features, WHITENINGS[whitening], 0)


@cache
def split_of(name: str, whitening: str) -> Shares:
    by = describer(name, whitening)
    return shares(split(by, ONE), split(by, OTHER))


@examples
@pytest.mark.parametrize("whitening", WHITENINGS)
def test_shares_add_up_to_the_similarity(name: str, whitening: str) -> None:
    by = describer(name, whitening)
    one, other = by.describe([ONE, OTHER]).vectors.astype(np.float64)
    found = split_of(name, whitening)
    assert found.pairs.sum() + found.constant == pytest.approx(one @ other, abs=1e-5)
    for side in (found.query, found.gallery):
        assert side.map.sum() + side.constant == pytest.approx(one @ other, abs=1e-5)
        pieces = sum(part.values.sum() for part in side.pieces)
        assert pieces + side.constant == pytest.approx(one @ other, abs=1e-5)
    np.testing.assert_allclose(split(by, ONE).total, one, atol=1e-5)


@examples
@pytest.mark.parametrize("size", [*ANY_SIZE, "blank"])
def test_photographs_of_any_size_are_split(name: str, size: str) -> None:
    by = describer(name, "shrunk")
    photograph = {**ANY_SIZE, "blank": blank()}[size]
    (row,) = by.describe([photograph]).vectors
    if row.any():
        np.testing.assert_allclose(split(by, photograph).total, row, atol=1e-5)
    else:
        with pytest.raises(ExplainError, match="nothing to describe"):
            split(by, photograph)


@examples
def test_a_linear_function_adds_up_too(name: str) -> None:
    by = describer(name, "shrunk")
    weights = np.random.default_rng(0).normal(size=by.dimension)
    found = towards(split(by, ONE), weights)
    expected = by.describe([ONE]).vectors[0] @ weights
    assert found.values.sum() + found.constant == pytest.approx(expected, abs=1e-5)


def test_the_place_that_is_shared_has_the_largest_share() -> None:
    """Two photographs of nothing, but for one tile that lies elsewhere in each."""
    tile = view(3, 0, 32, 32)
    one, other = np.full((128, 128, 3), 128, np.uint8), np.full((128, 128, 3), 128, np.uint8)
    one[16:48, 80:112], other[80:112, 16:48] = tile, tile
    by = describer("sift-vlad", "plain")
    found = shares(split(by, one), split(by, other))
    own, theirs = np.unravel_index(found.pairs.argmax(), found.pairs.shape)
    for place, (left, top) in ((own, (80, 16)), (theirs, (16, 80))):
        box = found.query.grid.boxes[place] * 128
        middle = (box[:2] + box[2:]) / 2
        assert left - 8 <= middle[0] <= left + 40
        assert top - 8 <= middle[1] <= top + 40


def test_shares_by_several_are_their_weighted_sum() -> None:
    one, other = split_of("hog", "shrunk"), split_of("sift-vlad", "shrunk")
    both = mixed([(0.3, one), (0.7, other)])
    assert both.similarity == pytest.approx(0.3 * one.similarity + 0.7 * other.similarity)
    assert both.pairs.sum() + both.constant == pytest.approx(both.similarity)
    assert [part.kind for part in both.query.pieces] == ["cells", "features"]


def test_what_has_no_place_is_refused_in_one_line() -> None:
    token = CnnConfig.model_validate(
        {**SMALL, "trunk": "timm/test_vit", "layers": [{"pooling": {"kind": "cls"}}]}
    )
    by = Describer(build_extractor(token, "cpu", 0), None)
    with pytest.raises(ExplainError, match="no place can be told for"):
        split(by, ONE)
    with pytest.raises(ExplainError, match="nothing to describe"):
        split(describer("sift-vlad", "shrunk"), blank())
