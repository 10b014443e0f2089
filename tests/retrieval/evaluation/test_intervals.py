"""Bootstrap figures against the figures of queries written out, and what intervals are like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.evaluation import intervals as module
from retrieval.evaluation.intervals import FIGURES, Outcomes, intervals, paired_differences
from retrieval.evaluation.metrics import Truth, recognition_metrics


def made(n: int, skill: float, seed: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Ids, truth, answers and coarse confidences (so that there are ties)."""
    random = np.random.default_rng(seed)
    truth = random.integers(-1, 4, n)
    predicted = np.where(random.random(n) < skill, truth, random.integers(-1, 4, n))
    confidence = np.round(random.random(n) + (predicted == truth) * 0.3, 1)
    confidence[predicted < 0] = -np.inf
    return [f"{one:04d}" for one in random.permutation(n)], truth, predicted, confidence


def outcomes_of(n: int, skill: float, seed: int) -> Outcomes:
    ids, truth, predicted, confidence = made(n, skill, seed)
    return Outcomes.of(ids, predicted, confidence, confidence > 0.6, Truth.of_codes(truth))


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_counts_stand_for_queries_written_out(n: int, seed: int) -> None:
    ids, truth, predicted, confidence = made(n, 0.5, seed)
    accepted = confidence > 0.6
    outcomes = Outcomes.of(ids, predicted, confidence, accepted, Truth.of_codes(truth))
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), 3)
    for row, drawn in enumerate(counts):
        rows = np.repeat(np.arange(n), drawn)
        wanted = recognition_metrics(
            [ids[one] for one in rows],
            predicted[rows, None],
            confidence[rows],
            accepted[rows],
            Truth.of_codes(truth[rows]),
        )
        for name, figure in FIGURES.items():
            np.testing.assert_allclose(figure(outcomes, counts)[row], wanted[name], err_msg=name)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = outcomes_of(50, 0.6, 1)
    monkeypatch.setattr(module, "RESAMPLES", 200)
    whole = intervals(outcomes)
    monkeypatch.setattr(module, "BLOCK", 50 * 7)
    assert intervals(outcomes) == whole


def test_intervals_hold_the_figure_and_shrink_with_queries() -> None:
    few, many = (intervals(outcomes_of(n, 0.6, 2)) for n in (100, 2500))
    ones = np.ones((1, 2500), np.int64)
    for name, figure in FIGURES.items():
        low, high = many[name]
        assert low < figure(outcomes_of(2500, 0.6, 2), ones)[0] < high
        # A fifth as wide, by the root of 25.
        assert 0.1 < (high - low) / (few[name][1] - few[name][0]) < 0.4


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    truth = Truth.of_codes(np.zeros(1000, np.int64))
    right = np.arange(1000) < 800
    ids = [f"{one:04d}" for one in range(1000)]
    found = Outcomes.of(ids, np.where(right, 0, 1), np.ones(1000), right, truth)
    low, high = intervals(found)["top1"]
    spread = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert (low, high) == pytest.approx((0.8 - spread, 0.8 + spread), abs=0.003)
    assert np.isnan(intervals(found)["false_accept_rate"]).all()


def test_paired_differences_are_sharper_than_intervals() -> None:
    ids, truth, predicted, confidence = made(600, 0.7, 3)
    shown = Truth.of_codes(truth)
    first = Outcomes.of(ids, predicted, confidence, confidence > 0.6, shown)
    # Right answers of the other are the first's, but for 12.
    lost = np.flatnonzero((predicted == truth) & (truth >= 0))[:12]
    predicted[lost] = (truth[lost] + 1) % 4
    other = Outcomes.of(ids, predicted, confidence, confidence > 0.6, shown)
    found = paired_differences(other, first)
    assert found["top1"].value == pytest.approx(-12 / shown.has_landmark.sum())
    for name in ("gap", "top1"):
        low, high = found[name].interval
        assert low < found[name].value < high < 0
        assert found[name].p < 0.01
        alone = intervals(first)[name]
        assert alone[0] < FIGURES[name](other, np.ones((1, 600), np.int64))[0] < alone[1]


def test_a_system_does_not_differ_from_itself() -> None:
    outcomes = outcomes_of(80, 0.5, 4)
    for found in paired_differences(outcomes, outcomes).values():
        assert (found.value, found.interval, found.p) == (0, (0, 0), 1)
    with pytest.raises(ValueError, match="not asked the same"):
        paired_differences(outcomes, outcomes_of(80, 0.5, 5))
