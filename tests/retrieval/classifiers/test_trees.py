"""Trees kept as arrays against scikit-learn's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from retrieval.classifiers import trees
from retrieval.classifiers.trees import Trees


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What scikit-learn grew, as it was grown."""
    models: list[Any] = []

    class Noted(GradientBoostingClassifier):
        def fit(self, *args: Any) -> Any:
            models.append(super().fit(*args))
            return models[-1]

    monkeypatch.setattr("sklearn.ensemble.GradientBoostingClassifier", Noted)
    return models


def examples(count: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((count, 4))
    inputs[:, 3] = np.round(inputs[:, 3])  # values that lie on thresholds
    right = inputs[:, 0] * inputs[:, 1] + rng.normal(0, 0.3, count) > 0
    return inputs, right, rng.uniform(0.1, 1.0, count)


def test_they_are_scikit_learns(grown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, right, weights = examples(700)
    fitted = Trees.fit(inputs, right, weights)
    assert fitted is not None
    monkeypatch.setattr(trees, "BLOCK", 300)
    expected = grown[0].decision_function(inputs)
    assert fitted.log_odds(inputs) == pytest.approx(expected, abs=1e-12)
    assert ((expected > 0) == right).mean() > 0.85
    again = Trees.model_validate_json(fitted.model_dump_json())
    assert again == fitted
    assert (again.log_odds(inputs) == fitted.log_odds(inputs)).all()
    assert fitted.log_odds(inputs[:0]).shape == (0,)
    assert Trees.fit(inputs, right, weights) == fitted


def test_of_too_many_examples_some_are_learnt_from(
    grown: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "EXAMPLES", 200)
    Trees.fit(*examples(700))
    assert grown[0].estimators_[0, 0].tree_.n_node_samples[0] == 200


def test_too_few_of_a_kind_grow_nothing() -> None:
    inputs, _, weights = examples(100)
    for many in (0, 19, 81, 100):
        assert Trees.fit(inputs, np.arange(100) < many, weights) is None
    assert Trees.fit(inputs, np.arange(100) < 20, weights) is not None
