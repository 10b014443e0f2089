"""Every figure against its slow definition, and the definition's worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.evaluation import metrics
from retrieval.evaluation.metrics import Truth
from tests.oracles import metrics as slow

IDS = ["a", "b", "c", "d", "e"]
TRUTH = [{1}, {2, 7}, set(), {3}, set()]


def gap(predicted: list[int], confidence: list[float]) -> float:
    return metrics.global_average_precision(
        IDS, np.array(predicted), np.array(confidence), slow.truth_of(TRUTH)
    )


def test_gap_of_the_worked_example() -> None:
    assert round(gap([1, 7, 5, 4, -1], [0.9, 0.7, 0.8, 0.6, 0]), 4) == 0.5556


def test_gap_forgives_an_empty_answer_to_a_distractor() -> None:
    assert round(gap([1, 7, -1, 4, -1], [0.9, 0.7, 0.8, 0.6, 0]), 4) == 0.6667


def test_gap_ignores_a_wrong_answer_below_all_right_ones() -> None:
    confidence = [0.9, 0.7, 0.8, 0.6, 0]
    assert gap([1, 7, 5, 4, -1], confidence) == gap([1, 7, 5, -1, -1], confidence)


def test_gap_ties_go_by_id() -> None:
    # b (right) comes before c (a distractor), d (wrong) after both: all equal in confidence.
    assert gap([-1, 2, 5, 4, -1], [0, 1, 1, 1, 0]) == pytest.approx(1 / 3)
    assert metrics.global_average_precision(
        ["a", "z", "c", "d", "e"],
        np.array([-1, 2, 5, 4, -1]),
        np.ones(5),
        slow.truth_of(TRUTH),
    ) == pytest.approx(1 / 9)


def test_gap_without_landmark_photographs_is_zero() -> None:
    truth = Truth.of_codes(np.array([-1, -1]))
    assert metrics.global_average_precision(["a", "b"], np.array([1, -1]), np.ones(2), truth) == 0
    empty = Truth.of_codes(np.empty(0, np.int64))
    assert metrics.global_average_precision([], np.empty(0, int), np.empty(0), empty) == 0


def test_gap_refuses_what_cannot_be_ranked() -> None:
    truth = Truth.of_codes(np.array([1, 2]))
    with pytest.raises(ValueError, match="not a number"):
        metrics.global_average_precision(["a", "b"], np.array([1, 2]), np.array([1, np.nan]), truth)
    with pytest.raises(ValueError, match="length"):
        metrics.global_average_precision(["a"], np.array([1, 2]), np.ones(2), truth)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[str], list[int | None], list[float], list[set[int]]]:
    n = draw(st.integers(1, 25))
    ids = draw(st.lists(st.text("abc", max_size=4), min_size=n, max_size=n, unique=True))
    predicted = draw(st.lists(st.none() | st.integers(0, 4), min_size=n, max_size=n))
    levels = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 0.75, 2.0])  # few, so that many are equal
    confidence = draw(st.lists(levels, min_size=n, max_size=n))
    truth = draw(st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=n, max_size=n))
    return ids, predicted, confidence, truth


@given(answers())
def test_gap_is_the_walk_down_the_pool(
    given_answers: tuple[list[str], list[int | None], list[float], list[set[int]]],
) -> None:
    ids, predicted, confidence, truth = given_answers
    codes = np.array([-1 if one is None else one for one in predicted])
    fast = metrics.global_average_precision(ids, codes, np.array(confidence), slow.truth_of(truth))
    assert fast == pytest.approx(slow.global_average_precision(ids, predicted, confidence, truth))


@given(answers())
def test_rejection_auc_compares_every_pair(
    given_answers: tuple[list[str], list[int | None], list[float], list[set[int]]],
) -> None:
    _, _, confidence, truth = given_answers
    shown = [bool(one) for one in truth]
    fast = metrics.rejection_auc(np.array(confidence), np.array(shown))
    if all(shown) or not any(shown):
        assert math.isnan(fast)
    else:
        assert fast == pytest.approx(slow.rejection_auc(confidence, shown))


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[list[int]], list[set[int]]]:
    q, r = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    row = st.lists(st.integers(-1, 6), min_size=r, max_size=r)
    truth = st.sets(st.integers(0, 6), max_size=4)
    return (
        draw(st.lists(row, min_size=q, max_size=q)),
        draw(st.lists(truth, min_size=q, max_size=q)),
    )


@given(rankings(), st.integers(1, 14))
def test_average_precision_counts_repeats_once(
    ranked: tuple[list[list[int]], list[set[int]]], k: int
) -> None:
    results, truth = ranked
    items = np.array(results)
    hits = slow.truth_of(truth).holds(items) & metrics.first_occurrences(items)
    relevant = np.array([len(one) for one in truth])
    expected = [
        slow.average_precision(row, shown, k) for row, shown in zip(results, truth, strict=True)
    ]
    assert metrics.average_precisions(hits, relevant, k) == pytest.approx(expected)
    assert metrics.mean_average_precision(hits, relevant, k) == pytest.approx(np.mean(expected))


@given(rankings(), st.integers(1, 14))
def test_top_k_accuracy_looks_at_landmark_photographs_alone(
    ranked: tuple[list[list[int]], list[set[int]]], k: int
) -> None:
    candidates, truth = ranked
    fast = metrics.top_k_accuracy(np.array(candidates), slow.truth_of(truth), k)
    if any(truth):
        assert fast == pytest.approx(slow.top_k_accuracy(candidates, truth, k))
    else:
        assert math.isnan(fast)


@given(st.data())
def test_gallery_hits_are_the_photographs_of_the_landmarks_shown(data: st.DataObject) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=9)))
    results, truth = data.draw(rankings())
    rows = np.where(np.array(results) < len(codes), np.array(results), -1)
    # A landmark without a code is one that the gallery has no photograph of.
    shown = [{one if one <= 3 else -one for one in each} for each in truth]
    hits, relevant = metrics.gallery_hits(rows, codes, slow.truth_of(shown))
    items = [{row for row, code in enumerate(codes) if code in each} for each in shown]
    assert relevant.tolist() == [len(each) for each in items]
    pairs = zip(rows, items, strict=True)
    expected = [slow.average_precision(row, each, 100) for row, each in pairs]
    assert metrics.average_precisions(hits, relevant) == pytest.approx(expected)


def test_only_the_first_hundred_results_count() -> None:
    hits = np.zeros((1, 120), np.bool_)
    hits[0, 100:] = True
    assert metrics.mean_average_precision(hits, np.array([20])) == 0
    hits[0, :100] = True
    assert metrics.mean_average_precision(hits, np.array([500])) == 1


def test_false_accepts_are_counted_among_photographs_without_a_landmark() -> None:
    shown = np.array([True, True, False, False, False, False])
    accepted = np.array([True, False, True, False, False, False])
    assert metrics.false_accept_rate(accepted, shown) == 0.25
    assert math.isnan(metrics.false_accept_rate(accepted[:2], shown[:2]))


def test_a_landmark_without_a_code_is_still_a_landmark() -> None:
    truth = Truth.of_codes(np.array([-2, -1, 3]))
    assert truth.has_landmark.tolist() == [True, False, True]
    assert truth.holds(np.array([-2, -1, 3])).tolist() == [False, False, True]


def test_recognition_metrics_puts_the_figures_together() -> None:
    found = metrics.recognition_metrics(
        IDS,
        np.array([[1, 2], [5, 7], [5, 1], [4, 2], [-1, -1]]),
        np.array([0.9, 0.7, 0.8, 0.6, -np.inf]),
        np.array([True, True, True, False, False]),
        slow.truth_of(TRUTH),
    )
    assert found == {
        "gap": pytest.approx(1 / 3),
        "top1": pytest.approx(1 / 3),
        "top5": pytest.approx(2 / 3),
        "rejection_auc": pytest.approx(4 / 6),
        "false_accept_rate": 0.5,
    }


def test_precision_at_another_share_by_hand() -> None:
    shown = np.array([True] * 10 + [False] * 10)
    accepted = np.array([True] * 8 + [False] * 2 + [True] + [False] * 9)
    right = np.array([True] * 6 + [False] * 3 + [True] + [False] * 10)
    assert metrics.precision(right, accepted) == pytest.approx(6 / 9)
    assert metrics.precision_at_share(right, accepted, shown, 0.5) == pytest.approx(6 / 9)
    # Of a thousand: 17 landmarks, 13.6 accepted, 10.2 right; 98.3 of the 983 others accepted.
    found = metrics.precision_at_share(right, accepted, shown, 0.017)
    assert found == pytest.approx(10.2 / (13.6 + 98.3))
    assert math.isnan(metrics.precision_at_share(right, accepted, np.ones(20, bool), 0.5))
    assert math.isnan(metrics.precision_at_share(right, ~shown & shown, shown, 0.5))
    assert math.isnan(metrics.precision(right, ~shown & shown))


def test_reliability_by_hand() -> None:
    found = metrics.reliability(np.array([0.0, 0.04, 0.95, 1.0]), np.array([0, 1, 1, 1], bool))
    assert found.promised == pytest.approx([0.02, 0.975])
    assert found.right.tolist() == [0.5, 1.0]
    assert found.count.tolist() == [2, 2]
    assert found.error == pytest.approx((0.48 + 0.025) / 2)
    assert math.isnan(metrics.reliability(np.empty(0), np.empty(0, bool)).error)


def test_first_ranks() -> None:
    hits = np.array([[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    assert metrics.first_ranks(hits).tolist() == [3, 1, 0]
    assert metrics.first_ranks(hits[:, :0]).tolist() == [0, 0, 0]


def test_false_accepts_where_enough_landmarks_are_named() -> None:
    shown = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0], bool)
    right = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], bool)
    confidence = np.array([0.9, 0.8, 0.7, 0.2, 0.95, 0.85, 0.7, 0.3, -np.inf])

    def at(found: float) -> float:
        return metrics.false_accepts_at(confidence, right, shown, found)

    assert [at(0.2), at(0.4), at(0.5), at(0.6), at(0.8)] == [0, 1 / 4, 2 / 4, 2 / 4, 3 / 4]
    assert math.isnan(at(0.9))
    assert math.isnan(metrics.false_accepts_at(confidence, right, ~shown & shown))
    assert math.isnan(metrics.false_accepts_at(confidence, right, np.ones(9, bool), 0.2))
