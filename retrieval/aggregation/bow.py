"""Bags of visual words, weighted by tf-idf.

Sivic and Zisserman, "Video Google: a text retrieval approach to object matching in videos" (ICCV
2003), section 3: a photograph is the histogram of its visual words. Counts are damped by a power
before they are weighed, against bursts of one repeated structure (Jégou, Douze and Schmid, "On the
burstiness of visual elements", CVPR 2009); the inverse document frequency is taken from the
gallery, by :mod:`retrieval.index.inverted_file`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retrieval.aggregation.words import WordMaker, Words
from retrieval.types import StrictModel
from retrieval.vectors.clustering import WordFinder


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
    power: float = Field(0.5, ge=1e-3, le=1.0)
    idf: bool = True


@dataclass(frozen=True)
class Bow(WordMaker):
    """Local features to words with their damped counts, (m,) float32."""

    config: BowConfig

    def _of_one(
        self, descriptors: NDArray[np.float32], finder: WordFinder, assignments: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        nearest = finder.nearest(descriptors, assignments)
        words, counts = np.unique(nearest[nearest >= 0], return_counts=True)
        return words.astype(np.int32), (counts**self.config.power).astype(np.float32)

    def _none(self, finder: WordFinder) -> Words:
        return Words(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
