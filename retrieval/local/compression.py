"""Local features of many photographs within a byte budget, for spatial verification.

A photograph keeps its strongest features alone, each descriptor projected by PCA and stored a byte
a number, positions in half precision (an eighth of a pixel at 256). 500 features of 32 numbers
are 20 kB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.local.features import COLUMNS, LocalFeatures, joined, no_features
from retrieval.local.reduction import SAMPLES, projected
from retrieval.local.sampling import require_enough, sample_descriptors
from retrieval.storage.ragged import Ragged, starts_of
from retrieval.threads import in_threads
from retrieval.types import StrictModel
from retrieval.vectors.projection import Projection, learn_projection

FILE: Final = "kept.safetensors"


class CompressionConfig(StrictModel):
    """The budget: ``features * (dimension + 8)`` bytes a photograph.

    Attributes:
        features: the strongest this many are kept.
        dimension: numbers that a descriptor is projected to; fewer if it has fewer.
    """

    features: int = Field(500, ge=8, le=100_000)
    dimension: int = Field(32, ge=1, le=1024)

    @property
    def bytes_each(self) -> int:
        """The budget of a photograph."""
        return self.features * (self.dimension + 8)


@dataclass(frozen=True)
class CompressedFeatures(Ragged):
    """Local features of n photographs, photograph after photograph.

    Attributes:
        points: (m, 2) float16, x and y in pixels of the photograph as decoded.
        scales: (m,) float16.
        angles: (m,) float16, radians.
        codes: (m, d) int8.
    """

    points: NDArray[np.float16]
    scales: NDArray[np.float16]
    angles: NDArray[np.float16]
    codes: NDArray[np.int8]

    @property
    def bytes_per_row(self) -> float:
        """What a photograph's features take, on average."""
        each = sum(column[:1].nbytes for column in self.columns)
        return float(each * len(self.codes) / max(len(self), 1))

    def one(self, row: int) -> LocalFeatures:
        """One photograph's features; of its size nothing is known any more."""
        here = slice(int(self.starts[row]), int(self.starts[row + 1]))
        points, scales, angles = (
            np.asarray(column[here], dtype=np.float32)
            for column in (self.points, self.scales, self.angles)
        )
        return LocalFeatures(points, scales, angles, np.asarray(self.codes[here]), (0, 0))

    @classmethod
    def of(cls, each: Sequence[LocalFeatures], dimension: int) -> CompressedFeatures:
        """The features of photographs whose codes have so many numbers."""
        found = joined([*each, no_features(dimension, (0, 0), signed=True)])
        points, scales, angles = (found[name].astype(np.float16) for name in COLUMNS[:3])
        starts = starts_of([len(one) for one in each])
        return cls(starts, points, scales, angles, found["codes"].astype(np.int8))


@dataclass(frozen=True)
class FeatureCompressor:
    """Makes local features small; ``projection`` is ``None`` until ``fit``."""

    config: CompressionConfig
    projection: Projection | None = field(default=None, repr=False)

    def fit(self, features: Sequence[LocalFeatures], seed: int) -> FeatureCompressor:
        """A new one whose projection is learnt from a sample of the features."""
        sample = sample_descriptors(features, SAMPLES, seed)
        require_enough(sample, 1)
        return replace(self, projection=learn_projection(sample, self.config.dimension))

    def keep(self, features: Sequence[LocalFeatures]) -> CompressedFeatures:
        """The strongest features of each photograph, projected."""
        dimension = self.dimension  # first, since it refuses what is not fitted
        return CompressedFeatures.of(list(in_threads(self._small, features)), dimension)

    @property
    def dimension(self) -> int:
        """Numbers of a kept descriptor."""
        if self.projection is None:
            raise RuntimeError("the projection is not learnt yet: call fit first")
        return int(self.projection.axes.shape[1])

    def _small(self, one: LocalFeatures) -> LocalFeatures:
        assert self.projection is not None
        first = {name: getattr(one, name)[: self.config.features] for name in COLUMNS}
        return projected(replace(one, **first), self.projection)

    def save(self, folder: Path) -> None:
        assert self.projection is not None
        self.projection.save(folder / FILE)

    def restored(self, folder: Path) -> FeatureCompressor:
        return replace(self, projection=Projection.load(folder / FILE))
