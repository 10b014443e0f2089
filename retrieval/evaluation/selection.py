"""Which classifier answers: chosen on held-out gallery photographs and the bank, never on a test.

Held-out figures are for comparing classifiers of one run. How they relate to figures on new
photographs depends on the gallery: wrong labels in it make them lower, near-duplicates in it
(several photographs from one visit) make them higher.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from retrieval.classifiers.base import HeldOut
from retrieval.evaluation.metrics import Truth, global_average_precision
from retrieval.types import Integers


def held_out_gap(held_out: HeldOut) -> float:
    """GAP over held-out gallery photographs, with the held-out bank as distractors."""
    return _gap(held_out, held_out.rows, held_out.bank_rows)


def choose_answer(held_out: Mapping[str, HeldOut]) -> str:
    """The name of the classifier with the highest GAP on what all of them held out.

    Equal ones go to the first in the mapping.
    """
    rows, bank_rows = (
        _common([one.rows for one in held_out.values()]),
        _common([one.bank_rows for one in held_out.values()]),
    )
    gaps = {name: _gap(one, rows, bank_rows) for name, one in held_out.items()}
    return max(gaps, key=lambda name: gaps[name])


def _common(rows: list[Integers]) -> Integers:
    shared = rows[0]
    for other in rows[1:]:
        shared = np.intersect1d(shared, other)
    return shared


def _gap(held_out: HeldOut, rows: Integers, bank_rows: Integers) -> float:
    known, other = np.isin(held_out.rows, rows), np.isin(held_out.bank_rows, bank_rows)
    predicted = np.concatenate([held_out.gallery.best[known], held_out.bank.best[other]])
    confidence = np.concatenate(
        [held_out.gallery.confidence[known], held_out.bank.confidence[other]]
    )
    truth = np.concatenate([held_out.truth[known], np.full(int(other.sum()), -1)])
    ids = [f"{place:012d}" for place in range(len(truth))]
    return global_average_precision(ids, predicted, confidence, Truth.of_codes(truth))
