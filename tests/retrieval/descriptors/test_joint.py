"""Extractors side by side: their weights, their whitenings, and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.joint import JointExtractor
from retrieval.descriptors.registry import ExtractorConfig, JointConfig, build_extractor, located
from retrieval.errors import RunError, WeightsError
from retrieval.local import sift
from retrieval.vectors.whitening import Whitening, WhiteningConfig
from tests.photographs import blank, features_of, picture

SIFT = {"kind": "sift", "size": 128, "keypoints": 60}
VLAD = {"kind": "aggregated", "local": SIFT, "aggregation": {"kind": "vlad", "words": 4}}
FISHER = {
    "kind": "aggregated", "local": SIFT,
    "aggregation": {"kind": "fisher", "words": 2, "projected": 8},
}  # fmt: skip
HOG = {"kind": "hog", "side": 64}
NETWORK = {"kind": "cnn", "trunk": "squeezenet1_1", "weights": "none", "size": 128}
PHOTOGRAPHS = [picture(seed) for seed in range(6)]
adapter: TypeAdapter[Any] = TypeAdapter(ExtractorConfig)


def part(
    extractor: dict[str, Any], weight: float = 1.0, whitening: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"extractor": extractor, "weight": weight, "whitening": whitening}


def config_of(*parts: dict[str, Any]) -> JointConfig:
    config = adapter.validate_python({"kind": "combination", "parts": list(parts)})
    assert isinstance(config, JointConfig)
    return config


def built(*parts: dict[str, Any]) -> JointExtractor:
    extractor = build_extractor(config_of(*parts), "cpu", 0)
    assert isinstance(extractor, JointExtractor)
    return extractor


def test_parts_are_described_as_alone_then_weighed() -> None:
    white = {"dimension": 4, "power": -0.3, "shrinkage": 0.1}
    both = built(part(VLAD, 2.0, white), part(HOG, 0.5))
    features = features_of(both, PHOTOGRAPHS)
    rows = both.fit(features, 0).aggregate(features)
    alone = []
    for extractor, whitening in ((VLAD, WhiteningConfig(**white)), (HOG, None)):
        one = build_extractor(adapter.validate_python(extractor), "cpu", 0)
        describer = Describer.fit(one, features_of(one, PHOTOGRAPHS), whitening, 0)
        alone.append(describer.describe(PHOTOGRAPHS).vectors)
    length = np.hypot(2.0, 0.5)
    np.testing.assert_allclose(rows[:, :4], 2.0 / length * alone[0], atol=1e-5)
    np.testing.assert_allclose(rows[:, 4:], 0.5 / length * alone[1], atol=1e-5)
    # The similarity is the parts' own, each counted with its weight squared.
    expected = (4 * alone[0] @ alone[0].T + 0.25 * alone[1] @ alone[1].T) / 4.25
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-5)


def test_labels_reach_the_whitening_of_the_parts() -> None:
    white = {"dimension": 4, "learnt_on": "pairs", "shrinkage": 0.1}
    both = built(part(VLAD), part(HOG, 1.0, white))
    labels = ["a", "a", "b", "b", "c", None]
    features = features_of(both, PHOTOGRAPHS)
    learnt = both.fit(features, 0, labels).parts[1].describer.whitening
    alone = build_extractor(adapter.validate_python(HOG), "cpu", 0)
    rows = alone.aggregate(features_of(alone, PHOTOGRAPHS))
    expected = Whitening.fit(rows, WhiteningConfig.model_validate(white), labels=labels)
    assert learnt is not None
    np.testing.assert_array_equal(learnt.projection, expected.projection)


def test_the_same_keypoints_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return detect(*arguments)

    detect = sift.detect
    monkeypatch.setattr(sift, "detect", counted)
    shared = built(part(VLAD), part(FISHER), part(HOG))
    features = features_of(shared, PHOTOGRAPHS)
    assert len(calls) == len(PHOTOGRAPHS)
    arrays = shared.pack(features)
    assert sum(name.endswith("vectors") for name in arrays) == 1
    assert len({name.partition(".")[0] for name in arrays}) == 2
    fitted = shared.fit(features, 0)
    assert fitted.aggregate(features).shape == (6, fitted.dimension)


def test_a_part_that_has_nothing_is_zeros_and_leaves_the_rest_whole() -> None:
    """And not its whitened mean's mirror image."""
    both = built(part(VLAD, 1.0, {"dimension": 4}), part(NETWORK))
    fitted = both.fit(features_of(both, [*PHOTOGRAPHS, blank()]), 0)
    # A network has something to say of a blank photograph, SIFT has not.
    (row,) = fitted.aggregate(features_of(both, [blank()]))
    np.testing.assert_array_equal(row[:4], 0)
    assert np.linalg.norm(row[4:]) == pytest.approx(1, abs=1e-5)
    nothing = built(part(VLAD), part(HOG))
    fitted = nothing.fit(features_of(nothing, PHOTOGRAPHS), 0)
    np.testing.assert_array_equal(fitted.aggregate(features_of(nothing, [blank()])), 0)


def test_it_is_fitted_when_all_of_it_is(tmp_path: Path) -> None:
    assert built(part(HOG), part({"kind": "hough"})).fitted
    assert not built(part(HOG), part(VLAD)).fitted
    unfitted = built(part(HOG, 1.0, {"dimension": 64}))
    assert not unfitted.fitted
    assert unfitted.dimension == 64
    fitted = unfitted.fit(features_of(unfitted, PHOTOGRAPHS), 0)
    assert fitted.fitted
    assert fitted.dimension == 5  # Six photographs span no more.
    fitted.save(tmp_path)
    assert unfitted.restored(tmp_path).dimension == 5


def test_a_part_that_was_lost_is_named(tmp_path: Path) -> None:
    both = built(part(HOG, 1.0, {"dimension": 4}), part(HOG, 1.0, {"dimension": 3}))
    both.fit(features_of(both, PHOTOGRAPHS), 0).save(tmp_path)
    (tmp_path / "1" / "whitening" / "whitening.safetensors").unlink()
    with pytest.raises(RunError, match=r"1/whitening/whitening\.safetensors"):
        both.restored(tmp_path)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "at least 1 item"),
        ([part(HOG, 0.0)], "greater than or equal to 0.001"),
        ([part(HOG, float("inf"))], "finite"),
        ([part({"kind": "combination", "parts": [part(HOG)]})], "does not match any"),
    ],
)
def test_parts_that_cannot_be_are_refused(parts: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config_of(*parts)


def test_weights_are_given_to_the_networks_within(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("squeezenet1_1.safetensors", "aliked-n16rot.pth")]
    trunk, detector = (str(path) for path in paths)
    for path in paths:
        path.touch()
    learned = {**VLAD, "local": {"kind": "aliked"}}
    config = config_of(part(HOG), part(NETWORK, 2.0, {"dimension": 8}), part(learned), part(VLAD))
    assert located(config, tmp_path) == config_of(
        part(HOG),
        part({**NETWORK, "weights": trunk}, 2.0, {"dimension": 8}),
        part({**learned, "local": {"kind": "aliked", "weights": detector}}),
        part(VLAD),
    )
    assert located(CnnConfig(trunk="squeezenet1_1"), tmp_path).weights == trunk
    with pytest.raises(WeightsError, match=r"alexnet\.safetensors: no such weights file"):
        located(config_of(part({**NETWORK, "trunk": "alexnet"})), tmp_path)
