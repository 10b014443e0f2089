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


def forged(*steps: bytes) -> bytes:
    """A pickle of protocol 2 by its steps."""
    return b"\x80\x02" + b"".join(steps) + b"."


NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt R".replace(
    b" ", b""
)
OBJECTS = b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R"
INTEGERS = (
    b"cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


def filled(shape: bytes, kind: bytes, data: bytes) -> bytes:
    """An array, and the step that fills it."""
    return NDARRAY + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (forged(filled(b"K\x02\x85", OBJECTS, b"]")), "array of O8"),
        (forged(filled(b"K\x01\x85", OBJECTS, b"U\x08AAAAAAAA")), "array of O8"),
        (forged(b"cnumpy\ndtype\n](U\x01aU\x02i8\x86e\x85R"), "array of objects"),
        (forged(filled(b"J\xff\xff\xff\x7f\x85", INTEGERS, b"U\x08AAAAAAAA")), "no such shape"),
        (forged(filled(b"J\xff\xff\xff\xff\x85", INTEGERS, b"U\x08AAAAAAAA")), "no such shape"),
        (forged(filled(b"K\x02\x85", INTEGERS, b"U\x08AAAAAAAA")), "another size than its bytes"),
        (forged(filled(b"K\x01\x85", INTEGERS, b"K\x05")), "array of something else"),
        (forged(b"cnumpy\nndarray\nK\x01\x85\x85R"), "KeyError: 'class'"),
        (forged(b"cnumpy\nndarray\n}U\x01aK\x01sb"), "dict out of place"),
        (forged(b"Pname\n"), "a step PERSID"),
        (forged(b"U\x01aQ"), "a step BINPERSID"),
        (forged(b"cnumpy\nndarray\n)\x81"), "a step NEWOBJ"),
        (forged(b"\x82\x01"), "a step EXT1"),
        (forged(b"\x97"), "a step NEXT_BUFFER"),
        (forged(b"K\x012"), "a step DUP"),
        (forged(b"}", b")" + b"\x85" * 200_000, b"K\x01s"), "tuple as a key"),
        (forged(b"]", b"]q\x00h\x00a" * 50, b"0" * 90), "no ground truth"),
        (forged(b"]" * 500_000 + b"a" * 499_999), "no ground truth"),
        (forged(b"0" * 1_100_000), "no ground truth"),
        (forged(b"N0" * 600_000), "more than 1,000,000 steps"),
        (forged(b"r\xff\xff\xff\x7f"), "no ground truth"),
        (forged(b"Nr\xff\xff\xff\x7f"), "no ground truth"),
        (forged(b"\x8b\xff\xff\xff\x7fA"), "no ground truth"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.", "no ground truth"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fN.", "no ground truth"),
        (b"I" + b"9" * 5000 + b"\n.", "no ground truth"),
        (b"", "no ground truth"),
        (b"\xff\xd8\xff", "no ground truth"),
        (b"(" * 9_000_000, "more than 8 MB"),
    ],
    ids=lambda one: one if isinstance(one, str) else f"{len(one)} bytes",
)  # fmt: skip
def test_forged_pickles_are_one_line(tmp_path: Path, pickled: bytes, said: str) -> None:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickled)
    with pytest.raises(TableError, match=said) as caught:
        read_revisited(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_taken_up_over_and_over_fill_no_memory(tmp_path: Path) -> None:
    big = b"T" + (6_000_000).to_bytes(4, "little") + b"a" * 6_000_000 + b"q\x00"
    copy = b"c_codecs\nencode\nh\x00U\x06latin1\x86R"
    (tmp_path / "gnd.pkl").write_bytes(forged(big, copy * 10_000))
    with pytest.raises(TableError, match="the same bytes over and over"):
        read_revisited(tmp_path / "gnd.pkl")
    many = {**PLAIN["gnd"][0], "easy": [0] * 100_000}
    shared = {"imlist": ["a"], "qimlist": ["q"] * 1000, "gnd": [many] * 1000}
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(shared, protocol=2))
    with pytest.raises(TableError, match="more than 5,000,000 places"):
        read_revisited(tmp_path / "gnd.pkl")


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_pickle_is_read_or_one_line(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (query,) = PLAIN["gnd"]
    arrays = {key: np.array(value, dtype=float if key == "bbx" else int)
              for key, value in query.items()}  # fmt: skip
    path = tmp_path / "gnd.pkl"
    said = []
    for protocol in (0, 2, 5):
        whole = pickle.dumps({**PLAIN, "gnd": [arrays]}, protocol=protocol)
        for _ in range(300):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), rng.integers(1, 4)):
                data[place] = rng.integers(0, 256)
            path.write_bytes(bytes(data))
            try:
                read_revisited(path)
            except TableError as error:
                said.append(str(error))
    assert said
    assert not any("\n" in one for one in said)


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
