"""Several extractors side by side, as one descriptor.

Each part is whitened by itself and brought to unit length, so that none outweighs another by its
size or its scale; the similarity of two photographs is then the parts' mean similarity, each
counted with its weight squared. Jégou and Chum (ECCV 2012) join several vocabularies in this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retrieval.descriptors.base import Extractor
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.joint_frontend import FeatureColumn, JointFrontend
from retrieval.descriptors.sample import Sample
from retrieval.descriptors.sharing import sharing
from retrieval.types import Features, Labels, Vectors, unit_rows
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
class JointExtractor(JointFrontend):
    """Extractors whose descriptors are concatenated: the frontends of the parts side by side.

    Attributes:
        parts: an extractor each.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, parts: Iterable[Part]) -> JointExtractor:
        """The extractors of some parts, fitted or not."""
        parts = tuple(parts)
        return cls(tuple(part.describer.extractor for part in parts), parts)

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

    def fit(
        self, features: Sequence[Features], seed: int, labels: Labels | None = None
    ) -> JointExtractor:
        """Each part learns from its own features.

        Raises:
            ConfigError: as :meth:`Whitening.fit`.
        """
        return JointExtractor.of(
            part.fit(FeatureColumn(features, i), seed, labels) for i, part in enumerate(self.parts)
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
        return JointExtractor.of(
            part.restored(folder / str(i)) for i, part in enumerate(self.parts)
        )


def build(parts: Iterable[tuple[float, WhiteningConfig | None, Extractor]]) -> JointExtractor:
    """Extractors side by side, not yet fitted: each one's weight, whitening and extractor."""
    weights, whitenings, extractors = zip(*parts, strict=True)
    each = zip(weights, whitenings, sharing(extractors), strict=True)
    return JointExtractor.of(
        Part(weight, whitening, Describer(one, None)) for weight, whitening, one in each
    )
