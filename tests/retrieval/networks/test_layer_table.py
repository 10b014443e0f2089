"""Layer tables against the counts that are published, and against sums by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from retrieval.errors import ConfigError
from retrieval.networks.layer_table import layer_table, table_of


def test_vgg16_to_the_last_number() -> None:
    """Simonyan and Zisserman 2015, configuration D."""
    table = layer_table("vgg16")
    assert table.total("parameters") == 138_357_544
    layers = {layer.name: layer for layer in table.layers}
    assert layers["classifier.0"].weights == 102_760_448
    assert layers["classifier.3"].weights == 16_777_216
    assert layers["features.0"].shape == (64, 224, 224)
    assert table.total("activations") == 15_087_080
    assert table.total("activations") + table.inputs == 15_237_608
    assert [layer.kind for layer in table.layers].count("Conv2d") == 13
    # In the order in which they run, and the pooling of 7 x 7 to 7 x 7 is none.
    assert [layer.name for layer in table.layers][-4:] == [
        "features.30", "classifier.0", "classifier.3", "classifier.6",
    ]  # fmt: skip
    assert layer_table("vgg16", 448).total("activations") > 4 * 15_077_888


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("alexnet", 61_100_840), ("googlenet", 6_624_904), ("resnet50", 25_557_032)],
)
def test_parameters_are_those_that_are_known(name: str, parameters: int) -> None:
    assert layer_table(name).total("parameters") == parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet mobilenet_v2 regnet_y_400mf"
    " resnet50 resnet101 shufflenet_v2_x0_5 squeezenet1_1 swin_t vgg16 vit_b_16".split(),
)
def test_multiply_adds_and_parameters_are_those_that_torchvision_gives(name: str) -> None:
    """In thousands of millions, to three places."""
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    table = layer_table(name)
    assert table.total("multiply_adds") / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)
    if name != "googlenet":  # whose count is with the heads that serve training
        assert table.total("parameters") == meta["num_params"]


class Odd(nn.Module):
    """Poolings that are no modules, a layer that runs twice, one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.never = nn.Linear(2, 5)
        self.last = nn.Linear(3, 4, bias=False)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = self.twice(functional.relu(self.twice(values))) * self.scale
        values = functional.avg_pool2d(values, 3, stride=1, padding=1)
        values = functional.adaptive_avg_pool2d(values, 8)
        return self.last(values.mean(dim=(-2, -1)))


def test_operations_stand_with_the_module_that_does_them() -> None:
    layers = {layer.name: layer for layer in table_of(Odd(), "odd", 8).layers}
    assert list(layers) == ["", "twice", "last", "never"]
    # The average of 3 x 3 and that of all places; the one from 8 x 8 to 8 x 8 does nothing.
    assert layers[""].activations == 3 * 64 + 3
    assert (layers[""].parameters, layers[""].weights, layers[""].shape) == (3, 3, (4,))
    assert layers["twice"].activations == 2 * 3 * 64
    assert layers["twice"].multiply_adds == 2 * 3 * 64 * 27
    assert (layers["twice"].parameters, layers["twice"].weights) == (84, 81)
    assert (layers["last"].activations, layers["last"].multiply_adds) == (4, 12)
    assert (layers["never"].shape, layers["never"].parameters) == (None, 15)


def test_timm_s_networks_have_tables_too() -> None:
    table = layer_table("timm/test_vit")
    assert table.size == 160
    assert layer_table("timm/test_vit", 64).total("parameters") == table.total("parameters")
    attention = [layer for layer in table.layers if layer.kind == "Attention"]
    # 101 tokens of 64 numbers, each with each, twice.
    assert [layer.multiply_adds for layer in attention] == [2 * 101 * 101 * 64] * 6


def test_what_cannot_be_counted_is_said() -> None:
    with pytest.raises(ConfigError, match="vit_b_16 does not take photographs of 200 x 200"):
        layer_table("vit_b_16", 200)
    with pytest.raises(ConfigError, match="'vgg61' is not a torchvision network"):
        layer_table("vgg61")
