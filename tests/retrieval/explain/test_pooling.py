"""What places add to pooled vectors, by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retrieval.explain.grid import Grid
from retrieval.explain.pooling import added, pooled
from retrieval.networks.pooling import (
    GemConfig,
    MacConfig,
    PoolingConfig,
    RmacConfig,
    SpocConfig,
    pool,
)

CONFIGS = [GemConfig(), GemConfig(p=1.7), SpocConfig(), MacConfig(), RmacConfig(levels=2)]


def maps(seed: int, channels: int = 5, height: int = 4, width: int = 6) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn((1, channels, height, width), generator=random)


@pytest.mark.parametrize("config", CONFIGS)
def test_places_add_up_to_the_pooled_vector(config: PoolingConfig) -> None:
    found = added(config, maps(0)[0].double().numpy())
    expected = pool(config, maps(0).double(), None)[0].numpy()
    np.testing.assert_allclose(found.sum(axis=(1, 2)), expected, atol=1e-6)


def test_a_place_has_its_share_of_the_powers() -> None:
    values = maps(1)[0].double().numpy()
    found = added(GemConfig(p=3.0), values)
    for channel, plane in enumerate(values):
        powers = [max(value, 1e-6) ** 3 for value in plane.ravel()]
        whole = (sum(powers) / len(powers)) ** (1 / 3)
        shares = [whole * one / sum(powers) for one in powers]
        np.testing.assert_allclose(found[channel].ravel(), shares, rtol=1e-9)


def test_a_maximum_is_its_places() -> None:
    values = maps(2)[0].double().numpy()
    found = added(MacConfig(), values)
    for plane, its in zip(values, found, strict=True):
        place = np.unravel_index(plane.argmax(), plane.shape)
        assert its[place] == plane.max()
        assert np.count_nonzero(its) == 1


def test_a_mirrored_view_is_laid_back() -> None:
    grid = Grid(4, 6)
    plain = pooled(SpocConfig(), maps(3), None, grid, mirrored=False)
    back = pooled(SpocConfig(), maps(3).flip(-1), None, grid, mirrored=True)
    np.testing.assert_allclose(plain.placed, back.placed, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 6), (9, 20)])
def test_a_grid_keeps_sums_and_places(shape: tuple[int, int]) -> None:
    grid = Grid(*shape)
    values = maps(4)[0].double().numpy()
    laid = grid.maps(values)
    np.testing.assert_allclose(laid.sum(axis=(1, 2)), values.sum(axis=(1, 2)))
    # By area, in the slow way: each map's cell cut into small squares.
    fine = np.kron(values, np.ones(shape)) / (shape[0] * shape[1])
    height, width = fine.shape[1] // shape[0], fine.shape[2] // shape[1]
    blocks = fine.reshape(len(fine), shape[0], height, shape[1], width).sum(axis=(2, 4))
    np.testing.assert_allclose(laid, blocks, atol=1e-12)


def test_boxes_and_lines_are_shared_out_by_what_they_cover() -> None:
    grid = Grid(2, 2)
    boxes = np.array(
        [[0.0, 0, 1, 1], [0.25, 0.25, 0.75, 0.5], [0.9, 0.9, 1.4, 1.4], [2, 2, 3, 3.0]]
    )
    expected = [[0.25] * 4, [0.5, 0.5, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    np.testing.assert_allclose(grid.spread(boxes).T, expected, atol=1e-9)
    lines = np.array([[0.1, 0.1, 0.4, 0.4], [0.0, 0.2, 1.0, 0.2]])
    np.testing.assert_allclose(
        grid.spread_lines(lines).T, [[1, 0, 0, 0], [0.5, 0.5, 0, 0]], atol=1e-9
    )
