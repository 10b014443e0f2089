"""Holidays by hand, and against its slow definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import TableError
from retrieval.evaluation import protocols
from tests.oracles import metrics as slow
from tests.oracles.metrics import rankings_of

IDS = ["100000", "100001", "100002", "100100", "100200", "100201", "100301", "100302"]


def average_precision(hits: list[int], relevant: int) -> float:
    found = protocols.trapezoidal_average_precision(np.array([hits], bool), np.array([relevant]))
    return float(found[0])


def test_queries_are_the_first_of_groups_of_several() -> None:
    holidays = protocols.holidays_groups(IDS)
    # 100100 is alone; the first of 1003 is not there.
    assert [IDS[query] for query in holidays.queries] == ["100000", "100200"]
    assert holidays.relevant.tolist() == [2, 1]
    assert holidays.groups.tolist() == [1000, 1000, 1000, 1001, 1002, 1002, 1003, 1003]


def test_an_id_that_is_no_number_is_named() -> None:
    for wrong in ("castle", "1000.5", "-100", "", "\u0661\u0660\u0660"):
        with pytest.raises(TableError, match="no number"):
            protocols.holidays_groups([*IDS, wrong])


@pytest.mark.parametrize(
    ("hits", "relevant", "wanted"),
    [
        ([1, 1, 0], 2, 1.0),
        ([0, 1], 1, (0 + 1 / 2) / 2),
        ([1, 0, 1], 2, (1 + (1 / 2 + 2 / 3) / 2) / 2),
        ([0, 0, 1, 1], 3, ((0 + 1 / 3) / 2 + (1 / 3 + 2 / 4) / 2) / 3),
        ([0, 0], 2, 0.0),
        ([], 1, 0.0),
        ([0], 0, 0.0),
    ],
)
def test_the_trapezoid_rule_by_hand(hits: list[int], relevant: int, wanted: float) -> None:
    assert average_precision(hits, relevant) == pytest.approx(wanted)


def test_holidays_by_hand() -> None:
    rankings = np.array(
        [
            [1, 0, 3, 2, 4, 5, 6, 7],  # the query itself second: the hits are 1 and 3
            [4, 0, 5, 1, 2, 3, 6, 7],  # and first: the hit is 2
        ]
    )
    wanted = [(1 + (1 / 2 + 2 / 3) / 2) / 2, (0 + 1 / 2) / 2]
    np.testing.assert_allclose(protocols.holidays_average_precisions(IDS, rankings), wanted)
    assert protocols.holidays_map(IDS, rankings) == pytest.approx(sum(wanted) / 2)


def test_a_query_left_out_of_its_ranking_changes_nothing() -> None:
    within = np.array([[1, 0, 3, 2], [0, 4, 5, 1]])
    without = np.array([[1, 3, 2], [0, 5, 1]])
    padded = np.array([[1, 3, 2, -1], [0, 5, 1, -1]])
    wanted = protocols.holidays_map(IDS, within)
    assert protocols.holidays_map(IDS, without) == wanted
    assert protocols.holidays_map(IDS, padded) == wanted


def test_what_was_not_found_counts_as_missed() -> None:
    assert protocols.holidays_map(IDS, np.array([[1], [-1]])) == pytest.approx((1 / 2 + 0) / 2)
    assert protocols.holidays_map(IDS, np.zeros((2, 0), np.int64)) == 0.0


def test_rankings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rankings for 2 queries"):
        protocols.holidays_map(IDS, np.zeros((3, 1), np.int64))
    with pytest.raises(ValueError, match="twice"):
        protocols.holidays_map(IDS, np.array([[1, 2, 1], [3, 4, 5]]))


def test_without_queries_there_is_no_figure() -> None:
    assert math.isnan(protocols.holidays_map(["100100"], np.zeros((0, 1), np.int64)))


@given(st.sets(st.integers(0, 12), min_size=1), st.integers(0, 2**32 - 1))
def test_holidays_against_its_definition(places: set[int], seed: int) -> None:
    # Groups of up to four: 0, 1, 2, 3, 100, 101 ...
    numbers = [place // 4 * 100 + place % 4 for place in sorted(places)]
    random = np.random.default_rng(seed)
    numbers = random.permutation(numbers).tolist()
    ids = [f"{number:06d}" for number in numbers]
    queries = protocols.holidays_groups(ids).queries
    similarities = random.integers(0, 4, (len(queries), len(ids))).astype(np.float32)
    found = protocols.holidays_map(ids, rankings_of(similarities))
    if not len(queries):
        assert math.isnan(found)
        return
    ranked = {
        numbers[query]: [numbers[j] for j in sorted(range(len(ids)), key=lambda j: (-row[j], j))]
        for query, row in zip(queries, similarities.tolist(), strict=True)
    }
    assert found == pytest.approx(slow.holidays_map(numbers, ranked))
