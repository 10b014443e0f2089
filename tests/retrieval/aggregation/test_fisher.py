"""Fisher vectors against loops over descriptors, Gaussians and numbers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.aggregation.fisher import Fisher, FisherConfig, Mixture, fisher_vector, learn_mixture
from retrieval.errors import ConfigError
from retrieval.local.features import no_features
from retrieval.types import unit_rows
from retrieval.vectors.clustering import train_kmeans
from tests.features import local_features
from tests.oracles import descriptors as oracle


def mixture(words: int, d: int, seed: int) -> Mixture:
    random = np.random.default_rng(seed)
    weights = random.random(words) + 0.2
    return Mixture(
        (weights / weights.sum()).astype(np.float32),
        random.normal(size=(words, d)).astype(np.float32),
        (random.random((words, d)) + 0.5).astype(np.float32),
    )


@settings(max_examples=40)
@given(
    n=st.integers(1, 12),
    words=st.integers(1, 5),
    d=st.integers(1, 6),
    deviations=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_against_three_loops(n: int, words: int, d: int, deviations: bool, seed: int) -> None:
    rows = np.random.default_rng(seed + 1).normal(size=(n, d)).astype(np.float32)
    model = mixture(words, d, seed)
    found = fisher_vector(rows, model, FisherConfig(power=1.0, deviations=deviations))
    parts = (model.weights, model.means, model.deviations)
    # Posteriors of less than a ten-thousandth are left out.
    np.testing.assert_allclose(found, oracle.fisher(rows, parts, 1.0, deviations), atol=2e-3)
    assert found.dtype == np.float32
    powered = fisher_vector(rows, model, FisherConfig(power=0.5, deviations=deviations))
    expected = unit_rows((np.sign(found) * np.sqrt(np.abs(found)))[None])[0]
    np.testing.assert_allclose(powered, expected, atol=1e-5)


def test_what_the_mixture_was_learnt_from_has_no_gradient() -> None:
    """At the maximum of the likelihood, nothing asks to be shifted or spread."""
    rows = np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32) * [1, 3]
    model = learn_mixture(rows.astype(np.float32), 1, 0, "cpu")
    shares = model.posteriors(rows.astype(np.float32))
    np.testing.assert_array_equal(shares, 1)
    np.testing.assert_allclose(model.means[0], rows.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(model.deviations[0], rows.std(axis=0), rtol=1e-3)


def test_a_mixture_finds_the_clusters_and_does_not_complain() -> None:
    random = np.random.default_rng(0)
    near = random.normal(size=(900, 3)) * 0.3 + [2, 0, 0]
    far = random.normal(size=(2100, 3)) * 0.6 - [2, 0, 0]
    without_clusters = random.random((2000, 8), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = learn_mixture(np.concatenate([near, far]).astype(np.float32), 2, 0, "cpu")
        # Which does not converge in time.
        learn_mixture(without_clusters, 16, 0, "cpu")
    order = np.argsort(found.weights)
    np.testing.assert_allclose(found.weights[order], [0.3, 0.7], atol=0.02)
    np.testing.assert_allclose(found.means[order], [[2, 0, 0], [-2, 0, 0]], atol=0.1)
    np.testing.assert_allclose(found.deviations[order].mean(axis=1), [0.3, 0.6], atol=0.05)


def test_a_mixture_is_as_likely_as_scikit_learns() -> None:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    random = np.random.default_rng(0)
    centres = random.normal(size=(30, 16))
    rows = centres[random.integers(30, size=9000)] + random.normal(size=(9000, 16)) * 0.8
    rows = rows.astype(np.float32)
    found = learn_mixture(rows, 12, 0, "cpu")
    theirs = GaussianMixture(
        12, covariance_type="diag", means_init=train_kmeans(rows, 12, seed=0),
        init_params="random_from_data", max_iter=30, tol=1e-3, reg_covar=1e-5, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(rows)
    expected = theirs.score(rows)
    constant = 0.5 * rows.shape[1] * np.log(2 * np.pi)
    own = found.expected(rows)[1] / len(rows) - constant
    assert own == pytest.approx(expected, abs=5e-3)
    # What it says of its own likelihood is what theirs says of the same mixture.
    theirs.weights_, theirs.means_ = found.weights, found.means
    theirs.precisions_cholesky_ = 1.0 / found.deviations
    assert own == pytest.approx(theirs.score(rows), abs=1e-3)


def test_fit_makes_another(tmp_path: Path) -> None:
    config = FisherConfig(words=3, projected=4)
    features = [local_features(40, seed=1), no_features(8, (9, 9)), local_features(1, seed=2)]
    bare = Fisher(config, 8)
    with pytest.raises(RuntimeError, match="call fit first"):
        bare.aggregate(features)
    fitted = bare.fit(features, 0, "cpu")
    assert (bare.fitted, fitted.fitted) == (False, True)
    found = fitted.aggregate(features)
    assert found.shape == (3, bare.dimension) == (3, 24)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1], atol=1e-5)
    assert fitted.aggregate([]).shape == (0, 24)
    fitted.save(tmp_path)
    np.testing.assert_array_equal(bare.restored(tmp_path).aggregate(features), found)


def test_a_mixture_needs_as_many_features_as_words() -> None:
    for features in ([local_features(4)], [no_features(8, (9, 9))]):
        with pytest.raises(ConfigError, match="needs at least as many"):
            Fisher(FisherConfig(words=5), 8).fit(features, 0, "cpu")
