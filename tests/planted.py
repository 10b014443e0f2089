"""A concept that is planted in photographs, and a network that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.registry import build_extractor
from retrieval.explain.concepts import (
    channel_scale,
    concept_scores,
    layer_for,
    mean_channels,
    separate,
    slopes,
)
from retrieval.explain.targets import Asked, Target
from retrieval.types import Photograph

RED, OTHER = 0, 5
OF_CONCEPT, OF_NOTHING, RANDOM, EXPLAINED = 20, 90, 5, 6
NEEDED = OF_CONCEPT * (1 + RANDOM) + OF_NOTHING + EXPLAINED
"""Photographs that :func:`require_found` takes."""


def colour_network() -> Describer:
    """Of a network that knows colours: the first channels of its map are the photograph's own."""
    config = CnnConfig.model_validate(
        {"trunk": "vgg11", "weights": "none", "size": 96, "layers": [{"layer": "features.2"}],
         "precision": "float32", "runtime": "torch"}
    )  # fmt: skip
    extractor: Any = build_extractor(config, "cpu", 0)
    first = next(m for m in extractor.trunk.network.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        first.weight[:3] = 0
        for colour in range(3):
            first.weight[colour, colour, 1, 1] = 1
        first.bias[:3] = 3  # the rectifier behind lets all of it through
    return Describer(extractor, None)


def marked(photograph: Photograph, seed: int) -> Photograph:
    """A photograph with a red mark, half as high and wide."""
    shown = photograph.copy()
    height, width = (side // 2 for side in shown.shape[:2])
    random = np.random.default_rng(seed)
    top, left = int(random.integers(0, height)), int(random.integers(0, width))
    shown[top : top + height, left : left + width] = (230, 20, 20)
    return shown


def require_found(photographs: Sequence[Photograph], told_apart: float) -> None:
    """Require that red is found in photographs, as many as are needed, of which some are marked and
    more than such a share of them told from others, and that five sets of those that are not are no
    concept."""
    assert len(photographs) == NEEDED
    made, left = colour_network(), list(photographs)

    def some(count: int) -> list[Photograph]:
        taken, left[:] = left[:count], left[count:]
        return taken

    def asked(photograph: Photograph) -> Asked:
        return Asked(made, photograph, photographs[0], 0, {}, "")

    layer = layer_for(asked(photographs[0]), "features.0")
    sets = {"red": [marked(one, seed) for seed, one in enumerate(some(OF_CONCEPT))]}
    sets |= {f"random {number}": some(OF_CONCEPT) for number in range(RANDOM)}
    plain = mean_channels(asked(photographs[0]), layer, some(OF_NOTHING))
    centre, scale = channel_scale(plain)
    rows = {
        name: (mean_channels(asked(photographs[0]), layer, own) - centre) / scale
        for name, own in sets.items()
    }
    vectors, chances = separate(rows, (plain - centre) / scale)
    # What the two targets hang on: red, and nothing that any of the concepts is.
    derivatives, explained = {}, some(EXPLAINED)
    for name, channel in (("of red", RED), ("of another", OTHER)):
        target = Target(name, lambda rows, channel=channel: rows[:, channel])
        each = [slopes(asked(one), layer, target) for one in explained]
        derivatives[name] = np.array(each) * scale
    scores = {
        (one.concept, one.landmark): one for one in concept_scores(vectors, chances, derivatives)
    }
    assert vectors[0].separators.accuracy.mean() > told_apart
    assert all(one.separators.accuracy.mean() < 0.8 for one in vectors[1:])
    red = scores["red", "of red"]
    assert red.significant
    assert red.score == 1.0
    assert red.effect > 0.5
    assert not [one for key, one in scores.items() if key[0] != "red" and one.significant]
