"""Codebooks: what is sampled, what is learnt, and which word is nearest."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.aggregation import codebook as module
from retrieval.aggregation.codebook import learn_codebook, nearest_words
from retrieval.errors import ConfigError
from retrieval.local.features import LocalFeatures, encode, no_features
from retrieval.local.sampling import sample_descriptors
from retrieval.vectors.clustering import train_kmeans
from retrieval.vectors.projection import learn_projection
from tests.features import descriptors, local_features


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
    none = np.zeros(30, np.float32)
    features = [
        LocalFeatures(np.zeros((30, 2), np.float32), none, none,
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


def test_many_words_lie_as_near_as_those_of_full_kmeans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY_WORDS", 50)
    features = [local_features(500, seed=seed) for seed in range(6)]
    words = learn_codebook(features, 100, seed=3)
    np.testing.assert_array_equal(words, learn_codebook(features, 100, seed=3))
    every = np.concatenate([one.descriptors for one in features])
    exact = train_kmeans(every, 100, seed=3)
    errors = [
        ((every - c[nearest_words(every, c)]) ** 2).sum(axis=1).mean() for c in (words, exact)
    ]
    assert words.shape == exact.shape
    assert not np.array_equal(words, exact)
    assert errors[0] < 1.03 * errors[1]


def test_a_projection_keeps_the_directions_of_most_variance() -> None:
    seen = (
        np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32) * [5, 1, 3, 1, 1, 1] + 7
    )
    projection = learn_projection(seen.astype(np.float32), 2)
    np.testing.assert_allclose(projection.axes.T @ projection.axes, np.eye(2), atol=1e-5)
    np.testing.assert_allclose(np.diag(projection.axes[[0, 2]]), 1, atol=0.02)
    projected = projection.apply(seen.astype(np.float32))
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(projected.std(axis=0), [5, 3], rtol=0.1)
    assert learn_projection(seen.astype(np.float32), 9).axes.shape == (6, 6)


def test_a_whitening_projection_lets_every_direction_vary_alike() -> None:
    spread = np.array([3.0, 1.0, 0.3, 0.0])
    seen = (np.random.default_rng(0).normal(size=(500, 4)) * spread).astype(np.float32)
    found = learn_projection(seen, 4, whiten=True).apply(seen)
    # Along the last there is nothing to see, and nothing is made of it.
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.diag([1, 1, 1, 0]), atol=1e-4)
