"""Rows taken out of a FAISS index in memory, those that stay numbered anew in their order."""

from __future__ import annotations

from typing import Any, Final

import faiss
import numpy as np

from retrieval.types import Flags

FLAT: Final = (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexScalarQuantizer, faiss.IndexPQ)
"""Kinds that hold the rows' codes one after the other."""


def lets_rows_go(index: Any) -> bool:
    """Whether :func:`keep_rows` can do it: not of graphs, of codes that are packed together, nor of
    rows that are kept twice."""
    inner = _behind_transforms(index)
    if isinstance(inner, faiss.IndexIVF):
        return not isinstance(inner, faiss.IndexIVFFastScan)
    return type(inner) in FLAT


def keep_rows(index: Any, left: Flags) -> None:
    """Leave the rows of an index that are (n,) left."""
    inner, count = _behind_transforms(index), int(left.sum())
    if isinstance(inner, faiss.IndexIVF):
        _keep_in_lists(inner, left)
    else:
        codes = faiss.rev_swig_ptr(inner.codes.data(), inner.codes.size()).reshape(len(left), -1)
        codes[:count] = codes[left]
        inner.codes.resize(count * int(inner.code_size))
    inner.ntotal = index.ntotal = count


def _keep_in_lists(index: Any, left: Flags) -> None:
    lists, numbers = index.invlists, np.cumsum(left) - 1
    for one in range(int(index.nlist)):
        size = int(lists.list_size(one))
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(one), size)
            codes = faiss.rev_swig_ptr(lists.get_codes(one), size * int(lists.code_size))
            stay = left[ids]
            count = int(stay.sum())
            ids[:count] = numbers[ids[stay]]
            codes = codes.reshape(size, -1)
            codes[:count] = codes[stay]
            lists.resize(one, count)


def _behind_transforms(index: Any) -> Any:
    while isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return index
