"""Who teaches, and who measures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrieval.errors import TrainingError
from retrieval.photographs.table import make_table
from retrieval.training.split import split


def table_of(counts: list[int], bank: int) -> pd.DataFrame:
    names = [f"L{code}" for code, count in enumerate(counts) for _ in range(count)]
    landmarks = [*names, *[None] * bank]
    ids = [f"p{place}" for place in range(len(landmarks))]
    return make_table(ids, ids, landmarks)


def test_a_share_of_every_landmark_measures_but_never_its_only_photograph() -> None:
    counts = [1, 2, 10, 40] + [3] * 100
    for seed in range(3):
        made = split(table_of(counts, 50), 0.1, 1.0, seed)
        held = np.bincount(made.codes[made.validation] + 1, minlength=105)
        # The landmarks' codes follow their ids, as text.
        by_name = dict(zip(made.landmarks, held[1:], strict=True))
        assert by_name["L0"] == 0
        assert (by_name["L2"], by_name["L3"], held[0]) == (1, 4, 5)
        # Of three photographs 0.3 are wanted: some landmarks give one, none gives two.
        small = [by_name[f"L{code}"] for code in range(4, 104)]
        assert set(small) == {0, 1}
        assert 15 < sum(small) < 45
        taught = np.bincount(made.codes[~made.validation] + 1, minlength=105)
        assert (taught > 0).all()
        assert (made.counts() == taught[1:]).all()


def test_a_subset_keeps_every_landmark() -> None:
    made = split(table_of([1, 50, 50, 3], 20), 0.2, 0.1, 0)
    assert np.bincount(made.codes + 1).tolist()[0] == 2
    assert set(made.codes) == {-1, 0, 1, 2, 3}
    assert (made.codes == 1).sum() == 5
    assert len(made.table) == len(made.codes)
    assert [made.landmarks[code] for code in made.codes if code >= 0] == (
        made.table["landmark"].dropna().tolist()
    )


def test_the_split_hangs_on_the_seed_alone() -> None:
    table = table_of([10, 10], 10)
    one, same, other = (split(table, 0.3, 1.0, seed).validation for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize(
    ("counts", "share", "message"),
    [([10], 0.1, "two landmarks"), ([1, 1, 1], 0.1, "two photographs"), ([2, 2], 1e-9, "is none")],
)
def test_what_cannot_be_split_is_refused(counts: list[int], share: float, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        split(table_of(counts, 3), share, 1.0, 0)
