"""DELF's attention, learnt with landmark labels on a network that stays as it is.

Noh et al., "Large-scale image retrieval with attentive deep local features" (ICCV 2017), section
3.2: the columns of a photograph's map are summed, each weighted by its score, and a linear
classifier has to tell the landmark by the sum (equations 1 and 2). Scores become large where that
helps. The network's maps are computed once, at one scale, and lie on disk meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from retrieval.descriptors.extraction import WINDOW, worker_pool
from retrieval.devices import CPU
from retrieval.errors import PhotographError, TrainingError
from retrieval.local.delf import Attention, DelfDetector
from retrieval.networks.running import fast_bfloat16
from retrieval.networks.trunk import seeded
from retrieval.photographs.decoding import read_photograph
from retrieval.training.split import split
from retrieval.training.watching import Watcher
from retrieval.types import Integers, StrictModel

log = logging.getLogger(__name__)

MEASURED: Final = 64
"""Photographs by which the size of a network's numbers is found."""


class AttentionConfig(StrictModel):
    """How attention is learnt.

    Attributes:
        hidden: numbers between its two layers.
        size: longest side of the photographs in pixels.
        epochs, batch: their number; photographs in a batch.
        columns: of each photograph's map that a step takes, drawn anew.
        rate: of Adam, falling to nothing along half a cosine.
        validation: share of every landmark's photographs that only measure.
    """

    hidden: int = Field(512, ge=1, le=8192)
    size: int = Field(384, ge=80, le=4096)
    epochs: int = Field(20, ge=1, le=10_000)
    batch: int = Field(32, ge=1, le=65_536)
    columns: int = Field(100, ge=1, le=65_536)
    rate: float = Field(1e-3, ge=1e-12, le=1e6)
    validation: float = Field(0.1, ge=1e-4, lt=1.0)


