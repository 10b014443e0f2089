"""The small network: what it learns, whom it holds out, and what is too much for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from retrieval.classifiers.mlp import MlpClassifier, MlpConfig
from retrieval.errors import ConfigError
from retrieval.index.neighbours import Neighbours
from tests.retrieval.classifiers.galleries import clusters, gallery_of, unit

NOBODY = Neighbours(np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32))
SMALL = MlpConfig(hidden=32, steps=120, batch=16, rate=0.005)


def test_it_tells_apart_what_no_line_does() -> None:
    rng = np.random.default_rng(0)
    # Landmark 0 lies on either side of landmark 1.
    sides = np.repeat([[1.0, 0.2, 0.0], [-1.0, 0.2, 0.0], [0.0, 0.2, 0.0]], 40, axis=0)
    rows = unit(sides + 0.1 * rng.standard_normal((120, 3)) + [0, 0.5, 0])
    codes = np.repeat([0, 0, 1], 40)
    gallery = gallery_of(rows[::2], codes[::2])
    fitted = MlpClassifier.fit(SMALL.model_copy(update={"steps": 500, "dropout": 0.0}), gallery)
    assert (fitted.scores(rows[1::2], NOBODY).best == codes[1::2]).mean() > 0.95


def test_photographs_without_a_landmark_lower_the_confidence() -> None:
    gallery, fresh = clusters(5, 20, 60, 0.6), clusters(5, 20, 0, 0.6).vectors
    none = unit(np.random.default_rng(5).standard_normal((60, 16)))
    fitted = MlpClassifier.fit(SMALL, gallery)
    shown = fitted.scores(fresh, NOBODY).confidence
    assert np.median(shown) > np.quantile(fitted.scores(none, NOBODY).confidence, 0.9)


@pytest.mark.slow
def test_held_out_photographs_were_not_learnt_from() -> None:
    gallery = clusters(5, 12, 20, 5.0, dimension=100)
    shuffled = replace(gallery, codes=np.random.default_rng(1).permutation(gallery.codes))
    fitted = MlpClassifier.fit(SMALL, shuffled)
    by_heart = (fitted.scores(shuffled.vectors, NOBODY).best == shuffled.codes).mean()
    assert MlpClassifier.held_out(SMALL, shuffled).correct.mean() < 0.45 < by_heart


def test_the_same_seed_learns_the_same_whatever_was_drawn_before() -> None:
    gallery = clusters(3, 6, 8, 0.5)
    first = MlpClassifier.fit(SMALL, gallery).head.state_dict()
    torch.rand(3)
    second = MlpClassifier.fit(SMALL, gallery).head.state_dict()
    for name, one in first.items():
        torch.testing.assert_close(one, second[name], rtol=0, atol=1e-5)


def test_too_large_a_gallery_is_refused() -> None:
    with pytest.raises(ConfigError, match="too many: take svm"):
        MlpClassifier.fit(SMALL.model_copy(update={"most_work": 30}), clusters(3, 6, 8, 0.5))
