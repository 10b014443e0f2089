"""Training and validation, stratified by landmark; a landmark's only photograph is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrieval.errors import TrainingError
from retrieval.types import Flags, Integers


@dataclass(frozen=True)
class Collection:
    """Photographs to train on.

    Attributes:
        table: ``id``, ``source``, ``landmark``; one without a landmark is of the bank.
        landmarks: ids, ascending; a landmark's place is its code.
        codes: (n,) int64, -1 for the bank.
        validation: (n,) bool.
    """

    table: pd.DataFrame
    landmarks: list[str]
    codes: Integers
    validation: Flags

    @property
    def bank(self) -> bool:
        return bool((self.codes < 0).any())

    def rows(self, validation: bool) -> Integers:
        return np.flatnonzero(self.validation == validation)

    def counts(self) -> Integers:
        """(l,) training photographs of each landmark."""
        training = self.codes[~self.validation]
        return np.bincount(training[training >= 0], minlength=len(self.landmarks))


def split(table: pd.DataFrame, validation: float, subset: float, seed: int) -> Collection:
    """Take a share of every landmark (and of the bank), and set a share of that aside.

    Args:
        table: the photographs.
        validation: share of the validation part. A landmark's only photograph is trained on.
        subset: share taken; every landmark keeps one photograph.
        seed: of the draw.

    Raises:
        TrainingError: fewer than two landmarks, or nothing to measure with.
    """
    rng = np.random.default_rng(seed)
    landmarks = sorted(table["landmark"].dropna().unique())
    codes = pd.Categorical(table["landmark"], categories=landmarks).codes.astype(np.int64)
    if len(landmarks) < 2:
        raise TrainingError(f"training needs two landmarks, the gallery has {len(landmarks)}")
    taken = np.flatnonzero(drawn(codes, subset, rng, leave=0, least=1))
    codes = codes[taken]
    held = drawn(codes, validation, rng, leave=1, least=0)
    if not (held & (codes >= 0)).any():
        raise TrainingError(
            "no landmark has two photographs: nothing is left to validate on"
            if np.bincount(codes[codes >= 0]).max() < 2
            else f"training.validation: {validation:g} of {len(codes)} photographs is none"
        )
    return Collection(table.iloc[taken].reset_index(drop=True), landmarks, codes, held)


def drawn(codes: Integers, share: float, rng: np.random.Generator, leave: int, least: int) -> Flags:
    """A share of each code's rows, the fraction of a row by chance.

    Args:
        codes: (n,) of landmarks.
        share: of each one's rows.
        rng: draws them.
        leave: rows of each that are not drawn, at least.
        least: rows of each that are drawn, where there are so many.

    Returns:
        (n,) whether each is drawn.
    """
    chosen = np.zeros(len(codes), np.bool_)
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    starts = np.flatnonzero(np.diff(codes[order], prepend=-2))
    for rows in np.split(order, starts[1:]):
        count = int(len(rows) * share + rng.random())
        chosen[rows[: max(min(count, len(rows) - leave), min(least, len(rows)))]] = True
    return chosen
