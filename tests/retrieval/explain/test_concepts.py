"""Concepts: one that was planted is found, and chance is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import ExplainError
from retrieval.explain.concept_study import ConceptStudy, read_concepts
from retrieval.explain.concepts import (
    by_roots,
    concept_scores,
    holm,
    layer_for,
    one_more,
    separate,
)
from retrieval.explain.targets import Asked
from tests.photographs import picture, write_photograph
from tests.planted import NEEDED, colour_network, require_found


def test_a_planted_concept_is_found_and_random_ones_are_not() -> None:
    require_found([picture(one, 64, 64) for one in range(NEEDED)], 0.95)


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
        layer_for(Asked(colour_network(), picture(0), picture(1), 0, {}, ""), "nowhere")


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
