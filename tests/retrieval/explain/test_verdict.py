"""Values taken apart, and what would turn a verdict."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from retrieval.classifiers.base import Scores
from retrieval.classifiers.calibration import NoCurve
from retrieval.classifiers.network import NetworkClassifier, NetworkClassifierConfig
from retrieval.classifiers.rejection import Rejection, SignalModel
from retrieval.classifiers.signals import SIGNALS, Signals, signal_matrix
from retrieval.config import SystemConfig
from retrieval.descriptors.representation import Representation
from retrieval.errors import ExplainError
from retrieval.explain.splitting import split
from retrieval.explain.verdict import Verdict, verdict
from retrieval.index.neighbours import Neighbours
from retrieval.networks.heads import Head, HeadConfig
from retrieval.photographs.table import load_data_set
from retrieval.system import System
from tests.photographs import blank, view, write_data_set
from tests.pipelines.runs import LOCAL

FOLDER = TemporaryDirectory()
SYSTEM: dict[str, Any] = {
    "name": "small",
    "extractor": {"kind": "hog", "side": 64, "cells": [16]},
    "whitening": {"dimension": 16},
    "classifiers": {
        "knn": {"kind": "knn", "k": 9},
        "svm": {"kind": "svm", "bank_weight": 0.5},
        "centroid": {"kind": "centroid"},
        "mlp": {"kind": "mlp", "hidden": 8, "steps": 20},
        "both": {"kind": "ensemble", "members": {"a": {"kind": "knn"}, "b": {"kind": "svm"}}},
    },
    "answer": "knn",
}


@cache
def system(local: bool = False) -> System:
    data = load_data_set(write_data_set(Path(FOLDER.name) / "data"))
    config = SystemConfig.model_validate({**LOCAL, "name": "local"} if local else SYSTEM)
    return System.build(config, data, Path(FOLDER.name) / f"run{local}", "cpu")


QUERY = view(2, 7)


@cache
def verdicts() -> dict[str, Verdict]:
    return {one.name: one for one in system().explain(QUERY).verdicts}


@pytest.mark.parametrize("name", ["knn", "svm", "centroid"])
def test_terms_add_up_to_the_value(name: str) -> None:
    described = system().describer.describe([QUERY])
    near = system().neighbours(described)
    scores = system().classifiers[name].scores(described, near)
    cases = verdicts()[name].cases
    assert [one.code for one in cases] == scores.candidates[0, :2].tolist()
    for place, case in enumerate(cases):
        assert case.value == scores.values[0, place]
        assert sum(term.value for term in case.terms) == pytest.approx(case.value, abs=1e-5)
        assert all(term.value for term in case.terms)


def test_an_ensemble_tells_its_members_values() -> None:
    (first, *_) = verdicts()["both"].cases
    assert [term.name for term in first.terms] == ["a by itself", "b by itself"]
    alone = verdicts()["knn"].cases[0]
    assert first.code == alone.code
    assert first.terms[0].value == pytest.approx(alone.value, abs=0.2)


def test_voters_are_the_neighbours_of_their_landmark() -> None:
    near = system().neighbours(system().describer.describe([QUERY]), 9)
    for case in verdicts()["knn"].cases:
        own = np.flatnonzero(system().gallery.codes[near.rows[0]] == case.code)
        assert [one.row for one in case.voters] == near.rows[0, own].tolist()
        assert [one.rank for one in case.voters] == (own + 1).tolist()
        found = [one.similarity for one in case.voters]
        np.testing.assert_array_equal(np.float32(found), near.similarities[0, own])
        assert sum(one.share for one in case.voters) == pytest.approx(1)


@pytest.mark.parametrize("name", ["svm", "centroid"])
def test_a_linear_score_is_split_over_places(name: str) -> None:
    described = system().describer.describe([QUERY]).vectors
    classifier: Any = system().classifiers[name]
    whole = (
        classifier.margins(described)[0] if name == "svm" else (described @ classifier.means.T)[0]
    )
    for case in verdicts()[name].cases:
        assert case.score is not None
        found = case.score.values.sum() + case.score.constant
        assert found == pytest.approx(whole[case.code], abs=1e-5)
        assert np.ptp(case.score.values) > 1e-3


@pytest.mark.parametrize("head", [
    {"kind": "arcface", "negatives": True}, {"kind": "sub-centre"}, {"kind": "linear"},
    {"kind": "sigmoid"}, {"kind": "two-layer"},
])  # fmt: skip
def test_a_heads_logit_is_split_over_places(head: dict[str, Any]) -> None:
    described = system().describer.describe([QUERY])
    codes = np.array([3, 0, 5, 1, 2, 4, -1][: len(system().landmarks)], np.int64)
    dimension = described.vectors.shape[1]
    made = Head(
        TypeAdapter(HeadConfig).validate_python(head), dimension, len(codes), True, 0
    ).eval()
    if made.bias is not None:
        torch.nn.init.normal_(made.bias)
    classifier = NetworkClassifier(NetworkClassifierConfig(), made, codes)
    near = system().neighbours(described, 9)
    told = verdict(
        "network", classifier, Rejection(0.2, NoCurve(0, 0)), described, near, None,
        split(system().describer, QUERY),
    )  # fmt: skip
    logits = made(torch.from_numpy(np.array(described.vectors))).detach().numpy()[0]
    assert len(told.cases) == 2
    for case in told.cases:
        logit = logits[codes.tolist().index(case.code)]
        assert case.terms[0].value == pytest.approx(logit, abs=1e-5)
        assert sum(term.value for term in case.terms) == pytest.approx(case.value, abs=1e-5)
        if head["kind"] == "two-layer":  # no sum of places
            assert case.score is None
            continue
        assert case.score is not None
        assert case.score.values.sum() + case.score.constant == pytest.approx(logit, abs=1e-4)
        assert np.ptp(case.score.values) > 1e-3


def judged(rejection: Rejection, near: Neighbours, signals: Signals | None = None) -> Verdict:
    described = system().describer.describe([QUERY])
    classifier = system().classifiers["knn"]
    apart = split(system().describer, QUERY)
    return verdict("knn", classifier, rejection, described, near, signals, apart)


def test_so_many_neighbours_have_to_be_absent() -> None:
    near = system().neighbours(system().describer.describe([QUERY]), 9)
    told = judged(Rejection(0.2, NoCurve(0, 0)), near)
    assert told.accepted
    (line,) = [one for one in told.changes if one.startswith("without")]
    words = line.split()
    count = 1 if "nearest neighbour of" in line else int(words[words.index("nearest") + 1])
    places = [one.rank - 1 for one in told.cases[0].voters]

    def answered(absent: int) -> int | None:
        kept = np.delete(np.arange(9), places[:absent])
        fewer = judged(
            Rejection(0.2, NoCurve(0, 0)),
            Neighbours(near.rows[:, kept], near.similarities[:, kept]),
        )
        return fewer.cases[0].code if fewer.accepted else None

    assert answered(count - 1) == told.cases[0].code
    assert answered(count) != told.cases[0].code


def test_a_signal_at_the_value_that_is_told_turns_the_verdict() -> None:
    described = system().describer.describe([QUERY])
    near = system().neighbours(described, 9)
    signals = Signals.of(system().gallery, described)
    model = SignalModel(weights=[1.0, 0.5, 2.0, 0.0, -1.5, 0.0], offset=0.1, least=-1.0)
    told = judged(Rejection(0.3, NoCurve(0, 0), model), near, signals)
    scores = system().classifiers["knn"].scores(described, near)
    found = signal_matrix(scores, signals, -1.0)[0]
    looked_at = ["confidence", "margin", "agreement", "bank", "offset"]
    assert [row.name for row in told.signals] == looked_at
    assert sum(row.added for row in told.signals) == pytest.approx(told.confidence, abs=1e-5)
    turning = [row for row in told.signals if np.isfinite(row.needed)]
    assert {"confidence", "bank"} <= {row.name for row in turning}
    for row in turning:
        changed = found.copy()
        changed[SIGNALS.index(row.name)] = row.needed
        assert float(model.confidence(changed[None])[0]) == pytest.approx(0.3, abs=1e-5)


def test_none_is_explained_by_its_best_candidate() -> None:
    base = system()
    careful = {**base.rejections, "knn": replace(base.rejections["knn"], threshold=9.0)}
    told = replace(base, rejections=careful).explain(QUERY)
    assert not told.answer.accepted
    assert told.sentence.startswith("none; the best candidate is Landmark 2")
    assert "would have to rise by" in told.answer.changes[0]


def test_a_photograph_without_a_candidate_needs_a_gallery_photograph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody: Any = lambda *_: Scores.blank(1, 3)  # noqa: E731
    monkeypatch.setattr(type(system().classifiers["knn"]), "scores", nobody)
    with pytest.raises(ExplainError, match="no landmark is a candidate"):
        system().explain(QUERY)
    told = system().explain(QUERY, against="m1v0")
    assert told.against.id == "m1v0"
    assert told.sentence.startswith("none")


def test_what_cannot_be_explained_is_one_line() -> None:
    for given, told in (
        ({"against": "nobody"}, "no photograph of this id"),
        ({"method": "magic"}, "--method magic: there is none; there are shares, gradient"),
        ({"method": "grad-cam"}, "made by no network"),
        ({"method": "occlusion", "target": "age"}, "--target age: there is none"),
    ):
        with pytest.raises(ExplainError, match=told):
            system().explain(QUERY, **given)
    with pytest.raises(ExplainError, match="has no trained network or mlp"):
        system(True).explain(QUERY, method="occlusion", target="class")
    with pytest.raises(ExplainError, match="cannot be explained: nothing to describe"):
        system(True).explain(blank())


def test_a_gallery_photograph_that_is_gone_is_named(tmp_path: Path) -> None:
    rows = system().rows.assign(source="absent.jpg")
    with pytest.raises(ExplainError, match=r"gallery photograph m2v\d \(absent.jpg\) cannot be"):
        replace(system(), rows=rows).explain(QUERY)


def test_words_and_verification_are_explained() -> None:
    base = system(True)
    told = base.explain(QUERY)
    assert told.shares is not None
    assert told.shares.pairs.sum() + told.shares.constant == pytest.approx(
        told.shares.similarity, abs=1e-5
    )
    described = base.describer.describe([QUERY])
    row, searcher = told.against.row, base.gallery.searcher
    assert described.words is not None
    assert searcher.inverted is not None
    by_words = searcher.inverted.similarities(described.words)[0, row]
    other = base.describer.describe([told.against.photograph]).vectors[0]
    expected = 0.5 * by_words + 0.5 * float(described.vectors[0] @ other)
    assert told.shares.similarity == pytest.approx(expected, abs=1e-5)
    assert {part.kind for part in told.shares.query.pieces} == {"cells", "features"}
    near = base.neighbours(described)
    (place,) = np.flatnonzero(near.rows[0] == row)
    assert told.matches is not None
    assert near.bonus is not None
    assert (told.matches.inliers > 0) == (near.bonus[0, place] > 0)
    assert told.matches.inliers >= 5
    # View 7 is another frame of the same: where a point lies, its partner lies nearby.
    assert np.abs(told.matches.query - told.matches.gallery).max() < 0.15
    assert told.matches.frame is not None
    assert np.abs(told.matches.frame - [[0, 0], [1, 0], [1, 1], [0, 1]]).max() < 0.2
    assert told.figure().axes


def test_a_representation_alone_is_not_split() -> None:
    described = Representation(system().describer.describe([QUERY]).vectors)
    near = system().neighbours(described, 9)
    told = verdict(
        "svm", system().classifiers["svm"], system().rejections["svm"], described, near, None, None
    )
    assert [one.score for one in told.cases] == [None, None]


@pytest.mark.parametrize("target", ["similarity", "margin", "class"])
def test_targets_are_what_the_classifiers_make_of_the_descriptor(target: str) -> None:
    base: Any = system()
    told = base.explain(QUERY, method="occlusion", target=target)
    (row,) = base.describer.describe([QUERY]).vectors
    code = told.against.code
    expected = {
        "similarity": row @ base.gallery.vectors[told.against.row],
        "margin": base.classifiers["svm"].margins(row[None])[0, code],
        "class": base.classifiers["mlp"].head(torch.from_numpy(row[None])).detach()[0, code],
    }
    assert told.attribution.value == pytest.approx(float(expected[target]), abs=1e-4)
    assert np.abs(told.attribution.map).max() > 1e-3
