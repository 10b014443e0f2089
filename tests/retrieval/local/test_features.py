"""Local features as bytes, and many photographs' in a few arrays."""

from __future__ import annotations

import numpy as np

from retrieval.local.features import dequantised, encode, no_features, pack, unpack
from retrieval.types import unit_rows
from tests.features import descriptors, local_features


def test_features_are_unpacked_as_they_were_packed() -> None:
    features = [local_features(3, seed=1), no_features(8, (5, 6)), local_features(2, seed=2)]
    unpacked = unpack(pack(features))
    assert [len(one) for one in unpacked] == [3, 0, 2]
    for before, after in zip(features, unpacked, strict=True):
        for name in ("points", "scales", "angles", "codes"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
        assert after.size == before.size
    assert unpack(pack([])) == []


def test_codes_keep_descriptors_to_a_thousandth() -> None:
    given_ = np.minimum(descriptors(20, 128, 0), 0.49)
    np.testing.assert_allclose(dequantised(encode(given_)), given_, atol=0.5 / 512 + 1e-7)


def test_signed_codes_keep_the_whole_range() -> None:
    """However a unit descriptor points, along an axis even, nothing of it is cut off."""
    rows = unit_rows(np.random.default_rng(0).normal(size=(40, 64)) ** 5)
    rows[:2] = np.eye(2, 64) * [[1], [-1]]
    codes = encode(rows, signed=True)
    assert codes.dtype == np.int8
    np.testing.assert_allclose(dequantised(codes), rows, atol=0.5 / 127 + 1e-7)
    np.testing.assert_array_equal(dequantised(codes[:2]), rows[:2])
    np.testing.assert_allclose((unit_rows(dequantised(codes)) * rows).sum(axis=1), 1, atol=2e-3)
