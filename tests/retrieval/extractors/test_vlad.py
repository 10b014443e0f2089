"""VLAD against three loops, and its codebook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.extractors.aggregation.codebook import (
    learn_codebook,
    nearest_words,
    sample_descriptors,
)
from retrieval.extractors.aggregation.vlad import Vlad, VladConfig, vlad
from retrieval.extractors.base import unit_rows
from retrieval.extractors.local.features import LocalFeatures, encode, no_features, pack, unpack
from retrieval.extractors.local.sift import SiftConfig, detect
from tests.oracles import descriptors as oracle
from tests.photographs import picture


def descriptors(n: int, d: int, seed: int) -> NDArray[np.float32]:
    return unit_rows(np.random.default_rng(seed).random((n, d)))


def local_features(n: int, d: int = 8, seed: int = 0) -> LocalFeatures:
    random = np.random.default_rng(seed)
    return LocalFeatures(
        points=random.random((n, 2), dtype=np.float32),
        scales=random.random(n, dtype=np.float32),
        angles=random.random(n, dtype=np.float32),
        codes=encode(descriptors(n, d, seed)) if n else np.zeros((0, d), np.uint8),
        size=(40 + seed, 50),
    )


@settings(max_examples=40)
@given(
    n=st.integers(1, 12),
    words=st.integers(1, 5),
    d=st.integers(1, 6),
    power=st.sampled_from([0.2, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_against_three_loops(n: int, words: int, d: int, power: float, seed: int) -> None:
    seen, codebook = descriptors(n, d, seed), descriptors(words, d, seed + 1)
    found = vlad(seen, codebook, VladConfig(power=power))
    assert found.shape == (words * d,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle.vlad(seen, codebook, power), atol=2e-3)


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


def test_the_nearest_word_is_the_first_of_equals() -> None:
    seen = descriptors(50, 4, 0)
    codebook = np.concatenate([descriptors(6, 4, 1)] * 2)
    distances = ((seen[:, None] - codebook[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(nearest_words(seen, codebook), distances.argmin(axis=1))
    assert nearest_words(seen, codebook).max() < 6


def test_a_word_is_the_mean_of_its_descriptors() -> None:
    centres = np.eye(4, dtype=np.float32)
    random = np.random.default_rng(0)
    blurred = np.repeat(centres, 30, axis=0) + 0.02 * np.abs(random.normal(size=(120, 4)))
    features = [
        LocalFeatures(np.zeros((30, 2), np.float32), *[np.zeros(30, np.float32)] * 2,
                      encode(np.asarray(part, np.float32) / 2), (9, 9))
        for part in np.split(blurred, 4)
    ]  # fmt: skip
    codebook = learn_codebook(features, 4, seed=0)
    assert codebook.shape == (4, 4)
    every = np.concatenate([one.descriptors for one in features])
    nearest = nearest_words(every, codebook)
    means = [every[nearest == word].mean(axis=0) for word in range(4)]
    np.testing.assert_allclose(codebook, means, atol=1e-5)
    np.testing.assert_array_equal(codebook, learn_codebook(features, 4, seed=0))


def test_a_codebook_needs_as_many_features_as_words() -> None:
    with pytest.raises(ConfigError, match=r"codebook of 9 words .* gave 8"):
        learn_codebook([local_features(8)], 9, seed=0)
    with pytest.raises(ConfigError, match="gave 0"):
        learn_codebook([no_features(8, (9, 9))], 2, seed=0)


@pytest.mark.parametrize("wanted", [1, 7, 20, 36, 100])
def test_a_sample_is_of_what_there_is(wanted: int) -> None:
    features = [local_features(n, seed=n) for n in (20, 0, 10, 6)]
    every = np.concatenate([one.descriptors for one in features])
    sample = sample_descriptors(features, wanted, seed=1)
    assert len(sample) == min(wanted, 36)
    places = [np.flatnonzero((every == row).all(axis=1))[0] for row in sample]
    assert len(set(places)) == len(places)
    assert places == sorted(places)


def test_features_are_unpacked_as_they_were_packed() -> None:
    features = [local_features(3, seed=1), no_features(8, (5, 6)), local_features(2, seed=2)]
    unpacked = unpack(pack(features))
    assert [len(one) for one in unpacked] == [3, 0, 2]
    for before, after in zip(features, unpacked, strict=True):
        for name in ("points", "scales", "angles", "codes"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
        assert after.size == before.size
    assert unpack(pack([])) == []


def test_codes_keep_descriptors_to_a_five_hundredth() -> None:
    given_ = np.minimum(descriptors(20, 128, 0), 0.49)
    features = LocalFeatures(*[np.zeros(0, np.float32)] * 3, encode(given_), (1, 1))
    np.testing.assert_allclose(features.descriptors, given_, atol=0.5 / 512 + 1e-7)


def test_fit_makes_another() -> None:
    config = VladConfig(words=4)
    features = [detect(picture(seed), SiftConfig(size=96, keypoints=50)) for seed in (1, 2)]
    bare = Vlad(config, 128)
    with pytest.raises(RuntimeError, match="call fit first"):
        bare.aggregate(features)
    fitted = bare.fit(features, 0, "cpu")
    assert (bare.fitted, fitted.fitted) == (False, True)
    assert fitted.codebooks is not None
    np.testing.assert_allclose(
        fitted.aggregate(features)[0],
        vlad(features[0].descriptors, fitted.codebooks[0], config),
    )
    assert fitted.aggregate([]).shape == (0, 512)
