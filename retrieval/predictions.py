"""What the columns of predictions are called, and which of them hold numbers."""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ANSWER: Final = ("id", "landmark", "name", "probability", "status", "reason")
"""Whatever holds predictions has these first; merged ones (``landmarks vote``) have no more."""
CANDIDATE: Final = ("candidate", "candidate_name", "confidence")
NEAREST: Final = ("nearest", "similarity")
SCORE: Final = re.compile(r"(score|similarity)_\d+")
STATUS: Final = ANSWER.index("status")
REASON: Final = ANSWER.index("reason")


def prediction_columns(top: int = 0, near: int = 1) -> tuple[str, ...]:
    """The columns, in order.

    Args:
        top: how many candidates are told with their scores, in ``candidate_1, score_1, …``.
        near: how many gallery photographs are told; those behind the nearest one are
            ``nearest_2, similarity_2, …``.
    """
    candidates = (f"{name}_{i}" for i in range(1, top + 1) for name in ("candidate", "score"))
    further = (f"{name}_{i}" for i in range(2, near + 1) for name in NEAREST)
    return (*ANSWER, *CANDIDATE, *NEAREST, *further, *candidates)


def is_number(column: str) -> bool:
    """Whether a column's cells are numbers, or empty."""
    return column in ("probability", "confidence", "similarity") or bool(SCORE.fullmatch(column))


def blank_predictions(rows: int, top: int = 0, near: int = 1) -> dict[str, NDArray[Any]]:
    """:func:`prediction_columns` of so many rows: NaN where cells are numbers, else empty."""
    return {
        name: np.full(rows, np.nan) if is_number(name) else np.full(rows, "", object)
        for name in prediction_columns(top, near)
    }
