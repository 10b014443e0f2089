"""The linear machine: what it learns, by either rule, what it holds out, and odd galleries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.classifiers import svm
from retrieval.classifiers.base import Scores
from retrieval.classifiers.svm import SvmClassifier, SvmConfig
from retrieval.errors import RunError
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.gallery import Gallery
from retrieval.index.neighbours import Neighbours
from retrieval.index.searcher import Searcher
from tests.oracles import classifiers as slow
from tests.retrieval.classifiers.galleries import clusters, gallery_of, unit, with_bank

SOME = SvmConfig(most_work=0, bank_negatives=60, random_negatives=20, hard_negatives=8)
NO_NEIGHBOURS = Neighbours(np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32))
RULES = pytest.mark.parametrize("config", [SvmConfig(), SOME], ids=["all", "some"])


def answer(config: SvmConfig, gallery: Gallery, queries: np.ndarray) -> Scores:
    fitted = SvmClassifier.fit(config, gallery)
    return fitted.scores(queries, NO_NEIGHBOURS)


def shuffled_labels() -> Gallery:
    """Photographs in general position whose labels say nothing."""
    gallery = clusters(5, 16, 20, 5.0, dimension=200)
    return replace(gallery, codes=np.random.default_rng(1).permutation(gallery.codes))


@RULES
def test_landmarks_are_told_apart_and_the_bank_from_them(config: SvmConfig) -> None:
    gallery, fresh = clusters(8, 12, 60, 0.5), clusters(8, 5, 60, 0.5)
    new = unit(fresh.vectors + clusters(8, 5, 0, 0.5, seed=0).vectors)
    scores = answer(config, gallery, new)
    assert (scores.best == fresh.codes).mean() > 0.9
    none = unit(np.random.default_rng(9).standard_normal((60, 16)))
    assert np.median(answer(config, gallery, none).confidence) < scores.confidence.min()


@RULES
def test_held_out_photographs_were_not_learnt_from(config: SvmConfig) -> None:
    gallery = shuffled_labels()
    assert (answer(config, gallery, gallery.vectors).best == gallery.codes).mean() > 0.9
    held_out = SvmClassifier.held_out(config, gallery)
    assert held_out.rows.tolist() == list(range(80))
    assert held_out.bank_rows.tolist() == list(range(20))
    assert held_out.correct.mean() < 0.45  # one in five by chance
    learnt = answer(config, gallery, gallery.bank).confidence
    assert np.median(learnt) < held_out.bank.confidence.min()


@RULES
def test_the_same_again_is_the_same(config: SvmConfig) -> None:
    gallery = clusters(6, 7, 20, 0.8)
    first, second = (SvmClassifier.fit(config, gallery, seed=3) for _ in range(2))
    assert (first.weights == second.weights).all()
    assert (first.biases == second.biases).all()


@dataclass(frozen=True)
class Watched:
    """An index that remembers what it was asked."""

    index: FaissIndex
    asked: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.index)

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        self.asked.append((len(queries), k))
        return self.index.search(queries, k)


def test_which_rule_is_taken_hangs_on_rows_and_landmarks() -> None:
    gallery = clusters(6, 5, 10, 0.5)  # 40 rows in all, 240 rows times landmarks
    for config, searches in (
        (SvmConfig(most_work=240, most_rows=40), 0),
        (SvmConfig(most_work=239, most_rows=40), 1),
        (SvmConfig(most_work=240, most_rows=39), 1),
    ):
        index = Watched(gallery.searcher.index)
        SvmClassifier.fit(config, replace(gallery, searcher=Searcher(index, gallery.vectors)))
        assert len(index.asked) == searches


def test_hard_negatives_are_the_nearest_rows_of_other_landmarks() -> None:
    angles = np.radians([0, 2, 10, 12, 21, 25, 90, 92])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    gallery = gallery_of(rows, np.repeat(np.arange(4), 2))
    config = SvmConfig(hard_negatives=3)
    own = [np.array([2 * code, 2 * code + 1]) for code in range(4)]
    allowed = np.ones(8, np.bool_)
    allowed[2] = False
    hard = svm._hard_negatives(config, gallery, own, np.arange(2), allowed)
    assert [found.tolist() for found in hard] == [[3, 4, 5], [1, 4, 0]]
    hard = svm._hard_negatives(SvmConfig(hard_negatives=0), gallery, own, np.arange(2), allowed)
    assert [len(found) for found in hard] == [0, 0]


def test_blocks_do_not_change_the_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = clusters(6, 4, 8, 0.5)
    queries = unit(np.random.default_rng(1).standard_normal((17, 16)))
    whole, many = answer(SvmConfig(), gallery, queries), answer(SOME, gallery, queries)
    monkeypatch.setattr(svm, "MARGINS", 20)
    parts = answer(SvmConfig(), gallery, queries)
    assert (whole.candidates == parts.candidates).all()
    assert whole.values == pytest.approx(parts.values, abs=1e-5)
    monkeypatch.setattr(svm, "SEARCHED", 2)
    assert answer(SOME, gallery, queries).values == pytest.approx(many.values, abs=1e-5)
    assert answer(SvmConfig(candidates=3), gallery, queries[:0]).candidates.shape == (0, 3)


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6),
    st.floats(-3, 3, width=32),
    st.sampled_from([0.25, 0.5, 2.0]),
)
def test_contrast_is_the_margin_against_its_rivals(
    margins: list[float], bank: float, temperature: float
) -> None:
    margins = sorted(margins, reverse=True)
    values = svm.contrast(np.array([margins], np.float32), np.array([[bank, -1.0]]), temperature)
    assert values[0] == pytest.approx(slow.contrast(margins, bank, temperature), abs=1e-3)
    assert (np.diff(values[0]) <= 1e-6).all()


def test_the_more_like_the_bank_the_less_confident() -> None:
    margins = np.full((2, 1), 0.5, np.float32)
    values = svm.contrast(margins, np.array([[-1.0, -1.0], [0.5, -1.0]]), 0.5)
    assert values[0, 0] > values[1, 0]
    without = svm.contrast(margins, np.array([[-np.inf, -1.0]] * 2), 0.5)
    assert (without[0] == 1.5).all()


def test_a_weight_of_the_bank_is_taken_off_all_values_of_a_photograph() -> None:
    gallery = clusters(4, 5, 10, 0.5)
    queries = np.concatenate([gallery.vectors[:3], gallery.bank_vectors[:3]])
    plain, wary = (SvmClassifier.fit(SvmConfig(bank_weight=w), gallery) for w in (0.0, 0.5))
    before, found = (one.scores(queries, NO_NEIGHBOURS) for one in (plain, wary))
    np.testing.assert_array_equal(found.candidates, before.candidates)
    bank = svm.scaled(queries, plain.scale) @ plain.weights[-1] + plain.biases[-1]
    np.testing.assert_allclose(found.values, before.values - 0.5 * bank[:, None], atol=1e-5)
    assert (bank[3:] > bank[:3].max()).all()
    # Nothing is taken off where there is no bank.
    alone = with_bank(gallery, gallery.bank_vectors[:0])
    without = [answer(SvmConfig(bank_weight=w), alone, queries).values for w in (0.0, 0.5)]
    np.testing.assert_array_equal(*without)


def test_equal_margins_keep_the_landmarks_order() -> None:
    none = np.zeros((6, 2), np.float32)
    fitted = SvmClassifier(
        SvmConfig(candidates=3), none[0], none, none[:, 0], np.arange(5, dtype=np.int64)
    )
    scores = fitted.scores(np.ones((2, 2), np.float32), Neighbours(np.empty(0), np.empty(0)))
    assert (np.diff(scores.candidates) > 0).all()


def test_verified_neighbours_raise_the_margins_of_their_landmarks() -> None:
    gallery = clusters(4, 5, 10, 0.5)
    queries = gallery.vectors[:3]
    rows = np.stack([np.flatnonzero(gallery.codes == 3)[:2]] * 3)
    bonus = np.array([[0, 0], [0.1, 0.2], [9, 0]], np.float32)
    near = Neighbours(rows, np.zeros_like(bonus), bonus)
    plain = SvmClassifier.fit(SvmConfig(), gallery)
    trusting = SvmClassifier.fit(SvmConfig(verified=2.0), gallery)
    assert (plain.neighbours, trusting.neighbours) == (0, 50)
    expected = plain.scores(queries, near)
    found = trusting.scores(queries, near)
    np.testing.assert_array_equal(found.candidates[0], expected.candidates[0])
    np.testing.assert_array_equal(found.values[0], expected.values[0])
    # A landmark gains by its best photograph alone, and other landmarks lose by its gain.
    assert (
        found.values[1][found.candidates[1] == 3] > expected.values[1][expected.candidates[1] == 3]
    )
    assert found.confidence[1] < expected.confidence[1]
    assert found.candidates[2, 0] == 3
    # Without verification there is nothing to gain.
    bare = trusting.scores(queries, Neighbours(rows, near.similarities))
    np.testing.assert_array_equal(bare.values, expected.values)


def test_held_out_scores_take_verified_neighbours_without_the_photograph_itself() -> None:
    gallery = clusters(4, 5, 10, 0.5)

    @dataclass(frozen=True)
    class Verifying(Searcher):
        def search(self, queries, k, own=None, bank_own=None):
            found = super().search(queries, k, own, bank_own)
            assert own is None or not (found.rows == own[:, None]).any()
            return Neighbours(found.rows, found.similarities, np.ones_like(found.similarities))

    searcher = Verifying(gallery.searcher.index, gallery.vectors)
    plain = SvmClassifier.held_out(SvmConfig(), gallery)
    verified = SvmClassifier.held_out(
        SvmConfig(verified=5.0, k=1), replace(gallery, searcher=searcher)
    )
    # Of one neighbour, which is the landmark's own or not, the landmark gains much.
    nearest = gallery.searcher.search(gallery.vectors[plain.rows], 1, own=plain.rows)
    np.testing.assert_array_equal(verified.gallery.best, gallery.codes[nearest.rows[:, 0]])


def test_strong_dimensions_are_put_first() -> None:
    # Both dimensions tell the landmarks apart for one photograph each; the first varies more.
    rows = unit(np.array([[4, 1, 9], [-4, 1, 9], [4, -1, 9], [-4, -1, 9]], np.float32))
    gallery = gallery_of(rows, np.array([0, 1, 0, 1]))
    plain = SvmClassifier.fit(SvmConfig(emphasis=0), gallery)
    strong = SvmClassifier.fit(SvmConfig(emphasis=1), gallery)
    assert plain.scale.tolist() == [1, 1, 1]
    assert strong.scale == pytest.approx([1, 0.25, 0], abs=1e-6)
    found = gallery.searcher.search(rows, 1)
    margins = [fitted.scores(rows, found).confidence.min() for fitted in (plain, strong)]
    assert margins[1] > margins[0]
    alike = gallery_of(rows[[0, 0]], np.array([0, 1]))
    assert SvmClassifier.fit(SvmConfig(), alike).scale.tolist() == [1, 1, 1]


@RULES
def test_galleries_without_a_bank_or_a_second_landmark(config: SvmConfig) -> None:
    bare = clusters(4, 6, 0, 0.3)
    assert (answer(config, bare, bare.vectors).best == bare.codes).all()
    assert len(SvmClassifier.held_out(config, bare).bank) == 0
    one = clusters(1, 3, 0, 0.3)
    scores = answer(config, one, one.vectors)
    assert scores.best.tolist() == [0, 0, 0]
    assert np.isfinite(scores.confidence).all()


@RULES
def test_a_landmark_without_photographs_is_never_named(config: SvmConfig) -> None:
    full = clusters(3, 6, 6, 0.3)
    gallery = gallery_of(full.vectors, full.codes * 2, full.bank_vectors, landmarks=5)
    scores = answer(config, gallery, full.vectors)
    assert (scores.best == full.codes * 2).all()
    assert set(np.unique(scores.candidates)) == {-1, 0, 2, 4}
    assert (np.isneginf(scores.values) == (scores.candidates == -1)).all()


@RULES
def test_landmarks_with_one_photograph_are_learnt_and_not_held_out(config: SvmConfig) -> None:
    full = clusters(4, 5, 10, 0.2)
    kept = np.flatnonzero((full.codes != 2) | (np.arange(20) == 10))
    gallery = gallery_of(full.vectors[kept], full.codes[kept], full.bank_vectors)
    assert (answer(config, gallery, full.vectors[10:15]).best == 2).all()
    assert 2 not in SvmClassifier.held_out(config, gallery).truth


def test_a_saved_machine_scores_alike(tmp_path: Path) -> None:
    gallery = clusters(3, 4, 5, 0.7)
    fitted = SvmClassifier.fit(SvmConfig(penalty=0.5, candidates=2), gallery)
    fitted.save(tmp_path)
    loaded = SvmClassifier.load(tmp_path, gallery)
    found = gallery.searcher.search(gallery.bank, 1)
    assert loaded.config == fitted.config
    expected = fitted.scores(gallery.bank, found)
    assert (loaded.scores(gallery.bank, found).values == expected.values).all()


def test_a_machine_that_is_damaged_or_of_another_gallery_is_refused(tmp_path: Path) -> None:
    gallery = clusters(3, 4, 5, 0.7)
    SvmClassifier.fit(SvmConfig(), gallery).save(tmp_path)
    with pytest.raises(RunError, match="3 landmarks, the gallery has 4"):
        SvmClassifier.load(tmp_path, clusters(4, 2, 5, 0.7))
    (tmp_path / svm.FILE).write_bytes(b"")
    with pytest.raises(RunError, match="missing or damaged"):
        SvmClassifier.load(tmp_path, gallery)
