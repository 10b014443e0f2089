"""A small server of photographs on this machine's loopback address, for the demo and benchmarks.

It serves one folder, read-only, over HTTP/1.1 with kept-alive connections and ranges, and can wait
before each answer as a distant server would. It is not meant for anything but this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

ADDRESS = "127.0.0.1"


@contextmanager
def serve(folder: Path, latency: float = 0.0) -> Iterator[str]:
    """Serve the files of ``folder`` in the background.

    Args:
        folder: what is served; nothing outside it is.
        latency: seconds to wait before each answer.

    Yields:
        the address of the folder, without a slash at the end, as ``http://127.0.0.1:49152``.
    """
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(_application(folder, latency), access_log=None, shutdown_timeout=0.5)
    thread = threading.Thread(target=loop.run_forever, name="loopback", daemon=True)
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(_start(runner), loop).result()
        yield f"http://{ADDRESS}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _application(folder: Path, latency: float) -> web.Application:
    @web.middleware
    async def wait(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if latency:
            await asyncio.sleep(latency)
        return await handler(request)

    application = web.Application(middlewares=[wait])
    application.router.add_static("/", folder)
    return application


async def _start(runner: web.AppRunner) -> int:
    await runner.setup()
    site = web.TCPSite(runner, ADDRESS, 0)
    await site.start()
    chosen: int = runner.addresses[0][1]
    return chosen


def main() -> None:
    """Serve until standard input closes, after a line with the address (for other processes)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    arguments = parser.parse_args()
    with serve(arguments.folder, arguments.latency) as address:
        print(address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
