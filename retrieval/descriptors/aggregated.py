"""Local features aggregated to one descriptor a photograph: any detector, any aggregation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from retrieval.aggregation.base import Aggregator
from retrieval.aggregation.registry import AggregationConfig, build_aggregator
from retrieval.aggregation.vlad import VladConfig
from retrieval.frontend import Shared, prepare, start
from retrieval.local import registry
from retrieval.local.base import Detector
from retrieval.local.features import LocalFeatures
from retrieval.local.reduction import ReduceConfig, Reducer
from retrieval.local.registry import DetectorConfig, build_detector
from retrieval.local.sift import SiftConfig
from retrieval.types import Features, Labels, Photograph, StrictModel, Vectors


class AggregatedConfig(StrictModel):
    """Local features and what is made of them.

    Attributes:
        local: the detector of keypoints and their descriptors.
        reduce: how those are made shorter first, or ``None``.
        aggregation: what makes one descriptor of them.
    """

    kind: Literal["aggregated"] = "aggregated"
    local: DetectorConfig = SiftConfig()
    reduce: ReduceConfig | None = None
    aggregation: AggregationConfig = VladConfig()


@dataclass(frozen=True)
class AggregatedExtractor:
    """See :class:`AggregatedConfig`."""

    detector: Detector
    aggregator: Aggregator
    device: str
    reducer: Reducer | None = None
    whitened = False

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

    def prepare(self, photographs: Sequence[Photograph], shared: Shared | None = None) -> Any:
        return prepare(self.detector, photographs, shared)

    def start(self, prepared: Any, shared: Shared | None = None) -> Callable[[], list[Features]]:
        return start(self.detector, prepared, shared)

    def fit(
        self, features: Sequence[LocalFeatures], seed: int, labels: Labels | None = None
    ) -> AggregatedExtractor:
        reducer = None if self.reducer is None else self.reducer.fit(features, seed)
        short = features if reducer is None else reducer.reduce(features)
        aggregator = self.aggregator.fit(short, seed, self.device)
        return replace(self, reducer=reducer, aggregator=aggregator)

    def aggregate(self, features: Sequence[LocalFeatures]) -> Vectors:
        short = features if self.reducer is None else self.reducer.reduce(features)
        return self.aggregator.aggregate(short)

    def pack(self, features: Sequence[LocalFeatures]) -> dict[str, NDArray[Any]]:
        return self.detector.pack(features)

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[LocalFeatures]:
        return self.detector.unpack(arrays)

    def save(self, folder: Path) -> None:
        self.aggregator.save(folder)
        if self.reducer is not None:
            self.reducer.save(folder)

    def restored(self, folder: Path) -> AggregatedExtractor:
        reducer = None if self.reducer is None else self.reducer.restored(folder)
        return replace(self, reducer=reducer, aggregator=self.aggregator.restored(folder))


def located(config: AggregatedConfig, given: Path) -> AggregatedConfig:
    """The config whose detector, if it is a network, takes its weights from ``--weights``.

    Raises:
        WeightsError: what was given is not there.
    """
    return config.model_copy(update={"local": registry.located(config.local, given)})


def build(config: AggregatedConfig, device: str) -> AggregatedExtractor:
    """The extractor that a config describes, on a device ("cpu" or "cuda"), not yet fitted."""
    detector = build_detector(config.local, device)
    reducer = None if config.reduce is None else Reducer(config.reduce, detector.dimension)
    local_dimension = (reducer or detector).dimension
    aggregator = build_aggregator(config.aggregation, local_dimension)
    return AggregatedExtractor(detector, aggregator, device, reducer)
