"""Products beside each other: in order, to the same bits, and without a limit left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from retrieval import threads
from retrieval.aggregation.fisher import learn_mixture
from retrieval.threads import in_threads, one_thread_a_product
from retrieval.types import unit_rows
from retrieval.vectors.clustering import train_kmeans
from retrieval.vectors.whitening import Whitening, WhiteningConfig


def threads_a_product() -> list[int]:
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


def test_results_come_in_order_from_items_that_are_asked_for_here() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for one in range(50):
            asked.append(one)
            yield one

    found = in_threads(lambda one: one * one, items())
    assert next(found) == 0
    assert len(asked) < 50  # a few ahead, not all of them
    assert list(found) == [one * one for one in range(1, 50)]
    assert list(in_threads(str, [])) == []


def test_an_error_comes_where_its_item_does() -> None:
    found = in_threads(lambda one: 1 // one, [2, 1, 0])
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_the_limit_holds_until_the_last_who_wants_it_has_gone() -> None:
    before = threads_a_product()
    one, other = one_thread_a_product(), one_thread_a_product()
    one.__enter__()
    other.__enter__()
    assert set(threads_a_product()) == {1}
    one.__exit__(None, None, None)
    assert set(threads_a_product()) == {1}
    other.__exit__(None, None, None)
    assert threads_a_product() == before


LATER = """
import numpy
from threadpoolctl import threadpool_info

from retrieval.threads import one_thread_a_product

with one_thread_a_product():
    from sklearn.utils.extmath import randomized_svd

    found = [(one["filepath"], one["num_threads"]) for one in threadpool_info()
             if one["user_api"] == "blas"]
assert any("scipy" in path for path, _ in found), found
assert {many for _, many in found} == {1}, found
"""


def test_libraries_that_come_later_are_limited_too() -> None:
    """In a process of its own, in which nothing has loaded SciPy yet."""
    more = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", LATER], check=True, env={**os.environ, **more})


def learnt() -> list[Any]:
    random = np.random.default_rng(0)
    rows = random.standard_normal((9000, 32)).astype(np.float32)
    mixture = learn_mixture(rows, 8, 0, "cpu")
    wide = unit_rows(random.standard_normal((300, 700)))
    whitening = Whitening.fit(wide, WhiteningConfig(dimension=40), 0)
    return [
        train_kmeans(rows, 40, 0), mixture.means, mixture.deviations, whitening.projection,
        whitening.apply(wide),
    ]  # fmt: skip


def test_what_is_learnt_is_the_same_whichever_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "cores", lambda count=count: count)
        with threadpool_limits(count, user_api="blas"):
            found.append(learnt())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
