"""Similarities split over places, of every extractor of the registry."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from retrieval.descriptors.describer import Describer
from retrieval.explain.shares import Shares, shares, towards
from retrieval.explain.splitting import split
from retrieval.vectors.whitening import WhiteningConfig
from tests.photographs import features_of, view
from tests.retrieval.descriptors.test_contract import EXAMPLES, PHOTOGRAPHS, extractor

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
def test_a_linear_function_adds_up_too(name: str) -> None:
    by = describer(name, "shrunk")
    weights = np.random.default_rng(0).normal(size=by.dimension)
    found = towards(split(by, ONE), weights)
    expected = by.describe([ONE]).vectors[0] @ weights
    assert found.values.sum() + found.constant == pytest.approx(expected, abs=1e-5)
