"""What holds for every test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before torch and FAISS are loaded, and for every process that a test starts: what tests compute is
# so small that threads mostly wait for each other, seven times as long as one alone takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples every time, however slow the machine is.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture
def root_logger() -> Iterator[None]:
    """The command sets logging up; the next test finds it as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
