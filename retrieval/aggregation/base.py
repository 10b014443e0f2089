"""What an aggregator is: the local features of a photograph in, one descriptor of it out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from retrieval.local.features import LocalFeatures
from retrieval.types import Vectors


class Aggregator(Protocol):
    """Made from its config, then a new one by ``fit``, then frozen.

    Attributes:
        dimension: numbers in a descriptor.
        fitted: whether ``aggregate`` may be called.
    """

    @property
    def dimension(self) -> int: ...
    @property
    def fitted(self) -> bool: ...

    def fit(self, features: Sequence[LocalFeatures], seed: int, device: str) -> Self:
        """A new aggregator whose codebook is learnt from a sample of the features."""
        ...

    def aggregate(self, features: Sequence[LocalFeatures]) -> Vectors:
        """(n, dimension) float32 unit rows; zeros for a photograph without a keypoint."""
        ...

    def save(self, folder: Path) -> None: ...
    def restored(self, folder: Path) -> Self: ...
