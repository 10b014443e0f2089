"""The fusion of several rankings against a slow one, its weights, and what it holds out."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from retrieval.classifiers import ensemble, trees
from retrieval.classifiers.base import HeldOut, Scores
from retrieval.classifiers.centroid import CentroidConfig
from retrieval.classifiers.ensemble import (
    EnsembleClassifier,
    EnsembleConfig,
    StackedFusion,
    WeightedFusion,
)
from retrieval.classifiers.members import KINDS, Fitting
from retrieval.classifiers.registry import fit_and_hold_out, held_out_scores
from retrieval.classifiers.svm import SvmConfig
from retrieval.classifiers.vote import VoteConfig
from retrieval.evaluation.selection import held_out_gap
from retrieval.index.expansion import ExpansionConfig
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
    fusion = WeightedFusion(
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
    fusion = WeightedFusion.fit([noisy(rng, 3.0), noisy(rng, 0.0)], config)
    clear, blind = (w * slope for w, slope in zip(fusion.weights, fusion.slopes, strict=True))
    assert 0.0 <= blind < 0.05 * clear
    firm = WeightedFusion.fit(
        [noisy(rng, 3.0), noisy(rng, 0.0)], config.model_copy(update={"penalty": 1e6})
    )
    assert firm.weights == pytest.approx([0.5, 0.5], abs=0.01)


def test_probabilities_hold_up() -> None:
    rng = np.random.default_rng(0)
    learnt, fresh = ([noisy(rng, 3.0, 3000), noisy(rng, 2.0, 3000)] for _ in range(2))
    fusion = WeightedFusion.fit(learnt, CONFIG)
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
    fused = WeightedFusion.fit(members, CONFIG).fused([one.gallery for one in members], 5)
    best = max(one.correct.mean() for one in members)
    assert (fused.best == members[0].truth).mean() > best + 0.03


def crossed(rng: np.random.Generator, count: int = 600) -> list[HeldOut]:
    """Two members, each of which knows half of the landmarks and is sure of itself in any case."""
    members = [noisy(rng, 0.0, count, 6) for _ in range(2)]
    for member, one in enumerate(members):
        for part, truth in ((one.gallery, one.truth), (one.bank, None)):
            part.candidates[:, 0] = 3 * (1 - member)  # what it says where it knows nothing
            part.candidates[:, 1] = 3 * (1 - member) + 1
            if truth is not None:
                knows = truth // 3 == member
                part.candidates[knows, 0] = truth[knows]
    return members


def test_trees_see_what_no_weights_show() -> None:
    rng = np.random.default_rng(0)
    gaps = {}
    for fusion in (WeightedFusion, StackedFusion):
        learnt = fusion.fit(crossed(rng), CONFIG)
        fresh = crossed(rng)
        assert isinstance(learnt, fusion)
        fused = [
            learnt.fused(part, CONFIG.candidates)
            for part in ([one.gallery for one in fresh], [one.bank for one in fresh])
        ]
        held = HeldOut(fresh[0].rows, fresh[0].truth, fused[0], fresh[0].bank_rows, fused[1])
        gaps[fusion] = held_out_gap(held)
    assert gaps[StackedFusion] > gaps[WeightedFusion] + 0.05


def test_what_trees_look_at_is_the_slow_thing() -> None:
    one = ranked([[4, 1, -1], [2, 0, 1]], [[1.0, -9.0, -np.inf], [0.5, 0.25, 0.0]])
    other = ranked([[1, 3], [-1, -1]], [[2.0, 0.5], [-np.inf, -np.inf]])
    equal = WeightedFusion(
        slopes=[1.0, 1.0], offsets=[0.0, 0.0], floors=[-3.0, -2.0], weights=[0.5, 0.5], offset=0.0
    )
    groups, odds = equal.gathered([one, other], 2)
    # By query and landmark: log-odds, how far below the best, ranks, and how many name it.
    assert ensemble._inputs(groups, odds, [one, other], 2).tolist() == [
        [-3.0, 2.0, -4.0, 0.0, 1.0, 0.0, 2.0],
        [-3.0, 0.5, -4.0, -1.5, 2.0, 1.0, 1.0],
        [1.0, -2.0, 0.0, -4.0, 0.0, 2.0, 1.0],
        [0.25, -2.0, -0.25, 0.0, 1.0, 2.0, 1.0],
        [0.5, -2.0, 0.0, 0.0, 0.0, 2.0, 1.0],
    ]


def test_ties_of_the_trees_are_settled_by_weights() -> None:
    rng = np.random.default_rng(0)
    members = [noisy(rng, 2.5), noisy(rng, 2.5)]
    stacked = StackedFusion.fit(members, CONFIG)
    assert isinstance(stacked, StackedFusion)
    flat = stacked.trees.model_copy(update={"values": [0.0] * len(stacked.trees.values)})
    even = StackedFusion(weighted=stacked.weighted, trees=flat)
    scores = [one.gallery for one in members]
    ranking = even.fused(scores, 5)
    assert (ranking.candidates == stacked.weighted.fused(scores, 5).candidates).all()
    assert (np.diff(ranking.values, axis=1) < 0).all()


def test_of_a_few_photographs_weights_alone_are_learnt() -> None:
    rng = np.random.default_rng(0)
    assert isinstance(StackedFusion.fit([noisy(rng, 9.0, 10)] * 2, CONFIG), WeightedFusion)


def test_fusion_and_its_cross_fitted_ones_are_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = clusters(6, 10, 40, 1.2)
    config = CONFIG.model_copy(update={"fusion": "stacked"})
    assert isinstance(EnsembleClassifier.fit(config, gallery).fusion, StackedFusion)
    # Photographs that are enough for trees together, and are not without a part of them.
    monkeypatch.setattr(trees, "LEAST", 60)
    held = [KINDS[type(one)].held_out(one, gallery, 0) for one in config.members.values()]
    assert isinstance(StackedFusion.fit(held, config), StackedFusion)
    fitted, judged = EnsembleClassifier.fit_and_hold_out(config, Fitting(gallery, [gallery]))
    assert isinstance(fitted.fusion, WeightedFusion)
    weighted = EnsembleClassifier.held_out(CONFIG, [gallery])
    np.testing.assert_array_equal(judged.gallery.values, weighted.gallery.values)


@pytest.mark.parametrize("fusion", ["weighted", "stacked"])
def test_held_out_photographs_are_not_scored_by_what_was_learnt_on_them(
    fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = clusters(6, 10, 40, 1.2)
    learnt: list[tuple[set[int], set[int]]] = []
    scored: list[set[int]] = []
    kind = ensemble.FUSIONS[fusion]
    fit, fused = kind.fit, kind.fused
    held = held_out_scores(MEMBERS["svm"], [gallery], 0)
    place = {one.tobytes(): row for row, one in enumerate(held.gallery.values)}

    def note_fit(parts: list[HeldOut], config: EnsembleConfig) -> ensemble.Fusion:
        learnt.append((set(parts[0].rows.tolist()), set(parts[0].bank_rows.tolist())))
        return fit(parts, config)

    def note_fused(self: ensemble.Fusion, scores: list[Scores], candidates: int) -> Scores:
        known = [place.get(one.tobytes()) for one in scores[1].values]
        scored.append({int(held.rows[one]) for one in known if one is not None})
        return fused(self, scores, candidates)

    monkeypatch.setattr(kind, "fit", note_fit)
    monkeypatch.setattr(kind, "fused", note_fused)
    EnsembleClassifier.held_out(CONFIG.model_copy(update={"fusion": fusion}), [gallery])
    assert learnt[0][0] == set(range(60))  # the fusion that answers
    assert len(learnt) == 1 + ensemble.PARTS
    for (rows, bank_rows), own in zip(learnt[1:], scored[::2], strict=True):
        assert own
        assert not rows & own
        assert rows | own == set(range(60))
        assert len(bank_rows) == 32


def test_an_ensemble_of_one_ranks_as_that_one() -> None:
    gallery = clusters(6, 8, 30, 1.2)
    alone = held_out_scores(CentroidConfig(), [gallery], 0)
    config = EnsembleConfig(members={"one": CentroidConfig()})
    fused = EnsembleClassifier.held_out(config, [gallery])
    assert (fused.gallery.best == alone.gallery.best).all()
    assert held_out_gap(fused) == pytest.approx(held_out_gap(alone), abs=0.08)


def test_neighbours_are_the_most_that_a_member_asks() -> None:
    config = EnsembleConfig(members={"few": VoteConfig(k=3), "more": VoteConfig(k=9)})
    assert config.k == EnsembleClassifier.fit(config, clusters(3, 4, 5, 0.3)).neighbours == 9


def test_an_ensemble_shares_what_stands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = clusters(6, 8, 30, 1.2)
    fits: list[object] = []
    for name in ("fit", "held_out"):
        before = getattr(KINDS[SvmConfig], name)
        counted = functools.partial(lambda do, *given: (fits.append(do), do(*given))[1], before)
        monkeypatch.setattr(KINDS[SvmConfig], name, counted)
    fitting = Fitting(gallery, [gallery])
    alone, held = fit_and_hold_out(MEMBERS["svm"], fitting)
    together, fused = fit_and_hold_out(CONFIG, fitting)
    assert isinstance(together, EnsembleClassifier)
    assert together.members["svm"] is alone
    assert len(fits) == 2
    # Another of the kind is another.
    fit_and_hold_out(SvmConfig(penalty=2.0), fitting)
    assert len(fits) == 4
    assert len(held.rows) == len(fused.rows)
    anew = EnsembleClassifier.fit_and_hold_out(CONFIG, Fitting(gallery, [gallery]))[1]
    np.testing.assert_array_equal(fused.gallery.values, anew.gallery.values)


def test_those_that_look_at_no_neighbours_are_held_out_once() -> None:
    gallery = clusters(6, 8, 30, 1.2)
    fitting = Fitting(gallery, [gallery])
    held = {name: fit_and_hold_out(one, fitting)[1] for name, one in MEMBERS.items()}
    expansion = ExpansionConfig(queries=3)
    config = gallery.searcher.config.model_copy(update={"expansion": expansion})
    other = replace(gallery, searcher=replace(gallery.searcher, config=config))
    again = fitting.searched_as([other])
    assert again.held_out(MEMBERS["svm"]) is held["svm"]
    assert again.fitted(MEMBERS["knn"]) is fitting.fitted(MEMBERS["knn"])
    expected = Fitting(gallery, [other]).held_out(MEMBERS["knn"]).gallery.values
    np.testing.assert_array_equal(again.held_out(MEMBERS["knn"]).gallery.values, expected)
    assert (expected != held["knn"].gallery.values).any()
