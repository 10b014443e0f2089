"""VLAD of RootSIFT: what the local features add to their visual words.

Jégou et al., "Aggregating local image descriptors into compact codes" (TPAMI 2012): for each word,
the sum of the residuals of the descriptors assigned to it. Each word's sum is L2-normalised, so
that one repeated window does not drown the rest (intra-normalisation: Arandjelović and Zisserman,
"All about VLAD", CVPR 2013), then every number is replaced by its signed power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save

from retrieval.extractors.aggregation.codebook import learn_codebook, nearest_words
from retrieval.extractors.base import Classical, Photograph, StrictModel, Vectors, unit_rows
from retrieval.extractors.local import features as local
from retrieval.extractors.local.features import LocalFeatures
from retrieval.extractors.local.sift import DIMENSION, SiftConfig, detect
from retrieval.index.store import atomic_write, read_tensors

FILE: Final = "codebook.safetensors"


class SiftVladConfig(StrictModel):
    """RootSIFT aggregated by VLAD.

    Attributes:
        sift: how keypoints are found.
        words: size of the codebook, learnt on the gallery and the bank.
        power: exponent of the signed power normalisation; 1 leaves the numbers as they are.
    """

    kind: Literal["sift-vlad"] = "sift-vlad"
    sift: SiftConfig = SiftConfig()
    words: int = Field(64, ge=1, le=65_536)
    power: float = Field(0.5, gt=0.0, le=1.0)


@dataclass(frozen=True)
class SiftVladExtractor(Classical):
    """See :class:`SiftVladConfig`; the codebook is ``None`` until ``fit``."""

    config: SiftVladConfig
    device: str
    codebook: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def dimension(self) -> int:
        return self.config.words * DIMENSION

    @property
    def longest_side(self) -> int:
        return self.config.sift.size

    @property
    def fitted(self) -> bool:
        return self.codebook is not None

    def identity(self) -> dict[str, Any]:
        return {"kind": "sift", **self.config.sift.model_dump()}

    def features(self, photographs: Sequence[Photograph]) -> list[LocalFeatures]:
        return [detect(photograph, self.config.sift) for photograph in photographs]

    def fit(self, features: Sequence[LocalFeatures], seed: int) -> SiftVladExtractor:
        codebook = learn_codebook(features, self.config.words, seed, self.device)
        return replace(self, codebook=codebook)

    def aggregate(self, features: Sequence[LocalFeatures]) -> Vectors:
        if self.codebook is None:
            raise RuntimeError("the codebook is not learnt yet: call fit first")
        rows = [vlad(one.descriptors, self.codebook, self.config.power) for one in features]
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def pack(self, features: Sequence[LocalFeatures]) -> dict[str, NDArray[Any]]:
        return local.pack(features)

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[LocalFeatures]:
        return local.unpack(arrays)

    def save(self, folder: Path) -> None:
        assert self.codebook is not None
        atomic_write(folder / FILE, save({"codebook": self.codebook}))

    def restored(self, folder: Path) -> SiftVladExtractor:
        return replace(self, codebook=read_tensors(folder / FILE, ("codebook",))["codebook"])


def vlad(
    descriptors: NDArray[np.float32], codebook: NDArray[np.float32], power: float = 0.5
) -> NDArray[np.float32]:
    """The VLAD of one photograph.

    Args:
        descriptors: (n, d); n may be 0, which gives zeros.
        codebook: (words, d).
        power: of the signed power normalisation.

    Returns:
        (words * d,) float32 of unit length, or zeros.
    """
    words, dimension = codebook.shape
    if not len(descriptors):
        return np.zeros(words * dimension, dtype=np.float32)
    nearest = nearest_words(descriptors, codebook)
    member = np.zeros((words, len(descriptors)), dtype=np.float32)
    member[nearest, np.arange(len(descriptors))] = 1.0
    residuals = member @ descriptors - member.sum(axis=1, keepdims=True) * codebook
    flat = unit_rows(residuals).reshape(1, -1)
    descriptor: NDArray[np.float32] = unit_rows(np.sign(flat) * np.abs(flat) ** power)[0]
    return descriptor
