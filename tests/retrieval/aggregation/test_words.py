"""Photographs' words, taken apart and put together."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.aggregation.asmk import Asmk, AsmkConfig
from retrieval.aggregation.bow import Bow, BowConfig
from retrieval.aggregation.words import WordMaker, Words
from retrieval.local.features import no_features
from retrieval.storage.ragged import ranges
from tests.features import local_features

EMPTY = Words(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros((0, 2), np.uint64))

Photograph = tuple[NDArray[Any], ...]


def photographs(counts: list[int]) -> list[Photograph]:
    """So many words each, no two of a value."""
    random = np.random.default_rng(0)
    return [
        (
            np.sort(random.permutation(50)[:count]).astype(np.int32),
            random.integers(0, 2**63, (count, 2), dtype=np.uint64),
        )
        for count in counts
    ]


def apart(words: Words) -> list[Photograph]:
    bounds = zip(words.starts[:-1], words.starts[1:], strict=True)
    return [(words.words[a:b], words.values[a:b]) for a, b in bounds]


def assert_same(found: list[Photograph], expected: list[Photograph]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


COUNTS = st.lists(st.integers(0, 6), max_size=6)


@given(counts=COUNTS, parts=st.integers(1, 4))
def test_together_and_apart(counts: list[int], parts: int) -> None:
    each = photographs(counts)
    words = Words.of(each, EMPTY)
    assert len(words) == len(counts)
    assert_same(apart(words), each)
    bounds = np.linspace(0, len(each), parts + 1).astype(int)
    slices = [words[a:b] for a, b in pairwise(bounds)]
    assert_same(apart(Words.joined(slices)), each)
    assert_same(apart(Words.from_arrays(words.arrays("w_"), "w_")), each)


@pytest.mark.parametrize("rows", [[], [2], [3, 0, 0, 1], [1, 3]])
def test_rows_come_in_the_order_asked_for(rows: list[int]) -> None:
    each = photographs([3, 0, 5, 2])
    found = Words.of(each, EMPTY)[np.array(rows, dtype=np.int64)]
    assert_same(apart(found), [each[row] for row in rows])


def test_rows_by_a_mask() -> None:
    each = photographs([3, 0, 5, 2])
    found = Words.of(each, EMPTY)[np.array([True, False, False, True])]
    assert_same(apart(found), [each[0], each[3]])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=6))
def test_ranges(pairs: list[tuple[int, int]]) -> None:
    starts, counts = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    expected = [place for start, count in pairs for place in range(start, start + count)]
    assert ranges(starts, counts).tolist() == expected


@pytest.mark.parametrize("bare", [Asmk(AsmkConfig(words=9)), Bow(BowConfig(words=9))])
def test_fit_makes_another(bare: WordMaker, tmp_path: Path) -> None:
    features = [local_features(50, seed=1), no_features(8, (9, 9))]
    with pytest.raises(RuntimeError, match="call fit first"):
        bare.words(features)
    fitted = bare.fit(features, 0, "cpu")
    assert (bare.fitted, fitted.fitted) == (False, True)
    fitted.save(tmp_path)
    found, again = fitted.words(features), bare.restored(tmp_path).words(features)
    assert np.diff(found.starts).tolist() == [len(found.words), 0]
    np.testing.assert_array_equal(found.words, again.words)
    np.testing.assert_array_equal(found.values, again.values)
