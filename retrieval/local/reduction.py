"""Local descriptors on their leading principal directions, before anything is made of them.

DELF's are of a thousand numbers, of which its paper (Noh et al., ICCV 2017, section 4.3) keeps 40
by PCA, and brings them back to unit length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from retrieval.local.features import LocalFeatures, encode
from retrieval.local.sampling import require_enough, sample_descriptors
from retrieval.threads import in_threads
from retrieval.types import StrictModel, unit_rows
from retrieval.vectors.projection import Projection, learn_projection

FILE: Final = "reduced.safetensors"
SAMPLES: Final = 100_000
"""Local descriptors that the projection is learnt from."""


class ReduceConfig(StrictModel):
    """How local descriptors are made shorter.

    Attributes:
        dimension: numbers kept; fewer if they have fewer.
        whiten: let every direction vary alike.
    """

    dimension: int = Field(64, ge=1, le=4096)
    whiten: bool = False


@dataclass(frozen=True)
class Reducer:
    """See :class:`ReduceConfig`; ``projection`` is ``None`` until ``fit``."""

    config: ReduceConfig
    local_dimension: int
    projection: Projection | None = field(default=None, repr=False)

    @property
    def dimension(self) -> int:
        return min(self.config.dimension, self.local_dimension)

    def fit(self, features: Sequence[LocalFeatures], seed: int) -> Reducer:
        """A new one that has learnt from a sample of the features.

        Raises:
            ConfigError: there is no local feature.
        """
        sample = sample_descriptors(features, SAMPLES, seed)
        require_enough(sample, 1)
        learnt = learn_projection(sample, self.dimension, self.config.whiten)
        return replace(self, projection=learnt)

    def reduce(self, features: Sequence[LocalFeatures]) -> Sequence[LocalFeatures]:
        """The features with (n, dimension) descriptors, each made when it is asked for."""
        if self.projection is None:
            raise RuntimeError("the projection is not learnt yet: call fit first")
        return _Reduced(features, self.projection)

    def save(self, folder: Path) -> None:
        assert self.projection is not None
        self.projection.save(folder / FILE)

    def restored(self, folder: Path) -> Reducer:
        return replace(self, projection=Projection.load(folder / FILE))


def projected(one: LocalFeatures, projection: Projection) -> LocalFeatures:
    """The same features with descriptors of unit length on other axes."""
    rows = unit_rows(projection.apply(one.descriptors))
    return replace(one, codes=encode(rows, signed=True))


@dataclass(frozen=True)
class _Reduced(Sequence[LocalFeatures]):
    features: Sequence[LocalFeatures]
    projection: Projection

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return _Reduced(self.features[place], self.projection)
        return projected(self.features[place], self.projection)

    def __iter__(self) -> Iterator[LocalFeatures]:
        return in_threads(partial(projected, projection=self.projection), self.features)
