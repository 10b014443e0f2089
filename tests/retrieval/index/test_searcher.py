"""Searches by descriptors and words, expanded and verified, against one photograph at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.aggregation.bow import BowConfig
from retrieval.aggregation.words import Words
from retrieval.descriptors.representation import Representation
from retrieval.index import searcher as module
from retrieval.index.expansion import DatabaseAugmentation, ExpansionConfig
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.inverted_file import InvertedFile
from retrieval.index.neighbours import Neighbours
from retrieval.index.searcher import Recomputed, SearchConfig, Searcher
from retrieval.index.verification import VerificationConfig
from retrieval.local.compression import CompressedFeatures
from retrieval.local.features import LocalFeatures
from retrieval.types import Vectors, unit_rows
from tests.oracles import descriptors as oracle
from tests.oracles import neighbours as slow

WORDS = 6
BOW = BowConfig(words=WORDS, idf=False, power=1.0)
EVEN = dict.fromkeys(range(WORDS), 1.0)
VERIFICATION = VerificationConfig(top=4, tolerance=4.0)

Bag = dict[int, int]


def rows_of(count: int, seed: int, dimension: int = 5) -> Vectors:
    random = np.random.default_rng(seed)
    return unit_rows(random.standard_normal((count, dimension)) + random.uniform(0, 1.5))


def bags_of(count: int, seed: int) -> list[Bag]:
    """Photographs with some words, some without any."""
    counts = np.random.default_rng(seed).integers(0, 4, (count, WORDS)).clip(1) - 1
    return [{word: int(n) for word, n in enumerate(row) if n} for row in counts]


def words_of(bags: list[Bag]) -> Words:
    none = Words(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return Words.of(
        [(np.array(list(bag), np.int32), np.array(list(bag.values()), np.float32)) for bag in bags],
        none,
    )


def index_of(vectors: Vectors) -> FaissIndex:
    return FaissIndex.build(vectors, IndexConfig())


def searcher(vectors: Vectors, bags: list[Bag] | None = None, **more: Any) -> Searcher:
    inverted = None if bags is None else InvertedFile.build(words_of(bags), BOW, 0)
    return Searcher(index_of(vectors), vectors, inverted, **more)


def pairs(found: Neighbours, query: int) -> list[tuple[int, float]]:
    return list(zip(found.rows[query].tolist(), found.similarities[query].tolist(), strict=True))


def assert_ranked(found: Neighbours, query: int, expected: list[tuple[int, float]]) -> None:
    """The similarities of the slow ranking, each row with its own, and nothing after them."""
    k = found.rows.shape[1]
    ranked = pairs(found, query)
    there = ranked[: min(k, len(expected))]
    assert all(one == (-1, -np.inf) for one in ranked[len(there) :])
    worth = dict(expected)
    assert len({row for row, _ in there}) == len(there)
    assert [value for _, value in there] == pytest.approx(
        [value for _, value in expected[: len(there)]], abs=1e-5
    )
    assert [value for _, value in there] == pytest.approx(
        [worth[row] for row, _ in there], abs=1e-5
    )


# By descriptors and by words


@settings(max_examples=60)
@given(
    count=st.integers(1, 12),
    asked=st.integers(0, 4),
    k=st.integers(1, 15),
    share=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    among=st.booleans(),
    block=st.sampled_from([1, 3, 256]),
    seed=st.integers(0, 99),
)
def test_searches_by_both_as_one_by_one(
    count: int, asked: int, k: int, share: float, among: bool, block: int, seed: int
) -> None:
    vectors, bags = rows_of(count, seed), bags_of(count, seed)
    own = np.random.default_rng(seed).integers(0, count, asked) if among else None
    queries = rows_of(asked, seed + 1) if own is None else vectors[own]
    their_bags = bags_of(asked, seed + 1) if own is None else [bags[row] for row in own]
    made = searcher(vectors, bags, config=SearchConfig(share=share))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found = made.search(Representation(queries, words_of(their_bags)), k, own)
    assert len(found) == asked
    assert found.rows.shape[1] <= k
    assert found.rows.shape[1] >= min(k, count)
    for query in range(asked):
        by_words = [oracle.bag(their_bags[query], bag, EVEN, 1.0) for bag in bags]
        row = None if own is None else int(own[query])
        expected = slow.by_both(queries[query], list(vectors), by_words, share, row)
        assert_ranked(found, query, expected)


def test_either_may_propose_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest by one alone is compared by both."""
    monkeypatch.setattr(module, "CANDIDATES", 1)
    vectors = unit_rows(np.eye(6, dtype=np.float32) + 0.1)
    bags: list[Bag] = [{0: 1}, {1: 1}, {2: 1}, {2: 1, 3: 1}, {4: 1}, {5: 1}]
    made = searcher(vectors, bags, config=SearchConfig(share=0.4))
    queries = Representation(vectors[[0]], words_of([{5: 1}]))
    found = made.search(queries, 2)
    assert found.rows[0].tolist() == [0, 5]
    near = float(vectors[0] @ vectors[5])
    assert found.similarities[0] == pytest.approx([0.6, 0.4 + 0.6 * near], abs=1e-6)


