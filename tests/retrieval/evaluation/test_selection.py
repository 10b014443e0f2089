"""Which classifier answers."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.classifiers.base import HeldOut, Scores
from retrieval.evaluation.selection import choose_answer, held_out_gap


def held_out(rows: list[int], right: list[bool], confidence: list[float], bank: list[float]):
    values = np.array(confidence, np.float32)[:, None]
    return HeldOut(
        np.array(rows),
        np.zeros(len(rows), np.int64),
        Scores(np.where(right, 0, 1)[:, None], values),
        np.arange(len(bank)),
        Scores(np.zeros((len(bank), 1), np.int64), np.array(bank, np.float32)[:, None]),
    )


def test_gap_over_held_out_photographs_counts_the_bank_as_distractors() -> None:
    one = held_out([0, 1, 2], [True, True, False], [3.0, 1.0, 0.5], [2.0])
    assert held_out_gap(one) == pytest.approx((1 + 2 / 3) / 3)


def test_the_classifier_with_the_highest_gap_answers() -> None:
    worse = held_out([0, 1], [True, True], [3.0, 1.0], [2.0])
    better = held_out([0, 1], [True, True], [3.0, 2.5], [2.0])
    assert choose_answer({"knn": worse, "svm": better}) == "svm"
    assert choose_answer({"svm": better, "knn": worse}) == "svm"
    assert choose_answer({"knn": better, "svm": better}) == "knn"


def test_only_what_all_held_out_is_compared() -> None:
    # Alone, the first would win by photographs 2 and 3, which the second was not asked about.
    first = held_out([0, 1, 2, 3], [True, False, True, True], [4.0, 3.0, 5.0, 6.0], [2.0, 1.0])
    second = held_out([0, 1], [True, True], [1.5, 1.0], [2.0])
    assert held_out_gap(first) > held_out_gap(second)
    assert choose_answer({"knn": first, "svm": second}) == "svm"
