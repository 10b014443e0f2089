"""The fusion of several rankings against a slow one, its weights, and what it holds out."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.classifiers import ensemble
from retrieval.classifiers.base import HeldOut, Scores
from retrieval.classifiers.centroid import CentroidConfig
from retrieval.classifiers.ensemble import EnsembleClassifier, EnsembleConfig, Fusion
from retrieval.classifiers.members import member_held_out
from retrieval.classifiers.svm import SvmConfig
from retrieval.classifiers.vote import VoteConfig
from retrieval.evaluation.selection import held_out_gap
from tests.oracles import classifiers as slow
from tests.retrieval.classifiers.galleries import clusters

MEMBERS = {"knn": VoteConfig(), "svm": SvmConfig()}
CONFIG = EnsembleConfig(members=MEMBERS)


def ranked(candidates: list[list[int]], values: list[list[float]]) -> Scores:
    return Scores(np.array(candidates), np.array(values, np.float32))


def noisy(rng: np.random.Generator, clear: float, count: int = 200, landmarks: int = 6) -> HeldOut:
    """A member whose values are the truth's, so clear, beside noise."""
    truth = np.arange(count) % landmarks
    values = rng.standard_normal((2 * count, landmarks)).astype(np.float32)
    values[np.arange(count), truth] += clear
    both = Scores.top(values, landmarks)
    return HeldOut(
        np.arange(count), truth, both.at(np.arange(count)), np.arange(count),
        both.at(np.arange(count, 2 * count)),
    )  # fmt: skip


def test_fusion_is_the_slow_one() -> None:
    fusion = Fusion(
        slopes=[2.0, 1.0],
        offsets=[0.5, -1.0],
        floors=[-3.0, -2.0],
        weights=[0.25, 0.75],
        offset=0.1,
    )
    one = ranked([[4, 1, -1], [2, 0, 1]], [[1.0, -9.0, -np.inf], [0.5, 0.25, 0.0]])
    other = ranked([[1, 3], [-1, -1]], [[2.0, 0.5], [-np.inf, -np.inf]])
    fused = fusion.fused([one, other], 2)
    for query in range(2):
        rankings = [
            dict(zip(each.candidates[query].tolist(), each.values[query].tolist(), strict=True))
            for each in (one, other)
        ]
        expected = slow.fusion(rankings, fusion.model_dump(), 2)
        assert fused.candidates[query].tolist() == [code for code, _ in expected]
        assert fused.values[query] == pytest.approx([value for _, value in expected], abs=1e-5)


def test_a_member_that_knows_nothing_weighs_nothing() -> None:
    rng = np.random.default_rng(0)
    config = CONFIG.model_copy(update={"penalty": 0.1})
    fusion = Fusion.fit([noisy(rng, 3.0), noisy(rng, 0.0)], config)
    clear, blind = (w * slope for w, slope in zip(fusion.weights, fusion.slopes, strict=True))
    assert 0.0 <= blind < 0.05 * clear
    firm = Fusion.fit(
        [noisy(rng, 3.0), noisy(rng, 0.0)], config.model_copy(update={"penalty": 1e6})
    )
    assert firm.weights == pytest.approx([0.5, 0.5], abs=0.01)


def test_probabilities_hold_up() -> None:
    rng = np.random.default_rng(0)
    learnt, fresh = ([noisy(rng, 3.0, 3000), noisy(rng, 2.0, 3000)] for _ in range(2))
    fusion = Fusion.fit(learnt, CONFIG)
    gallery = fusion.fused([one.gallery for one in fresh], 3)
    bank = fusion.fused([one.bank for one in fresh], 3)
    probability = 1 / (1 + np.exp(-np.append(gallery.confidence, bank.confidence)))
    right = np.append(gallery.best == fresh[0].truth, np.zeros(3000, np.bool_))
    for low in np.arange(0, 1, 0.2):
        some = (probability >= low) & (probability < low + 0.2)
        assert right[some].mean() == pytest.approx(probability[some].mean(), abs=0.05)


def test_together_they_are_better_than_the_best() -> None:
    rng = np.random.default_rng(1)
    members = [noisy(rng, 2.5), noisy(rng, 2.5)]
    fused = Fusion.fit(members, CONFIG).fused([one.gallery for one in members], 5)
    best = max(one.correct.mean() for one in members)
    assert (fused.best == members[0].truth).mean() > best + 0.03


def test_held_out_photographs_are_not_scored_by_weights_learnt_on_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gallery = clusters(6, 10, 40, 1.2)
    learnt: list[tuple[set[int], set[int]]] = []
    scored: list[set[int]] = []
    fit, fused = Fusion.fit, Fusion.fused
    held = member_held_out(MEMBERS["svm"], gallery, 0)
    place = {one.tobytes(): row for row, one in enumerate(held.gallery.values)}

    def note_fit(parts: list[HeldOut], config: EnsembleConfig) -> Fusion:
        learnt.append((set(parts[0].rows.tolist()), set(parts[0].bank_rows.tolist())))
        return fit(parts, config)

    def note_fused(self: Fusion, scores: list[Scores], candidates: int) -> Scores:
        known = [place.get(one.tobytes()) for one in scores[1].values]
        scored.append({int(held.rows[one]) for one in known if one is not None})
        return fused(self, scores, candidates)

    monkeypatch.setattr(ensemble.Fusion, "fit", note_fit)
    monkeypatch.setattr(ensemble.Fusion, "fused", note_fused)
    EnsembleClassifier.held_out(CONFIG, gallery)
    assert len(learnt) == ensemble.PARTS
    for (rows, bank_rows), own in zip(learnt, scored[::2], strict=True):
        assert own
        assert not rows & own
        assert rows | own == set(range(60))
        assert len(bank_rows) == 32


def test_an_ensemble_of_one_ranks_as_that_one() -> None:
    gallery = clusters(6, 8, 30, 1.2)
    alone = member_held_out(CentroidConfig(), gallery, 0)
    config = EnsembleConfig(members={"one": CentroidConfig()})
    fused = EnsembleClassifier.held_out(config, gallery)
    assert (fused.gallery.best == alone.gallery.best).all()
    assert held_out_gap(fused) == pytest.approx(held_out_gap(alone), abs=0.08)


def test_neighbours_are_the_most_that_a_member_asks() -> None:
    config = EnsembleConfig(members={"few": VoteConfig(k=3), "more": VoteConfig(k=9)})
    assert config.k == EnsembleClassifier.fit(config, clusters(3, 4, 5, 0.3)).neighbours == 9
