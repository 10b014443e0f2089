"""One command at a time writes a run."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import RunError
from retrieval.storage.files import writing


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep two commands from writing one run at a time; the lock goes with the process.

    Raises:
        RunError: another command has it.
        WriteError: the run cannot be written.
    """
    path = run / ".lock"
    with contextlib.ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(path.open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{run} is being written by another command: wait for it") from None
        # What a killed command was writing.
        with writing(run):
            for litter in run.rglob(".*.tmp"):
                litter.unlink()
        yield
