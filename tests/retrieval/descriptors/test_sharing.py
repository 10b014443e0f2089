"""Parts of one system: passes of a network and keypoints that are worked out once for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest

from retrieval.descriptors import sharing
from retrieval.descriptors.registry import JointConfig, build_extractor
from retrieval.local import sift
from retrieval.local.features import LocalFeatures
from tests.photographs import blank, picture

NETWORK = {"trunk": "resnet18", "weights": "none", "precision": "float32", "runtime": "torch"}
FISHER = {"kind": "fisher", "words": 4}


def parts(*extractors: dict[str, Any]) -> Any:
    config = JointConfig.model_validate({"parts": [{"extractor": one} for one in extractors]})
    return build_extractor(config, "cpu", 0)


def cnn(**changes: Any) -> dict[str, Any]:
    layers = [{"layer": "layer3"}, {"layer": "layer4"}]
    return {
        "kind": "cnn", "size": 128, "scales": [1.0, 0.7], "layers": layers, **NETWORK, **changes,
    }  # fmt: skip


def delf(**changes: Any) -> dict[str, Any]:
    local = {
        "kind": "delf", "size": 128, "scales": [0.7, 1.0, 1.4], "keypoints": 30, **NETWORK,
        **changes,
    }  # fmt: skip
    return {"kind": "aggregated", "local": local, "aggregation": FISHER}


def sift_part(**changes: Any) -> dict[str, Any]:
    local = {"kind": "sift", "size": 128, "keypoints": 40, **changes}
    return {"kind": "aggregated", "local": local, "aggregation": FISHER}


def detector(joint: Any, place: int) -> Any:
    return joint.parts[place].describer.extractor.detector


@contextmanager
def counted(joint: Any) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Who sends what through a network."""
    seen: list[tuple[str, tuple[int, ...]]] = []
    for one in joint.parts:
        extractor = one.describer.extractor
        name, trunk = ("cnn", extractor.trunk) if hasattr(extractor, "trunk") else (
            "delf", extractor.detector.trunk,
        )  # fmt: skip
        trunk.network.register_forward_pre_hook(
            lambda module, given, name=name: seen.append((name, tuple(given[0].shape[-2:])))
        )
    yield seen


def assert_same(one: LocalFeatures, other: LocalFeatures) -> None:
    for name in ("points", "scales", "angles", "codes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("flip", [False, True])
def test_delf_takes_the_maps_of_passes_that_are_made_anyhow(first: int, flip: bool) -> None:
    both = [cnn(flip=flip), delf()]
    joint = parts(*(both if first == 0 else both[::-1]))
    with counted(joint) as seen:
        ((*rows,),) = joint.features([picture(1, 96, 128)])
        assert sorted({one for one in seen if one[0] == "cnn"}) == [
            ("cnn", (80, 90)), ("cnn", (96, 128)),
        ]  # fmt: skip
        assert [one for one in seen if one[0] == "delf"] == [("delf", (134, 179))]
    alone = parts(delf()).parts[0].describer.extractor
    (expected,) = alone.features([picture(1, 96, 128)])
    assert len(expected) == 30
    assert_same(rows[1 - first], expected)


@pytest.mark.parametrize(
    ("extractor", "local"),
    [
        (cnn(size=120), delf()),
        (cnn(trunk="resnet34"), delf()),
        (cnn(layers=[{"layer": "layer4"}]), delf()),
        (cnn(precision="auto"), delf()),
    ],
)
def test_other_sizes_networks_and_layers_are_not_shared(
    extractor: dict[str, Any], local: dict[str, Any]
) -> None:
    joint = parts(extractor, local)
    assert detector(joint, 1).passes is None
    assert "passes" not in joint.identity()["several"][1]


def test_the_identity_tells_whose_passes_are_taken() -> None:
    joint = parts(cnn(), delf())
    assert joint.identity()["several"][1]["passes"]["layers"] == ["layer3", "layer4"]
    assert joint.identity() != parts(delf()).identity()


@pytest.mark.parametrize("first", [True, False])
def test_sift_is_found_once_for_upright_and_turned(
    first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = [picture(1, 96, 128), blank(), picture(2, 8, 90)]
    joint = parts(sift_part(upright=first), sift_part(upright=not first), sift_part(keypoints=9))
    expected = [detector(joint, place).features(photographs) for place in range(3)]
    calls: list[int] = []
    both = sift.detect_both
    monkeypatch.setattr(sift, "detect_both", lambda *given: (calls.append(1), both(*given))[1])
    rows = joint.features(photographs)
    assert len(calls) == len(photographs)
    for found, *own in zip(rows, *expected, strict=True):
        for one, other in zip(found, own, strict=True):
            assert_same(one, other)


def test_sift_without_a_keypoint_of_the_enlarged_photograph() -> None:
    """OpenCV's pyramid then begins elsewhere for keypoints that are given."""
    squares = (np.arange(128) - 64.0) ** 2
    grey = np.rint(255 * np.exp(-np.add.outer(squares, squares) / 200)).astype(np.uint8)
    photograph = np.repeat(grey[:, :, None], 3, axis=2)
    config = sift.SiftConfig(keypoints=40)
    octaves = {one.octave & 255 for one in cv2.SIFT.create(contrastThreshold=0.02).detect(grey)}
    assert octaves
    assert 255 not in octaves
    for upright, found in sift.detect_both(photograph, config).items():
        own = config.model_copy(update={"upright": upright})
        assert_same(found, sift.detect(photograph, own))


def test_a_pair_alone_is_told() -> None:
    assert [detector(parts(sift_part(), sift_part(upright=False)), i).paired for i in (0, 1)] == [
        True, True,
    ]  # fmt: skip
    other = parts(sift_part(), sift_part(upright=False, keypoints=30))
    assert not detector(other, 0).paired
    assert sharing.sharing([]) == []
