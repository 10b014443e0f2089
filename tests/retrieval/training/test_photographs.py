"""Photographs kept while there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.training.photographs import Photographs
from tests.photographs import picture, write_photograph


def test_photographs_are_kept_up_to_the_cap(tmp_path: Path) -> None:
    paths = [write_photograph(tmp_path / f"{seed}.png", picture(seed)) for seed in range(3)]
    size = picture(0).nbytes
    read = Photographs([str(path) for path in paths], 128, 2 * size)
    first = [read.read(row) for row in range(3)]
    for path in paths:
        path.write_bytes(b"gone")
    assert read.read(0) is first[0]
    assert read.read(1) is first[1]
    with pytest.raises(Exception, match="not a photograph"):
        read.read(2)
