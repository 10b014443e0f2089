"""Which photographs an epoch consists of, in which order, and how processes share them."""

from __future__ import annotations

import numpy as np

from retrieval.training.config import SamplingConfig
from retrieval.types import Integers


def epoch_batches(codes: Integers, config: SamplingConfig, batch: int, seed: int) -> Integers:
    """The batches of one epoch.

    Every landmark is drawn as often as the temperature says, a fraction of a draw by chance, and
    its photographs take turns. The last batch is filled up from the start, so that all are whole.

    Args:
        codes: (n,) landmark of every photograph, -1 for the bank.
        config: temperature and the bank's share.
        batch: photographs in one.
        seed: of this epoch.

    Returns:
        (batches, batch) int64 positions in ``codes``.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    owners, starts, counts = np.unique(codes[order], return_index=True, return_counts=True)
    weights = np.where(owners < 0, 0.0, counts**config.temperature)
    landmark_rows, bank_rows = counts[owners >= 0].sum(), counts[owners < 0].sum()
    if config.bank is not None and bank_rows and landmark_rows:
        bank_rows = round(landmark_rows * config.bank / (1.0 - config.bank))
    expected = weights / max(weights.sum(), 1e-12) * landmark_rows
    expected[owners < 0] = bank_rows
    # One shift for all: the sum is kept, and each is rounded up as often as its fraction says.
    bounds = np.floor(np.cumsum(expected) + rng.uniform(1e-6, 1 - 1e-6)).astype(np.int64)
    draws = np.diff(bounds, prepend=0)
    owner = np.repeat(np.arange(len(owners)), draws)
    turn = np.arange(draws.sum()) - np.repeat(np.cumsum(draws) - draws, draws)
    drawn = rng.permutation(order[starts[owner] + turn % counts[owner]])
    return np.resize(drawn, (-(-len(drawn) // batch), batch))


def own_part(batch: Integers, rank: int, processes: int) -> Integers:
    """What one of several processes takes of a batch; together they have all of it."""
    return batch[rank::processes]


def sampled_classes(targets: Integers, classes: int, sampled: int | None, seed: int) -> Integers:
    """(c,) ascending: the batch's own classes and random others, ``sampled`` in all.

    Partial FC (An et al., ICCVW 2021), whose authors find a tenth of the classes to do.
    """
    own = np.unique(targets[targets >= 0])
    if sampled is None or sampled >= classes:
        return np.arange(classes)
    others = np.setdiff1d(np.random.default_rng(seed).permutation(classes)[:sampled], own)
    more = np.random.default_rng(seed).permutation(others)[: max(sampled - len(own), 0)]
    return np.sort(np.concatenate([own, more]))
