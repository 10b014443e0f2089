"""Local features beside a descriptor: visual words to search by, features kept to verify by.

Works beside any extractor, a network too. What is searched and verified is decided in
:mod:`retrieval.index.search`; here photographs only get what that needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, model_validator

from retrieval.extractors.aggregation.asmk import Asmk, AsmkConfig
from retrieval.extractors.aggregation.bow import Bow, BowConfig
from retrieval.extractors.aggregation.words import Words
from retrieval.extractors.base import StrictModel
from retrieval.extractors.local.base import Detector
from retrieval.extractors.local.features import LocalFeatures
from retrieval.extractors.local.reduction import ReduceConfig, Reducer
from retrieval.extractors.local.registry import DetectorConfig, build_detector
from retrieval.extractors.local.rows import Keeper, KeptConfig, LocalRows
from retrieval.extractors.local.sift import SiftConfig

FOLDER: Final = "local"

WordsConfig = Annotated[AsmkConfig | BowConfig, Field(discriminator="kind")]


class CompanionConfig(StrictModel):
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
    kept: KeptConfig | None = None

    @model_validator(mode="after")
    def _reduced_for_words(self) -> CompanionConfig:
        if self.reduce is not None and self.words is None:
            raise ValueError(
                "reduce: is for words (kept.dimension says how long the kept ones are)"
            )
        return self


@dataclass(frozen=True)
class Companion:
    """See :class:`CompanionConfig`."""

    detector: Detector
    words: Asmk | Bow | None
    keeper: Keeper | None
    device: str
    reducer: Reducer | None = None

    @property
    def bits(self) -> int:
        """Of a word's binary code; 0 where words have weights."""
        described = self.reducer or self.detector
        return described.dimension if isinstance(self.words, Asmk) else 0

    def fit(self, features: Sequence[LocalFeatures], seed: int) -> Companion:
        """A new one that has learnt projections and codebook."""
        reducer = None if self.reducer is None else self.reducer.fit(features, seed)
        short = features if reducer is None else reducer.reduce(features)
        return replace(
            self,
            reducer=reducer,
            words=None if self.words is None else self.words.fit(short, seed, self.device),
            keeper=None if self.keeper is None else self.keeper.fit(features, seed),
        )

    def finish(self, features: Sequence[LocalFeatures]) -> tuple[Words | None, LocalRows | None]:
        """Words and kept features of photographs."""
        words = None
        if self.words is not None:
            short = features if self.reducer is None else self.reducer.reduce(features)
            words = self.words.words(short, self.words.config.assignments)
        return words, None if self.keeper is None else self.keeper.keep(features)

    def save(self, folder: Path) -> None:
        for part in (self.reducer, self.words, self.keeper):
            if part is not None:
                part.save(folder / FOLDER)

    def restored(self, folder: Path) -> Companion:
        inner = folder / FOLDER
        return replace(
            self,
            reducer=None if self.reducer is None else self.reducer.restored(inner),
            words=None if self.words is None else self.words.restored(inner),
            keeper=None if self.keeper is None else self.keeper.restored(inner),
        )


def build_companion(config: CompanionConfig, device: str) -> Companion:
    """The companion that a config describes, on a device ("cpu" or "cuda"), not yet fitted."""
    words: Asmk | Bow | None = None
    if config.words is not None:
        words = Asmk(config.words) if isinstance(config.words, AsmkConfig) else Bow(config.words)
    keeper = None if config.kept is None else Keeper(config.kept)
    detector = build_detector(config.detector, device)
    reducer = None if config.reduce is None else Reducer(config.reduce, detector.dimension)
    return Companion(detector, words, keeper, device, reducer)
