"""Local descriptors made shorter: against scikit-learn's PCA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from retrieval.errors import ConfigError
from retrieval.local.features import no_features
from retrieval.local.reduction import ReduceConfig, Reducer
from retrieval.types import unit_rows
from tests.features import local_features

FEATURES = [local_features(n, seed=n) for n in (60, 0, 30, 25)]


@pytest.mark.parametrize("whiten", [False, True])
def test_against_scikit_learn(whiten: bool, tmp_path: Path) -> None:
    reducer = Reducer(ReduceConfig(dimension=3, whiten=whiten), 8).fit(FEATURES, 0)
    pca = PCA(3, whiten=whiten, svd_solver="full")
    pca.fit(np.concatenate([one.descriptors for one in FEATURES]).astype(np.float64))
    reducer.save(tmp_path)
    restored = Reducer(reducer.config, 8).restored(tmp_path)
    found = reducer.reduce(FEATURES)
    assert [len(one) for one in found] == [60, 0, 30, 25]
    for one, again, whole in zip(found, restored.reduce(FEATURES), FEATURES, strict=True):
        np.testing.assert_array_equal(one.codes, again.codes)
        np.testing.assert_array_equal(one.points, whole.points)
        assert one.codes.shape == (len(whole), 3)
        if len(whole):
            expected = unit_rows(pca.transform(whole.descriptors.astype(np.float64)))
            expected *= np.sign((expected * one.descriptors).sum(axis=0))
            np.testing.assert_allclose(one.descriptors, expected, atol=0.01)
    np.testing.assert_array_equal(found[2:][1].codes, found[3].codes)


def test_no_more_numbers_than_there_are() -> None:
    reducer = Reducer(ReduceConfig(dimension=90), 8)
    assert reducer.dimension == 8
    assert reducer.fit(FEATURES, 0).reduce(FEATURES)[0].codes.shape == (60, 8)


def test_something_must_be_seen_first() -> None:
    with pytest.raises(RuntimeError, match="not learnt yet"):
        Reducer(ReduceConfig(), 8).reduce(FEATURES)
    with pytest.raises(ConfigError):
        Reducer(ReduceConfig(), 8).fit([no_features(8, (9, 9))], 0)
