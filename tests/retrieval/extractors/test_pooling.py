"""Pooling against loops over every place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval.extractors.pooling import first_tensor, gem, tokens_to_map
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
