"""Photographs as sparse sets of visual words, each word with a value.

Large codebooks (thousands of words) leave most words of a photograph empty, so what is kept is
which words it has, and for each either a weight (bag of words) or a binary code (ASMK*).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from retrieval.aggregation.codebook import learn_codebook
from retrieval.local.features import LocalFeatures
from retrieval.storage.files import atomic_write, read_tensors
from retrieval.storage.ragged import Ragged, starts_of
from retrieval.vectors.clustering import WordFinder


class AnyWordsConfig(Protocol):
    """What every config of visual words says."""

    @property
    def kind(self) -> str: ...
    @property
    def words(self) -> int: ...


@dataclass(frozen=True)
class Words(Ragged):
    """The visual words of n photographs, photograph after photograph.

    Attributes:
        words: (m,) int32, ascending and distinct within a photograph.
        values: (m,) float32 weights, or (m, b) uint64 binary codes.
    """

    words: NDArray[np.int32]
    values: NDArray[Any]

    @classmethod
    def of(cls, each: Sequence[tuple[NDArray[np.int32], NDArray[Any]]], empty: Words) -> Words:
        """Photographs with their words and values, one pair each.

        Args:
            each: (words, values) of each photograph.
            empty: the words of no photograph, which tell the form of the values.
        """
        return cls(
            starts_of([len(words) for words, _ in each]),
            np.concatenate([empty.words, *(words for words, _ in each)]),
            np.concatenate([empty.values, *(values for _, values in each)]),
        )


@dataclass(frozen=True)
class WordMaker(ABC):
    """Local features to visual words; ``finder`` is ``None`` until ``fit``."""

    config: AnyWordsConfig
    finder: WordFinder | None = field(default=None, repr=False)

    @property
    def fitted(self) -> bool:
        return self.finder is not None

    def fit(self, features: Sequence[LocalFeatures], seed: int, device: str) -> Self:
        """A new one whose codebook is learnt from a sample of the features."""
        codebook = learn_codebook(features, self.config.words, seed, device)
        return replace(self, finder=WordFinder.build(codebook, seed))

    def words(self, features: Sequence[LocalFeatures], assignments: int = 1) -> Words:
        """The words of each photograph with their values.

        Args:
            features: of n photographs; one without a keypoint has no words.
            assignments: words that each descriptor is assigned to.
        """
        if self.finder is None:
            raise RuntimeError("the codebook is not learnt yet: call fit first")
        finder = self.finder
        each = [self._of_one(one.descriptors, finder, assignments) for one in features]
        return Words.of(each, self._none(finder))

    def save(self, folder: Path) -> None:
        assert self.finder is not None
        atomic_write(folder / self._file, save(self.finder.arrays()))

    def restored(self, folder: Path) -> Self:
        found = read_tensors(folder / self._file, WordFinder.NAMES)
        return replace(self, finder=WordFinder(**found))

    @property
    def _file(self) -> str:
        return f"{self.config.kind}.safetensors"

    @abstractmethod
    def _of_one(
        self, descriptors: NDArray[np.float32], finder: WordFinder, assignments: int
    ) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """One photograph's words, ascending, and their values, from its (n, d) descriptors."""

    @abstractmethod
    def _none(self, finder: WordFinder) -> Words:
        """The words of no photograph."""
