"""Nearest neighbours by inner product, with FAISS.

An index is named by FAISS's factory key ("Flat", "IVF4096,SQ8", "OPQ64_256,IVF4096,PQ64"), or
"auto". Row ids are positions: row ``i`` of what was added is neighbour ``i``. What is bit-stable:

* a flat index of at most :data:`SMALL` rows on the CPU: the same query gives the same bits
  whatever the batch it came in and however many threads there are, and equal rows get equal
  similarities;
* larger flat indices and IVF on the CPU: the same call gives the same answer; another batch size
  may differ in the last bits, since matrix products round by their blocking;
* HNSW (added to by several threads), OPQ and PCA (LAPACK), and everything on the GPU: close, not
  the same bits.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from retrieval.errors import ConfigError, RunError
from retrieval.index.blocks import Blocks, RowBlocks
from retrieval.index.faiss_exact import exact_search
from retrieval.index.faiss_factory import (
    GPU_MOST_NEIGHBOURS,
    SMALL,
    IndexConfig,
    can_shrink,
    centroids_of,
    check_limits,
    empty_index,
    resolve_factory,
    training_rows,
)
from retrieval.index.faiss_files import (
    INDEX_FILES,
    SIDECAR_FILE,
    About,
    Kept,
    Sidecar,
    on_cpu,
    read_sidecar,
    write_shards,
)
from retrieval.index.faiss_rows import keep_rows
from retrieval.index.faiss_shards import added, filled, joined, shards_of
from retrieval.index.neighbours import Neighbours
from retrieval.storage.files import writing
from retrieval.storage.fingerprint import checksums
from retrieval.types import Flags, Integers, Vectors
from retrieval.vectors.checked import checked_rows
from retrieval.vectors.gpu import require_device, to_device

logger = logging.getLogger(__name__)
_one_on_gpu = threading.RLock()
"""One search at a time there, as FAISS keeps its resources outside the index."""


@dataclass(frozen=True)
class FaissIndex:
    """A built index, which nothing changes; ``factory`` is the key it was built by, not "auto"."""

    index: Any
    config: IndexConfig
    factory: str
    device: str

    @classmethod
    def build(
        cls,
        descriptors: Blocks,
        config: IndexConfig,
        device: str = "cpu",
        seed: int = 0,
    ) -> FaissIndex:
        """Train on a bounded sample of the rows, then add them block by block.

        ``descriptors`` is an (n, d) array (a memory map will do) or blocks of (any, d) rows that
        can be iterated more than once. Raises RunError for non-finite rows, no rows, or too few to
        train on; ConfigError and DeviceError as :func:`check_limits` and :func:`require_device`.
        """
        factory, shards = _built(descriptors, config, device, seed)
        return cls(joined(list(shards), device), config, factory, device)

    @classmethod
    def build_into(
        cls,
        folder: Path,
        descriptors: Blocks,
        config: IndexConfig,
        device: str = "cpu",
        seed: int = 0,
        fingerprint: str = "",
    ) -> FaissIndex:
        """:meth:`build` and :meth:`save`, with one shard in memory at a time.

        Returns:
            what was written, opened on the CPU.
        """
        factory, shards = _built(descriptors, config, device, seed)
        about = About(factory, config, RowBlocks(descriptors).dimension(), device, fingerprint)
        return cls._open(folder, write_shards(folder, shards, about), "cpu")

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def dimension(self) -> int:
        """How many numbers a descriptor has."""
        return int(self.index.d)

    @property
    def most_neighbours(self) -> int:
        """The largest k that it can be searched with."""
        return GPU_MOST_NEIGHBOURS if self.device == "cuda" else sys.maxsize

    @property
    def bytes_per_row(self) -> int:
        """Bytes that the index holds of a photograph: its code, without the tables they share.

        For a graph (HNSW), which FAISS gives no code size for, the whole index by its rows.
        """
        index = on_cpu(shards_of(self.index)[0], self.factory, self.device)
        try:
            return int(index.sa_code_size())
        except RuntimeError:
            return len(faiss.serialize_index(index)) // max(int(index.ntotal), 1)

    def search(self, queries: Vectors, k: int) -> Neighbours:
        """The ``k`` nearest rows of each of ``queries`` (q, d).

        ``k`` may exceed the number of rows; the rest is -1 and -inf, as it is where an IVF index
        found fewer in the lists it visited. Raises RunError for a non-finite query or another
        dimension, ConfigError for a ``k`` that the device cannot do.
        """
        check_limits(self.config, k, self.device)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        similarities = np.full((len(queries), k), -np.inf, dtype=np.float32)
        found = min(k, len(self))
        for start in range(0, len(queries) if found else 0, self.config.batch):
            batch = checked_rows(queries[start : start + self.config.batch], self.dimension, start)
            here = slice(start, start + len(batch))
            similarities[here, :found], rows[here, :found] = self._search_batch(batch, found)
        return Neighbours(rows, similarities)

    def save(self, folder: Path, fingerprint: str = "") -> None:
        """Write ``index.faiss`` and, last, ``index.json`` with its checksum, each atomically.

        A divided index has a file for each shard instead, ``index-000.faiss`` and so on. An index
        on the GPU is copied to the CPU first, since FAISS writes no other. ``fingerprint`` is kept
        for :meth:`load` to compare.
        """
        about = About(self.factory, self.config, self.dimension, self.device, fingerprint)
        write_shards(folder, shards_of(self.index), about)

    @staticmethod
    def file_checksums(folder: Path) -> dict[str, str]:
        """Of the files that :meth:`save` wrote beside ``index.json``, as that has them."""
        return read_sidecar(folder).files

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", fingerprint: str | None = None) -> FaissIndex:
        """Open what :meth:`save` wrote, memory-mapped on the CPU, copied to the GPU on "cuda".

        Raises RunError where there is no index, it is damaged, it was written by a FAISS that this
        one cannot read, or ``fingerprint`` is given and differs; DeviceError without a GPU.
        """
        require_device(device)
        sidecar = read_sidecar(folder)
        paths = [folder / name for name in sidecar.files]
        if fingerprint is not None and fingerprint != sidecar.fingerprint:
            raise RunError(f"{paths[0]}: made from other inputs; run `landmarks index` again")
        for path, told, found in zip(paths, sidecar.files.values(), checksums(paths), strict=True):
            if found != told:
                raise RunError(f"{path}: missing or damaged; run `landmarks index` again")
        check_limits(sidecar.config, k=1, device=device)
        return cls._open(folder, sidecar, device)

    @classmethod
    def _open(cls, folder: Path, sidecar: Sidecar, device: str) -> FaissIndex:
        shards = []
        for number, name in enumerate(sidecar.files):
            path = folder / name
            try:
                shard = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError as error:
                logger.debug("FAISS on %s: %s", path, error)
                raise RunError(
                    f"{path}: FAISS {faiss.__version__} cannot read what FAISS {sidecar.faiss} "
                    "wrote; run `landmarks index` again"
                ) from error
            shards.append(to_device(shard, device, number))
        index = joined(shards, device)
        if (index.ntotal, index.d) != (sidecar.count, sidecar.dimension):
            raise RunError(f"{folder / SIDECAR_FILE}: belongs to another index")
        return cls(index, sidecar.config, sidecar.factory, device)

    @classmethod
    def update_into(
        cls,
        target: Path,
        folder: Path,
        left: Flags,
        new: Blocks,
        fingerprint: Callable[[], str] = str,
    ) -> FaissIndex:
        """Write what :meth:`save` wrote without the rows that are not ``left``, and with ``new``
        ones after the rest; codebooks, and an IVF's lists, stay those that it was trained for.

        It is the index that one trained so becomes when it is given these rows. The files stay as
        they are; one shard is in memory at a time, and those that nothing changes are linked.

        Args:
            target: an empty folder, where it is written.
            folder: of the index.
            left: (n,) which of its rows stay, in their order.
            new: (m, d) rows, or blocks of them.
            fingerprint: asked for once the rows are written.

        Returns:
            what was written, opened.

        Raises:
            RunError: as :meth:`load`, or a row is not finite.
            ConfigError: this kind of index lets no row go: a graph, say.
        """
        before = cls.load(folder)
        if not left.all() and not can_shrink(before.factory):
            raise ConfigError(f'index "{before.factory}": no row can be taken out of it')
        about = About(before.factory, before.config, before.dimension, "cpu", fingerprint)
        shards = _updated(before, folder, left, RowBlocks(new))
        return cls._open(target, write_shards(target, shards, about), "cpu")

    @staticmethod
    def remove(folder: Path) -> None:
        """Take away what :meth:`save` wrote, if anything."""
        for path in (folder / SIDECAR_FILE, *sorted(folder.glob(INDEX_FILES))):
            with writing(path):
                path.unlink(missing_ok=True)

    def _search_batch(self, batch: Vectors, k: int) -> tuple[Vectors, Integers]:
        shards = shards_of(self.index)
        for lists in filter(None, map(_lists, shards)):
            lists.nprobe = min(self.config.nprobe, int(lists.nlist))
        if self.device == "cuda":
            with _one_on_gpu:
                similarities, rows = self.index.search(batch, k)
        elif self.factory == "Flat" and len(self) <= SMALL:
            similarities, rows = exact_search(shards, batch, k)
        else:
            similarities, rows = self.index.search(batch, k)
        similarities[rows < 0] = -np.inf
        order = np.lexsort((rows, -similarities))
        return np.take_along_axis(similarities, order, 1), np.take_along_axis(rows, order, 1)


def _built(
    descriptors: Blocks, config: IndexConfig, device: str, seed: int
) -> tuple[str, Iterator[Any]]:
    """The factory key, not "auto", and the shards one after the other, of one training."""
    check_limits(config, k=1, device=device)
    blocks = RowBlocks(descriptors)
    dimension, count = blocks.dimension(), blocks.count()
    factory = resolve_factory(config.factory, count)
    first = to_device(empty_index(factory, dimension), device)
    if not first.is_trained:
        _train(first, factory, blocks, seed)
    if config.shard is None or config.shard >= count:
        return factory, filled(blocks, None, lambda number: first, dimension)
    trained = faiss.serialize_index(on_cpu(first, factory, device))

    def empty(number: int) -> Any:  # FAISS has kinds that it cannot clone
        return to_device(faiss.deserialize_index(trained), device, number)

    return factory, filled(blocks, config.shard, empty, dimension)


def _updated(before: FaissIndex, folder: Path, left: Flags, new: RowBlocks) -> Iterator[Any]:
    """The shards of an index whose rows come and go, or :class:`Kept`."""
    files = list(read_sidecar(folder).files.items())
    sizes = [int(one.ntotal) for one in shards_of(before.index)]
    stay = np.split(left, np.cumsum(sizes)[:-1])
    for number, ((name, told), here) in enumerate(zip(files, stay, strict=True)):
        if number == len(files) - 1 and new.count():
            yield from added(_without(folder / name, here), new.blocks(), before.config.shard)
        elif here.all():
            yield Kept(folder / name, told, len(here))
        else:
            yield _without(folder / name, here)


def _without(path: Path, left: Flags) -> Any:
    """A shard, read into memory, without the rows that are not left."""
    shard = faiss.read_index(str(path))
    if not left.all():
        keep_rows(shard, left)
    return shard


def _train(index: Any, factory: str, blocks: RowBlocks, seed: int) -> None:
    centroids = max(centroids_of(factory), default=1)
    sample = blocks.sample(training_rows(centroids), seed)
    if len(sample) < centroids:
        raise RunError(
            f'index "{factory}" needs at least {centroids} rows to train on and there are '
            f'{len(sample)}: use "Flat" or "auto"'
        )
    for part in _trained_parts(index):
        part.cp.seed = seed
        part.cp.min_points_per_centroid = 1  # the check above speaks for it, without a C++ warning
    index.train(sample)


def _trained_parts(index: Any) -> Iterator[Any]:
    """The parts of an index that run k-means, to seed."""
    inner = _inner(index)
    if hasattr(inner, "cp"):
        yield inner
    if hasattr(inner, "pq"):
        yield inner.pq


def _inner(index: Any) -> Any:
    """The index behind what transforms vectors (OPQ, PCA) or re-ranks results (RFlat)."""
    if isinstance(index, faiss.IndexPreTransform):
        return _inner(faiss.downcast_index(index.index))
    if isinstance(index, faiss.IndexRefine):
        return _inner(faiss.downcast_index(index.base_index))
    return index


def _lists(index: Any) -> Any | None:
    """The IVF within an index, on CPU or GPU, or None."""
    inner = _inner(index)
    return inner if hasattr(inner, "nprobe") else None
