"""Thresholds against trying every one, probabilities, and galleries that leave little to go by."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.classifiers.base import HeldOut, Scores
from retrieval.classifiers.calibration import Platt
from retrieval.classifiers.rejection import FILE, Rejection, best_threshold
from retrieval.errors import RunError
from tests.oracles import classifiers as slow


def scores_of(confidence: list[float] | np.ndarray, best: int | np.ndarray = 0) -> Scores:
    values = np.array(confidence, np.float32).reshape(-1, 1)
    candidates = np.where(np.isneginf(values), -1, np.reshape(best, (-1, 1)))
    return Scores(np.broadcast_to(candidates, values.shape).astype(np.int64), values)


def held_out(
    right: list[float] | np.ndarray,
    wrong: list[float] | np.ndarray,
    bank: list[float] | np.ndarray,
) -> HeldOut:
    """Held-out confidences of right and wrong answers to gallery photographs, and of the bank."""
    truth = np.repeat([0, 1], [len(right), len(wrong)])
    gallery = scores_of(np.concatenate([right, wrong]))
    return HeldOut(np.arange(len(truth)), truth, gallery, np.arange(len(bank)), scores_of(bank))


@given(
    st.lists(
        st.tuples(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0, 4.0]), st.integers(-4, 4)),
        max_size=12,
    )
)
def test_the_threshold_is_the_best_of_all(examples: list[tuple[float, int]]) -> None:
    examples = [(c, 0 if np.isneginf(c) else g) for c, g in examples]
    confidence = np.array([c for c, _ in examples], np.float32)
    gain = np.array([g for _, g in examples], np.float64)
    chosen = best_threshold(confidence, gain)
    tried = [-np.inf, -0.5, 0.25, 0.75, 2.0, 9.0]
    best = max(slow.accepted_gain(list(confidence), list(gain), one) for one in tried)
    assert slow.accepted_gain(list(confidence), list(gain), chosen) == best


def test_the_threshold_lies_half_way() -> None:
    assert Rejection.fit(held_out([0.5, 0.75], [], [0.0, 0.25])).threshold == 0.375


def test_gallery_and_bank_count_alike_whatever_their_sizes() -> None:
    # Below 1 lie half of the right answers and all of the bank, however large either is.
    for many, few in ((100, 4), (4, 100)):
        right = [0.5] * (many // 2) + [2.0] * (many // 2)
        assert Rejection.fit(held_out(right, [], [0.5] * few)).threshold == 1.25
    # A quarter of the bank is worth less than half of the gallery.
    bank = [0.5] * 25 + [0.0] * 75
    assert Rejection.fit(held_out([0.5, 2.0], [], bank)).threshold == 0.25


def test_without_a_bank_wrong_answers_are_what_is_rejected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fitted = Rejection.fit(held_out([1.0, 1.25, 2.0], [0.0, 0.5, 1.5], []))
    assert fitted.threshold == 0.75
    assert "no photographs without a landmark" in caplog.text


def test_without_held_out_gallery_photographs_the_bank_is_rejected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fitted = Rejection.fit(held_out([], [], [0.25, 0.5]))
    assert fitted.judge(scores_of([0.25, 0.5, 0.51])).accepted.tolist() == [False, False, True]
    assert "no landmark has two photographs" in caplog.text


def test_without_anything_every_candidate_is_accepted() -> None:
    judged = Rejection.fit(held_out([], [], [])).judge(scores_of([-5.0, -np.inf]))
    assert judged.accepted.tolist() == [True, False]
    assert judged.probability[1] == 0


def test_nothing_is_warned_of_where_both_speak(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Rejection.fit(held_out([1.0], [], [0.0]))
    assert not caplog.text


def test_probabilities_rise_with_the_confidence_and_never_reach_certainty() -> None:
    rng = np.random.default_rng(0)
    fitted = Rejection.fit(
        held_out(rng.normal(3, 1, 300), rng.normal(1, 1, 40), rng.normal(0, 1, 100))
    )
    confidence = np.linspace(-2, 5, 200)
    judged = fitted.judge(scores_of(confidence))
    assert (np.diff(judged.probability) > 0).all()
    assert (judged.probability < 1).all()
    assert (judged.accepted == (confidence.astype(np.float32) >= fitted.threshold)).all()
    assert judged.probability[np.searchsorted(confidence, 1.5)] == pytest.approx(0.5, abs=0.15)


def test_platt_finds_the_curve_that_the_answers_came_from() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(10, 12, 20_000).astype(np.float32)
    right = rng.random(20_000) < 1 / (1 + np.exp(-(4 * confidence - 44)))
    curve = Platt.fit(confidence, right, np.ones(20_000))
    assert curve.slope == pytest.approx(4, rel=0.05)
    assert curve.offset == pytest.approx(-44, rel=0.05)


def test_platt_weighs_its_examples() -> None:
    confidence = np.zeros(100, np.float32)
    right = np.arange(100) < 50
    weights = np.where(right, 3.0, 1.0)
    assert Platt.fit(confidence, right, weights).probability(confidence)[0] == pytest.approx(
        0.75, abs=0.02
    )


@pytest.mark.parametrize("right", [True, False])
def test_one_kind_of_answer_alone_makes_no_certainty(right: bool) -> None:
    confidence = np.array([0.0, 1.0, 2.0], np.float32)
    curve = Platt.fit(confidence, np.full(3, right), np.ones(3))
    probability = curve.probability(confidence)
    assert probability[1] == pytest.approx(0.8 if right else 0.2, abs=0.05)
    assert (np.diff(probability) > 0).all()


def test_scores_that_mislead_do_not_turn_the_order_round() -> None:
    curve = Platt.fit(np.array([0.0, 1.0], np.float32), np.array([True, False]), np.ones(2))
    assert curve.slope > 0


def test_a_saved_rejection_judges_alike(tmp_path: Path) -> None:
    for one in (held_out([1.0, 2.0], [0.5], [0.0, 0.7]), held_out([], [], [])):
        fitted = Rejection.fit(one)
        fitted.save(tmp_path)
        assert Rejection.load(tmp_path) == fitted


def test_a_damaged_rejection_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"threshold": 1}')
    with pytest.raises(RunError, match="damaged"):
        Rejection.load(tmp_path)
