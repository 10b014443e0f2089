"""Milvus servers on loopback, for the tests that need one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LITE = shutil.which("milvus-lite", path=str(Path(sys.executable).parent)) or shutil.which(
    "milvus-lite"
)
"""A server that starts in a moment, and searches exactly whatever index it is asked for."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def lite_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server of what lies in the folder, until the end or until it is killed."""
    assert LITE is not None
    command = [LITE, "server", "--host", "127.0.0.1", "--port", str(port), "--data-dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, process)
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60.0
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("milvus-lite did not start")
