"""The photographs that a describer is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.descriptors.base import Extractor
from retrieval.types import Features, Labels, Vectors
from retrieval.vectors.whitening import AugmentedRows


@dataclass(frozen=True)
class Chosen(Sequence[Features]):
    """Some photographs' features, each read when it is asked for.

    Attributes:
        source: features by position; they may lie on disk.
        positions: of the photographs that are chosen.
    """

    source: Mapping[int, Features] | Sequence[Features]
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Chosen(self.source, self.positions[place])
        return self.source[self.positions[place]]

    def __iter__(self) -> Iterator[Features]:
        return map(self.source.__getitem__, self.positions)


@dataclass(frozen=True)
class Sample:
    """Features of n photographs, and what else is known of them.

    Attributes:
        features: one entry a photograph.
        labels: the landmark of each, for what is learnt from pairs.
        parts: (n,) the part of the cross-fit that each is in.
        views: describes altered views of some of them by the fitted extractor, for whitening
            learnt on these.
        rows: (n, d) what the fitted extractor makes of the features, where that is known.
    """

    features: Sequence[Features]
    labels: Labels | None = None
    parts: NDArray[np.int64] | None = None
    views: Callable[[Extractor], AugmentedRows] | None = None
    rows: Vectors | None = None

    @classmethod
    def of(cls, given: Sample | Sequence[Features]) -> Sample:
        """Bare features as a sample; a sample as it is."""
        return given if isinstance(given, Sample) else cls(given)

    def __len__(self) -> int:
        return len(self.features)

    def labels_at(self, positions: Sequence[int]) -> Labels | None:
        """The labels of some of the photographs."""
        return None if self.labels is None else [self.labels[place] for place in positions]
