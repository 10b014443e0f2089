"""Local features beside a descriptor: visual words to search by, features kept to verify by.

Works beside any extractor, a network too. What is searched and verified is decided in
:mod:`retrieval.index.search`; here photographs only get what that needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from retrieval.extractors.aggregation.asmk import Asmk, AsmkConfig
from retrieval.extractors.aggregation.bow import Bow, BowConfig
from retrieval.extractors.aggregation.words import Words
from retrieval.extractors.base import StrictModel
from retrieval.extractors.local.base import Detector
from retrieval.extractors.local.features import LocalFeatures
from retrieval.extractors.local.registry import DetectorConfig, build_detector
from retrieval.extractors.local.rows import Keeper, KeptConfig, LocalRows
from retrieval.extractors.local.sift import SiftConfig

FOLDER: Final = "local"

WordsConfig = Annotated[AsmkConfig | BowConfig, Field(discriminator="kind")]


class CompanionConfig(StrictModel):
    """What is made of a photograph's local features besides its descriptor.

    Attributes:
        detector: of the features; the extractor's own features serve where they are the same.
        words: the visual words searched by, or ``None``.
        kept: the budget of features kept for verification, or ``None``.
    """

    detector: DetectorConfig = SiftConfig()
    words: WordsConfig | None = None
    kept: KeptConfig | None = None


@dataclass(frozen=True)
class Companion:
    """See :class:`CompanionConfig`."""

    detector: Detector
    words: Asmk | Bow | None
    keeper: Keeper | None
    device: str

    @property
    def bits(self) -> int:
        """Of a word's binary code; 0 where words have weights."""
        return self.detector.dimension if isinstance(self.words, Asmk) else 0

    def fit(self, features: Sequence[LocalFeatures], seed: int) -> Companion:
        """A new one that has learnt codebook and projection."""
        return replace(
            self,
            words=None if self.words is None else self.words.fit(features, seed, self.device),
            keeper=None if self.keeper is None else self.keeper.fit(features, seed),
        )

    def finish(self, features: Sequence[LocalFeatures]) -> tuple[Words | None, LocalRows | None]:
        """Words and kept features of photographs."""
        return (
            None
            if self.words is None
            else self.words.words(features, self.words.config.assignments),
            None if self.keeper is None else self.keeper.keep(features),
        )

    def save(self, folder: Path) -> None:
        for part in (self.words, self.keeper):
            if part is not None:
                part.save(folder / FOLDER)

    def restored(self, folder: Path) -> Companion:
        return replace(
            self,
            words=None if self.words is None else self.words.restored(folder / FOLDER),
            keeper=None if self.keeper is None else self.keeper.restored(folder / FOLDER),
        )


def build_companion(config: CompanionConfig, device: str) -> Companion:
    """The companion that a config describes, on a device ("cpu" or "cuda"), not yet fitted."""
    words: Asmk | Bow | None = None
    if config.words is not None:
        words = Asmk(config.words) if isinstance(config.words, AsmkConfig) else Bow(config.words)
    keeper = None if config.kept is None else Keeper(config.kept)
    return Companion(build_detector(config.detector, device), words, keeper, device)
