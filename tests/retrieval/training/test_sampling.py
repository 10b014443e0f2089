"""Who is drawn how often, and who takes which part of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.training.config import SamplingConfig
from retrieval.training.sampling import epoch_batches, own_part, sampled_classes

CODES = np.repeat([-1, 0, 1, 2], [40, 5, 50, 145])


def drawn(temperature: float, bank: float | None = None, seed: int = 0) -> np.ndarray:
    """(4,) draws of each code over an epoch; rows of a landmark take turns."""
    config = SamplingConfig(temperature=temperature, bank=bank)
    batches = epoch_batches(CODES, config, 1, seed)
    times = np.bincount(batches[:, 0], minlength=len(CODES))
    for code in range(-1, 3):
        assert np.ptp(times[code == CODES]) <= 1
    return np.bincount(CODES[batches[:, 0]] + 1, minlength=4)


def test_at_temperature_one_every_photograph_is_drawn_once() -> None:
    for seed in range(5):
        batches = epoch_batches(CODES, SamplingConfig(), 32, seed)
        assert batches.shape == (8, 32)
        assert (np.bincount(batches.ravel()[:240], minlength=240) == 1).all()


@pytest.mark.parametrize(
    ("temperature", "shares"), [(0.0, [1 / 3] * 3), (0.5, [0.105, 0.331, 0.564])]
)
def test_rare_landmarks_are_drawn_more_often(temperature: float, shares: list[float]) -> None:
    found = drawn(temperature)
    assert found[0] == 40
    assert found[1:].sum() == 200
    np.testing.assert_allclose(found[1:], 200 * np.array(shares), atol=1.1)
    # A fraction of a draw is left to chance.
    assert len({tuple(drawn(temperature, seed=seed)) for seed in range(20)}) > 1


def test_the_bank_s_share() -> None:
    assert drawn(1.0, bank=0.5)[0] == 200
    assert drawn(1.0, bank=0.0)[0] == 0


def test_processes_share_a_batch() -> None:
    batch = np.arange(32)
    parts = [own_part(batch, rank, 4) for rank in range(4)]
    assert {len(part) for part in parts} == {8}
    assert sorted(np.concatenate(parts)) == list(range(32))


def test_sampled_classes_hold_the_batch_s_own() -> None:
    targets = np.array([7, 900, 7, -1, 42])
    for seed in range(5):
        classes = sampled_classes(targets, 1000, 50, seed)
        assert len(classes) == 50
        assert (np.diff(classes) > 0).all()
        assert {7, 42, 900} <= set(classes)
    assert len({tuple(sampled_classes(targets, 1000, 50, seed)) for seed in range(5)}) == 5
    assert sampled_classes(targets, 1000, 2, 0).tolist() == [7, 42, 900]
    assert sampled_classes(targets, 30, None, 0).tolist() == list(range(30))
