"""Every kind of classifier by its config: fitted, held out, saved and loaded alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from retrieval.classifiers.registry import (
    ClassifierConfig,
    fit_classifier,
    held_out_scores,
    load_classifier,
)
from tests.retrieval.classifiers.galleries import clusters

CONFIGS: TypeAdapter[Any] = TypeAdapter(ClassifierConfig)


@pytest.mark.parametrize("kind", ["knn", "svm"])
def test_a_classifier_comes_from_its_config(kind: str, tmp_path: Path) -> None:
    config = CONFIGS.validate_python({"kind": kind})
    gallery, queries = clusters(5, 6, 10, 0.4), clusters(5, 4, 0, 0.4).vectors
    fitted = fit_classifier(config, gallery)
    assert fitted.kind == kind
    # The SVM looks at none.
    k = max(fitted.neighbours, 1)
    found = gallery.index.search(queries, k)
    scores = fitted.scores(queries, found)
    assert len(scores) == 20
    assert (scores.values[:, :-1] >= scores.values[:, 1:]).all()
    one_by_one = [
        fitted.scores(queries[[i]], gallery.index.search(queries[[i]], k)) for i in range(20)
    ]
    assert [one.best[0] for one in one_by_one] == scores.best.tolist()
    assert [one.confidence[0] for one in one_by_one] == pytest.approx(scores.confidence, abs=1e-5)
    fitted.save(tmp_path)
    loaded = load_classifier(config, tmp_path, gallery)
    assert (loaded.scores(queries, found).values == scores.values).all()
    assert held_out_scores(config, gallery).correct.mean() > 0.9


def test_every_kind_holds_out_the_same_photographs() -> None:
    gallery = clusters(6, 10, 30, 0.4)
    one, other = (
        held_out_scores(CONFIGS.validate_python({"kind": kind, "held_out": 7}), gallery)
        for kind in ("knn", "svm")
    )
    assert one.rows.tolist() == other.rows.tolist()
    assert one.bank_rows.tolist() == other.bank_rows.tolist()


@pytest.mark.parametrize("wrong", [{"kind": "knn", "neighbours": 3}, {"kind": "svm", "folds": 1}])
def test_a_wrong_key_or_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CONFIGS.validate_python(wrong)
