"""What a detector is: photographs in, local features out, with nothing to learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from retrieval.frontend import Classical, Frontend
from retrieval.local import features as local
from retrieval.local.features import LocalFeatures
from retrieval.types import Photograph


class Detector(Frontend, Protocol):
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


class SizedConfig(Protocol):
    """A detector's config: which photographs it takes, and what decides its bytes."""

    @property
    def size(self) -> int: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


ConfigT = TypeVar("ConfigT", bound=SizedConfig)


@dataclass(frozen=True)
class ClassicalDetector(Classical, Local, ABC, Generic[ConfigT]):
    """A detector of which the config says everything, one photograph at a time."""

    config: ConfigT

    @property
    def longest_side(self) -> int:
        return self.config.size

    def identity(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def features(self, photographs: Sequence[Photograph]) -> list[LocalFeatures]:
        return [self.detect(photograph) for photograph in photographs]

    @abstractmethod
    def detect(self, photograph: Photograph) -> LocalFeatures:
        """The features of one (h, w, 3) RGB photograph, strongest first."""
