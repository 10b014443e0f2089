"""The nearest of many visual words, against comparing with every one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import RunError
from retrieval.vectors.clustering import WordFinder, train_many_words
from tests.features import descriptors


def every_distance(points: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float64]:
    return ((points[:, None].astype(np.float64) - words[None]) ** 2).sum(axis=2)


@settings(max_examples=40)
@given(
    n=st.integers(0, 30), words=st.integers(1, 60), k=st.integers(1, 70), seed=st.integers(0, 99)
)
def test_of_few_words_all_are_compared(n: int, words: int, k: int, seed: int) -> None:
    points, centroids = descriptors(n, 8, seed), descriptors(words, 8, seed + 100)
    found = WordFinder.build(centroids, 0).nearest(points, k)
    order = np.argsort(every_distance(points, centroids), axis=1)[:, :k]
    np.testing.assert_array_equal(found[:, :words], order)
    np.testing.assert_array_equal(found[:, words:], -1)
    assert found.shape == (n, k)


def test_of_many_words_hardly_any_is_missed() -> None:
    points, centroids = descriptors(300, 16, 0), descriptors(1500, 16, 1)
    finder = WordFinder.build(centroids, 0)
    found = finder.nearest(points, 5)
    order = np.argsort(every_distance(points, centroids), axis=1)[:, :5]
    assert (found[:, 0] == order[:, 0]).mean() > 0.95
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), order.tolist(), strict=True)]
    assert np.mean(shared) > 0.9 * 5
    np.testing.assert_array_equal(WordFinder(**finder.arrays()).nearest(points, 5), found)
    for i in (0, 7):
        np.testing.assert_array_equal(finder.nearest(points[i : i + 1], 5)[0], found[i])


def test_points_that_fit_no_word() -> None:
    finder = WordFinder.build(descriptors(9, 8, 0), 0)
    with pytest.raises(RunError, match="not finite"):
        finder.nearest(np.full((1, 8), np.nan, np.float32), 1)
    with pytest.raises(RunError, match="8 dimensions"):
        finder.nearest(descriptors(2, 7, 0), 1)


def test_many_words_of_as_many_samples() -> None:
    samples = descriptors(40, 8, 0)
    words = train_many_words(samples, 40, seed=0)
    assert words.shape == (40, 8)
    assert words.dtype == np.float32
    assert np.isfinite(words).all()
    assert train_many_words(samples, 1, seed=0).shape == (1, 8)
    with pytest.raises(RunError, match=r"41 visual words .* there are 40"):
        train_many_words(samples, 41, seed=0)
