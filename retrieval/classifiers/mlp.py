"""A neural network on the descriptors: one hidden layer, a class a landmark and one for the bank.

The network is :class:`retrieval.networks.heads.Head` with a hidden layer, fitted by Adam with
decoupled weight decay (Loshchilov and Hutter, ICLR 2019) and early stopping: a part of the
photographs is kept back, and the state that is best on them is the one that stays. It suits small
collections, where training anew for every held-out fold takes seconds; others are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import nn

from retrieval.classifiers.arrays import load_fitted, save_fitted
from retrieval.classifiers.base import (
    FOLDS,
    HeldOut,
    Scores,
    cross_fitted,
    deal,
    stratified_folds,
)
from retrieval.descriptors.representation import Representation
from retrieval.errors import ConfigError, RunError
from retrieval.index.gallery import Gallery, GalleryChange
from retrieval.index.neighbours import Neighbours
from retrieval.networks.heads import Head, TwoLayerConfig, ranked
from retrieval.networks.trunk import seeded
from retrieval.storage.files import reading
from retrieval.types import Flags, Integers, StrictModel, Vectors

FILE: Final = "mlp.safetensors"
LOOKED: Final = 25
"""Steps between looks at what was kept back."""
LOGITS: Final = 1 << 23
"""Logits computed at a time: 64 MB in double precision."""


class MlpConfig(StrictModel):
    """The network and its training; defaults chosen on held-out gallery and bank photographs.

    Attributes:
        hidden: units of the hidden layer.
        dropout: share of them left out at each step.
        scale: of the cosine-like logits at the start.
        rate: of learning, falling to zero along a cosine.
        decay: of the weights.
        steps: of learning.
        batch: photographs a step.
        kept_back: one in so many photographs says when to stop.
        candidates: landmarks ranked for a photograph.
        folds: parts that gallery and bank are dealt into at most, each held out in turn.
        held_out: at most this many gallery (and bank) photographs are held out.
        most_work: at most so many photographs times landmarks are trained on.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: int = Field(default=512, ge=1, le=65_536)
    dropout: float = Field(default=0.3, ge=0.0, le=0.9)
    scale: float = Field(default=16.0, ge=1e-3, le=1e3)
    rate: float = Field(default=2e-3, ge=1e-12, le=1e6)
    decay: float = Field(default=0.1, ge=0.0, le=100.0)
    steps: int = Field(default=800, ge=1, le=1_000_000)
    batch: int = Field(default=64, ge=1, le=65_536)
    kept_back: int = Field(default=8, ge=2, le=1000)
    candidates: int = Field(default=10, ge=1, le=1000)
    folds: int = Field(default=FOLDS, ge=2, le=1000)
    held_out: int = Field(default=5_000, ge=1, le=10_000_000)
    most_work: int = Field(default=10_000_000, ge=1, le=2**40)


