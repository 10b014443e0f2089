"""Revisited Oxford and Paris: by hand, against the definition, and what its reader refuses."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import TableError
from retrieval.evaluation.ground_truth import read_revisited
from retrieval.evaluation.protocols import CUTS, SETUPS, Revisited, revisited_figures
from tests.oracles import metrics as slow


def truth_of(*queries: dict[str, list[int]], database: int = 12) -> Revisited:
    names = [f"photograph {number}" for number in range(database)]
    judged = {
        kind: [np.array(query.get(kind, []), np.int64) for query in queries]
        for kind in ("easy", "hard", "junk")
    }
    return Revisited(names, [f"query {q}" for q in range(len(queries))], np.zeros((1, 4)), judged)


def test_setups_by_hand() -> None:
    truth = truth_of({"easy": [0], "hard": [1, 2], "junk": [3]})
    found = revisited_figures(truth, np.array([[3, 1, 9, 0, 8, 2]]))
    # Easy: 3, 1 and 2 are passed over: 9, 0, 8.
    assert found["easy"].average_precision == pytest.approx((0 + 1 / 2) / 2)
    np.testing.assert_allclose(found["easy"].mean_precisions, [0, 1 / 2, 1 / 2])
    # Medium: 3 is: 1, 9, 0, 8, 2, and the last hit is the fifth.
    wanted = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3
    assert found["medium"].map == pytest.approx(wanted)
    np.testing.assert_allclose(found["medium"].mean_precisions, [1, 3 / 5, 3 / 5])
    # Hard: 3 and 0 are: 1, 9, 8, 2.
    assert found["hard"].map == pytest.approx((1 + (1 / 3 + 2 / 4) / 2) / 2)


def test_queries_without_positives_are_left_out() -> None:
    truth = truth_of({"easy": [0]}, {"hard": [1]}, {"junk": [5]})
    found = revisited_figures(truth, np.array([[0, 1], [1, 0], [5, 0]]))
    assert found["easy"].map == found["hard"].map == found["medium"].map == 1.0
    assert np.isnan(found["easy"].average_precision).tolist() == [False, True, True]
    nothing = revisited_figures(truth_of({"easy": [0]}), np.array([[0]]))["hard"]
    assert np.isnan(nothing.map)
    assert np.isnan(nothing.mean_precisions).all()


def test_what_a_short_ranking_leaves_out_is_missed() -> None:
    truth = truth_of({"easy": [0, 1]})
    found = revisited_figures(truth, np.array([[7, -1, 0]]))["easy"]
    assert found.map == pytest.approx((0 + 1 / 2) / 2 / 2)
    none = revisited_figures(truth, np.zeros((1, 0), np.int64))["easy"]
    assert none.map == 0.0
    assert none.mean_precisions.tolist() == [0, 0, 0]


def test_rankings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rankings for 1 queries"):
        revisited_figures(truth_of({}), np.zeros((2, 1), np.int64))
    with pytest.raises(ValueError, match="twice"):
        revisited_figures(truth_of({}), np.array([[1, 2, 1]]))


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.integers(0, 2**32 - 1))
def test_against_the_definition(kinds: list[int], seed: int) -> None:
    names = ("easy", "hard", "junk", "nothing")
    judged = {name: [i for i, one in enumerate(kinds) if names[one] == name] for name in names}
    ranking = np.random.default_rng(seed).permutation(14)[: seed % 14 + 1]  # two distractors
    found = revisited_figures(truth_of(judged), ranking[None])
    for setup, (sought, passed) in SETUPS.items():
        wanted = slow.revisited(
            {place for kind in sought for place in judged[kind]},
            {place for kind in passed for place in judged[kind]},
            ranking.tolist(),
            CUTS,
        )
        figures = [found[setup].map, *found[setup].mean_precisions]
        np.testing.assert_allclose(figures, [np.nan] * 4 if wanted is None else wanted)


PLAIN: dict[str, Any] = {
    "imlist": ["a", "b", "c"],
    "qimlist": ["q"],
    "gnd": [{"bbx": [1.5, 2, 30, 40], "easy": [0], "hard": [], "junk": [2]}],
}


@pytest.mark.parametrize("form", ["json", 0, 2, 5])
def test_every_form_is_read(tmp_path: Path, form: str | int) -> None:
    path = tmp_path / ("gnd.json" if form == "json" else "gnd_roxford5k.pkl")
    if isinstance(form, str):
        path.write_text(json.dumps(PLAIN))
    else:
        (query,) = PLAIN["gnd"]
        arrays = {key: np.array(value, dtype=float if key == "bbx" else int)
                  for key, value in query.items()}  # fmt: skip
        path.write_bytes(pickle.dumps({**PLAIN, "gnd": [arrays]}, protocol=form))
    found = read_revisited(path)
    assert (found.database, found.queries) == (["a", "b", "c"], ["q"])
    assert found.boxes.tolist() == [[1.5, 2, 30, 40]]
    assert {kind: places[0].tolist() for kind, places in found.judged.items()} == {
        "easy": [0],
        "hard": [],
        "junk": [2],
    }


class Hostile:
    def __init__(self, call: Any, *arguments: Any):
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    path = tmp_path / "gnd.pkl"
    for hostile in (
        Hostile(shutil.rmtree, str(kept)),
        Hostile(eval, f"__import__('shutil').rmtree({str(kept)!r})"),
        Hostile(np.load, str(path)),
        Hostile(getattr, "text", "upper"),
    ):
        path.write_bytes(pickle.dumps({**PLAIN, "gnd": hostile}, protocol=protocol))
        with pytest.raises(TableError, match=r"gnd.pkl: names .*, which is no part of an array"):
            read_revisited(path)
    assert kept.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gnd": []}, "gnd has 0 queries, qimlist 1"),
        ({"imlist": ["a"]}, "query q: junk has a place outside the 1 of imlist"),
        ({"gnd": [{"bbx": [1, 2, 3, 4]}]}, "no ground truth .*KeyError: 'easy'"),
    ],
)
def test_something_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "gnd.json"
    path.write_text(json.dumps({**PLAIN, **change}))
    with pytest.raises(TableError, match=message):
        read_revisited(path)
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps({**PLAIN, **change})[:-20])
    with pytest.raises(TableError, match="no ground truth"):
        read_revisited(tmp_path / "gnd.pkl")
    with pytest.raises(TableError, match="no such file"):
        read_revisited(tmp_path / "absent.pkl")
