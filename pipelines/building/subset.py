"""A share of a data set, of every landmark alike: to try a system before all of it is built."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from retrieval.errors import ConfigError
from retrieval.photographs.table import DataSet
from retrieval.training.split import drawn


def subset_of(data: DataSet, share: float | None, seed: int) -> DataSet:
    """Draw a share of each landmark's photographs, and of those of none.

    Training draws the same ones by the same seed (:func:`retrieval.training.split.split`).

    Args:
        data: the photographs.
        share: above 0, at most 1; ``None`` is all of them. Each landmark keeps one photograph.
        seed: of the draw.

    Raises:
        ConfigError: it is no such share.
    """
    if share is None:
        return data
    if not 0 < share <= 1:
        raise ConfigError(f"--subset {share:g}: give a share above 0, at most 1, such as 0.1")
    landmarks = data.photographs["landmark"]
    codes = pd.Categorical(landmarks, categories=sorted(landmarks.dropna().unique())).codes
    taken = drawn(codes.astype(np.int64), share, np.random.default_rng(seed), leave=0, least=1)
    many = len(data.gallery)
    return dataclasses.replace(
        data,
        gallery=data.gallery[taken[:many]].reset_index(drop=True),
        bank=data.bank[taken[many:]].reset_index(drop=True),
    )
