"""Local features within a budget: what is kept of them, and where it is found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import ConfigError, RunError
from retrieval.index.verification import VerificationConfig, count_inliers
from retrieval.local.compression import CompressedFeatures, CompressionConfig, FeatureCompressor
from retrieval.local.features import LocalFeatures, no_features
from tests.features import local_features

CONFIG = CompressionConfig(features=8, dimension=3)
PHOTOGRAPHS = [local_features(n, 6, seed=n) for n in (20, 0, 5, 12)]


@pytest.fixture(scope="module")
def compressor() -> FeatureCompressor:
    return FeatureCompressor(CONFIG).fit(PHOTOGRAPHS, 0)


def test_the_strongest_are_kept_in_their_order(compressor: FeatureCompressor) -> None:
    rows = compressor.keep(PHOTOGRAPHS)
    assert len(rows) == 4
    for row, whole in enumerate(PHOTOGRAPHS):
        one = rows.one(row)
        assert len(one) == min(len(whole), 8)
        for name in ("points", "scales", "angles"):
            expected = getattr(whole, name)[:8].astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(getattr(one, name), expected)
            assert getattr(one, name).dtype == np.float32
        assert one.codes.dtype == np.int8
        assert one.codes.shape == (len(one), 3)


def test_codes_are_unit_projections_a_byte_a_number(compressor: FeatureCompressor) -> None:
    assert compressor.projection is not None
    found = compressor.keep(PHOTOGRAPHS).one(0)
    for code, descriptor in zip(found.codes, PHOTOGRAPHS[0].descriptors, strict=False):
        projected = (descriptor - compressor.projection.mean) @ compressor.projection.axes
        expected = projected / np.linalg.norm(projected)
        assert code / 127 == pytest.approx(expected, abs=0.5 / 127 + 1e-5)


def test_each_photograph_alone_is_kept_alike(compressor: FeatureCompressor) -> None:
    together = compressor.keep(PHOTOGRAPHS).arrays()
    alone = CompressedFeatures.joined([compressor.keep([one]) for one in PHOTOGRAPHS]).arrays()
    for name, array in together.items():
        assert array.tobytes() == alone[name].tobytes(), name


def test_photographs_are_found_wherever_they_go(compressor: FeatureCompressor) -> None:
    rows = compressor.keep(PHOTOGRAPHS)
    chosen = rows[np.array([3, 1, 0, 3])]
    for place, row in enumerate([3, 1, 0, 3]):
        np.testing.assert_array_equal(chosen.one(place).points, rows.one(row).points)
        np.testing.assert_array_equal(chosen.one(place).codes, rows.one(row).codes)
    joined = CompressedFeatures.joined([rows[2:], rows[:0], rows[:2]])
    np.testing.assert_array_equal(joined.one(2).codes, rows.one(0).codes)
    again = CompressedFeatures.from_arrays(rows.arrays("kept."), "kept.")
    np.testing.assert_array_equal(again.one(3).codes, rows.one(3).codes)


def test_the_budget_is_bytes(compressor: FeatureCompressor) -> None:
    """Position 4, scale 2, angle 2 and three numbers, for 8 + 0 + 5 + 8 features."""
    rows = compressor.keep(PHOTOGRAPHS)
    assert rows.bytes_per_row == 11 * 21 / 4
    assert sum(array.nbytes for name, array in rows.arrays().items() if name != "starts") == 231
    assert rows[:0].bytes_per_row == 0


def test_no_photographs_and_no_features(compressor: FeatureCompressor) -> None:
    none = compressor.keep([])
    assert (len(none), none.codes.shape) == (0, (0, 3))
    blank = compressor.keep([no_features(6, (0, 0)), no_features(6, (0, 0), signed=True)])
    assert len(blank) == 2
    assert len(blank.one(1)) == 0
    assert blank.one(1).codes.shape == (0, 3)


def test_fewer_numbers_than_asked_for_are_all_of_them() -> None:
    compressor = FeatureCompressor(CompressionConfig(dimension=32)).fit(PHOTOGRAPHS, 0)
    assert compressor.keep(PHOTOGRAPHS).codes.shape == (37, 6)


def test_nothing_to_learn_from_is_one_line() -> None:
    with pytest.raises(ConfigError, match="take fewer words or more photographs"):
        FeatureCompressor(CONFIG).fit([no_features(6, (0, 0))] * 3, 0)
    with pytest.raises(RuntimeError, match="call fit first"):
        FeatureCompressor(CONFIG).keep(PHOTOGRAPHS)


def test_what_is_saved_is_restored(compressor: FeatureCompressor, tmp_path: Path) -> None:
    compressor.save(tmp_path)
    again = FeatureCompressor(CONFIG).restored(tmp_path)
    assert again.keep(PHOTOGRAPHS).codes.tobytes() == compressor.keep(PHOTOGRAPHS).codes.tobytes()
    (tmp_path / "kept.safetensors").write_bytes(b"half")
    with pytest.raises(RunError, match=r"kept\.safetensors is missing or damaged"):
        FeatureCompressor(CONFIG).restored(tmp_path)


def test_what_is_kept_still_verifies() -> None:
    """Half precision and projected bytes match as the features themselves do."""
    random = np.random.default_rng(0)
    whole = local_features(60, 32, seed=1)
    start = (random.random((60, 2)) * 400).astype(np.float32)

    def placed(points: np.ndarray, one: LocalFeatures) -> LocalFeatures:
        ones = np.ones(60, np.float32)
        return LocalFeatures(points, ones, 0 * ones, one.codes, (0, 0))

    photographs = [
        placed(start, whole),
        placed(start + np.float32(25.0), whole),
        placed(start, local_features(60, 32, seed=2)),
    ]
    rows = (
        FeatureCompressor(CompressionConfig(features=60, dimension=16))
        .fit(photographs, 0)
        .keep(photographs)
    )
    first, *others = map(rows.one, range(3))
    inliers = count_inliers(first, others, VerificationConfig(tolerance=4.0))
    assert inliers[0] >= 55
    assert inliers[1] == 0
