"""Codes that differ in few bits, against every pair compared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.index import near_codes
from retrieval.index.near_codes import groups_within


def every_pair(codes: NDArray[np.uint8], differing: int) -> list[list[int]]:
    """Groups by a graph walked from the definition."""
    bits = np.unpackbits(codes, axis=1).astype(int)
    near = (bits[:, None] != bits[None]).sum(axis=2) <= differing
    left, groups = set(range(len(codes))), []
    while left:
        group, fresh = set(), {min(left)}
        while fresh:
            group |= fresh
            fresh = {j for i in fresh for j in np.flatnonzero(near[i]).tolist()} - group
        groups.append(sorted(group))
        left -= group
    return groups


def as_groups(numbers: NDArray[np.int64]) -> list[list[int]]:
    groups = [np.flatnonzero(numbers == one).tolist() for one in np.unique(numbers)]
    return sorted(groups)


@given(st.integers(0, 2**31), st.integers(1, 60), st.sampled_from([0, 1, 3, 7]))
def test_every_pair_is_found(seed: int, many: int, differing: int) -> None:
    random = np.random.default_rng(seed)
    few = random.integers(0, 256, size=(4, 16), dtype=np.uint8)
    codes = few[random.integers(0, 4, size=many)]
    flips = random.random((many, 128)) < random.choice([0.0, 0.02, 0.05], size=(many, 1))
    codes = codes ^ np.packbits(flips, axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_codes, "_CODES", 7)
        found = groups_within(codes, differing)
    assert as_groups(found) == sorted(every_pair(codes, differing))


def test_more_bits_than_are_found_for_sure_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bits: fewer than 8"):
        groups_within(np.zeros((2, 16), np.uint8), 8)
