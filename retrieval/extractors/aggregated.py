"""Local features aggregated to one descriptor a photograph: any detector, any aggregation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from retrieval.extractors.aggregation.base import Aggregator
from retrieval.extractors.aggregation.registry import AggregationConfig, build_aggregator
from retrieval.extractors.aggregation.vlad import VladConfig
from retrieval.extractors.base import Labels, Photograph, StrictModel, Vectors
from retrieval.extractors.local import learned
from retrieval.extractors.local.base import Detector
from retrieval.extractors.local.features import LocalFeatures
from retrieval.extractors.local.registry import DetectorConfig, build_detector
from retrieval.extractors.local.sift import SiftConfig


class AggregatedConfig(StrictModel):
    """Local features and what is made of them.

    Attributes:
        local: the detector of keypoints and their descriptors.
        aggregation: what makes one descriptor of them.
    """

    kind: Literal["aggregated"] = "aggregated"
    local: DetectorConfig = SiftConfig()
    aggregation: AggregationConfig = VladConfig()


@dataclass(frozen=True)
class AggregatedExtractor:
    """See :class:`AggregatedConfig`."""

    detector: Detector
    aggregator: Aggregator
    device: str

    @property
    def longest_side(self) -> int:
        return self.detector.longest_side

    @property
    def batched(self) -> bool:
        return self.detector.batched

    @property
    def batch(self) -> int:
        return self.detector.batch

    @property
    def threaded(self) -> bool:
        return self.detector.threaded

    @property
    def dimension(self) -> int:
        return self.aggregator.dimension

    @property
    def fitted(self) -> bool:
        return self.aggregator.fitted

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        return self.detector.shape(photograph)

    def identity(self) -> dict[str, Any]:
        return self.detector.identity()

    def features(self, photographs: Sequence[Photograph]) -> list[LocalFeatures]:
        return list(self.detector.features(photographs))

    def fit(
        self, features: Sequence[LocalFeatures], seed: int, labels: Labels | None = None
    ) -> AggregatedExtractor:
        return replace(self, aggregator=self.aggregator.fit(features, seed, self.device))

    def aggregate(self, features: Sequence[LocalFeatures]) -> Vectors:
        return self.aggregator.aggregate(features)

    def pack(self, features: Sequence[LocalFeatures]) -> dict[str, NDArray[Any]]:
        return self.detector.pack(features)

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[LocalFeatures]:
        return self.detector.unpack(arrays)

    def save(self, folder: Path) -> None:
        self.aggregator.save(folder)

    def restored(self, folder: Path) -> AggregatedExtractor:
        return replace(self, aggregator=self.aggregator.restored(folder))


def located(config: AggregatedConfig, given: Path) -> AggregatedConfig:
    """The config whose detector, if it is a network, takes its weights from ``--weights``.

    Raises:
        WeightsError: what was given is not there.
    """
    if not isinstance(config.local, learned.AlikedConfig):
        return config
    return config.model_copy(update={"local": learned.located(config.local, given)})


def build(config: AggregatedConfig, device: str) -> AggregatedExtractor:
    """The extractor that a config describes, on a device ("cpu" or "cuda"), not yet fitted."""
    detector = build_detector(config.local, device)
    return AggregatedExtractor(
        detector, build_aggregator(config.aggregation, detector.dimension), device
    )
