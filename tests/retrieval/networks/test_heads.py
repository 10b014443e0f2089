"""Logits to landmarks in order, with values that compare photographs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from retrieval.networks.heads import Head, HeadConfig, confidences, ranked, uses_bank
from tests.retrieval.classifiers.galleries import unit

KINDS = ["linear", "two-layer", "arcface", "sub-centre", "sigmoid"]


def head_of(kind: str, landmarks: int = 5, bank: bool = True, **values: Any) -> Head:
    config: Any = TypeAdapter(HeadConfig).validate_python({"kind": kind, **values})
    return Head(config, 8, landmarks, bank, 0).eval()


def test_who_has_a_class_for_none() -> None:
    classes = {kind: head_of(kind).classes for kind in KINDS}
    assert classes == {"linear": 6, "two-layer": 6, "arcface": 5, "sub-centre": 5, "sigmoid": 5}
    assert head_of("arcface", negatives=True).classes == 6
    assert head_of("linear", bank=False).classes == 5
    assert [kind for kind in KINDS if not uses_bank(head_of(kind).config)] == (
        ["arcface", "sub-centre"]
    )


@pytest.mark.parametrize("bank", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_log_odds_against_everything_else(kind: str, bank: bool) -> None:
    head = head_of(kind, bank=bank)
    logits = 3 * np.random.default_rng(0).standard_normal((20, head.classes))
    best, values = confidences(head, torch.from_numpy(logits), 4)
    assert best.shape == values.shape == (20, 4)
    for row, order, found in zip(logits, best.numpy(), values.numpy(), strict=True):
        assert order.tolist() == np.argsort(-row[:5], kind="stable")[:4].tolist()
        if kind == "sigmoid":
            expected = row[order]
        else:
            every = np.exp(row if head.none else [*row, 0.0])
            share = every / every.sum()
            expected = np.log(share[order] / (1 - share[order]))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_photographs_that_are_all_but_certain_are_still_told_apart() -> None:
    head = head_of("linear")
    logits = torch.zeros(3, 6)
    logits[:, 2] = torch.tensor([60.0, 80.0, 100.0])
    _, values = confidences(head, logits, 1)
    assert (values[:, 0].diff() > 19).all()


def test_blocks_are_ranked_as_all_at_once() -> None:
    head = head_of("linear", landmarks=9)
    rows = unit(np.random.default_rng(0).standard_normal((10, 8)))
    best, values = ranked(head, rows, 3, 100)
    again, same = ranked(head, rows, 3, 3)
    assert (best == again).all()
    np.testing.assert_allclose(values, same, rtol=1e-6)
    assert (values[:, :-1] >= values[:, 1:]).all()
    none, nothing = ranked(head, rows[:0], 3, 3)
    assert none.shape == nothing.shape == (0, 3)
