"""What a network is trained on, batch by batch: squares cut anew, or vectors pooled once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from retrieval.classifiers.base import Flags, Integers
from retrieval.errors import PhotographError
from retrieval.extractors.base import Photograph, Vectors
from retrieval.extractors.extraction import WINDOW, Outcome, extract, worker_pool
from retrieval.extractors.network import at_rest
from retrieval.extractors.trained import TrainedExtractor
from retrieval.index.store import read_arrays, write_arrays
from retrieval.training.config import AugmentationConfig, TrainingConfig
from retrieval.training.photographs import Photographs, draw, varied
from retrieval.training.watching import Watcher

log = logging.getLogger(__name__)

AHEAD: Final = 3
"""Batches that are cut while one is learnt from."""

Batch = tuple[Tensor, Tensor]
"""Inputs of the network, and (n,) whether each photograph could be read."""


class Source(Protocol):
    """Inputs of the network for rows of a table."""

    def batches(self, rows: Iterable[Integers], epoch: int) -> Iterator[Batch]:
        """Inputs for training."""
        ...

    def embeddings(self, extractor: TrainedExtractor, rows: Integers) -> tuple[Vectors, Flags]:
        """(n, dimension) of whole photographs by the network as it is, and which could be read.

        Pooled vectors, if that is what the extractor makes.
        """
        ...


@dataclass(frozen=True)
class Crops(Source):
    """Square crops, cut anew in every epoch, for a trunk that learns.

    Attributes:
        photographs: by row.
        sources: their paths.
        config: of their augmentation.
        side: of the crops, in pixels.
        augmented: else the middle of each.
        seed: of the crops.
    """

    photographs: Photographs
    sources: Sequence[str]
    config: AugmentationConfig
    side: int
    augmented: bool
    seed: int

    def batches(self, rows: Iterable[Integers], epoch: int) -> Iterator[Batch]:
        with worker_pool() as pool:
            waiting: deque[list[Future[Photograph | None]]] = deque()
            for batch in rows:
                waiting.append([pool.submit(self._crop, int(row), epoch) for row in batch])
                if len(waiting) > AHEAD:
                    yield _stacked(waiting.popleft(), self.side)
            while waiting:
                yield _stacked(waiting.popleft(), self.side)

    def embeddings(self, extractor: TrainedExtractor, rows: Integers) -> tuple[Vectors, Flags]:
        return described(extractor, [self.sources[row] for row in rows])

    def _crop(self, row: int, epoch: int) -> Photograph | None:
        try:
            photograph = self.photographs.read(row)
        except PhotographError as error:
            if epoch <= 1:
                log.warning("%s teaches nothing: %s", self.sources[row], error)
            return None
        if self.augmented:
            rng = draw(self.seed, epoch, row)
            return varied(photograph, (self.side, self.side), self.config, rng)
        still = AugmentationConfig(least=1.0, aspect=1.0, flip=False, colour=0.0, rotation=0.0)
        return varied(photograph, (self.side, self.side), still, draw(0, 0, 0))


def _stacked(futures: Sequence[Future[Photograph | None]], side: int) -> Batch:
    crops = [future.result() for future in futures]
    readable = torch.tensor([crop is not None for crop in crops])
    nothing = np.zeros((side, side, 3), np.uint8)
    return torch.from_numpy(np.stack([nothing if c is None else c for c in crops])), readable


@dataclass(frozen=True)
class Pooled(Source):
    """Vectors pooled once, for a trunk that does not learn.

    Attributes:
        views: (n, channels) each; the first of the photographs as they are.
        seed: of which view an epoch takes.
    """

    views: Sequence[Vectors]
    seed: int

    def batches(self, rows: Iterable[Integers], epoch: int) -> Iterator[Batch]:
        for batch in rows:
            chosen = [
                int(draw(self.seed, epoch, int(row)).integers(len(self.views))) for row in batch
            ]
            vectors = np.stack([self.views[v][r] for v, r in zip(chosen, batch, strict=True)])
            yield torch.from_numpy(vectors), torch.from_numpy(np.any(vectors, axis=1))

    def embeddings(self, extractor: TrainedExtractor, rows: Integers) -> tuple[Vectors, Flags]:
        vectors = self.views[0][rows]
        readable: Flags = np.any(vectors, axis=1)
        if extractor.pooled:
            return vectors, readable
        with at_rest(extractor.network), torch.inference_mode():
            inputs = torch.from_numpy(vectors).to(extractor.network.device)
            return extractor.network(inputs).cpu().numpy(), readable


def pool_views(
    photographs: Photographs,
    sources: Sequence[str],
    extractor: TrainedExtractor,
    config: TrainingConfig,
    folder: Path,
    seed: int,
    watcher: Watcher,
) -> list[Vectors]:
    """Describe every photograph ``config.views`` times; views that lie in the folder stay.

    Args:
        photographs: by row.
        sources: their paths.
        extractor: that pools.
        config: of the training.
        folder: of this network's views of these photographs, ``view-000.npy`` and so on.
        seed: of the views.
        watcher: told of photographs described.

    Returns:
        (n, channels) float32 each, memory-mapped; zeros for a photograph that cannot be read.
    """

    def window(rows: range, view: int) -> list[str | Photograph]:
        def one(row: int) -> str | Photograph:
            try:
                photograph = photographs.read(row)
            except PhotographError:
                return sources[row]  # which fails likewise, and says so
            if view == 0:
                return photograph
            shape = extractor.shape(photograph)
            return varied(photograph, shape, config.augmentation, draw(seed, view, row))

        with worker_pool() as pool:
            return list(pool.map(one, rows))

    missing = [v for v in range(config.views) if not (folder / f"{_name(v)}.npy").exists()]
    watcher.begin("pooling", len(missing) * len(sources))
    starts = range(0, len(sources), WINDOW)
    windows = [range(start, min(start + WINDOW, len(sources))) for start in starts]

    def blocks(view: int) -> Iterator[dict[str, Vectors]]:
        found = extract((window(rows, view) for rows in windows), extractor)
        for rows, outcomes in zip(windows, found, strict=True):
            vectors, readable = _rows(outcomes, extractor.dimension)
            for place in np.flatnonzero(~readable) if view == 0 else ():
                log.warning("%s teaches nothing: %s", sources[rows[place]], outcomes[place])
            watcher.advance(len(rows), int((~readable).sum()))
            yield {_name(view): vectors}

    form = np.dtype(np.float32), (len(sources), extractor.dimension)
    for view in missing:
        write_arrays(folder, {_name(view): form}, blocks(view))
    arrays = read_arrays(folder)
    return [arrays[_name(view)] for view in range(config.views)]


def _name(view: int) -> str:
    return f"view-{view:03d}"


def _rows(outcomes: Sequence[Outcome], dimension: int) -> tuple[Vectors, Flags]:
    """(n, dimension) features, zeros for what failed; and (n,) what did not."""
    vectors = np.zeros((len(outcomes), dimension), np.float32)
    readable = np.array([not isinstance(one, PhotographError) for one in outcomes], np.bool_)
    for row, one in enumerate(outcomes):
        if not isinstance(one, PhotographError):
            vectors[row] = one
    return vectors, readable


def described(extractor: TrainedExtractor, sources: Sequence[str]) -> tuple[Vectors, Flags]:
    """(n, dimension) of photographs at these paths, and which of them could be read."""
    windows = [sources[start : start + WINDOW] for start in range(0, len(sources), WINDOW)]
    with at_rest(extractor.network):
        outcomes = [one for window in extract(windows, extractor) for one in window]
    return _rows(outcomes, extractor.dimension)
