"""VLAD: what the local features add to their visual words.

Jégou et al., "Aggregating local image descriptors into compact codes" (TPAMI 2012): for each word,
the sum of the residuals of the descriptors assigned to it. Each word's sum is L2-normalised, so
that one repeated window does not drown the rest (intra-normalisation: Arandjelović and Zisserman,
"All about VLAD", CVPR 2013), then every number is replaced by its signed power.

Residuals may be brought to unit length before they are summed, so that a descriptor far from its
word counts no more than a near one (Delhumeau et al., "Revisiting the VLAD image representation",
ACM Multimedia 2013). Several codebooks, learnt from other random starts, give several VLADs that
err in different places; they stand side by side, and the PCA of the whitening that follows is
their joint one (Jégou and Chum, "Negative evidences and co-occurences in image retrieval", ECCV
2012).
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

from retrieval.aggregation.codebook import learn_codebook, nearest_words
from retrieval.local.features import LocalFeatures
from retrieval.storage.files import atomic_write, read_tensors
from retrieval.threads import in_threads
from retrieval.types import StrictModel, Vectors, unit_rows

FILE: Final = "codebooks.safetensors"


class VladConfig(StrictModel):
    """How local features are aggregated.

    Attributes:
        words: size of a codebook, learnt on the gallery and the bank.
        codebooks: how many, each with its own VLAD.
        residual: bring every residual to unit length before they are summed.
        intra: bring every word's sum to unit length.
        power: exponent of the signed power normalisation; 1 leaves the numbers as they are.
    """

    kind: Literal["vlad"] = "vlad"
    words: int = Field(64, ge=1, le=65_536)
    codebooks: int = Field(1, ge=1, le=64)
    residual: bool = False
    intra: bool = True
    power: float = Field(0.5, ge=1e-3, le=1.0)


@dataclass(frozen=True)
class Vlad:
    """See :class:`VladConfig`; ``codebooks`` (c, words, d) is ``None`` until ``fit``."""

    config: VladConfig
    local_dimension: int
    codebooks: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def dimension(self) -> int:
        return self.config.codebooks * self.config.words * self.local_dimension

    @property
    def fitted(self) -> bool:
        return self.codebooks is not None

    def fit(self, features: Sequence[LocalFeatures], seed: int, device: str) -> Vlad:
        learnt = [
            learn_codebook(features, self.config.words, seed + i, device)
            for i in range(self.config.codebooks)
        ]
        return replace(self, codebooks=np.stack(learnt))

    def aggregate(self, features: Sequence[LocalFeatures]) -> Vectors:
        if self.codebooks is None:
            raise RuntimeError("the codebook is not learnt yet: call fit first")
        rows = np.zeros((len(features), self.dimension), dtype=np.float32)
        for row, found in zip(rows, in_threads(self._aggregated, features), strict=True):
            row[:] = found
        return rows

    def _aggregated(self, one: LocalFeatures) -> NDArray[np.float32]:
        """Of one photograph."""
        assert self.codebooks is not None
        descriptors = one.descriptors
        parts = [vlad(descriptors, codebook, self.config) for codebook in self.codebooks]
        joined: NDArray[np.float32] = np.concatenate(parts) / np.sqrt(np.float32(len(parts)))
        return joined

    def save(self, folder: Path) -> None:
        assert self.codebooks is not None
        atomic_write(folder / FILE, save({"codebooks": self.codebooks}))

    def restored(self, folder: Path) -> Vlad:
        return replace(self, codebooks=read_tensors(folder / FILE, ("codebooks",))["codebooks"])


def vlad(
    descriptors: NDArray[np.float32],
    codebook: NDArray[np.float32],
    config: VladConfig,
) -> NDArray[np.float32]:
    """The VLAD of one photograph.

    Args:
        descriptors: (n, d); n may be 0, which gives zeros.
        codebook: (words, d).
        config: of the normalisations.

    Returns:
        (words * d,) float32 of unit length, or zeros.
    """
    words, dimension = codebook.shape
    if not len(descriptors):
        return np.zeros(words * dimension, dtype=np.float32)
    nearest = nearest_words(descriptors, codebook)
    member = np.zeros((words, len(descriptors)), dtype=np.float32)
    member[nearest, np.arange(len(descriptors))] = 1.0
    residuals = descriptors - codebook[nearest]
    sums = member @ (unit_rows(residuals) if config.residual else residuals)
    flat = (unit_rows(sums) if config.intra else sums).reshape(1, -1)
    descriptor: NDArray[np.float32] = unit_rows(np.sign(flat) * np.abs(flat) ** config.power)[0]
    return descriptor
