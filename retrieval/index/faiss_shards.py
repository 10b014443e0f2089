"""Shards of an index: as many of FAISS's indices, of one training, with a range of the rows each.

They are searched as one, and the nearest of all are the nearest (scatter and gather).
A row's number is its place in its shard, after the rows of the shards before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import faiss

from retrieval.index.blocks import RowBlocks
from retrieval.vectors.checked import checked_rows


def joined(shards: Sequence[Any], device: str) -> Any:
    """The one index that they make, all of them on the CPU, or dealt out to GPUs in turn."""
    first = shards[0]
    if len(shards) == 1:
        return first
    # On the CPU each has all cores. Those of one GPU share resources that two threads may not use.
    threaded = device != "cpu" and len(shards) <= faiss.get_num_gpus()
    if device == "cpu" and isinstance(first, faiss.IndexIVF):
        # A query is compared with the lists' centres once for all of them.
        index = faiss.IndexShardsIVF(first.quantizer, first.nlist, threaded, True)
    else:
        index = faiss.IndexShards(first.d, threaded, True)
    for shard in shards:  # whose rows follow on
        index.add_shard(shard)
    return index


def shards_of(index: Any) -> list[Any]:
    """What an index was joined of: itself, where it is not divided."""
    if not isinstance(index, faiss.IndexShards | faiss.IndexShardsIVF):
        return [index]
    return [faiss.downcast_index(index.at(number)) for number in range(index.count())]


def filled(
    blocks: RowBlocks, size: int | None, empty: Callable[[int], Any], dimension: int
) -> Iterator[Any]:
    """Fill shards with rows, one after the other.

    Args:
        blocks: of the rows.
        size: rows of a shard; ``None`` for all in one.
        empty: makes the shard of a number, trained and without rows.
        dimension: of a row.
    """
    count = blocks.count()
    shard = empty(0)
    _reserve(shard, min(size or count, count))
    for start, block in blocks.blocks(size):
        if size is not None and start and start % size == 0:
            yield shard
            shard = empty(start // size)
            _reserve(shard, min(size, count - start))
        shard.add(checked_rows(block, dimension, start))
    yield shard


def added(last: Any, blocks: Iterable[tuple[int, Any]], size: int | None) -> Iterator[Any]:
    """The last shard with rows added until it is full, and further ones; each is the same object,
    to be done with before the next is asked for.

    Args:
        last: in memory; of at most ``size`` rows.
        blocks: rows, with the position that errors name.
        size: rows of a shard; ``None`` for all in one.
    """
    for start, block in blocks:
        done = 0
        while done < len(block):
            if size is not None and last.ntotal >= size:
                yield last
                last.reset()  # which keeps what was trained
            room = len(block) if size is None else size - last.ntotal
            rows = block[done : done + room]
            last.add(checked_rows(rows, last.d, start + done))
            done += len(rows)
    yield last


def _reserve(index: Any, rows: int) -> None:
    """Make room for the rows of a flat index at once.

    Grown block by block, its one array would be copied to twice the room again and again, and
    peak at twice the memory.
    """
    if isinstance(index, faiss.IndexFlatCodes):
        index.codes.resize(rows * int(index.code_size))
        index.codes.resize(0)  # which keeps the room
