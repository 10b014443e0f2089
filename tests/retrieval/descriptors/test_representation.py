"""Descriptors with words and features: some of them, several together, as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.aggregation.words import Words
from retrieval.descriptors.representation import Representation, write_descriptors
from retrieval.local.compression import CompressedFeatures
from retrieval.storage.files import read_arrays
from retrieval.types import unit_rows
from tests.features import local_features

COUNT = 5


def described(words: bool = True, kept: bool = True) -> Representation:
    """Five photographs; photograph i has i words and i features."""
    random = np.random.default_rng(0)
    each = [(np.arange(i, dtype=np.int32), random.random(i, np.float32)) for i in range(COUNT)]
    empty = Words(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return Representation(
        unit_rows(random.standard_normal((COUNT, 3))),
        Words.of(each, empty) if words else None,
        CompressedFeatures.of([local_features(i, 4, i) for i in range(COUNT)], 4) if kept else None,
    )


def facts(one: Representation) -> list[tuple[object, ...]]:
    """A photograph each: its vector, words and points."""
    found: list[tuple[object, ...]] = []
    for row in range(len(one)):
        words = one.words[np.array([row])] if one.words is not None else None
        found.append(
            (
                one.vectors[row].tolist(),
                None if words is None else (words.words.tolist(), words.values.tolist()),
                None if one.kept is None else one.kept.one(row).points.tolist(),
            )
        )
    return found


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("words", [True, False])
def test_some_of_them_joined_and_as_arrays(words: bool, kept: bool) -> None:
    every = described(words, kept)
    expected = facts(every)
    chosen = [4, 0, 2, 4]
    assert facts(every[np.array(chosen)]) == [expected[row] for row in chosen]
    assert facts(every[1:3]) == expected[1:3]
    none = every[:0]
    assert len(none) == 0
    assert facts(Representation.joined([every[3:], none, every[:3]])) == expected[3:] + expected[:3]
    arrays = every.arrays()
    assert {name.partition(".")[0] for name in arrays} == {
        "descriptors", *(["words"] if words else []), *(["kept"] if kept else [])
    }  # fmt: skip
    assert facts(Representation.from_arrays(arrays)) == expected
    assert facts(Representation.from_arrays(none.arrays())) == []


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("words", [True, False])
def test_blocks_are_mapped_as_one(words: bool, kept: bool, tmp_path: Path) -> None:
    every = described(words, kept)
    blocks = [every[:0], every[:2], every[:0], every[2:]]
    write_descriptors(tmp_path, lambda: blocks)
    assert facts(Representation.from_arrays(read_arrays(tmp_path))) == facts(every)
    write_descriptors(tmp_path, lambda: blocks[:1])
    assert facts(Representation.from_arrays(read_arrays(tmp_path))) == []


def test_bare_vectors_are_descriptors() -> None:
    vectors = described().vectors
    bare = Representation.of(vectors)
    assert bare.vectors is vectors
    assert bare.words is bare.kept is None
    assert Representation.of(bare) is bare


@pytest.mark.parametrize("part", ["words", "kept"])
def test_parts_of_other_photographs_are_refused(part: str) -> None:
    one = described()
    with pytest.raises(ValueError, match="5 photographs beside 4 vectors"):
        Representation(one.vectors[:4], **{part: getattr(one, part)})
