"""Pooling against loops over every place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval.networks.pooling import (
    ClsConfig,
    MacConfig,
    SpocConfig,
    first_tensor,
    gem,
    mac,
    pool,
    regions,
    rmac,
    spoc,
    tokens_to_map,
)
from tests.oracles import descriptors as oracle

MAPS = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(-4, 4, width=32),
)


@settings(max_examples=60)
@given(MAPS, st.sampled_from([1.0, 2.5, 3.0, 7.0]))
def test_gem_against_loops(maps: np.ndarray, p: float) -> None:
    pooled = gem(torch.from_numpy(maps), p).numpy()
    assert pooled.dtype == np.float32
    expected = [oracle.gem(one, p) for one in maps]
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-6)


def test_gem_lies_between_the_mean_and_the_most() -> None:
    maps = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gem(maps, 1.0), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(gem(maps, 60.0), maps.amax(dim=(2, 3)), rtol=0.08, atol=0)


def test_gem_counts_in_float32() -> None:
    """The sum of a thousand cubes in bfloat16 would be off by a percent."""
    maps = torch.rand(1, 2, 40, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(gem(maps, 3.0), gem(maps, 3.0), rtol=1e-5, atol=0)


@settings(max_examples=60)
@given(MAPS)
def test_mac_and_spoc_against_numpy(maps: np.ndarray) -> None:
    features = torch.from_numpy(maps)
    np.testing.assert_array_equal(pool(MacConfig(), features, None), maps.max(axis=(2, 3)))
    mean = maps.astype(np.float64).mean(axis=(2, 3))
    np.testing.assert_allclose(pool(SpocConfig(), features, None), mean, atol=1e-6)
    assert mac(features.bfloat16()).dtype == spoc(features.bfloat16()).dtype == torch.float32


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)),
        # Sixteenths: no maximum so small that its square is none.
        elements=st.integers(-64, 64).map(lambda n: n / 16),
    ),
    st.integers(1, 4),
)
def test_rmac_against_loops(maps: np.ndarray, levels: int) -> None:
    pooled = rmac(torch.from_numpy(maps), levels).numpy()
    assert pooled.dtype == np.float32
    expected = [oracle.rmac(one.astype(np.float64), levels) for one in maps]
    np.testing.assert_allclose(pooled, expected, atol=1e-5)


def test_rmac_s_regions_are_those_of_the_paper() -> None:
    """A map of 3 by 4: two squares of 3 overlap by two thirds, nearer to 40 % than three do."""
    assert regions(3, 4, 1) == [(0, 0, 3), (0, 1, 3)]
    assert regions(4, 3, 2)[2:] == [
        (top, left, 2) for top in (0, 1, 2) for left in (0, 1)
    ]  # fmt: skip
    assert [len(regions(14, 14, levels)) for levels in (1, 2, 3)] == [1, 5, 14]
    assert [len(regions(14, 20, levels)) for levels in (1, 2, 3)] == [2, 8, 20]
    for height, width in ((1, 1), (2, 9), (30, 7)):
        for top, left, side in regions(height, width, 5):
            assert 0 <= top <= height - side
            assert 0 <= left <= width - side


def test_the_class_token_is_taken_as_it_is() -> None:
    token = torch.rand(2, 5).bfloat16()
    torch.testing.assert_close(pool(ClsConfig(), torch.zeros(2, 5, 3, 3), token), token.float())
    with pytest.raises(ValueError, match="no class token"):
        pool(ClsConfig(), torch.zeros(2, 5, 3, 3), None)


def test_gem_s_exponent_can_be_learnt() -> None:
    maps = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    p = torch.tensor(3.0, requires_grad=True)
    pooled = gem(maps, p)
    torch.testing.assert_close(pooled, gem(maps, 3.0))
    pooled.sum().backward()
    assert p.grad is not None
    assert p.grad > 0


def test_tokens_lie_in_the_grid_s_rows() -> None:
    maps = torch.rand(2, 3, 4, 5)
    tokens = maps.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens_to_map(tokens, (4, 5)), maps)


@pytest.mark.parametrize("shape", [(2, 3), (2, 5, 3), (2, 3, 4, 5)])
def test_any_layer_becomes_a_map(shape: tuple[int, ...]) -> None:
    features = torch.rand(shape)
    maps = tokens_to_map(features)
    assert maps.ndim == 4
    assert maps.shape[:2] == (2, 3)
    if len(shape) == 3:
        torch.testing.assert_close(gem(maps, 1.0), features.mean(dim=1))


def test_what_cannot_be_pooled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot pool features of shape \(3,\)"):
        tokens_to_map(torch.zeros(3))
    with pytest.raises(TypeError, match="returns tuple, not one tensor"):
        first_tensor((torch.zeros(1),))
