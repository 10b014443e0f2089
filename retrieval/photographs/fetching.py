"""URL to bytes: the only place that opens a connection.

URLs come from strangers too. So only http and https are spoken; an address that is not public is
refused, and what is judged is the address that the socket connects to, after every redirect (a
name that resolves to something else a moment later gains nothing); sizes are capped while the
bytes arrive, whatever the server announces; and no message repeats a URL, which may hold
credentials. Proxies of the environment are not used: they would hide the address connected to.

Everything runs in one event loop in a thread of its own. How many bytes are in flight is bounded,
so memory does not grow with the number of rows. Reasons are short and the same from run to run:
they name neither times nor sockets.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from retrieval.errors import FetchError
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.http_client import Client, Lookup, system_lookup

T = TypeVar("T")


class Fetcher:
    """Fetches in the background; a context manager, whose end cancels what is still running.

    Args:
        config: limits and timeouts.
        lookup: how names become addresses; the system's way by default.
    """

    def __init__(self, config: FetchConfig, lookup: Lookup | None = None) -> None:
        self.config = config
        self._lookup = lookup or system_lookup
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fetcher", daemon=True)
        self._client: Client | None = None

    def __enter__(self) -> Fetcher:
        self._thread.start()
        self._client = self._wait_for(Client.open(self.config, self._lookup))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client, self._client = self._client, None
        try:
            self._wait_for(self._stop(client))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def submit(self, url: str, then: Callable[[bytes], T], pool: Executor) -> Future[T]:
        """Fetch ``url`` and hand its bytes to ``then`` in ``pool``.

        Returns:
            a future of what ``then`` returns; its exception is a :class:`FetchError` or what
            ``then`` raised. The bytes count as in flight until ``then`` has returned.
        """

        async def fetch_then() -> T:
            client = self._opened()
            data = await client.fetch(url)
            try:
                return await self._loop.run_in_executor(pool, then, data)
            finally:
                client.budget.release(len(data))

        return asyncio.run_coroutine_threadsafe(fetch_then(), self._loop)

    def download(self, url: str, path: Path, *, max_bytes: int, resume: bool = True) -> None:
        """Download one large file to ``path`` by way of ``<path>.part``; returns when it is there.

        A broken connection goes on from where it broke (HTTP Range), within this call and, thanks
        to the part file, after the process was killed; tries are counted from the last progress.
        Whether the pieces are of one file is for a checksum to say: without one use
        ``resume=False``, which begins anew each time.

        Raises:
            FetchError: the file cannot be had, is larger than ``max_bytes``, or cannot be written.
        """
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not resume:
                part.unlink(missing_ok=True)
            self._wait_for(self._opened().download(url, part, max_bytes, resume))
            os.replace(part, path)
        except OSError as error:
            raise FetchError(f"cannot write {error.filename or part}: {error.strerror}") from None

    def _opened(self) -> Client:
        if self._client is None:
            raise RuntimeError("use the fetcher in a with statement")
        return self._client

    def _wait_for(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        future = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt in this thread ends the work in the other
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _stop(self, client: Client | None) -> None:
        # More than once: asyncio.wait_for loses a cancellation that meets the end of its work.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.1)
        if client is not None:
            await client.close()
