"""What holds for every test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two machines of a Ray cluster, simulated."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    # All of it on loopback: Ray takes the machine's outer address in place of it otherwise.
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    # Actors run the code that is tested, wherever it is installed.
    here = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, here)))
    head = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    one = Cluster(initialize_head=True, head_node_args=head)
    one.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    yield one
    one.shutdown()