@dataclass(frozen=True)
class Maps:
    """The columns of photographs' maps, photograph after photograph.

    Attributes:
        columns: (m, c) float16, on disk.
        starts: (n + 1,) where each photograph's begin; one that could not be read has none.
    """

    columns: NDArray[np.float16]
    starts: Integers

    @property
    def counts(self) -> Integers:
        """(n,) columns of each photograph."""
        return np.diff(self.starts)

    def of(
        self, rows: Integers, most: int | None = None, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """(k, c) float32 columns of some photographs, and (rows,) how many each has.

        Args:
            rows: the photographs.
            most: columns of each, drawn by ``rng``; all without.
        """
        parts = [self.columns[self.starts[row] : self.starts[row + 1]] for row in rows]
        if most is not None and rng is not None:
            parts = [one[rng.permutation(len(one))[:most]] for one in parts]
        together = np.concatenate(parts).astype(np.float32)
        return torch.from_numpy(together), torch.tensor([len(one) for one in parts])


def train_attention(
    detector: DelfDetector,
    table: pd.DataFrame,
    config: AttentionConfig,
    scratch: Path,
    seed: int,
    watcher: Watcher,
) -> tuple[Attention, dict[str, Any]]:
    """Learn attention for a detector's network.

    Args:
        detector: whose own attention, if any, does not matter.
        table: photographs of landmarks: ``id``, ``source``, ``landmark``.
        config: of the learning.
        scratch: a folder with room for the maps: with ResNet-50's layer3 at 384 pixels 0.9 MB a
            photograph.
        seed: of everything random.
        watcher: notified of photographs described, then of those learnt from.

    Returns:
        the attention, and notes: how many photographs were trained on and held out, and the
        share of the latter whose landmark was named right.

    Raises:
        TrainingError: fewer than two landmarks, nothing to hold out, or nothing that can be read.
    """
    collection = split(table, config.validation, 1.0, seed)
    with TemporaryDirectory(prefix=".maps-", dir=scratch) as folder:
        sources = [str(one) for one in collection.table["source"]]
        maps = _describe(detector, sources, config.size, Path(folder) / "columns", watcher)
        readable = maps.counts > 0
        training, held = (rows[readable[rows]] for rows in map(collection.rows, (False, True)))
        if not len(training):
            raise TrainingError("none of the photographs that should teach can be read")
        with seeded(seed):
            count = len(collection.landmarks)
            learner = _Learner.of(maps, training, count, config, detector.device)
            learner.fit(collection.codes, training, config, seed, watcher)
            right = learner.right(collection.codes, held, config.batch)
    notes = {
        "config": config.model_dump(),
        "landmarks": len(collection.landmarks),
        "photographs": len(training),
        "held_out": len(held),
        "accuracy": right / max(len(held), 1),
    }
    return learner.finished(), notes


def _describe(
    detector: DelfDetector, sources: Sequence[str], size: int, path: Path, watcher: Watcher
) -> Maps:
    """The maps of photographs at a size."""
    form = detector.config.model_copy(update={"size": size, "scales": (1.0,)})
    reader = replace(detector, config=form)

    def columns(source: str) -> NDArray[np.float16] | PhotographError:
        try:
            photograph = read_photograph(source, size)
        except PhotographError as error:
            return error
        return reader.columns(photograph, 1.0)[0].float().cpu().numpy().astype(np.float16)

    counts = [0]
    watcher.begin("describing", len(sources))
    with path.open("wb") as file, worker_pool(None if detector.device.type == CPU else 1) as pool:
        for start in range(0, len(sources), WINDOW):
            window = sources[start : start + WINDOW]
            for source, found in zip(window, pool.map(columns, window), strict=True):
                failed = isinstance(found, PhotographError)
                if isinstance(found, PhotographError):
                    log.warning("%s teaches nothing: %s", source, found)
                    found = np.zeros((0, detector.dimension), np.float16)
                file.write(found.tobytes())
                counts.append(len(found))
                watcher.advance(1, int(failed))
    shape = (sum(counts), detector.dimension)
    if not shape[0]:
        raise TrainingError("none of the photographs can be read")
    return Maps(np.memmap(path, np.float16, "r", shape=shape), np.cumsum(counts))


@dataclass(frozen=True)
class _Learner:
    """What is learnt, and what from.

    Attributes:
        maps: of all photographs.
        attention, classifier: being learnt.
        scale: what columns are divided by, so that any network's are of numbers about one.
        centre: (c,) mean column of unit length, which says nothing of any landmark.
        spread: of the photographs' mean columns about it.
        device: where that goes on.
    """

    maps: Maps
    attention: Attention
    classifier: nn.Linear
    scale: float
    centre: Tensor
    spread: float
    device: torch.device

    @classmethod
    def of(
        cls, maps: Maps, training: Integers, landmarks: int, config: AttentionConfig,
        device: torch.device,
    ) -> _Learner:  # fmt: skip
        seen, counts = maps.of(training[:MEASURED])
        unit = normalize(seen, dim=1)
        means = torch.stack([one.mean(dim=0) for one in torch.split(unit, counts.tolist())])
        return cls(
            maps,
            Attention(seen.shape[1], config.hidden).to(device),
            nn.Linear(seen.shape[1], landmarks).to(device),
            float(seen.square().mean().sqrt()),
            unit.mean(dim=0).to(device),
            max(float((means - means.mean(dim=0)).square().mean().sqrt()), 1e-6),
            device,
        )

    def fit(
        self, codes: Integers, rows: Integers, config: AttentionConfig, seed: int, watcher: Watcher
    ) -> None:
        parameters = [*self.attention.parameters(), *self.classifier.parameters()]
        optimiser = torch.optim.AdamW(parameters, config.rate)
        steps = config.epochs * -(-len(rows) // config.batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        watcher.begin("learning", config.epochs * len(rows))
        rng = np.random.default_rng(seed)
        for _ in range(config.epochs):
            for batch in _batches(rng.permutation(rows), config.batch):
                optimiser.zero_grad(set_to_none=True)
                targets = torch.from_numpy(codes[batch]).to(self.device)
                seen = self.maps.of(batch, config.columns, rng)
                loss = cross_entropy(self._logits(*seen), targets)
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
                watcher.advance(len(batch), 0)

    def right(self, codes: Integers, rows: Integers, batch: int) -> int:
        """How many photographs' landmarks are named right."""
        with torch.inference_mode():
            return sum(
                int(
                    (
                        self._logits(*self.maps.of(some)).argmax(dim=1).cpu().numpy() == codes[some]
                    ).sum()
                )
                for some in _batches(rows, batch)
            )

    def finished(self) -> Attention:
        """The attention for columns as they are."""
        with torch.no_grad():
            self.attention.hidden.weight /= self.scale
        return self.attention.cpu().eval()

    def _logits(self, columns: Tensor, counts: Tensor) -> Tensor:
        """(n, landmarks) of n photographs' columns, each weighted and of unit length; their mean.

        Less the mean column, which would drown the differences of landmarks; and about one in size,
        so that a rate means the same for any network.
        """
        columns, counts = columns.to(self.device) / self.scale, counts.to(self.device)
        fast = fast_bfloat16(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
            scores = self.attention(columns)
        # Their scale is free: left to itself it would grow, or die away with all gradients.
        scores = scores / scores.mean()
        # As one product with what each column counts for: no copy of all columns is made.
        shares = torch.diag(1.0 / counts).repeat_interleave(counts, dim=1) * scores
        lengths = torch.linalg.vector_norm(columns, dim=1).clamp(min=1e-12)
        pooled = (shares / lengths) @ columns - shares.sum(dim=1, keepdim=True) * self.centre
        logits: Tensor = self.classifier(pooled / self.spread)
        return logits


def _batches(rows: Integers, size: int) -> Iterator[Integers]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
