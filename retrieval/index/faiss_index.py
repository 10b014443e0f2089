"""Nearest neighbours by inner product, with FAISS: the only module that imports it.

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
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from pydantic import Field, ValidationError, field_validator

from retrieval.errors import ConfigError, RunError
from retrieval.index.blocks import Blocks, RowBlocks
from retrieval.index.exact_search import exact_search
from retrieval.index.faiss_rows import keep_rows, lets_rows_go
from retrieval.index.neighbours import Neighbours
from retrieval.storage.files import atomic_write, writing
from retrieval.storage.fingerprint import checksum
from retrieval.types import Flags, Integers, StrictModel, Vectors
from retrieval.vectors.checked import checked_rows
from retrieval.vectors.gpu import ROWS_PER_BLOCK, require_device, to_device

logger = logging.getLogger(__name__)
SMALL = 100_000
"""Rows up to which "auto" takes a flat index, and up to which a flat index is bit-stable."""
GPU_MOST_NEIGHBOURS = 2048
"""The most neighbours, and lists probed, that FAISS's GPU code can do."""
GPU_CODE_BYTES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
"""Bytes of a product-quantised code for which FAISS has GPU kernels."""
_TRAINING_ROWS_PER_CENTROID = 40  # FAISS warns below 39; autofaiss takes 31 to 100
_LEAST_SAMPLE = 10_000  # for the ranges of scalar quantisers and the axes of PCA
_LIMIT_CHECK_DIMENSION = 13_440  # a multiple of every code size above, to try a factory key on
MOST_LISTS = 2**22
"""Of an IVF index: FAISS makes each at once, though it has no rows."""
_HALVES = "SQfp16"
_INDEX_FILE = "index.faiss"
_SIDECAR_FILE = "index.json"
_one_on_gpu = threading.RLock()
"""One search at a time there, as FAISS keeps its resources outside the index."""


class IndexConfig(StrictModel):
    """Which index, and how it is searched.

    ``factory`` is a FAISS factory key or "auto" (see :func:`resolve_factory`); ``nprobe`` the
    lists that an IVF index visits for a query; ``batch`` the queries searched at a time.
    """

    factory: str = "Flat"
    nprobe: int = Field(default=32, ge=1, le=2**20)
    batch: int = Field(default=1024, ge=1, le=2**20)

    @field_validator("factory")
    @classmethod
    def _known_to_faiss(cls, factory: str) -> str:
        if factory == "auto":
            return factory
        try:
            _empty_index(factory, _LIMIT_CHECK_DIMENSION)
        except RunError:
            raise ValueError(
                f'"{factory}" is no FAISS factory key for inner products: '
                'try "Flat", "IVF4096,SQ8", "OPQ64_256,IVF4096,PQ64" or "auto"'
            ) from None
        return factory


