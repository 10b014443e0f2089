"""What a network is trained on: squares cut anew, or what its frozen part made of them once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.descriptors.extraction import WINDOW, Outcome, extract, worker_pool
from retrieval.descriptors.trained import TrainedExtractor
from retrieval.errors import PhotographError, RunError
from retrieval.networks.embedder import at_rest
from retrieval.photographs.augmentation import AugmentationConfig, draw, varied
from retrieval.photographs.decoding import shrink
from retrieval.storage.files import SEAL, read_arrays, read_json, write_arrays, write_json
from retrieval.storage.fingerprint import checksum, checksums
from retrieval.streams import ahead
from retrieval.training.photographs import Photographs
from retrieval.training.watching import Watcher
from retrieval.types import Flags, Integers, Photograph, Vectors

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
            begun = ([pool.submit(self._crop, int(row), epoch) for row in batch] for batch in rows)
            yield from (_stacked(batch, self.side) for batch in ahead(begun, AHEAD))

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
        yield from (_picked(self.views, batch, self.seed, epoch) for batch in rows)

    def embeddings(self, extractor: TrainedExtractor, rows: Integers) -> tuple[Vectors, Flags]:
        vectors = self.views[0][rows]
        readable: Flags = np.any(vectors, axis=1)
        if extractor.part == "pooled":
            return vectors, readable
        with at_rest(extractor.network), torch.inference_mode():
            inputs = torch.from_numpy(vectors).to(extractor.network.device)
            return extractor.network(inputs).cpu().numpy(), readable


@dataclass(frozen=True)
class Halfway(Source):
    """What the frozen part of a trunk made of crops once, for the rest of it.

    Attributes:
        views: (n, c, h, w) float16 each.
        sources: the photographs' paths.
        seed: of which view an epoch takes.
    """

    views: Sequence[NDArray[np.float16]]
    sources: Sequence[str]
    seed: int

    def batches(self, rows: Iterable[Integers], epoch: int) -> Iterator[Batch]:
        yield from (_picked(self.views, batch, self.seed, epoch) for batch in rows)

    def embeddings(self, extractor: TrainedExtractor, rows: Integers) -> tuple[Vectors, Flags]:
        return described(extractor, [self.sources[row] for row in rows])


def _picked(
    views: Sequence[NDArray[np.floating[Any]]], rows: Integers, seed: int, epoch: int
) -> Batch:
    """One of the views of each row; a photograph that cannot be read is all zeros in all."""
    chosen = [int(draw(seed, epoch, int(row)).integers(len(views))) for row in rows]
    found = np.stack([views[view][row] for view, row in zip(chosen, rows, strict=True)])
    readable = np.any(found.reshape(len(found), -1), axis=1)
    return torch.from_numpy(found), torch.from_numpy(readable)


@dataclass(frozen=True)
class CachedViews:
    """How the frozen part of a trunk is shown photographs.

    Attributes:
        photographs: by row.
        sources: their paths.
        extractor: that part.
        config: of the augmentation.
        side: of square crops; ``None``: photographs keep their form, and the first view is of
            them as they are.
        seed: of the views.
    """

    photographs: Photographs
    sources: Sequence[str]
    extractor: TrainedExtractor
    config: AugmentationConfig
    side: int | None
    seed: int

    def kept(self, count: int, folder: Path, watcher: Watcher) -> list[NDArray[Any]]:
        """Describe every photograph so many times; views that lie in the folder stay.

        Args:
            count: of views.
            folder: of these very views, ``view-000.npy`` and so on.
            watcher: notified of photographs described.

        Returns:
            a row a photograph each, memory-mapped; zeros for one that cannot be read.
        """
        paths = [folder / f"{_name(view)}.npy" for view in range(count)]
        missing = [
            view
            for view, found in enumerate(checksums(paths))
            if found is None or found != _noted(folder, view)
        ]
        watcher.begin("describing views", len(missing) * len(self.sources))
        if missing:
            dtype, shape = self._form()
            form = dtype, (len(self.sources), *shape)
            for view in missing:
                write_arrays(folder, {_name(view): form}, self._blocks(view, shape, watcher))
                write_json(folder / f"{_name(view)}.json", {SEAL: checksum(paths[view])})
        arrays = read_arrays(folder)
        return [arrays[_name(view)] for view in range(count)]

    def _form(self) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Type and shape of a row."""
        if self.side is None:
            return np.dtype(np.float32), (self.extractor.dimension,)
        with at_rest(self.extractor.network):
            (nothing,) = self.extractor.features([np.zeros((self.side, self.side, 3), np.uint8)])
        return np.dtype(np.float16), nothing.shape

    def _blocks(
        self, view: int, shape: tuple[int, ...], watcher: Watcher
    ) -> Iterator[dict[str, NDArray[Any]]]:
        starts = range(0, len(self.sources), WINDOW)
        windows = [range(start, min(start + WINDOW, len(self.sources))) for start in starts]
        with at_rest(self.extractor.network):
            shown = ([partial(self._shown, row, view) for row in rows] for rows in windows)
            found = extract(shown, self.extractor)
            for rows, outcomes in zip(windows, found, strict=True):
                vectors, readable = _rows(outcomes, shape)
                for place in np.flatnonzero(~readable) if view == 0 else ():
                    log.warning("%s teaches nothing: %s", self.sources[rows[place]],
                                outcomes[place])  # fmt: skip
                watcher.advance(len(rows), int((~readable).sum()))
                yield {_name(view): vectors}

    def _shown(self, row: int, view: int, longest_side: int) -> Photograph:
        """Opens a photograph's view."""
        photograph = self.photographs.read(row)
        if self.side is not None or view:
            square = None if self.side is None else (self.side, self.side)
            shape = square or self.extractor.shape(photograph)
            photograph = varied(photograph, shape, self.config, draw(self.seed, view, row))
        return shrink(photograph, longest_side)


def _name(view: int) -> str:
    return f"view-{view:03d}"


def _rows(outcomes: Sequence[Outcome], shape: tuple[int, ...]) -> tuple[Vectors, Flags]:
    """(n, *shape) features, zeros for what failed; and (n,) what did not."""
    vectors = np.zeros((len(outcomes), *shape), np.float32)
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
    return _rows(outcomes, (extractor.dimension,))


def _noted(folder: Path, view: int) -> str | None:
    """The checksum that a view was written with, if that was noted."""
    with contextlib.suppress(RunError, AttributeError):
        return str(read_json(folder / f"{_name(view)}.json").get(SEAL))
    return None
