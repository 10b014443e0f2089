"""The trained head as a classifier: whose landmarks, and who is held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval.classifiers.base import Gallery, stratified_folds
from retrieval.classifiers.network import NetworkClassifier, NetworkClassifierConfig
from retrieval.classifiers.registry import held_out_scores, load_classifier
from retrieval.classifiers.svm import SvmConfig
from retrieval.classifiers.vote import VoteConfig
from retrieval.descriptors.trained_head import TrainedHead
from retrieval.errors import RunError
from retrieval.index.neighbours import Neighbours
from retrieval.networks.heads import Head, LinearConfig
from tests.networks import random_training
from tests.retrieval.classifiers.galleries import clusters

NOBODY = Neighbours(np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32))


def trained_gallery(landmarks: list[str] | None = None) -> Gallery:
    """Clusters with a head whose classes are their centres, and one further landmark."""
    gallery = clusters(4, 10, 30, 0.3)
    rng = np.random.default_rng(0)
    names = landmarks or ["somewhere else", *gallery.landmarks]
    head = Head(LinearConfig(scale=20.0), 16, len(names), True, 0).eval()
    with torch.no_grad():
        head.weight.zero_()
        for place, name in enumerate(names):
            if name in gallery.landmarks:
                own = gallery.codes == gallery.landmarks.index(name)
                head.weight[place] = torch.from_numpy(gallery.vectors[own].mean(axis=0))
    eligible, bank_eligible = rng.random(40) < 0.4, rng.random(30) < 0.4
    return replace(
        gallery, eligible=eligible, bank_eligible=bank_eligible, head=TrainedHead(head, names)
    )


@pytest.mark.parametrize("config", [VoteConfig(), SvmConfig(), NetworkClassifierConfig()])
def test_only_photographs_that_the_network_never_saw_are_held_out(
    config: VoteConfig | SvmConfig | NetworkClassifierConfig,
) -> None:
    gallery = trained_gallery()
    assert gallery.eligible is not None
    assert gallery.bank_eligible is not None
    held = held_out_scores(config, [gallery])
    assert held.rows.tolist() == np.flatnonzero(gallery.eligible).tolist()
    assert held.bank_rows.tolist() == np.flatnonzero(gallery.bank_eligible).tolist()
    assert held.correct.mean() > 0.9
    chosen = stratified_folds(gallery, 5, 3, 0)
    assert gallery.eligible[chosen.rows].all()
    assert len(chosen.rows) == 3


def test_landmarks_keep_their_names_whatever_their_order() -> None:
    plain = trained_gallery()
    names = sorted(plain.landmarks, reverse=True)
    fitted = NetworkClassifier.fit(NetworkClassifierConfig(), trained_gallery(names))
    scores = fitted.scores(plain.vectors, NOBODY)
    assert (scores.best == plain.codes).mean() > 0.95
    assert scores.candidates.shape == (40, 4)
    # What the gallery lacks is no answer, and what the network lacks cannot be one.
    other = NetworkClassifier.fit(NetworkClassifierConfig(candidates=2), plain)
    candidates = other.scores(plain.vectors, NOBODY).candidates
    assert candidates.shape == (40, 2)
    assert (candidates >= 0).all()
    two = NetworkClassifier.fit(NetworkClassifierConfig(), trained_gallery(names[:2]))
    assert set(two.scores(plain.vectors, NOBODY).best) == {2, 3}


def test_a_classifier_is_saved_without_its_head(tmp_path: Path) -> None:
    gallery, config = trained_gallery(), NetworkClassifierConfig(candidates=3)
    fitted = NetworkClassifier.fit(config, gallery)
    fitted.save(tmp_path)
    loaded = load_classifier(config, tmp_path, gallery)
    scores, again = (one.scores(gallery.vectors, NOBODY) for one in (fitted, loaded))
    assert (scores.values == again.values).all()
    (tmp_path / "network.json").write_text("{}[")
    with pytest.raises(RunError):
        load_classifier(config, tmp_path, gallery)


def test_a_head_is_read_from_its_training(tmp_path: Path) -> None:
    folder = random_training(tmp_path / "training", "squeezenet1_1", 0)
    found = TrainedHead.load(folder)
    assert found.landmarks == ["a", "b"]
    assert found.head.classes == 3
    (folder / "network.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match="train again"):
        TrainedHead.load(folder)
    with pytest.raises(RunError, match="no finished training"):
        TrainedHead.load(tmp_path / "nowhere")


def test_a_gallery_without_a_head_is_refused() -> None:
    with pytest.raises(RunError, match="needs the extractor trained"):
        NetworkClassifier.fit(NetworkClassifierConfig(), clusters(3, 4, 5, 0.1))
