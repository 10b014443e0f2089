"""Bags of visual words, weighted by tf-idf.

Sivic and Zisserman, "Video Google: a text retrieval approach to object matching in videos" (ICCV
2003), section 3: a photograph is the histogram of its visual words. Counts are damped by a power
before they are weighed, against bursts of one repeated structure (Jégou, Douze and Schmid, "On the
burstiness of visual elements", CVPR 2009); the inverse document frequency is taken from the
gallery, by :mod:`retrieval.index.inverted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save

from retrieval.extractors.aggregation.codebook import learn_codebook
from retrieval.extractors.aggregation.words import Words
from retrieval.extractors.base import StrictModel
from retrieval.extractors.local.features import LocalFeatures
from retrieval.index.faiss_index import WordFinder
from retrieval.index.store import atomic_write, read_tensors

FILE: Final = "bow.safetensors"


class BowConfig(StrictModel):
    """The bag's constants.

    Attributes:
        words: size of the codebook, learnt on the gallery and the bank.
        assignments: words that each descriptor is assigned to, in the gallery as in queries, so
            that a gallery photograph which is held out is described as a query would be.
        power: of a word's count.
        idf: weigh words by how rare they are in the gallery.
    """

    kind: Literal["bow"] = "bow"
    words: int = Field(8192, ge=1, le=1_000_000)
    assignments: int = Field(1, ge=1, le=64)
    power: float = Field(0.5, gt=0.0, le=1.0)
    idf: bool = True


@dataclass(frozen=True)
class Bow:
    """Local features to words with weights; ``finder`` is ``None`` until ``fit``."""

    config: BowConfig
    finder: WordFinder | None = field(default=None, repr=False)

    @property
    def fitted(self) -> bool:
        return self.finder is not None

    def fit(self, features: Sequence[LocalFeatures], seed: int, device: str) -> Bow:
        """A new one whose codebook is learnt from a sample of the features."""
        codebook = learn_codebook(features, self.config.words, seed, device)
        return replace(self, finder=WordFinder.build(codebook, seed))

    def words(self, features: Sequence[LocalFeatures], assignments: int = 1) -> Words:
        """The words of each photograph with their damped counts, (m,) float32."""
        if self.finder is None:
            raise RuntimeError("the codebook is not learnt yet: call fit first")
        empty = Words(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        return Words.of([self._counted(one.descriptors, assignments) for one in features], empty)

    def save(self, folder: Path) -> None:
        assert self.finder is not None
        atomic_write(folder / FILE, save(self.finder.arrays()))

    def restored(self, folder: Path) -> Bow:
        return replace(self, finder=WordFinder(**read_tensors(folder / FILE, WordFinder.NAMES)))

    def _counted(
        self, descriptors: NDArray[np.float32], assignments: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        assert self.finder is not None
        nearest = self.finder.nearest(descriptors, assignments)
        words, counts = np.unique(nearest[nearest >= 0], return_counts=True)
        return words.astype(np.int32), (counts**self.config.power).astype(np.float32)
