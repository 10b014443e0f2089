"""Binary codes of words against loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.aggregation.asmk import Asmk, AsmkConfig
from retrieval.vectors.clustering import WordFinder
from tests.features import descriptors, local_features
from tests.oracles import descriptors as oracle


def unpacked(code: NDArray[np.uint64], d: int) -> list[int]:
    """The first d bits of a code as 1 and -1; the rest must be nought."""
    bits = [int(number) >> place & 1 for number in code for place in range(64)]
    assert not any(bits[d:])
    return [1 if bit else -1 for bit in bits[:d]]


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(0, 30), max_size=4),
    words=st.integers(1, 40),
    d=st.sampled_from([3, 64, 70, 128]),
    assignments=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_against_loops(counts: list[int], words: int, d: int, assignments: int, seed: int) -> None:
    features = [local_features(n, d, seed + i) for i, n in enumerate(counts)]
    codebook = descriptors(words, d, seed + 99)
    asmk = Asmk(AsmkConfig(words=words), WordFinder.build(codebook, 0))
    found = asmk.words(features, assignments)
    assert len(found) == len(features)
    assert found.values.shape == (len(found.words), -(-d // 64))
    for i, one in enumerate(features):
        expected = oracle.signs(one.descriptors, codebook, assignments)
        here = slice(*found.starts[i : i + 2])
        assert found.words[here].tolist() == sorted(expected)
        codes = [unpacked(code, d) for code in found.values[here]]
        assert codes == [expected[word] for word in sorted(expected)]


def test_a_photograph_has_the_same_words_alone_and_among_others() -> None:
    features = [local_features(n, 64, seed=n) for n in (40, 0, 7, 25)]
    asmk = Asmk(AsmkConfig(words=16)).fit(features, 0, "cpu")
    together = asmk.words(features, 3)
    for i, one in enumerate(features):
        alone = asmk.words([one], 3)
        here = together[i : i + 1]
        np.testing.assert_array_equal(alone.words, here.words)
        np.testing.assert_array_equal(alone.values, here.values)
