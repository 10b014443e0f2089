"""Every kind of classifier by its config: fitted, held out, saved and loaded alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from retrieval.classifiers.registry import (
    ClassifierConfig,
    fit_classifier,
    held_out_scores,
    load_classifier,
)
from retrieval.descriptors.trained_head import TrainedHead
from retrieval.errors import RunError
from retrieval.index.gallery import Gallery
from retrieval.networks.heads import Head, LinearConfig
from tests.retrieval.classifiers.galleries import clusters, gallery_of

CONFIGS: TypeAdapter[Any] = TypeAdapter(ClassifierConfig)
MLP = {"kind": "mlp", "hidden": 32, "steps": 75, "batch": 16, "rate": 0.005}
KINDS: dict[str, dict[str, Any]] = {
    "knn": {"kind": "knn"},
    "svm": {"kind": "svm"},
    "centroid": {"kind": "centroid"},
    "mlp": MLP,
    "network": {"kind": "network"},
    "ensemble": {
        "kind": "ensemble",
        "members": {"near": {"kind": "knn", "k": 7}, "svm": {"kind": "svm"}, "deep": MLP},
    },
    "stacked": {
        "kind": "ensemble",
        "fusion": "stacked",
        "members": {"near": {"kind": "knn", "k": 7}, "mean": {"kind": "centroid"}},
    },
}
EVERY = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


def with_head(gallery: Gallery) -> Gallery:
    """The gallery with a trained head: its landmarks' means."""
    head = Head(LinearConfig(scale=20.0), gallery.vectors.shape[1], len(gallery.landmarks), True, 0)
    with torch.no_grad():
        for code in range(len(gallery.landmarks)):
            mean = gallery.vectors[gallery.codes == code].mean(axis=0)
            head.weight[code] = torch.from_numpy(mean)
    return replace(gallery, head=TrainedHead(head.eval(), gallery.landmarks))


@pytest.mark.slow
@EVERY
def test_a_classifier_comes_from_its_config(config: Any, tmp_path: Path) -> None:
    config = CONFIGS.validate_python(config)
    gallery = with_head(clusters(5, 6, 10, 0.4))
    queries = clusters(5, 4, 0, 0.4).vectors
    fitted = fit_classifier(config, gallery)
    assert fitted.kind == config.kind
    # Not all look at neighbours.
    k = max(fitted.neighbours, 1)
    found = gallery.searcher.search(queries, k)
    scores = fitted.scores(queries, found)
    assert len(scores) == 20
    assert (scores.candidates[:, 0] >= 0).all()
    assert (scores.values[:, :-1] >= scores.values[:, 1:]).all()
    one_by_one = [
        fitted.scores(queries[[i]], gallery.searcher.search(queries[[i]], k)) for i in range(20)
    ]
    assert [one.best[0] for one in one_by_one] == scores.best.tolist()
    assert [one.confidence[0] for one in one_by_one] == pytest.approx(scores.confidence, abs=1e-4)
    fitted.save(tmp_path)
    loaded = load_classifier(config, tmp_path, gallery)
    # Sums of a matrix product may hang on where in memory it lies.
    assert loaded.scores(queries, found).values == pytest.approx(scores.values, abs=1e-5)
    held_out = held_out_scores(config, [gallery])
    assert held_out.correct.mean() > 0.9
    again = held_out_scores(config, [gallery])
    assert again.gallery.values == pytest.approx(held_out.gallery.values, abs=1e-5)
    anew = fit_classifier(config, gallery).scores(queries, found)
    assert anew.values == pytest.approx(scores.values, abs=1e-5)
    none = fitted.scores(queries[:0], found.at(slice(0)))
    assert len(none) == 0
    assert none.candidates.shape == none.values.shape


@EVERY
def test_a_saved_classifier_that_is_missing_or_of_another_gallery_is_refused(
    config: Any, tmp_path: Path
) -> None:
    config = CONFIGS.validate_python(config)
    gallery = with_head(clusters(4, 4, 8, 0.4))
    if config.kind != "network":
        with pytest.raises(RunError, match=r"missing|no such"):
            load_classifier(config, tmp_path, gallery)
        fit_classifier(config, gallery).save(tmp_path)
        with pytest.raises(RunError, match="fit the classifiers again"):
            load_classifier(config, tmp_path, clusters(5, 5, 8, 0.4))


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("landmarks", [1, 3])
@pytest.mark.parametrize("photographs", [1, 4])
@pytest.mark.parametrize("bank", [0, 5])
def test_galleries_with_little_in_them_are_scored(
    config: dict[str, Any], landmarks: int, photographs: int, bank: int
) -> None:
    config = CONFIGS.validate_python(config)
    gallery = with_head(clusters(landmarks, photographs, bank, 0.2))
    fitted = fit_classifier(config, gallery)
    queries = clusters(landmarks, 2, 0, 0.2).vectors
    scores = fitted.scores(queries, gallery.searcher.search(queries, max(fitted.neighbours, 1)))
    assert (scores.best >= 0).all()
    assert np.isfinite(scores.confidence).all()
    held_out = held_out_scores(config, [gallery])
    assert (
        len(held_out.rows)
        == len(held_out.gallery)
        == (len(gallery.codes) if photographs > 1 else 0)
    )
    assert len(held_out.bank_rows) == len(held_out.bank) == bank


@EVERY
def test_a_landmark_without_photographs_is_never_named(config: dict[str, Any]) -> None:
    full = clusters(4, 6, 8, 0.3)
    rows = np.flatnonzero(full.codes != 2)
    gallery = gallery_of(full.vectors[rows], full.codes[rows], full.bank_vectors, 4)
    if config["kind"] == "network":
        return  # it was taught what it was taught
    config = CONFIGS.validate_python(config)
    fitted = fit_classifier(config, gallery)
    found = gallery.searcher.search(full.vectors, max(fitted.neighbours, 1))
    assert not (fitted.scores(full.vectors, found).best == 2).any()


def test_every_kind_holds_out_the_same_photographs() -> None:
    gallery = with_head(clusters(6, 10, 30, 0.4))
    held = [
        held_out_scores(CONFIGS.validate_python({**KINDS[kind], "held_out": 7}), [gallery])
        for kind in KINDS
        if KINDS[kind]["kind"] != "ensemble"
    ]
    members = {kind: {**KINDS[kind], "held_out": 7} for kind in ("knn", "svm", "centroid")}
    config = CONFIGS.validate_python({"kind": "ensemble", "members": members})
    held.append(held_out_scores(config, [gallery]))
    for one in held:
        assert one.rows.tolist() == held[0].rows.tolist()
        assert one.bank_rows.tolist() == held[0].bank_rows.tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "knn", "neighbours": 3},
        {"kind": "svm", "folds": 1},
        {"kind": "ensemble", "members": {}},
        {"kind": "ensemble", "members": {"inner": KINDS["ensemble"]}},
    ],
)
def test_a_wrong_key_or_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CONFIGS.validate_python(wrong)
