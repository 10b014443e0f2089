"""FAISS's factory keys: how an index is named, what that makes, and what each device can do."""

from __future__ import annotations

import logging
import re
from typing import Any

import faiss
import numpy as np
from pydantic import Field, field_validator

from retrieval.errors import ConfigError, RunError
from retrieval.index.faiss_rows import lets_rows_go
from retrieval.types import StrictModel

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
HALVES = "SQfp16"


class IndexConfig(StrictModel):
    """Which index, and how it is searched.

    ``factory`` is a FAISS factory key or "auto" (see :func:`resolve_factory`); ``nprobe`` the
    lists that an IVF index visits for a query; ``batch`` the queries searched at a time. With
    ``shard`` a larger gallery is divided into files of so many rows, of one training, of which one
    is in memory while they are written; GPUs are dealt them in turn.
    """

    factory: str = "Flat"
    nprobe: int = Field(default=32, ge=1, le=2**20)
    batch: int = Field(default=1024, ge=1, le=2**20)
    shard: int | None = Field(default=None, ge=1, le=2**31 - 1)

    @field_validator("factory")
    @classmethod
    def _known_to_faiss(cls, factory: str) -> str:
        if factory == "auto":
            return factory
        try:
            empty_index(factory, _LIMIT_CHECK_DIMENSION)
        except RunError:
            raise ValueError(
                f'"{factory}" is no FAISS factory key for inner products: '
                'try "Flat", "IVF4096,SQ8", "OPQ64_256,IVF4096,PQ64" or "auto"'
            ) from None
        return factory


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


def empty_index(factory: str, dimension: int) -> Any:
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


def can_shrink(factory: str) -> bool:
    """Whether rows can be taken out of an index that was built by this key."""
    return lets_rows_go(empty_index(factory, _LIMIT_CHECK_DIMENSION))


def centroids_of(factory: str) -> list[int]:
    """The sizes of the k-means that a factory key asks for: lists of an IVF, words of a PQ."""
    lists = [int(number) for number in re.findall(r"IVF(\d+)", factory)]
    words = [2 ** int(bits or 8) for bits in re.findall(r"PQ\d+(?:x(\d+))?", factory)]
    return lists + words