class _Sidecar(StrictModel):
    """What index.json says of the file beside it."""

    format: int
    faiss: str
    factory: str
    metric: str
    count: int
    dimension: int
    fingerprint: str
    checksum: str
    config: IndexConfig


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
        check_limits(config, k=1, device=device)
        blocks = RowBlocks(descriptors)
        dimension = blocks.dimension()
        factory = config.factory
        if factory == "auto":
            factory = resolve_factory(factory, blocks.count())
        index = to_device(_empty_index(factory, dimension), device)
        if not index.is_trained:
            _train(index, factory, blocks, seed)
        _reserve(index, blocks.count())
        for start, block in blocks.blocks():
            index.add(checked_rows(block, dimension, start))
        return cls(index, config, factory, device)

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
        index = self._on_cpu()
        try:
            return int(index.sa_code_size())
        except RuntimeError:
            return len(faiss.serialize_index(index)) // max(len(self), 1)

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

    def save(self, folder: Path, fingerprint: str | Callable[[], str] = "") -> str:
        """Write ``index.faiss`` and, last, ``index.json`` with its checksum, each atomically.

        An index on the GPU is copied to the CPU first, since FAISS writes no other.
        ``fingerprint`` is kept for :meth:`load` to compare; a function is asked for it once the
        index is written. Returns the checksum.
        """
        index = self._on_cpu()

        def write(stream: Any) -> None:
            faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))

        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / _INDEX_FILE, write)
        told = checksum(folder / _INDEX_FILE)
        sidecar = _Sidecar(
            format=1,
            faiss=faiss.__version__,
            factory=self.factory,
            metric="inner product",
            count=len(self),
            dimension=self.dimension,
            fingerprint=fingerprint() if callable(fingerprint) else fingerprint,
            checksum=told,
            config=self.config,
        )
        text = sidecar.model_dump_json(indent=2) + "\n"
        atomic_write(folder / _SIDECAR_FILE, text.encode())
        return told

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", fingerprint: str | None = None) -> FaissIndex:
        """Open what :meth:`save` wrote, memory-mapped on the CPU, copied to the GPU on "cuda".

        Raises RunError where there is no index, it is damaged, it was written by a FAISS that this
        one cannot read, or ``fingerprint`` is given and differs; DeviceError without a GPU.
        """
        require_device(device)
        sidecar = _read_sidecar(folder)
        path = folder / _INDEX_FILE
        if fingerprint is not None and fingerprint != sidecar.fingerprint:
            raise RunError(f"{path}: made from other inputs; run `landmarks index` again")
        if not path.is_file() or checksum(path) != sidecar.checksum:
            raise RunError(f"{path}: missing or damaged; run `landmarks index` again")
        check_limits(sidecar.config, k=1, device=device)
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            logger.debug("FAISS on %s: %s", path, error)
            raise RunError(
                f"{path}: FAISS {faiss.__version__} cannot read what FAISS {sidecar.faiss} wrote; "
                "run `landmarks index` again"
            ) from error
        if (index.ntotal, index.d) != (sidecar.count, sidecar.dimension):
            raise RunError(f"{folder / _SIDECAR_FILE}: belongs to another index.faiss")
        return cls(to_device(index, device), sidecar.config, sidecar.factory, device)

    @classmethod
    def updated(cls, folder: Path, left: Flags, new: Blocks) -> FaissIndex:
        """What :meth:`save` wrote, without the rows that are not ``left`` and with ``new`` ones
        after the rest; codebooks, and an IVF's lists, stay those that it was trained for.

        It is the index that one trained so becomes when it is given these rows. The file stays as
        it is, and is read into memory.

        Args:
            folder: of the index.
            left: (n,) which of its rows stay, in their order.
            new: (m, d) rows, or blocks of them.

        Raises:
            RunError: as :meth:`load`, or a row is not finite.
            ConfigError: this kind of index lets no row go: a graph, say.
        """
        before = cls.load(folder)
        index = faiss.read_index(str(folder / _INDEX_FILE))
        if not left.all():
            if not lets_rows_go(index):
                raise ConfigError(f'index "{before.factory}": no row can be taken out of it')
            keep_rows(index, left)
        for start, block in RowBlocks(new).blocks():
            index.add(checked_rows(block, before.dimension, start))
        return cls(index, before.config, before.factory, "cpu")

    @staticmethod
    def remove(folder: Path) -> None:
        """Take away what :meth:`save` wrote, if anything."""
        for name in (_SIDECAR_FILE, _INDEX_FILE):
            with writing(folder / name):
                (folder / name).unlink(missing_ok=True)

    def _on_cpu(self) -> Any:
        """The index as FAISS has it on the CPU: a copy, where it is on the GPU."""
        if self.device == "cpu":
            return self.index
        if self.factory != _HALVES:
            return faiss.index_gpu_to_cpu(self.index)
        index = _empty_index(_HALVES, self.dimension)
        for start in range(0, len(self), ROWS_PER_BLOCK):
            rows = min(ROWS_PER_BLOCK, len(self) - start)
            index.add(self.index.reconstruct_n(start, rows))
        return index

    def _search_batch(self, batch: Vectors, k: int) -> tuple[Vectors, Integers]:
        lists = _lists(self.index)
        if lists is not None:
            lists.nprobe = min(self.config.nprobe, int(lists.nlist))
        if self.device == "cuda":
            with _one_on_gpu:
                similarities, rows = self.index.search(batch, k)
        elif self.factory == "Flat" and len(self) <= SMALL:
            similarities, rows = exact_search(self.index, batch, k)
        else:
            similarities, rows = self.index.search(batch, k)
        similarities[rows < 0] = -np.inf
        order = np.lexsort((rows, -similarities))
        return np.take_along_axis(similarities, order, 1), np.take_along_axis(rows, order, 1)


