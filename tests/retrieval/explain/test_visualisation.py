"""Pictures that parts of a network answer to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retrieval.explain.derivable import Derivable, derivable
from retrieval.explain.layers import channel_slopes, layers_of, met, output_of
from retrieval.explain.visualisation import Colours, channel, described, neuron, visualise
from tests.photographs import picture
from tests.planted import colour_network

COLOURS = Colours(np.float32([0.5, 0.5, 0.5]), np.eye(3, dtype=np.float32))


@pytest.fixture(scope="module")
def by() -> Derivable:
    return derivable(colour_network(), picture(0, 64, 64))


def test_a_channel_of_a_colour_is_drawn_in_that_colour(by: Derivable) -> None:
    layer = next(one for one in layers_of(by) if one.name == "features.0")
    red, blue = visualise(by, channel(by, layer, [0, 2]), 2, COLOURS, side=32, steps=40)
    assert red[..., 0].mean() > red[..., 2].mean() + 60
    assert blue[..., 2].mean() > blue[..., 0].mean() + 60
    again = visualise(by, channel(by, layer, [0, 2]), 2, COLOURS, side=32, steps=40)
    np.testing.assert_array_equal(red, again[0])


def test_a_neuron_looks_at_the_middle_alone(by: Derivable) -> None:
    layer = next(one for one in layers_of(by) if one.name == "features.0")
    values = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        output = output_of(by, layer, values)
        one = neuron(by, layer, [7])(values), channel(by, layer, [7])(values)
    assert float(one[0]) == pytest.approx(float(output[0, 7, 8, 8]))
    assert float(one[1]) == pytest.approx(float(output[:, 7].mean(dim=(1, 2))))


def test_a_direction_of_the_descriptor_grows(by: Derivable) -> None:
    objective = described(by, [lambda rows: rows[:, 0] - rows[:, 2]])
    (drawn,) = visualise(by, objective, 1, COLOURS, side=32, steps=40)
    assert drawn[..., 0].mean() > drawn[..., 2].mean() + 60


def test_colours_are_those_of_photographs() -> None:
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (70, 70, 1)) + random.integers(-2, 3, (70, 70, 3))
    found = Colours.of([grey.clip(0, 255).astype(np.uint8)])
    # Light and dark, and hardly a colour.
    np.testing.assert_allclose(found.mixing, found.mixing.mean(), rtol=0.1)


def test_slopes_are_those_of_differences(by: Derivable) -> None:
    layer = next(one for one in layers_of(by) if one.name == "features.0")
    way = torch.randn(by([one.values for one in by.seen]).shape[1])
    slopes = channel_slopes(by, layer, lambda rows: rows @ way)

    def at(step: float) -> float:
        def take(output: torch.Tensor) -> torch.Tensor:
            moved = output.clone()
            moved[:, 1] += step
            return moved

        with torch.inference_mode(), met(layer, take):
            return float(by([one.values for one in by.seen])[0] @ way)

    assert float(slopes[1]) == pytest.approx((at(0.01) - at(-0.01)) / 0.02, rel=2e-2)
