"""Bags of words against counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.aggregation.bow import Bow, BowConfig
from retrieval.vectors.clustering import WordFinder
from tests.features import descriptors, local_features
from tests.oracles import descriptors as oracle


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(0, 30), max_size=4),
    words=st.integers(1, 40),
    assignments=st.integers(1, 6),
    power=st.sampled_from([0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_against_counting(
    counts: list[int], words: int, assignments: int, power: float, seed: int
) -> None:
    features = [local_features(n, seed=seed + i) for i, n in enumerate(counts)]
    codebook = descriptors(words, 8, seed + 99)
    bow = Bow(BowConfig(words=words, power=power), WordFinder.build(codebook, 0))
    found = bow.words(features, assignments)
    assert len(found) == len(features)
    for i, one in enumerate(features):
        expected = Counter(
            word
            for descriptor in one.descriptors
            for word in oracle.nearest(descriptor, codebook, assignments)
        )
        here = slice(*found.starts[i : i + 2])
        assert found.words[here].tolist() == sorted(expected)
        damped = [expected[word] ** power for word in sorted(expected)]
        np.testing.assert_allclose(found.values[here], damped, rtol=1e-6)
