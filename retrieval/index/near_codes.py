"""Binary codes that differ in few bits, found by FAISS."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_CODES = 2048  # searched at a time for codes like them


def groups_within(codes: NDArray[np.uint8], differing: int) -> NDArray[np.int64]:
    """Group codes that differ in few bits; memory does not grow with how many are alike.

    By multi-index hashing (Norouzi, Punjani and Fleet, CVPR 2012): codes that differ in fewer
    bits than there are blocks of 16 agree in one of the blocks, so every pair is found.

    Args:
        codes: (n, bytes) an even number of bytes each.
        differing: the bits in which two of a group may differ, fewer than there are blocks.

    Returns:
        (n,) a number for each code, the same for those that a chain of such pairs joins.
    """
    blocks = codes.shape[1] // 2
    if differing >= blocks:
        raise ValueError(f"{differing} bits: fewer than {blocks} are found for sure")
    # Equal codes join first: a thousand of them would find a million pairs.
    distinct, place = np.unique(codes, axis=0, return_inverse=True)
    # Neighbouring bits tend to agree, and a block of them would tell few codes apart.
    order = np.random.default_rng(0).permutation(8 * codes.shape[1])
    distinct = np.packbits(np.unpackbits(distinct, axis=1)[:, order], axis=1)
    index = faiss.IndexBinaryMultiHash(8 * codes.shape[1], blocks, 16)
    index.add(distinct)
    group = np.arange(len(distinct))
    for start in range(0, len(distinct), _CODES):
        asked = distinct[start : start + _CODES]
        limits, _, found = index.range_search(asked, differing + 1)  # FAISS takes less
        of = np.repeat(np.arange(start, start + len(asked)), np.diff(limits.astype(np.int64)))
        # What is joined so far (each code and the first of its group), and what this block joins.
        first = np.unique(group, return_index=True)[1][group]
        ends = np.concatenate([np.arange(len(distinct)), of]), np.concatenate([first, found])
        edges = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(len(distinct),) * 2)
        group = connected_components(edges, directed=False)[1]
    joined: NDArray[np.int64] = group[place.reshape(-1)].astype(np.int64)
    return joined
