"""Tests that need a GPU: skipped, by name and with the reason, where torch or FAISS sees none.

They ask for as few packages as may be, so that they run on a machine that has little more than
torch and FAISS: nothing here imports kornia or timm without asking.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retrieval.vectors.gpu import gpu_problem


def missing() -> str | None:
    """Why these tests cannot run here."""
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return gpu_problem()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    problem = missing() if here else None
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if problem:
            item.add_marker(pytest.mark.skip(reason=problem))
