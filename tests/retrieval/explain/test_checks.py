"""Which methods can be trusted: a network that is made random, and maps that fade or do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.hog import HogConfig
from retrieval.descriptors.registry import build_extractor
from retrieval.descriptors.trained import TrainedConfig, extractor_around
from retrieval.errors import ExplainError
from retrieval.explain import checks, methods
from retrieval.explain.checks import CHECKED, check, rank_correlation, structural_similarity
from retrieval.explain.derivable import derivable
from retrieval.explain.methods import Found
from retrieval.explain.randomised import randomised
from retrieval.explain.targets import Asked
from retrieval.networks.embedder import Embedder, NeckConfig, NetworkConfig
from tests.photographs import picture


def describer(config: Any = None) -> Describer:
    made = config or CnnConfig.model_validate(
        {"trunk": "vgg11", "weights": "none", "size": 96, "precision": "float32",
         "runtime": "torch", "layers": [{"layer": "features.10"}]}
    )  # fmt: skip
    return Describer(build_extractor(made, "cpu", 0), None)


def asked(made: Describer, seed: int = 0) -> Asked:
    return Asked(made, picture(seed, 64, 96), picture(seed + 1, 64, 96), 0, {}, "")


def test_networks_are_made_random_from_the_top_and_are_as_they_were() -> None:
    by = derivable(describer(), picture(0, 64, 96))
    network = by.seen[0].trunk.network
    before = {name: one.clone() for name, one in network.named_parameters()}
    names = [name for name in before if name.endswith("weight")]
    seen = []
    for share in randomised(by, 2):
        changed = [n for n, one in network.named_parameters() if not torch.equal(one, before[n])]
        seen.append([name for name in names if name in changed])
        assert share == len(seen) / 2
        for name, one in network.named_parameters():
            # The same numbers in another order.
            assert torch.equal(one.flatten().sort()[0], before[name].flatten().sort()[0])
    assert seen == [names[-len(seen[0]) :], names]
    assert 0 < len(seen[0]) < len(names)
    assert all(torch.equal(one, before[name]) for name, one in network.named_parameters())


def test_a_trained_neck_is_made_random_before_the_trunk() -> None:
    config = NetworkConfig(trunk="vgg11", weights="none", neck=NeckConfig(dimension=8))
    network = Embedder(config, 0).eval()
    made = Describer(extractor_around(network, TrainedConfig(runtime="torch"), 96), None)
    by = derivable(made, picture(0, 64, 96))
    assert network.neck is not None
    weight, first = (next(iter(one.parameters())) for one in (network.neck, network.trunk))
    before = weight.clone(), first.clone()
    steps = randomised(by, 2)
    next(steps)
    assert not torch.equal(weight, before[0])
    assert torch.equal(first, before[1])
    del steps
    assert torch.equal(weight, before[0])


def test_networks_are_as_they_were_after_a_mistake() -> None:
    by = derivable(describer(), picture(0, 64, 96))
    before = [one.clone() for one in by.seen[0].trunk.network.parameters()]
    steps = randomised(by, 2)
    next(steps)
    del steps
    after = list(by.seen[0].trunk.network.parameters())
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))


def _edges(asked: Asked, target: Any) -> Found:
    """A method that looks at the photograph alone."""
    grey = asked.photograph.mean(axis=2)
    return Found(np.hypot(*np.gradient(grey)).astype(np.float32))


def test_a_method_that_looks_at_no_weights_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "edges", (False, _edges))
    monkeypatch.setattr(checks, "CHECKED", ("gradient", "edges", "shares", "guided"))
    found = check([asked(describer(), one) for one in (0, 5)], ["a", "b"])
    by_name = {one.method: one for one in found.methods}
    assert by_name["edges"].fails
    assert by_name["edges"].ranks == pytest.approx([1.0] * checks.STEPS)
    assert not by_name["gradient"].fails
    assert by_name["gradient"].ranks[-1] < by_name["gradient"].ranks[0] + 0.1
    # Greying what carries the similarity lowers it sooner than greying places in no order.
    assert by_name["shares"].deletion < found.random[0]
    assert by_name["shares"].insertion > found.random[1]
    told = found.as_json()["methods"]["edges"]
    assert told["fails"]
    assert told["likeness"] == pytest.approx(1.0)


def test_a_system_without_a_network_is_refused() -> None:
    made = describer(HogConfig.model_validate({"side": 64, "cells": [16]}))
    with pytest.raises(ExplainError, match="made by no network"):
        check([asked(made)], ["a"])


def test_occlusion_is_the_yardstick() -> None:
    assert set(CHECKED) == {"shares", *methods.METHODS} - {"occlusion"}


def test_rank_correlation_is_scipys() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 8, 9)).round(1)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel())[0])
    assert rank_correlation(one, np.ones_like(one)) == 0


def test_structure_is_that_of_sizes_at_any_scale() -> None:
    one = np.random.default_rng(0).normal(size=(20, 30))
    assert structural_similarity(one, -5 * one) == pytest.approx(1.0)
    assert abs(structural_similarity(one, one[::-1, ::-1])) < 0.3
    assert structural_similarity(one, np.zeros_like(one)) == 0
