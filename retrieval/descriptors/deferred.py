"""Local features of queries that are described only once they are asked for.

Where a search verifies some queries alone (:mod:`retrieval.index.early_exit`), the features of the
others would be described for nothing. A query's photograph is kept instead, and described when it
is to be verified; the extractor's own features are described as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.aggregation.words import Words
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.local_branch import LocalBranch
from retrieval.frontend import Classical
from retrieval.local.base import Detector
from retrieval.local.compression import CompressedFeatures, FeatureCompressor
from retrieval.local.features import LocalFeatures
from retrieval.threads import in_threads
from retrieval.types import Features, Photograph


def deferred(describer: Describer) -> Describer:
    """The describer of queries whose local features wait until they are asked for.

    The describer as it is where nothing is to be gained: it makes words of them too, or its
    extractor starts from the very same features.
    """
    branch = describer.local_branch
    if branch is None or branch.compressor is None or branch.words is not None:
        return describer
    if branch.detector.identity() == describer.extractor.identity():
        return describer
    waiting = DeferredDetector(branch.detector)
    return replace(describer, local_branch=DeferredBranch(waiting, None, branch.compressor, "cpu"))


@dataclass(frozen=True)
class DeferredDetector(Classical):
    """In a detector's place: hands photographs on as they are."""

    detector: Detector

    @property
    def dimension(self) -> int:
        return self.detector.dimension

    @property
    def longest_side(self) -> int:
        return self.detector.longest_side

    def identity(self) -> dict[str, Any]:
        return self.detector.identity()

    def features(self, photographs: Sequence[Photograph]) -> list[Features]:
        return list(photographs)

    def pack(self, features: Sequence[Features]) -> dict[str, NDArray[Any]]:
        raise NotImplementedError("photographs of queries are not stored")

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[Features]:
        raise NotImplementedError("photographs of queries are not stored")


@dataclass(frozen=True)
class DeferredBranch(LocalBranch):
    """A local branch whose detector is a :class:`DeferredDetector`."""

    def from_features(
        self, features: Sequence[Photograph | LocalFeatures]
    ) -> tuple[Words | None, DeferredFeatures]:
        """Photographs whose features wait; features that are there already stay."""
        assert isinstance(self.detector, DeferredDetector)
        assert self.compressor is not None
        waiting = _Waiting(self.detector.detector, self.compressor)
        return None, DeferredFeatures(waiting, [[one] for one in features])


@dataclass(frozen=True)
class _Waiting:
    """What describes photographs once they are asked for."""

    detector: Detector
    compressor: FeatureCompressor
    guard: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, cell: list[Any]) -> LocalFeatures:
        """The features of a cell, which holds a photograph until they are asked for."""
        one = cell[0]
        if isinstance(one, np.ndarray):
            if self.detector.threaded:
                (found,) = self.detector.features([one])
            else:
                with self.guard:
                    (found,) = self.detector.features([one])
            one = cell[0] = self.compressor.keep([found]).one(0)
        elif isinstance(one, LocalFeatures) and one.codes.dtype != np.int8:
            one = cell[0] = self.compressor.keep([one]).one(0)
        settled: LocalFeatures = one
        return settled


@dataclass(frozen=True)
class DeferredFeatures:
    """The kept features of n photographs, as :class:`CompressedFeatures` has them; cells are
    shared by those that are chosen from them, so that each is described once."""

    waiting: _Waiting
    cells: Sequence[list[Any]]

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, rows: slice | NDArray[Any]) -> DeferredFeatures:
        chosen = np.arange(len(self))[rows]
        return DeferredFeatures(self.waiting, [self.cells[row] for row in chosen.tolist()])

    @property
    def described(self) -> int:
        """How many have been asked for."""
        return sum(not isinstance(cell[0], np.ndarray) for cell in self.cells)

    @property
    def bytes_per_row(self) -> float:
        return self.settled().bytes_per_row

    def one(self, row: int) -> LocalFeatures:
        """One photograph's features."""
        return self.waiting.settle(self.cells[row])

    @classmethod
    def joined(cls, parts: Sequence[DeferredFeatures]) -> DeferredFeatures:
        """Photographs after photographs; at least one part."""
        return cls(parts[0].waiting, [cell for one in parts for cell in one.cells])

    def settled(self) -> CompressedFeatures:
        """All of them, described."""
        each = list(in_threads(self.waiting.settle, self.cells))
        return CompressedFeatures.of(each, self.waiting.compressor.dimension)

    def arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """As arrays, for a shard."""
        return self.settled().arrays(prefix)
