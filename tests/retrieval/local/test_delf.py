"""DELF: where its keypoints lie, which are kept, and whose attention it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from retrieval.descriptors.extraction import extract
from retrieval.errors import ConfigError, WeightsError
from retrieval.local.delf import (
    Attention,
    DelfConfig,
    DelfDetector,
    build,
    geometry_of,
    load_attention,
    located,
    save_attention,
)
from retrieval.networks.trunk import Trunk
from retrieval.networks.trunks import bare_network
from tests.networks import random_attention, random_trunk
from tests.photographs import blank, picture

SMALL: dict[str, Any] = {
    "trunk": "resnet18", "layer": "layer2", "weights": "none", "size": 128, "scales": (0.7, 1.0),
    "keypoints": 60, "overlap": 0.8, "precision": "float32",
}  # fmt: skip


def small(**changes: Any) -> DelfDetector:
    return build(DelfConfig(**{**SMALL, **changes}), "cpu")


@pytest.fixture(scope="module")
def detector() -> DelfDetector:
    return small()


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory, detector: DelfDetector) -> Path:
    return random_attention(tmp_path_factory.mktemp("delf") / "mine.safetensors", detector.trunk, 0)


def spot(x: float, y: float, side: int = 257) -> NDArray[np.uint8]:
    """Grey, with one bright blob."""
    rows, columns = np.mgrid[:side, :side]
    blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2))
    return np.repeat((100 + 150 * blob).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "layer"),
    [("resnet18", "layer2"), ("mobilenet_v2", "features.6"), ("googlenet", "inception3b"),
     ("squeezenet1_1", "features.4"), ("densenet121", "features.transition1")],
)  # fmt: skip
def test_receptive_fields_are_those_that_gradients_reach(trunk: str, layer: str) -> None:
    """Made so that no path is cut: poolings average, and everything is positive."""
    model = bare_network(trunk)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            mean = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, True)
            model.set_submodule(name, mean)
        elif isinstance(module, nn.ReLU6):
            model.set_submodule(name, nn.Identity())
    for parameter in model.parameters():
        parameter.data = parameter.data.abs() + 1e-3
    network = create_feature_extractor(model, {layer: layer})
    seen = torch.ones((1, 3, 224, 224)).requires_grad_()
    found = network(seen)[layer][0]
    geometry = geometry_of(network, layer)
    place = np.array(found.shape[-2:]) // 2
    found[:, place[0], place[1]].sum().backward()
    assert seen.grad is not None
    reached = seen.grad[0].abs().sum(dim=0) > 0
    for axis in (0, 1):
        line = np.flatnonzero(reached.any(dim=1 - axis).numpy())
        assert line[-1] - line[0] + 1 == geometry.size[axis]
        centre = geometry.start[axis] + place[axis] * geometry.step[axis]
        assert (line[0] + line[-1]) / 2 == centre


def test_a_keypoint_moves_with_what_it_shows() -> None:
    """By one step of the map, exactly; and it lies where the blob is."""
    alone = small(scales=(1.0,), size=257, keypoints=1)
    step = float(alone.geometry.step[0])
    assert step == 8
    strongest = [alone.features([spot(x, y)])[0] for x, y in ((128, 104), (136, 104), (128, 128))]
    points = np.array([one.points[0] for one in strongest])
    np.testing.assert_allclose(points[1] - points[0], (step, 0), atol=1e-4)
    np.testing.assert_allclose(points[2] - points[0], (0, 3 * step), atol=1e-4)
    assert np.abs(points[0] - (128, 104)).max() <= 2 * step
    np.testing.assert_array_equal(strongest[0].codes, strongest[1].codes)


def test_scales_tell_of_places_in_the_photograph() -> None:
    """Half as large seen, twice as large a field; the blob stays where it is."""
    for scale in (0.5, 1.0, 2.0):
        alone = small(scales=(scale,), size=257, keypoints=1)
        # Twice the size is decoded at most; this photograph has no more pixels.
        (found,) = alone.features([spot(120, 88)])
        assert found.scales[0] == pytest.approx(alone.geometry.size[0] / scale, rel=0.01)
        assert np.abs(found.points[0] - (120, 88)).max() <= 2 * 8 / scale


def test_a_larger_photograph_is_seen_at_its_size() -> None:
    """Scale 1 is ``size``, whether or not a larger scale asks for more to be decoded."""
    one, two = small(size=128, scales=(1.0,)), small(size=128, scales=(1.0, 2.0))
    assert (one.longest_side, two.longest_side) == (128, 256)
    whole = picture(1, 192, 256)
    half = cv2.resize(whole, (128, 96), interpolation=cv2.INTER_AREA)
    columns, looks = two.columns(whole, 1.0)
    assert columns.shape == one.columns(half, 1.0)[0].shape
    np.testing.assert_allclose(looks[-1, :2] + 0.5, 2 * (one.columns(half, 1.0)[1][-1, :2] + 0.5))


def test_weaker_ones_that_show_the_same_are_left_out(detector: DelfDetector) -> None:
    """Against pairs one by one."""

    def overlap(a: Any, b: Any) -> float:
        edges = [(one[:2] - one[2:] / 2, one[:2] + one[2:] / 2) for one in (a, b)]
        low = np.maximum(edges[0][0], edges[1][0])
        high = np.minimum(edges[0][1], edges[1][1])
        shared = float(np.prod(np.maximum(high - low, 0)))
        return shared / (float(np.prod(a[2:]) + np.prod(b[2:])) - shared)

    every = replace(detector, config=detector.config.model_copy(update={"keypoints": 9999}))
    seen = [every.columns(picture(1), scale) for scale in every.config.scales]
    scores = torch.cat([columns.float().norm(dim=1) for columns, _ in seen]).numpy()
    looks = np.concatenate([one for _, one in seen]).astype(np.float64)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(overlap(looks[i], looks[j]) <= every.config.overlap for j in kept):
            kept.append(int(i))
    (found,) = every.features([picture(1)])
    assert 20 < len(kept) < len(scores)
    np.testing.assert_allclose(found.points, looks[kept, :2], atol=1e-4)
    # The first few of those are what a smaller number keeps.
    (fewer,) = detector.features([picture(1)])
    np.testing.assert_array_equal(fewer.codes, found.codes[: len(fewer)])


def test_descriptors_are_the_map_s_columns(detector: DelfDetector) -> None:
    (found,) = detector.features([picture(2)])
    assert found.codes.dtype == np.int8
    assert found.codes.shape == (len(found), detector.dimension) == (len(found), 128)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=0.05)
    columns, looks = detector.columns(picture(2), 1.0)
    expected = (columns / columns.norm(dim=1, keepdim=True)).numpy()
    at = [np.flatnonzero((looks[:, :2] == point).all(axis=1)) for point in found.points]
    met = [(one[0], i) for i, one in enumerate(at) if len(one)]
    assert len(met) > 5
    for place, i in met:
        np.testing.assert_allclose(found.descriptors[i], expected[place], atol=0.6 / 127)


def test_attention_decides_which_are_kept(detector: DelfDetector, attention: Path) -> None:
    learnt = small(attention=str(attention), keypoints=5)
    columns, looks = learnt.columns(picture(1), 1.0)
    assert learnt.attention is not None
    with torch.inference_mode():
        scores = learnt.attention(columns).numpy()
    alone = replace(learnt, config=learnt.config.model_copy(update={"scales": (1.0,)}))
    (found,) = alone.features([picture(1)])
    np.testing.assert_array_equal(found.points[0], looks[scores.argmax(), :2])
    assert not np.array_equal(found.points, detector.features([picture(1)])[0].points[:5])
    threshold = float(np.sort(scores)[-3])
    strict = alone.config.model_copy(update={"threshold": threshold})
    assert len(replace(alone, config=strict).features([picture(1)])[0]) <= 2


def test_threads_change_nothing(detector: DelfDetector) -> None:
    photographs = [picture(1), picture(2, 64, 100), picture(3), picture(4, 100, 64)] * 2
    (alone,) = extract([photographs], detector, threads=1)
    (together,) = extract([photographs], detector, threads=4)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_array_equal(one.codes, other.codes)
    assert detector.threaded
    assert not replace(detector, device=torch.device("cuda")).threaded


def test_a_blank_photograph_has_the_same_everywhere(detector: DelfDetector) -> None:
    (found,) = detector.features([blank()])
    assert np.isfinite(found.descriptors).all()
    (none,) = detector.features([picture(1, 15, 300)])
    assert none.codes.shape == (0, 128)


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["vit_b_16", "swin_t"])
def test_only_maps_of_convolutions(trunk: str) -> None:
    with pytest.raises(ConfigError, match="the detector delf needs a layer of convolutions"):
        small(trunk=trunk, layer="encoder.ln" if trunk == "vit_b_16" else "features.3")


def another_seed(path: Path, trunk: Trunk) -> None:
    random_attention(path, replace(trunk, identity={**trunk.identity, "weights": "other"}), 0)


def another_layer(path: Path, trunk: Trunk) -> None:
    random_attention(path, replace(trunk, layers=("layer3",)), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path, trunk: path.unlink(), "no such attention file"),
        (lambda path, trunk: path.write_bytes(b"x" * 90), "holds no attention"),
        (lambda path, trunk: random_trunk(path, "resnet18", 0), "holds no attention"),
        (another_seed, r"on another network \(weights other, here"),
        (another_layer, r"on another network \(layer layer3, here layer2\): learn it anew"),
    ],
)
def test_attention_of_something_else_is_one_line(
    damage: Callable[[Path, Trunk], Any], said: str, detector: DelfDetector, tmp_path: Path
) -> None:
    path = random_attention(tmp_path / "mine.safetensors", detector.trunk, 0)
    damage(path, detector.trunk)
    with pytest.raises(WeightsError, match=said) as caught:
        small(attention=str(path))
    assert "\n" not in str(caught.value)


def test_what_is_saved_is_loaded(detector: DelfDetector, tmp_path: Path) -> None:
    attention = Attention(128, 16)
    path = tmp_path / "mine.safetensors"
    save_attention(path, attention, detector.trunk, {"accuracy": 0.5})
    again = load_attention(path, detector.trunk)
    columns = torch.rand((7, 128))
    torch.testing.assert_close(again(columns), attention(columns))


def test_the_identity_knows_parameters_and_not_paths(attention: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(attention.read_bytes())
    one, other = small(attention=str(attention)), small(attention=str(moved))
    assert one.identity() == other.identity()
    assert one.identity() != small().identity()


def test_weights_and_attention_are_found_in_a_folder(attention: Path, tmp_path: Path) -> None:
    file = random_trunk(tmp_path / "resnet18.safetensors", "resnet18", 1)
    config = DelfConfig(**{**SMALL, "attention": "gone/mine.safetensors"})
    found = located(config, tmp_path)
    assert (found.weights, found.attention) == (str(file), "gone/mine.safetensors")
    (tmp_path / "mine.safetensors").write_bytes(attention.read_bytes())
    assert located(config, tmp_path).attention == str(tmp_path / "mine.safetensors")
    assert located(config, file).weights == str(file)
    with pytest.raises(WeightsError, match="no such weights file"):
        located(config, tmp_path / "absent")
