"""Leads against one query at a time, and the least of them that is safe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import RunError
from retrieval.index.early_exit import SavedExit, leads, least_lead
from retrieval.index.neighbours import Neighbours


@given(seed=st.integers(0, 500), k=st.integers(1, 6), banked=st.booleans())
def test_leads_are_those_of_a_loop(seed: int, k: int, banked: bool) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(3, size=8)
    rows = random.integers(8, size=(5, k))
    similar = -np.sort(-random.random((5, k), dtype=np.float32), axis=1)
    missing = np.arange(k) >= random.integers(k + 1, size=(5, 1))
    rows[missing], similar[missing] = -1, -np.inf
    bank = random.random(5, dtype=np.float32) if banked else None
    found = leads(Neighbours(rows, similar), codes, bank)
    for query in range(5):
        there = [place for place in range(k) if rows[query, place] >= 0]
        if not there:
            assert found[query] == -np.inf
            continue
        own = codes[rows[query, 0]]
        rivals = [similar[query, i] for i in there if codes[rows[query, i]] != own]
        rivals.append(similar[query, there[-1]])
        if bank is not None:
            rivals.append(bank[query])
        assert found[query] == pytest.approx(similar[query, 0] - max(rivals), abs=1e-6)


def test_the_least_lead_lets_few_others_through() -> None:
    lead = np.linspace(1.0, 0.0, 1000, dtype=np.float32)
    same = np.ones(1000, dtype=np.bool_)
    same[[300, 301, 700]] = False
    same[800:] = False
    strict, lax = (least_lead(lead, same, one) for one in (0.004, 0.1))
    assert (strict.exits, strict.others) == (300, 0)
    assert strict.least == lead[299]
    assert lax.others / lax.exits <= 0.1
    assert lax.exits > 800
    # Too few to be sure of, and none that agrees.
    assert least_lead(lead[:50], same[:50], 0.01).least is None
    assert least_lead(lead, np.zeros(1000, dtype=np.bool_), 0.01).least is None


def test_equal_leads_go_together() -> None:
    lead = np.repeat([0.5, 0.4], 100).astype(np.float32)
    same = np.arange(200) < 150
    found = least_lead(lead, same, 0.1)
    assert (found.least, found.exits) == (0.5, 100)


def test_it_is_saved_and_damage_is_one_line(tmp_path: Path) -> None:
    saved = SavedExit(least=0.25, held_out=9, exits=4, others=0)
    saved.save(tmp_path)
    assert SavedExit.load(tmp_path) == saved
    (tmp_path / "early_exit.json").write_text("{}")
    with pytest.raises(RunError, match="early_exit"):
        SavedExit.load(tmp_path)
