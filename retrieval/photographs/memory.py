"""How much memory the threads of this process take at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """Bytes that all threads share; who asks first is served first, so large ones are not starved.

    None is asked for while another is held, so it cannot lock up.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._turn = threading.Lock()
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until ``size`` bytes, at most :attr:`size`, are free, and take them meanwhile."""
        with self._turn, self._freed:
            while self._free < size:
                self._freed.wait()
            self._free -= size
        try:
            yield
        finally:
            with self._freed:
                self._free += size
                self._freed.notify_all()
