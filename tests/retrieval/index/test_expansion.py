"""Expansion, augmentation and re-ranking by label against one photograph at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retrieval.index import expansion
from retrieval.index.expansion import (
    DatabaseAugmentation,
    ExpansionConfig,
    Members,
    expand,
    rerank_by_label,
    without_self,
)
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.neighbours import Neighbours
from retrieval.types import Vectors, unit_rows
from tests.oracles import neighbours as slow

SHAPES = {
    "count": st.integers(2, 14),
    "dimension": st.integers(1, 6),
    "n": st.integers(1, 16),
    "alpha": st.sampled_from([0.0, 1.0, 2.5, 3.0]),
    "seed": st.integers(0, 99),
}


def rows_of(count: int, dimension: int, seed: int) -> Vectors:
    """Unit rows, most of them near one another and some on the far side."""
    random = np.random.default_rng(seed)
    return unit_rows(random.standard_normal((count, dimension)) + random.uniform(0, 1.5))


def index_of(descriptors: Vectors) -> FaissIndex:
    return FaissIndex.build(descriptors, IndexConfig())


def pairs(found: Neighbours, query: int, n: int) -> list[tuple[int, float]]:
    rows, similarities = found.rows[query, :n], found.similarities[query, :n]
    return list(zip(rows.tolist(), similarities.tolist(), strict=True))


def assert_same_ranking(found: Neighbours, query: int, expected: list[tuple[int, float]]) -> None:
    """Equal similarities, and each row has its own, where rounding may have swapped ties."""
    count = len(expected)
    assert found.rows[query, count:].tolist() == [-1] * (found.rows.shape[1] - count)
    similarities = found.similarities[query, :count]
    assert np.allclose(similarities, [one for _, one in expected], atol=1e-5)
    assert (np.diff(similarities) <= 0).all()
    known = dict(expected)
    for row, similarity in pairs(found, query, count):
        last = expected[-1][1]
        assert similarity == pytest.approx(known.get(row, last), abs=1e-5)
    assert len(set(found.rows[query, :count].tolist())) == count


# Alpha query expansion


@given(queries=st.integers(0, 4), wide=st.integers(0, 18), **SHAPES)
def test_expands_as_one_by_one(
    queries: int, wide: int, count: int, dimension: int, n: int, alpha: float, seed: int
) -> None:
    gallery = rows_of(count, dimension, seed)
    asked = rows_of(queries, dimension, seed + 1)
    found = index_of(gallery).search(asked, max(wide, 1))
    made = expand(asked, found, gallery, ExpansionConfig(queries=n, alpha=alpha))
    assert made.dtype == np.float32
    assert made.shape == asked.shape
    for query in range(queries):
        one = slow.expanded(asked[query], pairs(found, query, n), list(gallery), alpha)
        assert np.allclose(made[query], one, atol=1e-5)


def test_weighs_by_the_power_of_similarity_and_nothing_negative() -> None:
    gallery = np.eye(4, dtype=np.float32)
    query = np.array([[1.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    found = Neighbours(
        np.array([[1, -1, 2, 3]]), np.array([[0.5, 0.4, -0.2, 0.9]], dtype=np.float32)
    )
    made = expand(query, found, gallery, ExpansionConfig(queries=3, alpha=2.0))
    assert np.allclose(made, unit_rows(np.array([[1.0, 0.25, 0.0, 0.0]])))
    alike = expand(query, found, gallery, ExpansionConfig(queries=4, alpha=0.0))
    assert np.allclose(alike, unit_rows(np.array([[1.0, 1.0, 0.0, 1.0]])))


def test_no_neighbours_leave_queries_as_they_are() -> None:
    gallery, asked = rows_of(5, 3, 0), rows_of(2, 3, 1)
    found = index_of(gallery).search(asked, 3)
    assert expand(asked, found, gallery, ExpansionConfig()).tobytes() == asked.tobytes()
    nothing = Neighbours(np.full((2, 3), -1), np.full((2, 3), -np.inf, dtype=np.float32))
    blank = np.zeros((0, 3), dtype=np.float32)
    assert np.allclose(expand(asked, nothing, blank, ExpansionConfig(queries=3)), asked)


def test_a_query_has_the_same_bytes_in_any_batch_and_block(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gallery, asked = rows_of(40, 24, 0), rows_of(9, 24, 1)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    found = index_of(gallery).search(asked, 7)
    config = ExpansionConfig(queries=7)
    together = expand(asked, found, gallery, config)
    monkeypatch.setattr(expansion, "NUMBERS", 50)
    assert expand(asked, found, mapped, config).tobytes() == together.tobytes()
    for one in range(9):
        alone = Neighbours(found.rows[[one]], found.similarities[[one]])
        assert expand(asked[[one]], alone, gallery, config).tobytes() == together[one].tobytes()


# Database-side augmentation


@given(**SHAPES)
def test_augments_as_one_by_one(
    count: int, dimension: int, n: int, alpha: float, seed: int
) -> None:
    gallery = rows_of(count, max(dimension, 2), seed)
    config = ExpansionConfig(gallery=n, alpha=alpha)
    made = DatabaseAugmentation.of(gallery, index_of(gallery), config).rows()
    assert np.allclose(made, slow.augmented(list(gallery), n, alpha), atol=1e-5)


def test_augments_in_blocks_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = rows_of(40, 24, 0)
    index, config = index_of(gallery), ExpansionConfig(gallery=4)
    whole = DatabaseAugmentation.of(gallery, index, config)
    monkeypatch.setattr(expansion, "NUMBERS", 100)
    parts = DatabaseAugmentation.of(gallery, index, config)
    blocks = list(parts.blocks())
    assert len(blocks) == 10
    assert np.concatenate(blocks).tobytes() == parts.rows().tobytes() == whole.rows().tobytes()


def test_copies_take_each_other_in_and_not_themselves() -> None:
    axes = np.eye(3, dtype=np.float32)
    gallery = axes[[0, 0, 0, 0, 1]]
    augmentation = DatabaseAugmentation.of(gallery, index_of(gallery), ExpansionConfig(gallery=2))
    near = augmentation.nearest.rows
    assert near.shape == (5, 3)
    assert not (near == np.arange(5)[:, None]).any()
    assert near[:4, :2].max() < 4
    assert np.allclose(augmentation.rows(), gallery)


def test_the_own_row_is_taken_out_wherever_it_stands() -> None:
    found = Neighbours(np.array([[2, 4, 3], [0, 1, 2]]), np.full((2, 3), 0.5, np.float32))
    assert without_self(found, np.array([4, 7])).rows.tolist() == [[2, 3], [0, 1]]


# A photograph left out of an augmented gallery


@given(k=st.integers(1, 16), queries=st.integers(0, 3), **SHAPES)
def test_leaves_out_as_if_never_there(
    k: int, queries: int, count: int, dimension: int, n: int, alpha: float, seed: int
) -> None:
    dimension += 1  # in one dimension, all is as similar as can be, and no order is the right one
    gallery = rows_of(count, dimension, seed)
    config = ExpansionConfig(gallery=n, queries=queries, alpha=alpha)
    augmentation = DatabaseAugmentation.of(gallery, index_of(gallery), config)
    index = index_of(augmentation.rows())
    own = np.arange(count)
    first = augmentation.search_without(index, gallery, own, k)
    enriched = augmentation.expand_without(gallery, own, first)
    second = augmentation.search_without(index, enriched, own, k)
    for row in range(count):
        others = [other for other in range(count) if other != row]
        left = slow.augmented([gallery[other] for other in others], n, alpha)
        expected = slow.nearest(gallery[row], left, k)
        assert_same_ranking(first, row, [(others[at], value) for at, value in expected])
        if k >= queries:  # else the first ranking had fewer neighbours than are taken in
            query = slow.expanded(gallery[row], expected[:queries], left, alpha)
            assert np.allclose(enriched[row], query, atol=1e-5)
            expected = slow.nearest(query, left, k)
            assert_same_ranking(second, row, [(others[at], value) for at, value in expected])


def test_a_photograph_is_not_found_through_those_that_took_it_in() -> None:
    axes = np.eye(4, dtype=np.float32)
    near = unit_rows(np.array([[0.6, 0.8, 0.0, 0.0]]))[0]
    gallery = np.stack([axes[0], near, axes[2], axes[3]])
    augmentation = DatabaseAugmentation.of(
        gallery, index_of(gallery), ExpansionConfig(gallery=1, alpha=1)
    )
    index = index_of(augmentation.rows())
    assert index.search(gallery[:1], 2).similarities[0, 1] > 0.8
    found = augmentation.search_without(index, gallery[:1], np.array([0]), 3)
    assert found.rows[0].tolist() == [1, 2, 3]
    assert found.similarities[0] == pytest.approx([0.6, 0.0, 0.0], abs=1e-6)
    assert augmentation.rows_without(np.array([1]), np.array([0])) == pytest.approx(gallery[[1]])


def test_leaves_out_in_blocks_and_the_same_one_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = rows_of(40, 24, 0)
    augmentation = DatabaseAugmentation.of(
        gallery, index_of(gallery), ExpansionConfig(queries=3, gallery=4)
    )
    index = index_of(augmentation.rows())
    own = np.array([7, 3, 7, 39])
    whole = augmentation.search_without(index, gallery[own], own, 6)
    enriched = augmentation.expand_without(gallery[own], own, whole)
    monkeypatch.setattr(expansion, "NUMBERS", 60)
    monkeypatch.setattr(expansion, "QUERIES", 3)
    parts = augmentation.search_without(index, gallery[own], own, 6)
    assert parts.rows.tolist() == whole.rows.tolist()
    assert np.allclose(parts.similarities, whole.similarities, atol=1e-6)
    assert whole.rows[0].tolist() == whole.rows[2].tolist()
    again = augmentation.expand_without(gallery[own], own, whole)
    assert again.tobytes() == enriched.tobytes()


def test_asks_no_more_of_a_gpu_than_it_can_do() -> None:
    gallery = rows_of(12, 5, 0)
    augmentation = DatabaseAugmentation.of(gallery, index_of(gallery), ExpansionConfig(gallery=3))
    index, own = index_of(augmentation.rows()), np.arange(12)
    limited = replace(index, device="cuda")  # which only checks limits before it searches
    found = augmentation.search_without(limited, gallery, own, 2048)
    expected = augmentation.search_without(index, gallery, own, 2048)
    assert found.rows.tolist() == expected.rows.tolist()


def test_without_augmentation_leaves_out_the_own_row_alone() -> None:
    gallery = rows_of(12, 5, 0)
    index, own = index_of(gallery), np.array([3, 8])
    augmentation = DatabaseAugmentation.of(gallery, index, ExpansionConfig(queries=2))
    assert augmentation.rows().tobytes() == gallery.tobytes()
    found = augmentation.search_without(index, gallery[own], own, 4)
    expected = without_self(index.search(gallery[own], 5), own)
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.similarities.tobytes() == expected.similarities.tobytes()
    enriched = augmentation.expand_without(gallery[own], own, expected)
    assert np.allclose(enriched, expand(gallery[own], expected, gallery, augmentation.config))


# Re-ranking by label


@given(
    count=st.integers(1, 20),
    k=st.integers(1, 24),
    landmarks=st.integers(1, 5),
    seed=st.integers(0, 99),
    accepted=st.lists(st.booleans(), min_size=0, max_size=6),
    copies=st.booleans(),
    lists=st.booleans(),
)
def test_reranks_as_one_by_one(
    count: int,
    k: int,
    landmarks: int,
    seed: int,
    accepted: list[bool],
    copies: bool,
    lists: bool,
) -> None:
    random = np.random.default_rng(seed)
    gallery, asked = rows_of(count, 4, seed), rows_of(len(accepted), 4, seed + 1)
    if copies:
        gallery[random.integers(count, size=count // 2)] = gallery[0]
    codes = random.integers(-1, landmarks, count)
    predicted = random.integers(-1, landmarks + 1, len(accepted))
    # With lists, the nearest may be missed and few be found, as by an approximate index.
    config = IndexConfig(factory="IVF2,Flat" if lists and count > 1 else "Flat", nprobe=1)
    before = FaissIndex.build(gallery, config).search(asked, k)
    after = rerank_by_label(
        before, Members.of(codes), predicted, np.array(accepted, np.bool_), asked, gallery
    )
    assert (np.diff(np.where(after.rows < 0, -9.0, after.similarities)) <= 0).all()
    for query, trusted in enumerate(accepted):
        ranking = before.rows[query].tolist()
        if trusted and predicted[query] in codes and predicted[query] >= 0:
            ranking = slow.by_label(
                ranking, codes.tolist(), predicted[query], asked[query], gallery
            )
        assert after.rows[query].tolist() == ranking


def reranked(
    before: Neighbours, codes: list[int], predicted: list[int], queries: Vectors, gallery: Vectors
) -> Neighbours:
    trusted = np.ones(len(predicted), np.bool_)
    members = Members.of(np.array(codes))
    return rerank_by_label(before, members, np.array(predicted), trusted, queries, gallery)


def test_neighbours_of_the_landmark_keep_their_similarities() -> None:
    gallery = unit_rows(np.array([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.0, 1.0]]))
    query = gallery[:1]
    before = index_of(gallery).search(query, 4)
    after = reranked(before, [0, 0, 1, 0, 1], [1], query, gallery)
    assert after.rows.tolist() == [[2, 4, 0, 1]]
    own, missed, first, second = after.similarities[0].tolist()
    assert own == before.similarities[0, 2]
    assert missed == pytest.approx(0.0)
    assert missed - first == pytest.approx(expansion.GAP)
    assert first - second == pytest.approx(float(np.diff(-before.similarities)[0, 0]))


def test_what_lies_below_already_is_not_lowered() -> None:
    gallery = unit_rows(np.array([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5]]))
    before = index_of(gallery).search(gallery[:1], 3)
    after = reranked(before, [0, 0, 1], [0], gallery[:1], gallery)
    assert after.similarities.tobytes() == before.similarities.tobytes()


def test_a_bonus_keeps_neighbours_before_the_missed() -> None:
    gallery = unit_rows(np.array([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.4, 0.6]]))
    # Verified: row 3 came first; row 0 was not among the neighbours although it is nearest.
    before = Neighbours(np.array([[3, 2]]), np.array([[0.9, 0.7]], dtype=np.float32))
    after = reranked(before, [5, 5, 6, 5], [5], gallery[:1], gallery)
    assert after.rows.tolist() == [[3, 0]]
    assert after.similarities[0] == pytest.approx([0.9, 0.9 - expansion.GAP])


def test_queries_of_a_landmark_are_reranked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, asked = rows_of(30, 8, 0), rows_of(7, 8, 1)
    codes, predicted = [row % 4 for row in range(30)], [2, 1, 2, 2, 0, 2, 2]
    before = index_of(gallery).search(asked, 9)
    whole = reranked(before, codes, predicted, asked, gallery)
    monkeypatch.setattr(expansion, "QUERIES", 2)
    parts = reranked(before, codes, predicted, asked, gallery)
    assert parts.rows.tobytes() == whole.rows.tobytes()
    assert parts.similarities.tobytes() == whole.similarities.tobytes()


# Config


@pytest.mark.parametrize(
    "wrong", [{"queries": -1}, {"queries": 2049}, {"gallery": 2047}, {"alpha": -1.0}, {"n": 3}]
)
def test_refuses_wrong_configs(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExpansionConfig(**wrong)
