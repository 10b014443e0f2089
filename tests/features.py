"""Local features out of a random number generator, for tests that need no photograph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from retrieval.local.features import LocalFeatures, encode
from retrieval.types import unit_rows


def descriptors(n: int, d: int, seed: int) -> NDArray[np.float32]:
    """(n, d) unit rows without negative numbers, as RootSIFT's."""
    return unit_rows(np.random.default_rng(seed).random((n, d)))


def local_features(n: int, d: int = 8, seed: int = 0) -> LocalFeatures:
    """Of one photograph of 50 by 40 + ``seed`` pixels."""
    random = np.random.default_rng(seed)
    return LocalFeatures(
        points=random.random((n, 2), dtype=np.float32),
        scales=random.random(n, dtype=np.float32),
        angles=random.random(n, dtype=np.float32),
        codes=encode(descriptors(n, d, seed)) if n else np.zeros((0, d), np.uint8),
        size=(40 + seed, 50),
    )


def assert_same(one: LocalFeatures, other: LocalFeatures) -> None:
    """To the bit."""
    for name in ("points", "scales", "angles", "codes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def assert_threads_change_nothing(
    detect: Callable[[NDArray[np.uint8]], LocalFeatures], photographs: Sequence[NDArray[np.uint8]]
) -> None:
    """Detect in several photographs at once, some times over, and in each alone."""
    alone = [detect(photograph) for photograph in photographs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detect, [*photographs] * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert_same(one, other)
