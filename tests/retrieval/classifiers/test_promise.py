"""What is said of a data set before anything is built of it."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.classifiers.promise import promise_of
from retrieval.classifiers.rejection import RejectionConfig
from retrieval.classifiers.thresholds import bounded_threshold

TWO = np.array([2, 5])


@pytest.mark.parametrize(
    ("origins", "said"),
    [
        (["a", "b", "c", "a"] * 20, "80 photographs of none from 3 sources (a, b, c): "),
        (list("edcba") * 16, "80 photographs of none from 5 sources (a, b, c and 2 more): "),
        (["a"] * 80, "80 photographs of none of one source (a), so that what other sources"),
        ([], "80 photographs of none of untold sources"),
        ([""] * 80, "80 photographs of none of untold sources"),
    ],
)
def test_size_and_variety_of_a_bank_are_told(origins: list[str], said: str) -> None:
    told = promise_of(80, origins, TWO)
    assert told.startswith(said)
    assert "down to 1.2 % on photographs like them, and no lower" in told
    assert "\n" not in told
    assert ";" not in told.partition("no lower; photographs of other kinds")[2]


@pytest.mark.parametrize("bank", [1, 9, 80])
def test_what_is_told_is_what_a_threshold_keeps(bank: int) -> None:
    least = 1 / (bank + 1)
    assert f"down to {100 * least:.2g} %" in promise_of(bank, [], TWO)
    confidences = np.arange(bank, dtype=np.float32)
    for asked, kept in ((least, True), (least * 0.99, False)):
        config = RejectionConfig(max_false_accepts=asked)
        assert config.max_false_accepts is not None
        point = bounded_threshold(confidences, confidences, config.max_false_accepts)
        assert (not point.unkept) == kept


def test_without_a_bank_the_remedy_is_named() -> None:
    told = promise_of(0, [], TWO)
    assert told.startswith("no real photographs of none (none.csv, or a folder none): ")
    assert "landmarks data bank" in told


@pytest.mark.parametrize(("real", "rendered"), [(0, 80), (9, 1), (9, 80)])
def test_rendered_photographs_promise_nothing(real: int, rendered: int) -> None:
    told = promise_of(real + rendered, ["coco"] * real + ["rendered"] * rendered, TWO)
    assert f"; {rendered} rendered one" in told
    assert "which real photographs are not like" in told
    assert "1.2 %" not in told
    assert ("down to 10 %" in told) == (real == 9)
    assert told.startswith("9 photographs of none of one source (coco)" if real else "no real")


@pytest.mark.parametrize(
    ("photographs", "said"),
    [
        ([2, 5], None),
        ([1, 5, 1], "; 2 of 3 landmarks have one photograph alone"),
        ([1, 5, 3], "; 1 of 3 landmarks has one photograph alone"),
        ([1, 1], "; no landmark has two photographs"),
    ],
)
def test_landmarks_of_one_photograph_are_counted(photographs: list[int], said: str | None) -> None:
    told = promise_of(80, [], np.array(photographs))
    assert said in told if said else "one photograph" not in told
