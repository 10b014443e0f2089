"""Passes are told to whoever watches, and to nobody else."""

from __future__ import annotations

import numpy as np

from retrieval.aggregation.fisher import ITERATIONS, learn_mixture
from retrieval.passes import one_pass, watched
from retrieval.vectors.clustering import train_kmeans, train_many_words


def test_passes_are_told_to_the_one_who_watches() -> None:
    outer: list[int] = []
    inner: list[int] = []
    one_pass()
    with watched(lambda: outer.append(1)):
        one_pass()
        with watched(lambda: inner.append(1)):
            one_pass()
        one_pass()
    one_pass()
    assert (len(outer), len(inner)) == (2, 1)


def test_learning_is_not_silent() -> None:
    rows = np.random.default_rng(0).random((600, 8), dtype=np.float32)
    told: list[int] = []
    with watched(lambda: told.append(1)):
        train_kmeans(rows, 4, 0, iterations=7)
        assert len(told) == 7
        learn_mixture(rows, 4, 0, "cpu")
        assert 7 + 20 < len(told) <= 7 + 20 + ITERATIONS
        told.clear()
        train_many_words(rows, 30, 0)
        assert len(told) > 10
