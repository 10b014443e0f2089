"""Inverted files against comparing every pair of photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.aggregation.asmk import AsmkConfig
from retrieval.aggregation.bow import BowConfig
from retrieval.aggregation.words import Words
from retrieval.errors import RunError
from retrieval.index import inverted_file
from retrieval.index.inverted_file import InvertedFile
from tests.oracles import descriptors as oracle

WORDS = 12
BITS = 70

Signs = dict[int, list[int]]
Bag = dict[int, int]


def drawn(sets: Sequence[set[int]], seed: int) -> list[Signs]:
    """Random signs for photographs with given words, a word's alike in all of them."""
    alike = np.random.default_rng(0).choice([-1, 1], (WORDS, BITS))
    random = np.random.default_rng(seed)
    return [
        {
            word: np.where(random.random(BITS) < 0.3, -alike[word], alike[word]).tolist()
            for word in sorted(words)
        }
        for words in sets
    ]


def coded(photographs: Sequence[Signs]) -> Words:
    """Signs as the 64-bit numbers of a code, the first sign its lowest bit."""
    each = []
    for signs in photographs:
        codes = np.zeros((len(signs), 2), np.uint64)
        for i, word in enumerate(signs):
            number = sum(1 << place for place, sign in enumerate(signs[word]) if sign > 0)
            codes[i] = number % 2**64, number >> 64
        each.append((np.array(list(signs), np.int32), codes))
    return Words.of(each, words_of_none((0, 2), np.uint64))


def words_of_none(shape: tuple[int, ...], kind: type) -> Words:
    return Words(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(shape, kind))


def counted(photographs: Sequence[Bag], power: float) -> Words:
    each: list[tuple[NDArray[np.int32], NDArray[Any]]] = [
        (np.array(list(bag), np.int32), np.array(list(bag.values()), np.float32) ** power)
        for bag in photographs
    ]
    return Words.of(each, words_of_none((0,), np.float32))


def rarity(gallery: Sequence[Any], idf: bool) -> dict[int, float]:
    having = [sum(word in one for one in gallery) for word in range(WORDS)]
    return {
        word: math.log((1 + len(gallery)) / (1 + having[word])) if idf else 1.0
        for word in range(WORDS)
    }


SETS = st.lists(st.sets(st.integers(0, WORDS - 1)), min_size=1, max_size=6)


@settings(max_examples=60)
@given(
    gallery=SETS,
    queries=SETS,
    alpha=st.sampled_from([1.0, 3.0]),
    threshold=st.sampled_from([-0.2, 0.0, 0.3]),
    idf=st.booleans(),
    entries=st.sampled_from([1, 5, 1000]),
    seed=st.integers(0, 1000),
)
def test_asmk_against_every_pair(
    gallery: list[set[int]],
    queries: list[set[int]],
    alpha: float,
    threshold: float,
    idf: bool,
    entries: int,
    seed: int,
) -> None:
    rows, asked = drawn(gallery, seed), drawn(queries, seed + 1)
    config = AsmkConfig(words=WORDS, alpha=alpha, threshold=threshold, idf=idf)
    index = InvertedFile.build(coded(rows), config, BITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverted_file, "ENTRIES", entries)
        found = index.similarities(coded(asked))
    weights = rarity(gallery, idf)
    expected = [[oracle.asmk(a, b, weights, alpha, threshold) for b in rows] for a in asked]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


BAGS = st.lists(
    st.dictionaries(st.integers(0, WORDS - 1), st.integers(1, 9)).map(
        lambda bag: dict(sorted(bag.items()))
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60)
@given(
    gallery=BAGS,
    queries=BAGS,
    power=st.sampled_from([0.5, 1.0]),
    idf=st.booleans(),
    entries=st.sampled_from([1, 5, 1000]),
)
def test_bags_against_every_pair(
    gallery: list[Bag], queries: list[Bag], power: float, idf: bool, entries: int
) -> None:
    config = BowConfig(words=WORDS, power=power, idf=idf)
    index = InvertedFile.build(counted(gallery, power), config, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverted_file, "ENTRIES", entries)
        found = index.similarities(counted(queries, power))
    weights = rarity(gallery, idf)
    expected = [[oracle.bag(a, b, weights, power) for b in gallery] for a in queries]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def example(rows: int = 30, seed: int = 0) -> tuple[InvertedFile, Words]:
    """An inverted file of photographs, the fourth without words, and their words."""
    random = np.random.default_rng(seed)
    sets = [set(random.permutation(WORDS)[: random.integers(1, 9)].tolist()) for _ in range(rows)]
    sets[3] = set()
    words = coded(drawn(sets, seed))
    return InvertedFile.build(words, AsmkConfig(words=WORDS), BITS), words


def test_a_photograph_is_most_like_itself() -> None:
    index, words = example()
    found = index.similarities(words)
    has = np.flatnonzero(np.diff(words.starts))
    np.testing.assert_array_equal(found[has].argmax(axis=1), has)
    np.testing.assert_allclose(found[has, has], 1, atol=1e-6)
    np.testing.assert_array_equal(found[3], 0)


def test_one_query_or_many_to_the_bit() -> None:
    index, words = example()
    together = index.similarities(words)
    for i in range(len(words)):
        np.testing.assert_array_equal(index.similarities(words[i : i + 1])[0], together[i])


def test_no_queries_and_no_gallery() -> None:
    index, words = example()
    assert index.similarities(words[:0]).shape == (0, 30)
    empty = InvertedFile.build(words[:0], AsmkConfig(words=WORDS), BITS)
    assert len(empty) == 0
    assert empty.bytes_per_row == 0
    assert empty.similarities(words).shape == (30, 0)


def test_a_gallery_without_words() -> None:
    _, words = example()
    bare = words[np.array([3, 3])]
    index = InvertedFile.build(bare, AsmkConfig(words=WORDS), BITS)
    np.testing.assert_array_equal(index.similarities(words), np.zeros((30, 2)))
    assert index.bytes_per_row == 0


def test_bytes_per_row() -> None:
    index, words = example()
    assert index.bytes_per_row == pytest.approx((4 + 16) * len(words.words) / 30)
    bags = counted([{1: 2, 5: 1}, {}, {0: 1}, {2: 2}], 1.0)
    assert InvertedFile.build(bags, BowConfig(words=WORDS), 0).bytes_per_row == 8


@pytest.mark.parametrize("kind", ["asmk", "bow"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    index, words = example()
    if kind == "bow":
        words = counted([{1: 2, 5: 1}, {}, {0: 1}, {2: 2}], 0.5)
        index = InvertedFile.build(words, BowConfig(words=WORDS), 0)
    index.save(tmp_path)
    again = InvertedFile.load(tmp_path, index.config)
    assert (again.config, again.bits, len(again)) == (index.config, index.bits, len(index))
    np.testing.assert_array_equal(again.similarities(words), index.similarities(words))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"inverted\.safetensors"):
        InvertedFile.load(tmp_path, AsmkConfig())
