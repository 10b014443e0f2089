"""Which classifier answers: chosen on held-out gallery photographs and the bank, never on a test.

Held-out figures are for comparing classifiers of one run. How they relate to figures on new
photographs depends on the gallery: wrong labels in it make them lower, near-duplicates in it
(several photographs from one visit) make them higher.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from retrieval.classifiers.base import HeldOut
from retrieval.evaluation.metrics import Truth, global_average_precision


def held_out_gap(held_out: HeldOut) -> float:
    """GAP over held-out gallery photographs, with the held-out bank as distractors."""
    predicted = np.concatenate([held_out.gallery.best, held_out.bank.best])
    confidence = np.concatenate([held_out.gallery.confidence, held_out.bank.confidence])
    truth = np.concatenate([held_out.truth, np.full(len(held_out.bank_rows), -1)])
    ids = [f"{place:012d}" for place in range(len(truth))]
    return global_average_precision(ids, predicted, confidence, Truth.of_codes(truth))


def choose_answer(held_out: Mapping[str, HeldOut]) -> str:
    """The name of the classifier with the highest GAP on what all of them held out.

    Equal ones go to the first in the mapping.
    """
    rows = functools.reduce(np.intersect1d, [one.rows for one in held_out.values()])
    bank_rows = functools.reduce(np.intersect1d, [one.bank_rows for one in held_out.values()])

    def gap(name: str) -> float:
        one = held_out[name]
        return held_out_gap(one.at(np.isin(one.rows, rows), np.isin(one.bank_rows, bank_rows)))

    return max(held_out, key=gap)