def resolve_factory(factory: str, rows: int) -> str:
    """The factory key that "auto" stands for with this many rows; any other key stays.

    Flat up to :data:`SMALL` rows, where search is exact and quick enough on a laptop. Above, an
    IVF of uncompressed rows.
    """
    if factory != "auto":
        return factory
    return "Flat" if rows <= SMALL else f"IVF{lists_of(rows)},Flat"


def lists_of(rows: int) -> int:
    """How many lists an IVF of so many rows has: as many as autofaiss takes.

    The power of 2 nearest to 4 √n, 65,536 from ten million rows on and 131,072 from 300 million on.
    (autofaiss goes to 16,384 at a million already, which is four times the training for two cores;
    here that number is reached at eight million.)
    """
    if rows < 10_000_000:
        return int(2 ** round(np.log2(4 * np.sqrt(rows))))
    return 65_536 if rows < 300_000_000 else 131_072


def training_rows(centroids: int) -> int:
    """How many rows so many centroids are trained on, where there are as many."""
    return max(_TRAINING_ROWS_PER_CENTROID * centroids, _LEAST_SAMPLE)


def check_limits(config: IndexConfig, k: int, device: str) -> None:
    """Raise ConfigError where ``device`` cannot do what the config and ``k`` ask of it.

    Needs no GPU, so that a config meant for one is judged when it is read.
    """
    if k < 1:
        raise ConfigError(f"k is {k}: ask for at least one neighbour")
    if device != "cuda":
        return
    for name, value in (("k", k), ("nprobe", config.nprobe)):
        if value > GPU_MOST_NEIGHBOURS:
            raise ConfigError(
                f"{name} is {value}, and FAISS on a GPU does at most {GPU_MOST_NEIGHBOURS}: "
                "lower it, or use --device cpu"
            )
    for size, bits in re.findall(r"(?<!O)PQ(\d+)(?:x(\d+))?", config.factory):
        if int(size) not in GPU_CODE_BYTES or bits not in ("", "8"):
            raise ConfigError(
                f'index "{config.factory}": FAISS on a GPU does codes of 8 bits and of '
                f"{', '.join(map(str, GPU_CODE_BYTES))} bytes: choose one, or use --device cpu"
            )


def _empty_index(factory: str, dimension: int) -> Any:
    """An untrained index by inner product; RunError where FAISS cannot make one."""
    try:
        lists = [int(one) for one in re.findall(r"IVF(\d{1,20})", factory)]
        if not all(1 <= one <= MOST_LISTS for one in lists):
            raise RuntimeError("an IVF index of no lists, or of more than could be trained")
        return faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        logger.debug("FAISS on %s: %s", factory, error)
        raise RunError(
            f'FAISS makes no "{factory}" index of {dimension} dimensions: '
            "choose a key whose code size divides them"
        ) from error


def _train(index: Any, factory: str, blocks: RowBlocks, seed: int) -> None:
    centroids = max(_centroids(factory), default=1)
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


def _reserve(index: Any, rows: int) -> None:
    """Make room for the rows of a flat index at once.

    Grown block by block, its one array would be copied to twice the room again and again, and
    peak at twice the memory.
    """
    if isinstance(index, faiss.IndexFlatCodes):
        index.codes.resize(rows * int(index.code_size))
        index.codes.resize(0)  # which keeps the room


def can_shrink(factory: str) -> bool:
    """Whether rows can be taken out of an index that was built by this key."""
    return lets_rows_go(_empty_index(factory, _LIMIT_CHECK_DIMENSION))


def _centroids(factory: str) -> list[int]:
    """The sizes of the k-means that a factory key asks for: lists of an IVF, words of a PQ."""
    lists = [int(number) for number in re.findall(r"IVF(\d+)", factory)]
    words = [2 ** int(bits or 8) for bits in re.findall(r"PQ\d+(?:x(\d+))?", factory)]
    return lists + words


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


def _read_sidecar(folder: Path) -> _Sidecar:
    path = folder / _SIDECAR_FILE
    try:
        return _Sidecar.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} is missing: build the index first (landmarks index)") from None
    except (OSError, ValidationError) as error:
        logger.debug("%s: %s", path, error)
        raise RunError(f"{path}: damaged; run `landmarks index` again") from error
