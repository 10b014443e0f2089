"""Signals against ones taken photograph by photograph, and who is left out of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval.classifiers import signals
from retrieval.classifiers.base import Scores
from retrieval.classifiers.signals import SIGNALS, SIGNS, Signals, signal_matrix
from retrieval.classifiers.vote import VoteClassifier, VoteConfig
from tests.oracles import classifiers as slow
from tests.retrieval.classifiers.galleries import clusters, unit


@pytest.mark.parametrize(("photographs", "bank"), [(20, 40), (3, 2), (1, 0)])
def test_signals_are_the_slow_ones(photographs: int, bank: int) -> None:
    gallery = clusters(4, photographs, bank, 1.0)
    queries = unit(np.random.default_rng(1).standard_normal((12, 16)))
    fitted = VoteClassifier.fit(VoteConfig(k=5), gallery)
    scores = fitted.scores(queries, gallery.searcher.search(queries, 5))
    scores.candidates[3] = 3  # not necessarily among the neighbours
    found = signal_matrix(scores, Signals.of(gallery, queries), -1.0)
    for row in range(12):
        expected = slow.signal_matrix(
            scores.candidates[row].tolist(),
            scores.values[row].tolist(),
            [(float(queries[row] @ one), int(code)) for one, code in
             zip(gallery.vectors, gallery.codes, strict=True)],
            [float(queries[row] @ one) for one in gallery.bank_vectors],
            least=-1.0,
        )  # fmt: skip
        assert found[row] == pytest.approx([expected[name] for name in SIGNALS], abs=1e-4)


def test_signals_speak_for_the_answers_that_are_right() -> None:
    gallery = clusters(6, 20, 60, 1.0)
    held = VoteClassifier.held_out(VoteConfig(), gallery)
    near, bank = Signals.held_out([gallery], held)
    found = signal_matrix(held.gallery, near, 0.0), signal_matrix(held.bank, bank, 0.0)
    for column, sign in enumerate(SIGNS):
        right = found[0][held.correct, column].mean()
        assert sign * right > sign * found[1][:, column].mean()


def test_held_out_photographs_are_no_evidence_of_themselves() -> None:
    gallery = clusters(3, 5, 12, 0.5)
    held = VoteClassifier.held_out(VoteConfig(), gallery)
    near, bank = Signals.held_out([gallery], held)
    similarities = gallery.vectors @ gallery.vectors.T - 2 * np.eye(15)
    assert near.similarities[:, 0] == pytest.approx(similarities.max(axis=1), abs=1e-6)
    similarities = gallery.bank_vectors @ gallery.bank_vectors.T - 2 * np.eye(12)
    assert bank.bank[:, 0] == pytest.approx(similarities.max(axis=1), abs=1e-6)
    few = clusters(3, 5, 2, 0.5)  # of which one is left
    held = VoteClassifier.held_out(VoteConfig(), few)
    found = signal_matrix(held.bank, Signals.held_out([few], held)[1], 0.0)
    assert found[:, 4] == pytest.approx(float(few.bank_vectors[0] @ few.bank_vectors[1]))


def test_given_neighbours_are_taken_where_they_are_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gallery = clusters(3, 5, 4, 0.5)
    monkeypatch.setattr(signals, "NEAR", 6)
    queries = gallery.vectors[:2]
    given = gallery.searcher.search(queries, 6)
    assert (Signals.of(gallery, queries, given).codes == gallery.codes[given.rows]).all()
    fewer = Signals.of(gallery, queries, given.first(2))
    assert (fewer.codes == gallery.codes[given.rows]).all()


def test_without_a_candidate_or_a_runner_up() -> None:
    gallery = replace(clusters(1, 3, 0, 0.1), bank_searcher=None)
    scores = Scores(np.array([[0], [-1]]), np.array([[2.0], [-np.inf]], np.float32))
    found = signal_matrix(scores, Signals.of(gallery, gallery.vectors[:2]), 0.5)
    assert found[0, 1] == 1.5
    assert np.isfinite(found).all()
    assert not found[1].any()
    assert Signals.of(gallery, gallery.vectors[:0]).codes.shape[0] == 0
