"""Passes are told to whoever watches, and to nobody else."""

from __future__ import annotations

import time

import numpy as np
import pytest

from retrieval import threads
from retrieval.aggregation.fisher import ITERATIONS, learn_mixture
from retrieval.passes import one_pass, watched
from retrieval.threads import in_threads
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


def test_passes_of_several_threads_are_told_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What callers watch with (a bar of a notebook, say) need not be safe to call from several."""
    monkeypatch.setattr(threads, "cores", lambda: 8)
    inside: list[int] = []
    most: list[int] = []

    def told() -> None:
        inside.append(1)
        time.sleep(0.01)
        most.append(len(inside))
        inside.pop()

    with watched(told):
        list(in_threads(lambda _: one_pass(), range(24)))
    assert most == [1] * 24


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
