"""The head of the network that described the photographs: the "deep learner".

Its landmarks are those that it was trained on: photographs added later, of others, it cannot name.
Nothing is fitted here; held-out scores are of the photographs that the training only measured with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field

from retrieval.classifiers.base import FOLDS, HeldOut, Scores, stratified_folds
from retrieval.descriptors.representation import Representation
from retrieval.errors import RunError
from retrieval.index.gallery import Gallery, GalleryChange
from retrieval.index.neighbours import Neighbours
from retrieval.networks.heads import Head, ranked
from retrieval.storage.files import read_json, reading, write_json
from retrieval.types import Integers, StrictModel, Vectors

FILE: Final = "network.json"
LOGITS: Final = 1 << 23
"""Logits computed at a time: 64 MB in double precision."""


class NetworkClassifierConfig(StrictModel):
    """The head as a classifier.

    Attributes:
        candidates: landmarks ranked for a photograph.
        held_out: at most this many gallery (and bank) photographs are held out.
    """

    kind: Literal["network"] = "network"
    candidates: int = Field(default=10, ge=1, le=1000)
    held_out: int = Field(default=5_000, ge=1, le=10_000_000)


@dataclass(frozen=True)
class NetworkClassifier:
    """See the module's docstring.

    Attributes:
        config: its constants.
        head: the trained one.
        codes: (classes but none,) int64 the gallery's code of each of its landmarks, -1 for one
            that the gallery lacks.
    """

    kind: ClassVar[str] = "network"
    config: NetworkClassifierConfig
    head: Head
    codes: Integers

    @property
    def neighbours(self) -> int:
        return 0

    @classmethod
    def fit(cls, config: NetworkClassifierConfig, gallery: Gallery, seed: int = 0) -> Self:
        """Take the gallery's trained head.

        Raises:
            RunError: it has none, or one of other embeddings.
        """
        if gallery.head is None:
            raise RunError("the classifier network needs the extractor trained")
        known = {landmark: code for code, landmark in enumerate(gallery.landmarks)}
        codes = np.array([known.get(one, -1) for one in gallery.head.landmarks], np.int64)
        return cls(config, gallery.head.head, codes)

    @classmethod
    def held_out(cls, config: NetworkClassifierConfig, gallery: Gallery, seed: int = 0) -> HeldOut:
        """Scores of photographs that the network was not trained on."""
        fitted = cls.fit(config, gallery, seed)
        chosen = stratified_folds(gallery, FOLDS, config.held_out, seed)
        scores = fitted._rank(gallery.vectors[chosen.rows])
        return chosen.held_out(
            gallery, scores, fitted._rank(gallery.bank_vectors[chosen.bank_rows])
        )

    def scores(self, queries: Representation | Vectors, neighbours: Neighbours) -> Scores:
        """Rank landmarks by :func:`retrieval.networks.heads.confidences`.

        Args:
            queries: (q, d) unit embeddings.
            neighbours: not looked at.
        """
        return self._rank(Representation.of(queries).vectors)

    def save(self, folder: Path) -> None:
        """Write ``network.json``; the head stays with its training."""
        write_json(folder / FILE, self.config.model_dump())

    @classmethod
    def load(cls, folder: Path, gallery: Gallery) -> Self:
        with reading(folder / FILE):
            config = NetworkClassifierConfig.model_validate(read_json(folder / FILE))
        return cls.fit(config, gallery)

    @classmethod
    def updated(cls, folder: Path, gallery: Gallery, change: GalleryChange, seed: int) -> Self:
        """The head as it was trained, as ever."""
        return cls.load(folder, gallery)

    def _rank(self, queries: Vectors) -> Scores:
        # Landmarks that are not in the gallery are passed over: so many more are looked at.
        gone = int((self.codes < 0).sum())
        width = min(self.config.candidates, len(self.codes) - gone)
        block = max(1, LOGITS // self.head.classes)
        best, values = ranked(self.head, queries, width + gone, block)
        codes = self.codes[best]
        if gone:
            order = np.argsort(codes < 0, axis=1, kind="stable")[:, :width]
            codes = np.take_along_axis(codes, order, axis=1)
            values = np.take_along_axis(values, order, axis=1)
        return Scores(codes, values)
