"""Every loss against its definition, photograph by photograph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from retrieval.networks.heads import Head, HeadConfig
from retrieval.training.losses import head_memory, margins, row_losses
from tests.retrieval.classifiers.galleries import unit

COUNTS = np.array([1, 10, 100, 7])
ROWS = unit(np.random.default_rng(0).standard_normal((6, 8)))
TARGETS = np.array([0, 1, 2, 3, 3, -1])


def head_of(**values: Any) -> Head:
    config: Any = TypeAdapter(HeadConfig).validate_python(values)
    return Head(config, 8, 3 if config.kind in ("linear", "two-layer") else 4, True, 0)


def losses(head: Head) -> np.ndarray:
    targets = torch.from_numpy(TARGETS)
    margin = margins(head.config, COUNTS)[targets.clamp(min=0)]
    with torch.no_grad():
        return row_losses(head(torch.from_numpy(ROWS)), head, targets, margin).numpy()


def softmax_loss(logits: np.ndarray, target: int) -> float:
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target])


def cosines(head: Head) -> np.ndarray:
    """(n, classes, centres)."""
    centres = unit(head.weight.detach().numpy()).astype(np.float64)
    return (ROWS @ centres.T).reshape(len(ROWS), head.classes, -1)


def test_linear_is_softmax_with_a_class_for_none() -> None:
    head = head_of(kind="linear", scale=5.0)
    assert head.classes == 4
    nn.init.normal_(head.bias, generator=torch.Generator().manual_seed(1))
    logits = 5.0 * ROWS @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    expected = [softmax_loss(one, target) for one, target in zip(logits, TARGETS, strict=True)]
    # A photograph whose class is not compared with costs nothing.
    np.testing.assert_allclose(losses(head), [*expected[:5], 0.0], rtol=1e-5)


def test_smoothing_spreads_a_share_of_the_target() -> None:
    head = head_of(kind="linear", scale=5.0)
    logits = head(torch.from_numpy(ROWS[:5])).detach()
    targets, margin = torch.from_numpy(TARGETS[:5]), torch.zeros(5)
    every = np.array([[softmax_loss(one, k) for k in range(4)] for one in logits.numpy()])
    expected = 0.8 * every[np.arange(5), TARGETS[:5]] + 0.2 * every.mean(axis=1)
    found = row_losses(logits, head, targets, margin, 0.2).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_two_layer_has_a_hidden_layer_and_drops_some_of_it() -> None:
    head = head_of(kind="two-layer", hidden=6, dropout=0.4, scale=5.0).eval()
    assert head.hidden is not None
    layer = head.hidden[0]
    hidden = np.maximum(ROWS @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    logits = 5.0 * unit(hidden) @ head.weight.detach().numpy().T
    expected = [softmax_loss(one, target) for one, target in zip(logits, TARGETS, strict=True)]
    np.testing.assert_allclose(losses(head)[:5], expected[:5], rtol=1e-5)
    rows = torch.from_numpy(np.repeat(ROWS[:1], 50, axis=0))
    with torch.no_grad():
        assert head(rows).std(dim=0).max() < 1e-4
        assert head.train()(rows).std(dim=0).min() > 1e-2


@pytest.mark.parametrize("kind", ["arcface", "sub-centre"])
def test_angular_margins(kind: str) -> None:
    form = {"margin": 0.4} if kind == "arcface" else {"centres": 3}
    head = head_of(kind=kind, scale=9.0, **form)
    near = cosines(head).max(axis=2)
    margin = (
        np.full(4, 0.4) if kind == "arcface" else 0.05 + 0.5 * COUNTS.astype(np.float64) ** -0.25
    )
    for row, target, found in zip(near, TARGETS, losses(head), strict=True):
        turned = row.copy()
        if target >= 0:
            angle = np.arccos(row[target])
            assert angle + margin[target] < np.pi
            turned[target] = np.cos(angle + margin[target])
        expected = softmax_loss(9.0 * turned, target) if target >= 0 else 0.0
        assert found == pytest.approx(expected, rel=1e-4)


def test_beyond_half_a_turn_a_margin_still_costs_more() -> None:
    head = head_of(kind="arcface", margin=0.5, scale=1.0)
    head.weight.data = torch.zeros(4, 8)
    head.weight.data[:, 0] = torch.tensor([1.0, -1.0, -1.0, -1.0])
    angles = torch.linspace(2.5, np.pi, 50)
    rows = torch.zeros(50, 8)
    rows[:, 0], rows[:, 1] = angles.cos(), angles.sin()
    targets = torch.zeros(50, dtype=torch.int64)
    found = row_losses(head(rows), head, targets, torch.full((50,), 0.5))
    assert (found.diff() > 0).all()


def test_sigmoid_asks_of_every_landmark_alone() -> None:
    head = head_of(kind="sigmoid", scale=5.0)
    assert head.classes == 4
    logits = 5.0 * ROWS @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    shown = 1 / (1 + np.exp(-logits.astype(np.float64)))
    wanted = TARGETS[:, None] == np.arange(4)
    assert not wanted[5].any()
    expected = -np.where(wanted, np.log(shown), np.log(1 - shown)).sum(axis=1)
    np.testing.assert_allclose(losses(head), expected, rtol=1e-5)
    # Nobody is likely at first.
    assert shown[:, 0].mean() < 0.5


def test_some_classes_alone_have_the_logits_that_they_have_among_all() -> None:
    for values in ({"kind": "linear"}, {"kind": "sub-centre", "centres": 2}):
        head = head_of(**values)
        rows, some = torch.from_numpy(ROWS), torch.tensor([0, 2])
        torch.testing.assert_close(head(rows, some), head(rows)[:, some])


@pytest.mark.parametrize(
    "values",
    [{"kind": "linear"}, {"kind": "two-layer", "hidden": 64}, {"kind": "sub-centre"}],
)
def test_the_memory_stated_is_that_of_parameters_gradients_and_moments(
    values: dict[str, Any],
) -> None:
    config: Any = TypeAdapter(HeadConfig).validate_python(values)
    head = Head(config, 32, 5000, False, 0)
    held = 4 * sum(one.numel() for one in head.parameters() if one.ndim > 1)
    without_batch = head_memory(config, 5000, 32, 0)
    assert without_batch == 4 * held
    assert head_memory(config, 5000, 32, 0, optimiser="sgd") == 3 * held
    sampled = head_memory(config, 5000, 32, 64, sampled=500)
    assert without_batch < sampled < head_memory(config, 5000, 32, 64)
