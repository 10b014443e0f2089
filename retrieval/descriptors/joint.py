"""Several extractors side by side, as one descriptor.

Each part is whitened by itself and brought to unit length, so that none outweighs another by its
size or its scale; the similarity of two photographs is then the parts' mean similarity, each
counted with its weight squared. Jégou and Chum (ECCV 2012) join several vocabularies in this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.descriptors.base import Extractor
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.joint_frontend import FeatureColumn, JointFrontend
from retrieval.descriptors.sample import Sample
from retrieval.descriptors.sharing import sharing
from retrieval.frontend import Shared
from retrieval.types import Features, Labels, Photograph, Vectors, unit_rows
from retrieval.vectors.whitening import WhiteningConfig


@dataclass(frozen=True)
class Part:
    """One of the extractors; the describer has its whitening once it is fitted."""

    weight: float
    whitening: WhiteningConfig | None
    describer: Describer

    @property
    def fitted(self) -> bool:
        learnt = self.whitening is None or self.describer.whitening is not None
        return learnt and self.describer.extractor.fitted

    @property
    def dimension(self) -> int:
        if self.whitening is None or self.describer.whitening is not None:
            return self.describer.dimension
        return min(self.whitening.dimension, self.describer.dimension)

    def fit(self, features: Sequence[Features], seed: int, labels: Labels | None = None) -> Part:
        extractor = self.describer.extractor
        learnt = Describer.fit(extractor, Sample(features, labels), self.whitening, seed)
        return replace(self, describer=learnt)

    def restored(self, folder: Path) -> Part:
        extractor, whitened = self.describer.extractor, self.whitening is not None
        return replace(self, describer=Describer.load(folder, extractor, whitened))


@dataclass(frozen=True)
class JointExtractor:
    """Extractors whose descriptors are concatenated."""

    parts: tuple[Part, ...]

    @cached_property
    def frontend(self) -> JointFrontend:
        return JointFrontend(tuple(part.describer.extractor for part in self.parts))

    @property
    def longest_side(self) -> int:
        return self.frontend.longest_side

    @property
    def batched(self) -> bool:
        return self.frontend.batched

    @property
    def batch(self) -> int:
        return self.frontend.batch

    @property
    def threaded(self) -> bool:
        return self.frontend.threaded

    @property
    def dimension(self) -> int:
        """At most this many before it is fitted: whitening keeps no more than it has seen."""
        return sum(part.dimension for part in self.parts)

    @property
    def fitted(self) -> bool:
        return all(part.fitted for part in self.parts)

    @property
    def whitened(self) -> bool:
        return any(part.whitening is not None for part in self.parts)

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        return self.frontend.shape(photograph)

    def identity(self) -> dict[str, Any]:
        return self.frontend.identity()

    def features(self, photographs: Sequence[Photograph]) -> list[Features]:
        return self.frontend.features(photographs)

    def prepare(self, photographs: Sequence[Photograph], shared: Shared | None = None) -> Any:
        return self.frontend.prepare(photographs, shared)

    def start(self, prepared: Any, shared: Shared | None = None) -> Callable[[], list[Features]]:
        return self.frontend.start(prepared, shared)

    def pack(self, features: Sequence[Features]) -> dict[str, NDArray[Any]]:
        return self.frontend.pack(features)

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[Features]:
        return self.frontend.unpack(arrays)

    def fit(
        self, features: Sequence[Features], seed: int, labels: Labels | None = None
    ) -> JointExtractor:
        """Each part learns from its own features.

        Raises:
            ConfigError: as :meth:`Whitening.fit`.
        """
        return JointExtractor(
            tuple(
                part.fit(FeatureColumn(features, i), seed, labels)
                for i, part in enumerate(self.parts)
            )
        )

    def aggregate(self, features: Sequence[Features]) -> Vectors:
        """(n, dimension) unit rows; zeros in the place of a part that has nothing."""
        rows = [
            part.weight * part.describer.vectors(FeatureColumn(features, i))
            for i, part in enumerate(self.parts)
        ]
        return unit_rows(np.hstack(rows))

    def save(self, folder: Path) -> None:
        for i, part in enumerate(self.parts):
            part.describer.save(folder / str(i))

    def restored(self, folder: Path) -> JointExtractor:
        return JointExtractor(
            tuple(part.restored(folder / str(i)) for i, part in enumerate(self.parts))
        )


def build(parts: Iterable[tuple[float, WhiteningConfig | None, Extractor]]) -> JointExtractor:
    """Extractors side by side, not yet fitted: each one's weight, whitening and extractor."""
    weights, whitenings, extractors = zip(*parts, strict=True)
    each = zip(weights, whitenings, sharing(extractors), strict=True)
    return JointExtractor(
        tuple(Part(weight, whitening, Describer(one, None)) for weight, whitening, one in each)
    )
