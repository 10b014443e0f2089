"""Local features beside a descriptor: visual words to search by, features kept to verify by.

Works beside any extractor, a network too. What is searched and verified is decided in
:mod:`retrieval.index.searcher`; here photographs only get what that needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, model_validator

from retrieval.aggregation.asmk import Asmk, AsmkConfig
from retrieval.aggregation.bow import Bow, BowConfig
from retrieval.aggregation.words import Words
from retrieval.descriptors.representation import KeptFeatures
from retrieval.local.base import Detector
from retrieval.local.compression import CompressionConfig, FeatureCompressor
from retrieval.local.features import LocalFeatures
from retrieval.local.reduction import ReduceConfig, Reducer
from retrieval.local.registry import DetectorConfig, build_detector
from retrieval.local.sift import SiftConfig
from retrieval.types import StrictModel

FOLDER: Final = "local"

WordsConfig = Annotated[AsmkConfig | BowConfig, Field(discriminator="kind")]


class LocalBranchConfig(StrictModel):
    """What is made of a photograph's local features besides its descriptor.

    Attributes:
        detector: of the features; the extractor's own features serve where they are the same.
        reduce: how descriptors are made shorter before words are; or ``None``. What is kept has
            a projection of its own.
        words: the visual words searched by, or ``None``.
        kept: the budget of features kept for verification, or ``None``.
    """

    detector: DetectorConfig = SiftConfig()
    reduce: ReduceConfig | None = None
    words: WordsConfig | None = None
    kept: CompressionConfig | None = None

    @model_validator(mode="after")
    def _reduced_for_words(self) -> LocalBranchConfig:
        if self.reduce is not None and self.words is None:
            raise ValueError(
                "reduce: is for words (kept.dimension says how long the kept ones are)"
            )
        return self


@dataclass(frozen=True)
class LocalBranch:
    """See :class:`LocalBranchConfig`."""

    detector: Detector
    words: Asmk | Bow | None
    compressor: FeatureCompressor | None
    device: str
    reducer: Reducer | None = None

    @property
    def bits(self) -> int:
        """Of a word's binary code; 0 where words have weights."""
        described = self.reducer or self.detector
        return described.dimension if isinstance(self.words, Asmk) else 0

    def fit(self, features: Sequence[LocalFeatures], seed: int) -> LocalBranch:
        """A new one that has learnt projections and codebook."""
        reducer = None if self.reducer is None else self.reducer.fit(features, seed)
        short = features if reducer is None else reducer.reduce(features)
        return replace(
            self,
            reducer=reducer,
            words=None if self.words is None else self.words.fit(short, seed, self.device),
            compressor=None if self.compressor is None else self.compressor.fit(features, seed),
        )

    def from_features(
        self, features: Sequence[LocalFeatures]
    ) -> tuple[Words | None, KeptFeatures | None]:
        """Words and kept features of photographs."""
        words = None
        if self.words is not None:
            short = features if self.reducer is None else self.reducer.reduce(features)
            words = self.words.words(short, self.words.config.assignments)
        return words, None if self.compressor is None else self.compressor.keep(features)

    def save(self, folder: Path) -> None:
        for part in (self.reducer, self.words, self.compressor):
            if part is not None:
                part.save(folder / FOLDER)

    def restored(self, folder: Path) -> LocalBranch:
        inner = folder / FOLDER
        return replace(
            self,
            reducer=None if self.reducer is None else self.reducer.restored(inner),
            words=None if self.words is None else self.words.restored(inner),
            compressor=None if self.compressor is None else self.compressor.restored(inner),
        )


def build_local_branch(config: LocalBranchConfig, device: str) -> LocalBranch:
    """The local branch that a config describes, on a device ("cpu" or "cuda"), not yet fitted."""
    words: Asmk | Bow | None = None
    if config.words is not None:
        words = Asmk(config.words) if isinstance(config.words, AsmkConfig) else Bow(config.words)
    compressor = None if config.kept is None else FeatureCompressor(config.kept)
    detector = build_detector(config.detector, device)
    reducer = None if config.reduce is None else Reducer(config.reduce, detector.dimension)
    return LocalBranch(detector, words, compressor, device, reducer)
