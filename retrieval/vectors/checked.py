"""Rows that can be searched."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import RunError


def checked_rows(rows: NDArray[np.float32], dimension: int, first: int) -> NDArray[np.float32]:
    """Rows as FAISS takes them; refused unless (n, dimension) and finite."""
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise RunError(
            f"descriptors of shape {rows.shape} do not fit an index of {dimension} dimensions: "
            "they come from another extractor or whitening"
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise RunError(
            f"descriptor {first + int(np.argmin(finite))} (counted from 0) is not finite: "
            "describe that photograph again"
        )
    return np.ascontiguousarray(rows, dtype=np.float32)