def test_large_galleries_are_searched_with_few_queries_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, bags = rows_of(9, 0), bags_of(9, 0)
    made = searcher(vectors, bags)
    queries = Representation(vectors, words_of(bags))
    whole = made.search(queries, 4)
    asked: list[int] = []
    real = InvertedFile.similarities

    def noted(self: InvertedFile, words: Words) -> NDArray[np.float32]:
        asked.append(len(words))
        return real(self, words)

    monkeypatch.setattr(InvertedFile, "similarities", noted)
    monkeypatch.setattr(module, "SIMILARITIES", 20)
    parts = made.search(queries, 4)
    assert asked == [3, 3, 3]
    assert parts.rows.tobytes() == whole.rows.tobytes()
    assert parts.similarities.tobytes() == whole.similarities.tobytes()


def test_words_are_asked_for_where_the_gallery_has_them() -> None:
    made = searcher(rows_of(4, 0), bags_of(4, 0))
    with pytest.raises(ValueError, match="describe queries by its describer"):
        made.search(rows_of(1, 1), 2)


# Expansion


@given(
    count=st.integers(2, 12), taken=st.integers(1, 5), k=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_queries_take_in_their_neighbours(count: int, taken: int, k: int, seed: int) -> None:
    vectors, queries = rows_of(count, seed), rows_of(3, seed + 1)
    config = SearchConfig(expansion=ExpansionConfig(queries=taken, alpha=2.0))
    made = searcher(vectors, config=config)
    found, again = made.search(queries, k), made.search(vectors, k, np.arange(count))
    for query in range(3):
        near = slow.nearest(queries[query], list(vectors), taken)
        richer = slow.expanded(queries[query], near, list(vectors), 2.0)
        assert_ranked(found, query, slow.nearest(richer, list(vectors), count))
    for row in range(count):
        near = [one for one in slow.nearest(vectors[row], list(vectors), count) if one[0] != row]
        richer = slow.expanded(vectors[row], near[:taken], list(vectors), 2.0)
        ranked = slow.nearest(richer, list(vectors), count)
        assert_ranked(again, row, [one for one in ranked if one[0] != row])


@given(
    count=st.integers(1, 10),
    taken=st.integers(1, 4),
    share=st.sampled_from([None, 0.0, 0.4]),
    seed=st.integers(0, 99),
)
def test_a_photograph_left_out_of_an_augmented_gallery_was_never_there(
    count: int, taken: int, share: float | None, seed: int
) -> None:
    vectors, bags = rows_of(count, seed), bags_of(count, seed)
    expansion = ExpansionConfig(gallery=taken, alpha=2.0)
    augmentation = DatabaseAugmentation.of(vectors, index_of(vectors), expansion)
    made = searcher(
        augmentation.rows(),
        None if share is None else bags,
        config=SearchConfig(expansion=expansion, share=share or 0.0),
        augmentation=augmentation,
    )
    found = made.search(Representation(vectors, words_of(bags)), count, np.arange(count))
    for row in range(count):
        others = [other for other in range(count) if other != row]
        left = slow.augmented([vectors[other] for other in others], taken, 2.0)
        by_words = [oracle.bag(bags[row], bags[other], EVEN, 1.0) for other in others]
        expected = slow.by_both(vectors[row], left, by_words, share or 0.0, None)
        assert_ranked(found, row, [(others[at], value) for at, value in expected])


# Verification


def scene(seed: int, points: int = 24) -> LocalFeatures:
    random = np.random.default_rng(seed)
    return LocalFeatures(
        (random.random((points, 2)) * 200).astype(np.float32),
        np.full(points, 4.0, np.float32),
        np.zeros(points, np.float32),
        random.integers(-127, 128, (points, 16)).astype(np.int8),
        (0, 0),
    )


def shifted(one: LocalFeatures, right: float) -> LocalFeatures:
    points = one.points + np.array([right, 0.0], np.float32)
    return LocalFeatures(points, one.scales, one.angles, one.codes, one.size)


SCENES = [scene(1), scene(2), shifted(scene(1), 30.0), scene(3), shifted(scene(1), -20.0)]
NOTHING = scene(0, points=0)


def test_verification_lifts_the_neighbours_that_it_confirms_and_lowers_none() -> None:
    vectors = rows_of(6, 3)
    kept = CompressedFeatures.of([*SCENES, NOTHING], 16)
    config = SearchConfig(verification=VERIFICATION)
    queries = Representation(rows_of(2, 4), kept=CompressedFeatures.of([SCENES[0], NOTHING], 16))
    plain = searcher(vectors).search(queries.vectors, 6)
    found = searcher(vectors, kept=kept, config=config).search(queries, 6)
    before, after = dict(pairs(plain, 0)), dict(pairs(found, 0))
    first = set(plain.rows[0, :4].tolist())
    confirmed = {0, 2, 4} & first
    assert confirmed != {0, 2, 4}  # one of them is beyond the first four: it is not looked at
    assert len(confirmed) > 0
    for row in range(6):
        if row in confirmed:
            assert after[row] > before[row] + 0.3
        else:
            assert after[row] == before[row]
    assert (np.diff(found.similarities[0]) <= 0).all()
    # A photograph without a keypoint keeps its ranking.
    assert pairs(found, 1) == pairs(plain, 1)
    # Fewer neighbours than are verified are the first of those.
    few = searcher(vectors, kept=kept, config=config).search(queries, 1)
    assert pairs(few, 0) == pairs(found, 0)[:1]


def test_verification_of_rows_that_are_not_there() -> None:
    """Fewer photographs than are verified, and no query."""
    vectors, kept = rows_of(2, 0), CompressedFeatures.of(SCENES[:2], 16)
    made = searcher(vectors, kept=kept, config=SearchConfig(verification=VERIFICATION))
    queries = Representation(vectors, kept=kept)
    found = made.search(queries, 5)
    assert found.rows[:, 2:].tolist() == [[-1] * 3] * 2
    assert found.rows[:, 0].tolist() == [0, 1]
    alone = made.search(queries, 5, np.arange(2))
    assert alone.rows[:, 0].tolist() == [1, 0]
    assert (alone.rows[:, 1:] == -1).all()
    assert len(made.search(queries[:0], 5)) == 0


def test_a_gallery_photograph_is_verified_by_what_the_gallery_keeps_of_it() -> None:
    vectors, kept = rows_of(5, 0), CompressedFeatures.of(SCENES, 16)
    config = SearchConfig(verification=VERIFICATION)
    made = searcher(vectors, kept=kept, config=config)
    own = np.arange(5)
    stored = made.search(Representation(vectors, kept=kept), 4, own)
    bare = made.search(vectors, 4, own)
    assert stored.rows.tolist() == bare.rows.tolist()
    assert stored.similarities.tobytes() == bare.similarities.tobytes()
    plain = dict(pairs(searcher(vectors).search(vectors, 4, own), 0))
    lifted = {row for row, value in pairs(stored, 0) if value > plain[row] + 0.3}
    assert lifted == {2, 4}
    with pytest.raises(ValueError, match="describe queries by its describer"):
        made.search(vectors, 4)


def test_photographs_are_described_again_once() -> None:
    asked: list[str] = []

    def keep(source: str) -> LocalFeatures:
        asked.append(source)
        return SCENES[int(source)]

    source = Recomputed([str(i) for i in range(5)], keep)
    vectors, kept = rows_of(5, 0), CompressedFeatures.of(SCENES, 16)
    config = SearchConfig(verification=VerificationConfig(top=5, tolerance=4.0))
    again = searcher(vectors, kept=source, config=config)
    queries = Representation(vectors, kept=kept)
    # One query at a time: threads may ask for a photograph at the same moment.
    found = [again.search(queries[[i]], 5).similarities for i in range(5)]
    stored = searcher(vectors, kept=kept, config=config).search(queries, 5)
    np.testing.assert_allclose(np.concatenate(found), stored.similarities, atol=1e-6)
    assert sorted(asked) == [str(i) for i in range(5)]