@dataclass(frozen=True)
class MlpClassifier:
    """A fitted network.

    Attributes:
        config: its constants.
        head: at rest.
    """

    kind: ClassVar[str] = "mlp"
    config: MlpConfig
    head: Head

    @property
    def neighbours(self) -> int:
        return 0

    @classmethod
    def fit(cls, config: MlpConfig, gallery: Gallery, seed: int = 0) -> Self:
        """Train on gallery and bank.

        Raises:
            ConfigError: they are too large.
        """
        rows, bank_rows = np.arange(len(gallery.codes)), np.arange(len(gallery.bank))
        return cls(config, _train(config, gallery, rows, bank_rows, seed))

    @classmethod
    def held_out(cls, config: MlpConfig, gallery: Gallery, seed: int = 0) -> HeldOut:
        """Scores of photographs by networks trained without them, one network a fold."""
        chosen = stratified_folds(gallery, config.folds, config.held_out, seed)
        width = min(config.candidates, len(gallery.landmarks))
        asked = gallery.vectors[chosen.rows], gallery.bank_vectors[chosen.bank_rows]

        def fit(rows: Integers, bank_rows: Integers) -> Callable[[bool, Flags], Scores]:
            fitted = cls(config, _train(config, gallery, rows, bank_rows, seed))
            return lambda bank, own: fitted._rank(np.asarray(asked[bank][own]))

        return cross_fitted(chosen, gallery, width, fit)

    def scores(self, queries: Representation | Vectors, neighbours: Neighbours) -> Scores:
        """Rank landmarks by :func:`retrieval.networks.heads.confidences`.

        Args:
            queries: (q, d) unit rows.
            neighbours: not looked at.
        """
        return self._rank(Representation.of(queries).vectors)

    def save(self, folder: Path) -> None:
        """Write ``mlp.safetensors``: the network's weights and the constants."""
        arrays = {
            name: np.ascontiguousarray(one.numpy()) for name, one in self.head.state_dict().items()
        }
        arrays["none"] = np.array([self.head.none])
        save_fitted(folder / FILE, arrays, self.config)

    @classmethod
    def load(cls, folder: Path, gallery: Gallery) -> Self:
        arrays, config = load_fitted(folder / FILE, MlpConfig)
        with reading(folder / FILE):
            none = bool(arrays.pop("none")[0])
        head = _head(config, gallery, none, 0)
        try:
            head.load_state_dict({name: torch.from_numpy(one) for name, one in arrays.items()})
        except RuntimeError:
            raise RunError(
                f"{folder / FILE} is of another gallery: fit the classifiers again"
            ) from None
        return cls(config, head.eval())

    @classmethod
    def updated(cls, folder: Path, gallery: Gallery, change: GalleryChange, seed: int) -> Self:
        """As it is, or trained anew where landmarks came or went: each has an output unit."""
        if gallery.landmarks == change.landmarks:
            return cls.load(folder, gallery)
        return cls.fit(load_fitted(folder / FILE, MlpConfig)[1], gallery, seed)

    def _rank(self, queries: Vectors) -> Scores:
        block = max(1, LOGITS // self.head.classes)
        return Scores(*ranked(self.head, queries, self.config.candidates, block))


def _head(config: MlpConfig, gallery: Gallery, none: bool, seed: int) -> Head:
    layers = TwoLayerConfig(hidden=config.hidden, dropout=config.dropout, scale=config.scale)
    return Head(layers, gallery.vectors.shape[1], len(gallery.landmarks), none, seed)


def _train(
    config: MlpConfig, gallery: Gallery, rows: Integers, bank_rows: Integers, seed: int
) -> Head:
    """A head at rest, learnt from some rows of gallery and bank."""
    work = (len(rows) + len(bank_rows)) * len(gallery.landmarks)
    if work > config.most_work:
        raise ConfigError(
            f"mlp: {len(rows)} photographs of {len(gallery.landmarks)} landmarks are too many:"
            " take svm, or raise most_work"
        )
    vectors = np.concatenate([gallery.vectors[rows], gallery.bank_vectors[bank_rows]])
    codes = np.append(gallery.codes[rows], np.full(len(bank_rows), len(gallery.landmarks)))
    x, y = torch.from_numpy(vectors), torch.from_numpy(codes)
    rng = np.random.default_rng(seed)
    back = torch.from_numpy(deal(codes, config.kept_back, rng) == 0)
    if back.all():  # one photograph of each landmark
        back[:] = False
    head = _head(config, gallery, len(bank_rows) > 0, seed)
    optimiser = torch.optim.AdamW(head.parameters(), config.rate, weight_decay=config.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    training = np.flatnonzero(~back.numpy())
    least, best = float("inf"), {}
    with seeded(seed):
        for step, some in zip(
            range(1, config.steps + 1), _batches(training, config.batch, rng), strict=False
        ):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(head.train()(x[some]), y[some])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            if step % LOOKED == 0 or step == config.steps:
                missed = _missed(head, x[back], y[back])
                if missed <= least:
                    least = missed
                    best = {name: one.clone() for name, one in head.state_dict().items()}
    head.load_state_dict(best)
    return head.eval()


def _batches(rows: Integers, count: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Rows in random order, so many at a time, over and over."""
    while True:
        order = rng.permutation(rows)
        for start in range(0, len(order), count):
            yield torch.from_numpy(order[start : start + count])


def _missed(head: Head, x: torch.Tensor, y: torch.Tensor) -> float:
    """The cross-entropy of photographs that were kept back; 0 without any."""
    if not len(x):
        return 0.0
    with torch.inference_mode():
        return float(nn.functional.cross_entropy(head.eval()(x), y))
