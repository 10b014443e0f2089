"""Local descriptors that something is learnt from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError
from retrieval.local.features import LocalFeatures


def require_enough(descriptors: NDArray[np.float32], words: int) -> None:
    """Refuse to learn more words than there are local features.

    Raises:
        ConfigError: there are fewer.
    """
    if len(descriptors) < words:
        raise ConfigError(
            f"a codebook of {words} words needs at least as many local features; the photographs"
            f" gave {len(descriptors)}: take fewer words or more photographs"
        )


def sample_descriptors(
    features: Sequence[LocalFeatures], wanted: int, seed: int
) -> NDArray[np.float32]:
    """At most ``wanted`` descriptors (n, d), about the same share of every photograph."""
    counts = [len(one) for one in features]
    if not sum(counts):
        return np.zeros((0, 0), dtype=np.float32)
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(sum(counts))[:wanted])
    # Decoded photograph by photograph: the bytes of all of them are a quarter of their floats.
    starts = np.cumsum([0, *counts])
    bounds = np.searchsorted(chosen, starts)
    return np.concatenate(
        [
            one.descriptors[chosen[a:b] - start]
            for one, start, a, b in zip(features, starts, bounds, bounds[1:], strict=False)
        ]
    )
