"""VLAD against three loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.aggregation.codebook import nearest_words
from retrieval.aggregation.vlad import Vlad, VladConfig, vlad
from retrieval.local.features import no_features
from tests.features import descriptors, local_features
from tests.oracles import descriptors as oracle


@settings(max_examples=60)
@given(
    n=st.integers(1, 12),
    words=st.integers(1, 5),
    d=st.integers(1, 6),
    power=st.sampled_from([0.2, 0.5, 1.0]),
    intra=st.booleans(),
    residual=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_against_three_loops(
    n: int, words: int, d: int, power: float, intra: bool, residual: bool, seed: int
) -> None:
    seen, codebook = descriptors(n, d, seed), descriptors(words, d, seed + 1)
    found = vlad(seen, codebook, VladConfig(power=power, intra=intra, residual=residual))
    assert found.shape == (words * d,)
    assert found.dtype == np.float32
    expected = oracle.vlad(seen, codebook, power, intra, residual)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_no_features_give_zeros() -> None:
    codebook = descriptors(3, 8, 0)
    found = vlad(np.zeros((0, 8), np.float32), codebook, VladConfig())
    np.testing.assert_array_equal(found, np.zeros(24, np.float32))


def test_a_repeated_window_does_not_drown_the_rest() -> None:
    """Each word's sum is normalised: a hundred copies in one word weigh what one does."""
    seen, codebook = descriptors(9, 8, 0), descriptors(3, 8, 1)
    one = seen[nearest_words(seen, codebook) == nearest_words(seen[:1], codebook)[0]]
    often = np.concatenate([seen, *[one] * 100])
    config = VladConfig()
    np.testing.assert_allclose(
        vlad(often, codebook, config), vlad(seen, codebook, config), atol=1e-4
    )


def test_fit_makes_another_of_several_codebooks(tmp_path: Path) -> None:
    config = VladConfig(words=4, codebooks=2)
    features = [local_features(30, seed=1), no_features(8, (9, 9)), local_features(20, seed=2)]
    bare = Vlad(config, 8)
    with pytest.raises(RuntimeError, match="call fit first"):
        bare.aggregate(features)
    fitted = bare.fit(features, 0, "cpu")
    assert (bare.fitted, fitted.fitted) == (False, True)
    assert fitted.codebooks is not None
    assert not np.array_equal(*fitted.codebooks)
    found = fitted.aggregate(features)
    assert found.shape == (3, bare.dimension) == (3, 64)
    each = [vlad(features[0].descriptors, codebook, config) for codebook in fitted.codebooks]
    np.testing.assert_allclose(found[0], np.concatenate(each) / np.sqrt(2), atol=1e-6)
    np.testing.assert_array_equal(found[1], 0)
    assert fitted.aggregate([]).shape == (0, 64)
    fitted.save(tmp_path)
    np.testing.assert_array_equal(bare.restored(tmp_path).aggregate(features), found)
