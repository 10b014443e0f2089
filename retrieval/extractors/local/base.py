"""What a detector is: photographs in, local features out, with nothing to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from retrieval.extractors.base import FeatureMaker
from retrieval.extractors.local import features as local
from retrieval.extractors.local.features import LocalFeatures


class Detector(FeatureMaker, Protocol):
    """Keypoints with a descriptor each, strongest first, in an order that threads cannot change.

    Attributes:
        dimension: numbers in a local descriptor.
    """

    @property
    def dimension(self) -> int: ...


class Local:
    """How local features go into a shard and come out again."""

    def pack(self, features: Sequence[LocalFeatures]) -> dict[str, NDArray[Any]]:
        return local.pack(features)

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[LocalFeatures]:
        return local.unpack(arrays)
