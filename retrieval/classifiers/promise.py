"""What thresholds can promise that rest on a data set of this size and variety."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

RENDERED: Final = "rendered"
"""The source of scenes that ``landmarks data bank`` makes. Real photographs are not like them: on
small collections several times as many of those were accepted as the scenes let expect."""
NAMED: Final = 3
"""Sources that are named."""


def promise_of(bank: int, origins: Sequence[str], photographs: NDArray[np.int64]) -> str:
    """One line on what can be promised, and on what nothing is known of.

    Args:
        bank: photographs of no landmark.
        origins: where each of them comes from; empty, or of empty ones, where that is unknown.
        photographs: (l,) how many each landmark has in the gallery.
    """
    rendered = sum(one == RENDERED for one in origins)
    real = [one for one in origins if one != RENDERED]
    return _of_bank(bank - rendered, real) + _of_rendered(rendered) + _of_singles(photographs)


def least_false_accepts(bank: int) -> float:
    """The least share of false accepts that so many held-out photographs of none can promise
    (see :func:`retrieval.classifiers.thresholds.bounded_threshold`, with none of them accepted)."""
    return 1.0 / (bank + 1)


def _of_bank(bank: int, origins: Sequence[str]) -> str:
    if not bank:
        return (
            "no real photographs of none (none.csv, or a folder none): no share of false accepts"
            " can be promised, and too much will be accepted; gather some of the kind that will be"
            " asked, or make do with rendered ones, landmarks data bank"
        )
    least = least_false_accepts(bank)
    many = f"{bank:,} photograph{'' if bank == 1 else 's'} of none"
    return (
        f"{many} {_variety(origins)}: false accepts can be promised down to {100 * least:.2g} %"
        " on photographs like them, and no lower; photographs of other kinds may be accepted more"
        " often"
    )


def _of_rendered(rendered: int) -> str:
    if not rendered:
        return ""
    return (
        f"; {rendered:,} rendered one{'' if rendered == 1 else 's'}, which real photographs are not"
        " like: several times as many of those are accepted as rendered ones let expect"
    )


def _variety(origins: Sequence[str]) -> str:
    names = sorted({one for one in origins if one})
    if not names:
        return "of untold sources (no column source), so that their variety is unknown"
    if len(names) == 1:
        return f"of one source ({names[0]}), so that what other sources would add is unknown"
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"from {len(names):,} sources ({', '.join(names[:NAMED])}{more})"


def _of_singles(photographs: NDArray[np.int64]) -> str:
    single = int((photographs == 1).sum())
    if not single:
        return ""
    if single == len(photographs):
        return (
            "; no landmark has two photographs, so that no answer can be tried: how many are right"
            " cannot be promised"
        )
    have = "has" if single == 1 else "have"
    return (
        f"; {single:,} of {len(photographs):,} landmarks {have} one photograph alone, on which no"
        " threshold is tried"
    )
