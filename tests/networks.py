"""Files of random parameters, for networks whose own are not at hand."""

from __future__ import annotations

from pathlib import Path

import torch
from kornia.feature import ALIKED


def random_aliked(path: Path, seed: int) -> Path:
    """Write parameters for ALIKED that find keypoints, if no good ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = ALIKED("aliked-n16rot").state_dict()
    torch.save({key: value for key, value in state.items() if key != "dkd.hw_grid"}, path)
    return path
