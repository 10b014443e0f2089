"""Concepts: one that was planted is found, and chance is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.registry import build_extractor
from retrieval.errors import ExplainError
from retrieval.explain.concept_study import ConceptStudy, read_concepts
from retrieval.explain.concepts import (
    by_roots,
    channel_scale,
    concept_scores,
    holm,
    layer_for,
    mean_channels,
    one_more,
    separate,
    slopes,
)
from retrieval.explain.targets import Asked, Target
from tests.photographs import picture, write_photograph

RED, BLUE = 0, 2


def describer() -> Describer:
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


def marked(seed: int) -> np.ndarray:
    """A photograph with a red mark."""
    shown = picture(seed, 64, 64).copy()
    top, left = np.random.default_rng(seed).integers(0, 32, 2)
    shown[top : top + 32, left : left + 32] = (230, 20, 20)
    return shown


def asked(made: Describer, seed: int) -> Asked:
    return Asked(made, picture(seed, 64, 64), picture(seed + 1, 64, 64), 0, {}, "")


def test_a_planted_concept_is_found_and_random_ones_are_not() -> None:
    made = describer()
    layer = layer_for(asked(made, 0), "features.0")
    plain = mean_channels(asked(made, 0), layer, [picture(one, 64, 64) for one in range(400, 490)])
    named = {"red": mean_channels(asked(made, 0), layer, [marked(one) for one in range(20)])}
    for number in range(5):
        some = [picture(1000 + 20 * number + one, 64, 64) for one in range(20)]
        named[f"random {number}"] = mean_channels(asked(made, 0), layer, some)
    centre, scale = channel_scale(plain)
    named = {name: (rows - centre) / scale for name, rows in named.items()}
    vectors, chances = separate(named, (plain - centre) / scale)
    # What the two targets hang on: red, and nothing that any of the concepts is.
    derivatives = {}
    for name, colour in (("of red", RED), ("of nothing", 5)):
        target = Target(name, lambda rows, colour=colour: rows[:, colour])
        each = [slopes(asked(made, one), layer, target) for one in range(200, 206)]
        derivatives[name] = np.array(each) * scale
    found = concept_scores(vectors, chances, derivatives)
    scores = {(one.concept, one.landmark): one for one in found}
    assert vectors[0].separators.accuracy.mean() > 0.95
    assert all(one.separators.accuracy.mean() < 0.8 for one in vectors[1:])
    red = scores["red", "of red"]
    assert red.significant
    assert red.score == 1.0
    assert red.effect > 0.5
    assert not [one for key, one in scores.items() if key[0] != "red" and one.significant]


def test_scores_against_the_slow_definition() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(90, 6)).astype(np.float32)
    named = {"up": rows[:20] + np.float32([2, 0, 0, 0, 0, 0]), "none": rows[20:40]}
    vectors, chances = separate(named, rows[40:])
    slopes_of = random.normal(size=(7, 6)).astype(np.float32)
    (up, none) = concept_scores(vectors, chances, {"one": slopes_of})
    made = vectors[0].separators
    products = [
        (float(slope @ way), float(slope @ way / np.linalg.norm(slope) * apart))
        for slope in slopes_of
        for way, apart in zip(made.directions, made.apart, strict=True)
    ]
    assert up.score == pytest.approx(np.mean([one > 0 for one, _ in products]))
    assert up.effect == pytest.approx(np.mean([one for _, one in products]), rel=1e-5)
    assert made.direction[0] > 0.8
    assert made.apart.mean() == pytest.approx(2.0, abs=0.4)
    assert abs(vectors[1].separators.apart.mean()) < 0.5
    assert none.p > 0.05


def test_one_observation_more_is_tested_at_its_level() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(4000, 13))
    chances = np.array([one_more(row[0], row[1:]) for row in values])
    assert np.mean(chances < 0.05) == pytest.approx(0.05, abs=0.012)
    assert one_more(9.0, values[0, 1:]) < 1e-4


def test_products_of_two_things_by_chance_are_no_effect() -> None:
    values = np.prod(np.random.default_rng(0).normal(size=(2, 3000, 25)), axis=0)
    assert np.mean([one_more(row[0], row[1:]) < 0.01 for row in values]) > 0.02
    assert np.mean([by_roots(row[0], row[1:]) < 0.01 for row in values]) < 0.01
    assert by_roots(-40.0, values[0, 1:]) < 1e-3


def test_corrections_are_holms() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExplainError, match="no such folder"):
        read_concepts(tmp_path / "not")
    write_photograph(tmp_path / "random" / "a.jpg", picture(0))
    with pytest.raises(ExplainError, match="holds no concept"):
        read_concepts(tmp_path)
    write_photograph(tmp_path / "red" / "deep" / "a.jpg", picture(0))
    assert {name: len(paths) for name, paths in read_concepts(tmp_path).items()} == {
        "random": 1, "red": 1,
    }  # fmt: skip
    few = np.zeros((3, 4), np.float32)
    with pytest.raises(ExplainError, match="concept red: 3 photographs"):
        separate({"red": few}, np.zeros((40, 4), np.float32))
    with pytest.raises(ExplainError, match="too few"):
        separate({"red": np.zeros((9, 4), np.float32)}, few)
    with pytest.raises(ExplainError, match="--layer nowhere"):
        layer_for(asked(describer(), 0), "nowhere")


def test_a_study_is_kept_as_it_was() -> None:
    rows = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)
    vectors, chances = separate({"a": rows[:20]}, rows[20:])
    from retrieval.explain.concept_study import ConceptDirection

    (one,) = vectors
    made = ConceptStudy(
        "layer", "similarity", np.ones(6, np.float32),
        (ConceptDirection("a", 20, 0.9, one.separators.direction),),
        tuple(concept_scores(vectors, chances, {"x": rows[:5]})),
    )  # fmt: skip
    again = ConceptStudy.of_json(made.as_json())
    np.testing.assert_allclose(again.concepts[0].direction, one.separators.direction, rtol=1e-5)
    assert again.scores == made.scores
