"""Attributions against captum's, and against derivatives worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    Saliency,
)
from torch import Tensor, nn
from torch.nn import functional

from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.hog import HogConfig
from retrieval.descriptors.registry import JointConfig, build_extractor
from retrieval.errors import ExplainError
from retrieval.explain import gradients
from retrieval.explain.derivable import Derivable, derivable
from retrieval.explain.grad_cam import grad_cam
from retrieval.explain.grid import Grid
from retrieval.explain.guided import guided
from retrieval.explain.methods import guided_slopes
from retrieval.explain.occlusion import occlusion, without
from retrieval.explain.targets import Target
from retrieval.vectors.whitening import WhiteningConfig
from tests.photographs import features_of, picture
from tests.retrieval.descriptors.test_contract import EXAMPLES, PHOTOGRAPHS

TRUNKS = {"resnet18": "layer4", "vgg11": "features"}
trunks = pytest.mark.parametrize("name", TRUNKS)


class Whole(nn.Module):
    """From what the network sees to the target, with its last map as a layer."""

    def __init__(self, by: Derivable, function: Callable[[Tensor], Tensor], layer: str):
        super().__init__()
        self.trunk, self.last = by.seen[0].trunk.network, nn.Identity()
        self.by, self.function, self.layer = by, function, layer

    def forward(self, values: Tensor) -> Tensor:
        maps = self.last(self.trunk(values)[self.layer])
        return self.function(self.by.of_maps([[[(maps, None)]]]))


@dataclass(frozen=True)
class Case:
    by: Derivable
    target: Target
    whole: Whole

    @property
    def values(self) -> Tensor:
        return self.by.seen[0].values

    @property
    def leaf(self) -> Tensor:
        return self.values.clone().requires_grad_()


@cache
def case(name: str) -> Case:
    config = CnnConfig.model_validate(
        {"trunk": name, "weights": "none", "size": 96, "precision": "float32", "runtime": "torch"}
    )
    extractor: Any = build_extractor(config, "cpu", 0)
    for module in extractor.trunk.network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # captum's hooks take no other
    by = derivable(Describer(extractor, None), picture(0))
    direction = torch.randn(extractor.dimension, generator=torch.Generator().manual_seed(1))
    target = Target("a direction", lambda rows: rows @ direction)
    return Case(by, target, Whole(by, target.function, TRUNKS[name]))


def close(found: Tensor, expected: Tensor) -> None:
    """To 1e-4 of the largest."""
    found, expected = found.detach(), expected.detach()
    most = float(expected.abs().max())
    assert most > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * most, rtol=0)


@trunks
def test_derivatives_are_captums(name: str) -> None:
    here = case(name)
    (slope,) = gradients.gradients(here.by, here.target.function, [here.values])[1]
    close(slope.abs(), Saliency(here.whole).attribute(here.leaf))
    (times,) = gradients.gradient_input(here.by, here.target.function)
    close(times, InputXGradient(here.whole).attribute(here.leaf))


@trunks
def test_integrated_gradients_are_captums(name: str) -> None:
    here = case(name)
    (found,), gap = gradients.integrated(here.by, here.target.function, steps=12)
    theirs, delta = IntegratedGradients(here.whole).attribute(
        here.leaf, n_steps=12, method="gausslegendre", return_convergence_delta=True
    )
    close(found, theirs)
    assert gap == pytest.approx(float(delta), abs=1e-4)


@trunks
def test_grad_cam_is_captums(name: str) -> None:
    here = case(name)
    (found,) = grad_cam(here.by, here.target.function)
    layer = LayerGradCam(here.whole, here.whole.last)
    close(found, layer.attribute(here.leaf, relu_attributions=True))


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@trunks
def test_guided_backpropagation_is_captums(name: str) -> None:
    here = case(name)
    (found,) = guided_slopes(here.by, here.target.function)
    close(found, GuidedBackprop(here.whole).attribute(here.leaf))


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@trunks
def test_guided_grad_cam_is_captums(name: str) -> None:
    here = case(name)
    (slope,) = guided_slopes(here.by, here.target.function)
    (cam,) = grad_cam(here.by, here.target.function)
    found = slope * functional.interpolate(cam, slope.shape[-2:], mode="nearest")
    close(found, GuidedGradCam(here.whole, here.whole.last).attribute(here.leaf))


def test_smooth_gradients_without_noise_are_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    here = case("vgg11")
    (slope,) = gradients.gradients(here.by, here.target.function, [here.values])[1]
    (noisy,) = gradients.smooth(here.by, here.target.function)
    (again,) = gradients.smooth(here.by, here.target.function)
    assert torch.equal(noisy, again)
    monkeypatch.setattr(gradients, "NOISE", 0.0)
    (found,) = gradients.smooth(here.by, here.target.function)
    close(found, slope)
    assert (noisy - slope).abs().max() > 1e-2 * slope.abs().max()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Of every activation its derivative, from its definition.
SLOPES: dict[str, Callable[[float], float]] = {
    "relu": lambda x: float(x > 0),
    "relu6": lambda x: float(0 < x < 6),
    "silu": lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    "gelu": lambda x: (
        (1 + math.erf(x / math.sqrt(2))) / 2 + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    ),
    "hardswish": lambda x: 0.0 if x <= -3 else 1.0 if x >= 3 else (2 * x + 3) / 6,
}
MODULES = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "gelu": nn.GELU, "hardswish": nn.Hardswish,
}  # fmt: skip


class Toy(nn.Module):
    """Two layers with an activation behind each: one module used twice, or functions."""

    def __init__(self, activate: Callable[[Tensor], Tensor]):
        super().__init__()
        random = np.random.default_rng(0)
        self.matrices = [
            torch.tensor(random.normal(scale=0.8, size=shape)) for shape in ((5, 8), (8, 7))
        ]
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        first = self.activate(x @ self.matrices[0])
        return self.activate(first @ self.matrices[1])


def by_hand(toy: Toy, slope: Callable[[float], float], x: Tensor) -> np.ndarray:
    """What goes back, layer by layer: of a sum over the last activations."""
    one, other = (matrix.numpy() for matrix in toy.matrices)
    before = x.numpy() @ one
    inner = toy.activate(torch.from_numpy(before.copy())).numpy()
    last = inner @ other
    came = np.array([max(0.0, slope(value)) for value in last])
    came = other @ came
    came = np.array([max(0.0, slope(v) * c) for v, c in zip(before, came, strict=True)])
    return np.asarray(one @ came)


@pytest.mark.parametrize("called", ["module", "function", "in place"])
@pytest.mark.parametrize("kind", SLOPES)
def test_guided_backpropagation_is_worked_out_by_hand(kind: str, called: str) -> None:
    if called == "module":
        activate: Any = MODULES[kind]()
    elif called == "function" or kind == "gelu":
        activate = getattr(functional, kind)
    else:
        activate = MODULES[kind](inplace=True)
    toy, x = Toy(activate), torch.tensor([0.3, -1.2, 0.8, 1.5, -0.4], dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    with guided():
        made = toy(leaf)
    (found,) = torch.autograd.grad(made.sum(), leaf)
    np.testing.assert_allclose(found, by_hand(toy, SLOPES[kind], x), atol=1e-9)
    plain = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(toy(plain).sum(), plain)
    assert not np.allclose(found, slope), "the rule changes what goes back"


def test_what_is_done_in_place_is_seen_by_all() -> None:
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    with guided():
        inner = x * 1.0
        functional.relu_(inner)
    assert inner.tolist() == [0.0, 2.0]
    (slope,) = torch.autograd.grad((inner * torch.tensor([1.0, -3.0])).sum(), x)
    assert slope.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("activate", "told"),
    [
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.Mish(), "mish"),
        (nn.PReLU(dtype=torch.float64), "prelu"),
        (nn.Hardtanh(), "hardtanh"),
        (lambda x: x * torch.sigmoid(x), r"sigmoid\(x\) itself"),
        (lambda x: x.sigmoid().mul(x), r"sigmoid\(x\) itself"),
        (torch.tanh, "calls no ReLU"),
    ],
)
def test_an_activation_without_a_rule_is_refused_by_name(activate: Any, told: str) -> None:
    toy, x = Toy(activate), torch.zeros(5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ExplainError, match=told), guided():
        toy(x)


def test_occlusion_is_what_is_lost_without_each_patch() -> None:
    by = Describer(build_extractor(_hog(), "cpu", 0), None)
    photograph = picture(1, 90, 120)
    direction = torch.from_numpy(by.describe([picture(2, 90, 120)]).vectors[0])
    target = Target("likeness", lambda rows: rows @ direction)
    grid, falls, value = occlusion(by, photograph, target)
    assert value == pytest.approx(float(by.describe([photograph]).vectors[0] @ direction.numpy()))
    columns = grid.columns
    patches = {
        0: (0, 1, columns, columns + 1),
        2 * columns + 3: [(1 + i) * columns + 2 + j for i in range(3) for j in range(3)],
    }
    for cell, cells in patches.items():
        greyed = without(photograph, grid, np.array(cells))
        left_over = float(by.describe([greyed]).vectors[0] @ direction.numpy())
        assert falls[cell] == pytest.approx(value - left_over, abs=1e-6)
    assert np.abs(falls).max() > 1e-3


def test_a_patch_is_the_mean_colour_within_and_untouched_beyond() -> None:
    photograph, grid = picture(1, 90, 120), Grid(9, 12)
    block = [row * 12 + column for row in (2, 3, 4) for column in (5, 6, 7)]
    found = without(photograph, grid, np.array(block))
    flags = np.isin(np.arange(len(grid)), block)
    np.testing.assert_array_equal(without(photograph, grid, flags), found)
    mean = photograph.mean(axis=(0, 1)).round()
    np.testing.assert_allclose(found[35:36, 65:66], np.broadcast_to(mean, (1, 1, 3)), atol=1)
    beyond = np.ones((90, 120), np.bool_)
    beyond[5:65, 35:95] = False  # half a cell around
    np.testing.assert_array_equal(found[beyond], photograph[beyond])
    # Half way over the edge half is left.
    edge = found[30:40, 49:51].astype(float).mean(axis=(0, 1))
    np.testing.assert_allclose(
        edge, (photograph[30:40, 49:51].mean(axis=(0, 1)) + mean) / 2, atol=4
    )


def test_only_networks_have_derivatives() -> None:
    with pytest.raises(ExplainError, match="made by no network"):
        derivable(Describer(build_extractor(_hog(), "cpu", 0), None), picture(0))


@pytest.mark.parametrize("whitened", [False, True])
def test_the_function_with_derivatives_is_the_describer(whitened: bool) -> None:
    """Scales, mirror images, layers, a trained neck, and parts that are no networks."""
    parts = [
        {"extractor": EXAMPLES[name].config.model_dump(mode="json"), "weight": 0.5 + place}
        for place, name in enumerate(("cnn-several", "cnn-tokens", "trained", "hog"))
    ]
    for part in parts:
        if "runtime" in part["extractor"]:
            part["extractor"]["runtime"] = "torch"
    extractor = build_extractor(JointConfig.model_validate({"parts": parts}), "cpu", 0)
    wanted = WhiteningConfig(dimension=4) if whitened else None
    by = Describer.fit(extractor, features_of(extractor, PHOTOGRAPHS), wanted, 0)
    function = derivable(by, PHOTOGRAPHS[1])
    assert len(function.seen) == 3
    found = function([one.values for one in function.seen])
    np.testing.assert_allclose(
        found.detach()[0], by.describe([PHOTOGRAPHS[1]]).vectors[0], atol=1e-5
    )


def _hog() -> Any:
    return HogConfig(side=64, cells=(8,))
