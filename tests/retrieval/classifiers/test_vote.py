"""The vote against one that goes photograph by photograph, its ties, and what it holds out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.classifiers import vote
from retrieval.classifiers.base import Scores
from retrieval.classifiers.vote import (
    MajorityVote,
    PoweredVote,
    RankedVote,
    SoftmaxVote,
    TopVote,
    Vote,
    VoteClassifier,
    VoteConfig,
    WeightedVote,
)
from retrieval.errors import RunError
from retrieval.index import gallery as gallery_module
from retrieval.index.gallery import Gallery
from retrieval.index.neighbours import Neighbours
from tests.oracles import classifiers as slow
from tests.retrieval.classifiers.galleries import clusters, gallery_of, unit, with_bank

SUM = PoweredVote(power=1.0)
VOTES = [
    MajorityVote(),
    WeightedVote(),
    SUM,
    PoweredVote(power=2.5),
    SoftmaxVote(temperature=0.2),
    RankedVote(),
    TopVote(few=2),
]
PLAIN = VoteConfig(k=3, vote=SUM, row_correction=0.0, query_correction=0.0)


def answer(config: VoteConfig, gallery: Gallery, queries: np.ndarray) -> Scores:
    fitted = VoteClassifier.fit(config, gallery)
    return fitted.scores(queries, gallery.searcher.search(queries, fitted.neighbours))


def voted(codes: list[int], rows: list[list[int]], similarities: list[list[float]]) -> Scores:
    """A plain vote over given neighbours."""
    blank = unit(np.ones((len(codes), 2)))
    fitted = VoteClassifier.fit(PLAIN, gallery_of(blank, np.array(codes)))
    found = Neighbours(np.array(rows), np.array(similarities, np.float32))
    return fitted.scores(blank[: len(rows)], found)


@settings(max_examples=30)
@given(
    st.integers(1, 12),
    st.sampled_from(VOTES),
    st.sampled_from([0.0, 0.5]),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from([0.0, 1.5]),
    st.integers(0, 6),
    st.integers(0, 1000),
)
def test_vote_is_the_slow_one(
    k: int, way: Vote, counts: float, n: int, by_row: float, by_query: float, bank: int, seed: int
) -> None:
    gallery = clusters(3, 3, bank, 1.0, seed, dimension=3)
    gallery = replace(gallery, codes=np.array([0, 1, 1, 1, 1, 2, 2, 2, 2]))
    queries = unit(np.random.default_rng(seed + 1).standard_normal((4, 3)))
    config = VoteConfig(
        k=k,
        vote=way,
        counts=counts,
        bank_neighbours=n,
        row_correction=by_row,
        query_correction=by_query,
    )
    scores = answer(config, gallery, queries)
    assert scores.candidates.shape == scores.values.shape == (4, k)
    for query, candidates, values in zip(queries, scores.candidates, scores.values, strict=True):
        expected = dict(
            slow.vote(
                query,
                gallery.vectors,
                gallery.codes.tolist(),
                gallery.bank_vectors,
                k=k,
                way=way.model_dump(),
                counts=counts,
                n=n,
                row_correction=by_row,
                query_correction=by_query,
            )
        )
        there = candidates >= 0
        assert set(candidates[there]) == set(expected)
        worth = [expected[one] for one in candidates[there]]
        assert values[there] == pytest.approx(worth, abs=1e-5)
        assert (np.diff(values[there]) <= 0).all()
        assert np.isneginf(values[~there]).all()


def test_equal_votes_go_to_the_best_single_similarity() -> None:
    scores = voted([0, 0, 1, 1], [[2, 0, 1, 3]], [[0.5, 0.375, 0.375, 0.25]])
    assert scores.candidates[0, :2].tolist() == [0, 1]  # k is 3: the last neighbour has no vote
    scores = voted([0, 0, 1], [[2, 0, 1]], [[0.5, 0.25, 0.25]])
    assert scores.values[0].tolist() == [0.5, 0.5, -np.inf]
    assert scores.candidates[0].tolist() == [1, 0, -1]


def test_equal_votes_and_similarities_go_by_the_landmarks_order() -> None:
    scores = voted([1, 0, 2], [[0, 2, 1]], [[0.5, 0.5, 0.5]])
    assert scores.candidates[0].tolist() == [0, 1, 2]


def test_missing_neighbours_do_not_vote() -> None:
    scores = voted([0, 1], [[1, -1, -1], [-1, -1, -1]], [[0.5, -np.inf, -np.inf], [-np.inf] * 3])
    assert scores.candidates.tolist() == [[1, -1, -1], [-1, -1, -1]]
    assert scores.confidence.tolist() == [0.5, -np.inf]


def test_blocks_do_not_change_the_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = clusters(4, 5, 6, 0.8)
    queries = unit(np.random.default_rng(5).standard_normal((23, 16)))
    whole = answer(VoteConfig(k=4), gallery, queries)
    monkeypatch.setattr(vote, "BLOCK", 12)
    monkeypatch.setattr(gallery_module, "ROWS", 5)
    parts = answer(VoteConfig(k=4), gallery, queries)
    assert (whole.candidates == parts.candidates).all()
    assert (whole.values == parts.values).all()
    assert answer(VoteConfig(k=4), gallery, queries[:0]).candidates.shape == (0, 4)


def test_the_bank_lowers_whom_it_resembles() -> None:
    axes = np.eye(4, dtype=np.float32)
    gallery = gallery_of(axes[:2], np.array([0, 1]), axes[[1]])
    config = VoteConfig(k=2, row_correction=0.5, query_correction=0.0, bank_neighbours=1)
    between = unit(axes[[0]] + axes[[1]])
    assert answer(config, gallery, between).candidates[0].tolist() == [0, 1]
    flipped = with_bank(gallery, axes[[0]])
    assert answer(config, flipped, between).candidates[0].tolist() == [1, 0]
    # Equally near to landmark 0, one query of the two resembles the bank.
    config = VoteConfig(k=1, row_correction=0.0, query_correction=1.0, bank_neighbours=1)
    far, near = unit(axes[[0]] + axes[[2]]), unit(axes[[0]] + axes[[3]])
    gallery = gallery_of(axes[:1], np.array([0]), axes[[3]])
    confidence = answer(config, gallery, np.concatenate([far, near])).confidence
    assert confidence[0] == pytest.approx(np.sqrt(0.5))
    assert confidence[1] == pytest.approx(0.0, abs=1e-6)


def test_held_out_scores_are_those_of_a_vote_without_the_photograph() -> None:
    gallery = clusters(4, 4, 7, 0.9)
    config = VoteConfig(k=5, bank_neighbours=3)
    held_out = VoteClassifier.held_out(config, gallery)
    assert held_out.rows.tolist() == list(range(16))
    assert held_out.bank_rows.tolist() == list(range(7))
    for row in range(16):
        others = np.delete(np.arange(16), row)
        without = gallery_of(gallery.vectors[others], gallery.codes[others], gallery.bank_vectors)
        expected = answer(config, without, gallery.vectors[[row]])
        assert held_out.gallery.candidates[row].tolist() == expected.candidates[0].tolist()
        assert held_out.gallery.values[row] == pytest.approx(expected.values[0], abs=1e-6)
    for row in range(7):
        without = with_bank(gallery, np.delete(gallery.bank_vectors, row, axis=0))
        expected = answer(config, without, gallery.bank[[row]])
        assert held_out.bank.candidates[row].tolist() == expected.candidates[0].tolist()
        assert held_out.bank.values[row] == pytest.approx(expected.values[0], abs=1e-6)


def test_a_copy_in_the_gallery_is_no_photograph_of_itself() -> None:
    axes = np.eye(3, dtype=np.float32)
    # Rows 1 to 4 are copies; with k = 2 the search for row 4 may not even find itself.
    gallery = gallery_of(axes[[0, 1, 1, 1, 1, 0]], np.array([0, 1, 1, 1, 1, 0]))
    held_out = VoteClassifier.held_out(VoteConfig(k=2, vote=SUM), gallery)
    assert held_out.correct.all()
    assert held_out.gallery.confidence.tolist() == [1.0, 2.0, 2.0, 2.0, 2.0, 1.0]


def test_a_landmarks_only_photograph_is_not_held_out() -> None:
    gallery = gallery_of(unit(np.random.default_rng(0).random((4, 5))), np.array([0, 1, 1, 2]))
    held_out = VoteClassifier.held_out(VoteConfig(), gallery)
    assert held_out.rows.tolist() == [1, 2]
    assert held_out.truth.tolist() == [1, 1]
    assert len(held_out.bank) == 0


def test_a_bank_of_one_photograph_is_no_bank_to_itself() -> None:
    gallery = clusters(2, 3, 1, 0.1)
    held_out = VoteClassifier.held_out(VoteConfig(k=3), gallery)
    bare = with_bank(gallery, gallery.bank_vectors[:0])
    expected = answer(VoteConfig(k=3), bare, gallery.bank)
    assert held_out.bank.values == pytest.approx(expected.values)


def test_held_out_photographs_are_bounded() -> None:
    held_out = VoteClassifier.held_out(VoteConfig(held_out=6), clusters(5, 8, 30, 0.5))
    assert len(held_out.rows) == len(held_out.gallery) == 6
    assert len(held_out.bank_rows) == len(held_out.bank) == 6


def test_a_saved_vote_scores_alike(tmp_path: Path) -> None:
    gallery = clusters(3, 4, 5, 0.7)
    config = VoteConfig(k=6, vote=TopVote(few=2), bank_neighbours=2)
    fitted = VoteClassifier.fit(config, gallery)
    fitted.save(tmp_path)
    loaded = VoteClassifier.load(tmp_path, gallery)
    found = gallery.searcher.search(gallery.bank, 6)
    assert loaded.config == config
    expected = fitted.scores(gallery.bank, found)
    assert (loaded.scores(gallery.bank, found).values == expected.values).all()


def test_a_vote_that_is_damaged_or_of_another_gallery_is_refused(tmp_path: Path) -> None:
    gallery = clusters(3, 4, 5, 0.7)
    with pytest.raises(RunError, match="missing or damaged"):
        VoteClassifier.load(tmp_path, gallery)
    VoteClassifier.fit(VoteConfig(), gallery).save(tmp_path)
    with pytest.raises(RunError, match="12 rows, the gallery has 6"):
        VoteClassifier.load(tmp_path, clusters(3, 2, 5, 0.7))
    (tmp_path / vote.FILE).write_bytes(b"short")
    with pytest.raises(RunError, match="missing or damaged"):
        VoteClassifier.load(tmp_path, gallery)
