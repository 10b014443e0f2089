"""Galleries that do not fit together, and who is held out with whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.classifiers.base import Gallery, stratified_folds
from retrieval.classifiers.members import KINDS
from retrieval.classifiers.signals import Signals
from retrieval.classifiers.svm import SvmConfig
from retrieval.classifiers.vote import VoteConfig
from retrieval.index.neighbours import Neighbours
from retrieval.index.searcher import Searcher
from tests.retrieval.classifiers.galleries import clusters, gallery_of, unit


def test_a_gallery_of_parts_that_do_not_belong_together_is_refused() -> None:
    good = clusters(3, 4, 5, 0.1)
    parts = (good.descriptors, good.codes, good.landmarks, good.bank, good.searcher)
    with pytest.raises(ValueError, match="not one gallery"):
        Gallery(parts[0], parts[1][:-1], *parts[2:], good.bank_searcher)
    with pytest.raises(ValueError, match="codes"):
        Gallery(parts[0], parts[1], ["one", "two"], *parts[3:], good.bank_searcher)
    with pytest.raises(ValueError, match="bank"):
        Gallery(*parts, bank_searcher=good.searcher)
    with pytest.raises(ValueError, match="bank"):
        Gallery(*parts)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.integers(0, 12),
    st.integers(2, 6),
    st.integers(1, 50),
    st.integers(0, 3),
)
def test_folds_are_even_within_every_landmark(
    codes: list[int], bank: int, folds: int, limit: int, seed: int
) -> None:
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((len(codes), 4)))
    gallery = gallery_of(rows, np.array(codes), unit(rng.standard_normal((bank, 4))), 6)
    chosen = stratified_folds(gallery, folds, limit, seed)
    counts = np.bincount(codes, minlength=6)
    several = counts[codes] > 1
    assert several[chosen.rows].all()
    assert len(chosen.rows) == min(limit, several.sum())
    if limit >= len(codes) and several.any():
        folds = min(folds, max(2, int(np.median(counts[counts > 1]))))
        for code in np.flatnonzero(counts > 1):
            assert (chosen.folds < folds).all()
            sizes = np.bincount(chosen.folds[gallery.codes[chosen.rows] == code], minlength=folds)
            assert sizes.max() - sizes.min() <= 1
    if len(chosen.rows) == limit:
        assert set(chosen.bank_folds) <= set(chosen.folds)
    else:
        assert len(chosen.bank_rows) == min(limit, bank)
    again = stratified_folds(gallery, folds, limit, seed)
    assert (again.rows == chosen.rows).all()
    assert (again.folds == chosen.folds).all()


def test_a_bounded_sample_lies_in_as_few_folds_as_can_be() -> None:
    gallery = clusters(10, 20, 100, 0.1)
    chosen = stratified_folds(gallery, folds=5, limit=40, seed=1)
    assert set(chosen.folds) == set(chosen.bank_folds) == {0}
    assert len(chosen.rows) > 30
    assert len(chosen.bank_rows) == 20


def test_neighbours_of_held_out_photographs_are_searched_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gallery = clusters(4, 5, 12, 0.5)
    members = VoteConfig(), SvmConfig(verified=1.0)
    apart = [KINDS[type(one)].held_out(one, replace(gallery), 0) for one in members]
    asked: list[int] = []
    search = Searcher.search

    def counted(self: Searcher, *args: Any, **more: Any) -> Neighbours:
        if self is gallery.searcher:
            asked.append(len(args[0]))
        return search(self, *args, **more)

    monkeypatch.setattr(Searcher, "search", counted)
    together = [KINDS[type(one)].held_out(one, gallery, 0) for one in members]
    Signals.held_out([gallery], together[0])
    assert asked == [20, 12]  # the gallery's, then the bank's
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one.gallery.values, other.gallery.values)
        np.testing.assert_array_equal(one.bank.values, other.bank.values)
