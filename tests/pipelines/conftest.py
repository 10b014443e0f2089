"""What tests of runs and of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.photographs import write_data_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 gallery photographs of six landmarks, eight of none; each module's own."""
    return write_data_set(tmp_path_factory.mktemp("data"))
