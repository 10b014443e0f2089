"""Processes that die at the worst moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

CALLS = ("fsync", "replace", "truncate")


def killed_at(call: int, after: bool, work: Callable[[], object]) -> bool:
    """Run ``work`` in a fork that dies at its ``call``-th change; whether it came that far."""
    child = os.fork()
    if child == 0:
        count = 0

        def deadly(real: Callable[..., object]) -> Callable[..., object]:
            def wrapped(*args: object, **kwargs: object) -> object:
                nonlocal count
                count += 1
                if count == call and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*args, **kwargs)
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return wrapped

        for name in CALLS:
            setattr(os, name, deadly(getattr(os, name)))
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
