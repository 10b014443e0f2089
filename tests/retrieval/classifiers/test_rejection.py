"""Thresholds against trying every one, probabilities, and galleries that leave little to go by."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retrieval.classifiers import trees
from retrieval.classifiers.base import HeldOut, Scores
from retrieval.classifiers.calibration import CalibrationConfig, Isotonic, Platt, fit_curve
from retrieval.classifiers.rejection import (
    FILE,
    Expectation,
    Rejection,
    RejectionConfig,
    fit_rejection,
)
from retrieval.classifiers.signals import Signals
from retrieval.classifiers.thresholds import best_threshold, tolerated
from retrieval.classifiers.vote import VoteClassifier, VoteConfig
from retrieval.errors import ConfigError, RunError
from retrieval.evaluation.selection import held_out_gap
from tests.oracles import classifiers as slow
from tests.retrieval.classifiers.galleries import clusters


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
    scores = held_out([0.5, 2.0], [], bank)
    assert Rejection.fit(scores, RejectionConfig(tolerance=1.0)).threshold == 0.25
    # But is more than is tolerated, unless that is said.
    assert Rejection.fit(scores).threshold == 1.25
    assert Rejection.fit(scores, RejectionConfig(tolerance=0.27)).threshold == 0.25


@pytest.mark.parametrize(
    ("bank", "share", "allowed"),
    [(0, 0.05, 0), (7, 0.05, 0), (15, 0.05, 0), (16, 0.05, 1), (24, 0.05, 2), (50, 0.05, 5),
     (420, 0.05, 27),
     (10_000, 0.05, 528), (20, 0.5, 9), (20, 1.0, 20)],
)  # fmt: skip
def test_a_large_bank_is_held_to_the_tolerance_a_small_one_less(
    bank: int, share: float, allowed: int
) -> None:
    assert tolerated(bank, share) == allowed
    right, wrong = [2.0] * 5 + [0.5] * 95, [0.5] * allowed + [0.0] * (bank - allowed)
    if bank and allowed < bank:
        config = RejectionConfig(tolerance=share)
        assert Rejection.fit(held_out(right, [], wrong), config).threshold == 0.25
        assert Rejection.fit(held_out(right, [], [0.5, *wrong[:-1]]), config).threshold == 1.25


def test_without_a_bank_other_landmarks_are_what_is_rejected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Two landmarks: what each photograph's own says, and what the other one does.
    values = np.array([[2.0, 0.5], [1.5, 0.25], [1.0, 0.75], [0.9, 0.1]], np.float32)
    candidates = np.array([[0, 1], [0, 1], [1, 0], [0, 1]])
    truth = np.array([0, 0, 1, 1])  # the last one is answered wrong, by another landmark
    nothing = Scores.blank(0, 2)
    held = HeldOut(np.arange(4), truth, Scores(candidates, values), np.arange(0), nothing)
    fitted = Rejection.fit(held)
    # The best that another landmark than a photograph's own says is 0.9.
    assert fitted.threshold == pytest.approx(0.95)
    # Others' photographs are no photographs of none: no probability is made of them.
    judged = fitted.judge(scores_of([5.0, 0.0]))
    assert np.isnan(judged.probability).all()
    assert judged.accepted.tolist() == [True, False]
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


@pytest.mark.parametrize("kind", ["platt", "temperature", "isotonic"])
@pytest.mark.parametrize(
    ("right", "wrong", "bank"),
    [(29, 0, 300), (300, 0, 29), (0, 300, 300), (300, 14, 15), (0, 0, 0)],
)
def test_few_answers_of_either_kind_give_no_probabilities(
    right: int, wrong: int, bank: int, kind: str, tmp_path: Path
) -> None:
    one = held_out(np.arange(right) + 2.0, np.arange(wrong) + 1.0, np.arange(bank) * 1.0)
    calibration = CalibrationConfig(kind=kind)
    fitted = Rejection.fit(one, calibration=calibration)
    fitted.save(tmp_path)
    for each in (fitted, Rejection.load(tmp_path)):
        judged = each.judge(scores_of([0.0, 7.5, -np.inf]))
        assert np.isnan(judged.probability).all()
        assert judged.scores.confidence.tolist() == [0.0, 7.5, -np.inf], "those stay"
        assert each.caveats == [
            f"no probabilities: {right} right and {wrong + bank} wrong held-out answers are too"
            " few to learn them from (30 of each are needed)"
        ]


def test_enough_answers_of_both_kinds_give_probabilities() -> None:
    # A photograph without any candidate teaches nothing.
    for bank, known in (([0.0] * 30, True), ([0.0] * 29 + [-np.inf], False)):
        fitted = Rejection.fit(held_out([1.0] * 30, [], bank))
        assert np.isfinite(fitted.judge(scores_of([0.5])).probability).all() == known
        assert bool(fitted.caveats) != known


def test_nothing_is_warned_of_where_both_speak(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Rejection.fit(held_out([1.0], [], [0.0]))
    assert not caplog.text


def test_probabilities_rise_with_the_confidence_and_never_reach_certainty() -> None:
    rng = np.random.default_rng(0)
    scores = held_out(rng.normal(3, 1, 300), rng.normal(1, 1, 40), rng.normal(0, 1, 100))
    fitted = Rejection.fit(scores, calibration=CalibrationConfig(landmark_share=0.5))
    confidence = np.linspace(-2, 5, 200)
    judged = fitted.judge(scores_of(confidence))
    assert (np.diff(judged.probability) > 0).all()
    assert (judged.probability < 1).all()
    assert (judged.accepted == (confidence.astype(np.float32) >= fitted.threshold)).all()
    middle = np.searchsorted(confidence, 1.5)
    assert judged.probability[middle] == pytest.approx(0.5, abs=0.15)
    # Where most photographs that are asked show none, the same confidence is worth less.
    seldom = Rejection.fit(scores, calibration=CalibrationConfig(landmark_share=0.2))
    assert seldom.threshold == fitted.threshold
    assert seldom.judge(scores_of(confidence)).probability[middle] < 0.35


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
    several = held_out([1.0, 2.0] * 20, [0.5], [0.0, 0.7] * 20)
    hopeless = RejectionConfig(target_precision=0.9)
    for one, config in (
        (several, RejectionConfig()),
        (held_out([], [], []), RejectionConfig()),
        (several, hopeless),
        (held_out([], [1.0], [0.0]), hopeless),
    ):
        fitted = Rejection.fit(one, config)
        fitted.save(tmp_path)
        assert Rejection.load(tmp_path) == fitted


def test_a_damaged_rejection_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"threshold": 1}')
    with pytest.raises(RunError, match="damaged"):
        Rejection.load(tmp_path)


def test_more_false_accepts_than_expected_are_told() -> None:
    expected = Expectation(shown=50, right=40, none=80, accepted=6)
    assert expected.surprise(100, 15) == expected.surprise(0, 0) == ""
    assert "20% (between 13% and 29%) of the test's" in expected.surprise(100, 20)
    assert "more than the 80 held out" in expected.surprise(100, 20)
    assert Expectation(shown=50, right=40, none=0, accepted=0).surprise(100, 20) == ""


def test_the_precision_asked_for_is_reached_and_no_more() -> None:
    # Half of the weight is the gallery's: 0.25 a right answer, 0.125 a bank photograph; and one
    # wrong answer of 0.25 is counted besides.
    one = held_out([1.0, 4.0], [], [0.0, 2.0, 3.0, 0.5])
    asked = {0.4: -np.inf, 0.42: 0.25, 0.48: 0.75}
    for target, threshold in asked.items():
        config = RejectionConfig(target_precision=target)
        assert Rejection.fit(one, config).threshold == threshold
    # Were only one in five a landmark's, less would be had.
    config = RejectionConfig(target_precision=0.3, landmark_share=0.2)
    assert Rejection.fit(one, config).threshold == 3.5


def test_a_precision_that_is_never_reached_is_told() -> None:
    one = held_out([1.0, 2.0], [], [3.0, 0.0])
    fitted = Rejection.fit(one, RejectionConfig(target_precision=0.9))
    assert fitted.threshold == 0.5
    assert "0.500 is the most" in fitted.unkept
    assert fitted.caveats[0] == f"promise not kept: {fitted.unkept}"
    assert not Rejection.fit(one, RejectionConfig(target_precision=0.5)).unkept


def test_of_equally_precise_points_the_highest_is_taken() -> None:
    # A precision of 0.5 from 3 up, and again from 1 up.
    one = held_out([1.0, 3.0], [2.0], [])
    fitted = Rejection.fit(one, RejectionConfig(target_precision=0.9))
    assert fitted.threshold == 2.5
    assert "0.250 is the most" in fitted.unkept


@pytest.mark.parametrize("bank", [[], [0.0, 1.0]])
@pytest.mark.parametrize("wrong", [[], [2.0]])
def test_nothing_is_accepted_where_no_answer_was_right(
    wrong: list[float], bank: list[float], tmp_path: Path
) -> None:
    fitted = Rejection.fit(held_out([], wrong, bank), RejectionConfig(target_precision=0.5))
    fitted.save(tmp_path)
    assert "nothing is accepted" in fitted.unkept
    for one in (fitted, Rejection.load(tmp_path)):
        assert not one.judge(scores_of([-1.0, 0.5, 1e30])).accepted.any()


@pytest.mark.parametrize(("most", "accepted"), [(0.1, 0), (0.3, 0), (0.4, 1), (0.75, 2), (0.9, 3)])
def test_false_accepts_are_bounded(most: float, accepted: int) -> None:
    bank = [0.0, 1.0, 2.0, 3.0]
    one = held_out([0.5, 1.5, 2.5], [], bank)
    fitted = Rejection.fit(one, RejectionConfig(max_false_accepts=most))
    assert fitted.judge(scores_of(bank)).accepted.sum() == accepted
    told = "4 photographs without a landmark are too few to bound false accepts by 0.1: 0.2 is the"
    assert fitted.unkept == (f"{told} least" if most == 0.1 else "")


def test_new_photographs_are_accepted_no_more_often_than_asked() -> None:
    rng = np.random.default_rng(0)
    shares, config = [], RejectionConfig(max_false_accepts=0.05)
    for _ in range(300):
        fitted = Rejection.fit(held_out(rng.normal(1, 1, 40), [], rng.normal(0, 1, 40)), config)
        shares.append(fitted.judge(scores_of(rng.normal(0, 1, 200))).accepted.mean())
    assert 0.02 < np.mean(shares) <= 0.052


def test_points_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"none\.csv"):
        Rejection.fit(held_out([1.0], [], []), RejectionConfig(max_false_accepts=0.1))
    with pytest.raises(ValidationError, match="one of them"):
        RejectionConfig(max_false_accepts=0.1, target_precision=0.9)


@pytest.mark.parametrize("kind", ["platt", "temperature", "isotonic"])
def test_every_curve_holds_up_on_log_odds(kind: str) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.normal(0, 2, 20_000).astype(np.float32)
    right = rng.random(20_000) < 1 / (1 + np.exp(-confidence))
    curve = fit_curve(CalibrationConfig(kind=kind), confidence, right, np.ones(20_000))
    tried = np.linspace(-4, 4, 50)
    assert curve.probability(tried) == pytest.approx(1 / (1 + np.exp(-tried)), abs=0.06)
    assert (np.diff(curve.probability(tried)) >= 0).all()
    assert curve.probability(np.array([-np.inf]))[0] == 0


def test_an_isotonic_curve_follows_what_no_logistic_one_does() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 20_000).astype(np.float32)
    chance = np.where(confidence > 0.5, 0.9, 0.6)
    right = rng.random(20_000) < chance
    curve = Isotonic.fit(confidence, right, np.ones(20_000))
    found = curve.probability(np.array([0.05, 0.4, 0.6, 0.95]))
    assert found == pytest.approx([0.6, 0.6, 0.9, 0.9], abs=0.04)


KINDS = pytest.mark.parametrize(
    "kind", ["threshold", "margin", "agreement", "evt", "learnt", "boosted"]
)


@KINDS
@pytest.mark.parametrize(("photographs", "bank"), [(6, 40), (1, 4), (4, 0), (1, 0)])
def test_every_kind_judges_and_is_saved(
    kind: str, photographs: int, bank: int, tmp_path: Path
) -> None:
    gallery = clusters(5, photographs, bank, 0.8)
    vote = VoteClassifier.fit(VoteConfig(), gallery)
    held = VoteClassifier.held_out(VoteConfig(), gallery)
    config, calibration = RejectionConfig(kind=kind), CalibrationConfig(kind="isotonic")
    fitted, judged = fit_rejection(held, [gallery], config, calibration)
    if bank and photographs > 1:
        assert fitted.needs_signals == config.needs_signals
        assert len(judged.gallery) == len(gallery.codes)
    queries = clusters(5, 3, 0, 0.8).vectors
    scores = vote.scores(queries, gallery.searcher.search(queries, 50))
    signals = Signals.of(gallery, queries)
    fitted.save(tmp_path)
    loaded = Rejection.load(tmp_path)
    assert loaded == fitted
    found = loaded.judge(scores, signals)
    assert (found.scores.best == scores.best).all()
    assert np.isfinite(found.scores.confidence).all()
    assert (np.diff(found.scores.values[:, :2], axis=1) <= 0).all()
    alone = [
        fitted.judge(vote.scores(queries[[i]], gallery.searcher.search(queries[[i]], 50)),
                     Signals.of(gallery, queries[[i]])).scores.confidence[0]
        for i in range(len(queries))
    ]  # fmt: skip
    assert alone == pytest.approx(found.scores.confidence, abs=1e-5)
    none = fitted.judge(scores.at(np.zeros(0, np.int64)), Signals.of(gallery, queries[:0]))
    assert len(none.probability) == 0


def test_a_learnt_rejection_makes_up_for_a_confidence_that_misleads() -> None:
    gallery = clusters(8, 12, 90, 1.1)
    config = VoteConfig(row_correction=0.0, query_correction=0.0)
    held = VoteClassifier.held_out(config, gallery)
    fitted, judged = fit_rejection(held, [gallery], RejectionConfig(kind="learnt"))
    assert held_out_gap(judged) > held_out_gap(held) + 0.01
    assert fitted.model is not None
    weights = fitted.model.weights
    assert weights[4] <= 0
    assert min(weights[:4] + weights[5:]) >= 0


def test_boosted_trees_see_what_no_sum_of_signals_shows(tmp_path: Path) -> None:
    gallery = clusters(8, 12, 96, 1.1)
    held = VoteClassifier.held_out(VoteConfig(), gallery)
    for one in (held.gallery, held.bank):
        one.values[:] = np.linspace(-4, 4, 96)[:, None]
    held.truth[:] = np.where(  # right in the middle of the confidences alone
        abs(held.gallery.confidence) < 2, held.gallery.best, (held.gallery.best + 1) % 8
    )
    gaps = {}
    for kind in ("learnt", "boosted"):
        fitted, judged = fit_rejection(held, [gallery], RejectionConfig(kind=kind))
        gaps[kind] = held_out_gap(judged)
    assert gaps["boosted"] > gaps["learnt"] + 0.1
    assert len(np.unique(judged.gallery.confidence)) > 90, "few are taken for equals"
    fitted.save(tmp_path)
    assert fitted.needs_signals
    assert Rejection.load(tmp_path) == fitted


def test_boosted_trees_learn_nothing_by_heart() -> None:
    rng = np.random.default_rng(0)
    gallery = clusters(4, 40, 80, 1.0)
    held = VoteClassifier.held_out(VoteConfig(), gallery)
    held.truth[:] = (held.gallery.best + rng.integers(0, 2, 160)) % 4  # which nothing tells
    fitted, judged = fit_rejection(held, [gallery], RejectionConfig(kind="boosted"))
    by_heart = fitted.judge(held.gallery, Signals.held_out([gallery], held)[0])
    right = held.correct
    known, fresh = (
        (one.confidence[right][:, None] > one.confidence[~right]).mean()
        for one in (by_heart.scores, judged.gallery)
    )
    assert fresh < 0.6 < 0.8 < known


def test_a_threshold_is_of_the_models_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = clusters(4, 40, 80, 1.0)
    held = VoteClassifier.held_out(VoteConfig(), gallery)
    enough = int(min(held.correct.sum(), (~held.correct).sum() + 80))
    learnt, _ = fit_rejection(held, [gallery], RejectionConfig(kind="learnt"))
    # Enough for trees together, but not for those that hold a part of them out.
    monkeypatch.setattr(trees, "LEAST", enough)
    fitted, _ = fit_rejection(held, [gallery], RejectionConfig(kind="boosted"))
    assert fitted == learnt


def test_no_photograph_is_judged_by_a_model_that_it_taught() -> None:
    rng = np.random.default_rng(0)
    gallery = clusters(4, 6, 24, 1.0)
    found = []
    for _ in range(20):
        held = VoteClassifier.held_out(VoteConfig(), gallery)
        held.truth[:] = rng.integers(0, 4, 24)  # which nothing tells, but by heart
        fitted, judged = fit_rejection(held, [gallery], RejectionConfig(kind="learnt"))
        by_heart = fitted.judge(held.gallery, Signals.held_out([gallery], held)[0])
        right = held.correct
        for one in (judged.gallery.confidence, by_heart.scores.confidence):
            found.append((one[right][:, None] > one[~right]).mean())
    assert np.mean(found[::2]) == pytest.approx(0.5, abs=0.06)
    assert np.mean(found[1::2]) > 0.6


def test_a_rejection_without_its_curve_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"threshold": 1.0}')
    with pytest.raises(RunError, match="damaged"):
        Rejection.load(tmp_path)


def test_what_to_expect_is_told_with_its_interval(tmp_path: Path) -> None:
    fitted = Rejection.fit(held_out([2.0] * 46 + [0.0] * 4, [], [0.0] * 58 + [3.0] * 2))
    assert fitted.expected == Expectation(shown=50, right=46, none=60, accepted=2)
    assert fitted.notes[0] == (
        "of photographs that it had not seen, 92% (between 82% and 97%) of those with a landmark"
        " were answered right, 3% (between 1% and 10%) of those with none were answered"
    )
    fitted.save(tmp_path)
    assert Rejection.load(tmp_path) == fitted


def test_no_probability_is_surer_than_the_held_out_answers_can_tell() -> None:
    fitted = Rejection.fit(held_out([2.0] * 40, [], [0.0] * 40))
    assert fitted.judge(scores_of([1e6])).probability[0] == pytest.approx(41 / 42)
