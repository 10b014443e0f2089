"""ALIKED's maps and descriptors beside kornia's whole network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kornia.feature import ALIKED

from retrieval.local.aliked_network import padded
from retrieval.local.features import encode
from retrieval.local.learned import FILE, NETWORK, AlikedConfig, AlikedDetector, build
from retrieval.types import Photograph
from tests.networks import random_aliked
from tests.photographs import picture


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_aliked(tmp_path_factory.mktemp("weights") / FILE, 0)


@pytest.fixture(scope="module")
def whole(file: Path) -> ALIKED:
    network = ALIKED(NETWORK, 80, 0.2).eval()
    network.load_state_dict(torch.load(file, weights_only=True), strict=False)
    return network


def detector(file: Path, runtime: str, precision: str = "float32") -> AlikedDetector:
    config = {"weights": str(file), "keypoints": 80, "runtime": runtime, "precision": precision}
    return build(AlikedConfig.model_validate(config), "cpu")


def assert_as_kornia(found: AlikedDetector, whole: ALIKED, photograph: Photograph) -> None:
    (features,) = found.features([photograph])
    with torch.inference_mode():
        (expected,) = whole(torch.tensor(photograph).permute(2, 0, 1)[None].float() / 255)
    points, scores = expected.keypoints.numpy(), expected.keypoint_scores.numpy()
    order = np.argsort(-scores)
    order = order[scores[order] > 0.2]
    assert len(order) == len(features) > 20
    near = np.abs(points[order, None] - features.points[None]).max(-1)
    same = near.argmin(1)
    assert near.min(1).max() < 1e-2
    codes = encode(expected.descriptors.numpy()[order], signed=True).astype(int)
    assert np.abs(codes - features.codes[same].astype(int)).max() <= 1


@pytest.mark.parametrize("size", [(96, 128), (70, 101), (17, 90)])
def test_torch_finds_what_kornia_does(file: Path, whole: ALIKED, size: tuple[int, int]) -> None:
    """Padded or not; keypoints near the edge look beyond it."""
    assert_as_kornia(detector(file, "torch"), whole, picture(1, *size))


@pytest.mark.slow
def test_openvino_does_too_at_other_sizes_than_it_was_converted_with(
    file: Path, whole: ALIKED
) -> None:
    pytest.importorskip("openvino")
    found = detector(file, "openvino")
    assert found.identity()["runtime"].startswith("openvino ")
    for size in ((96, 128), (129, 260), (300, 70)):
        assert_as_kornia(found, whole, picture(2, *size))


def test_another_precision_is_another_identity(file: Path) -> None:
    exact, rough = detector(file, "torch"), detector(file, "torch", "bfloat16")
    assert exact.identity()["precision"] == "float32"
    assert rough.identity() == {**exact.identity(), "precision": "bfloat16"}
    (one,), (other,) = exact.features([picture(1)]), rough.features([picture(1)])
    assert len(other)
    assert not np.array_equal(one.points, other.points)


def test_edges_are_repeated_on_all_sides() -> None:
    values = torch.arange(6.0).reshape(1, 1, 2, 3)
    found, left, above = padded(values)
    assert found.shape == (1, 1, 32, 32)
    assert (left, above) == (14, 15)
    assert torch.equal(found[:, :, 15:17, 14:17], values)
    assert (found[0, 0, :15, :14] == 0).all()
    assert (found[0, 0, 17:, 17:] == 5).all()
