"""The asynchronous client: one session, with bounded slots and bytes, to public addresses alone."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from retrieval.errors import FetchError
from retrieval.photographs.addresses import is_public
from retrieval.photographs.connections import MAX_HEAD, Connection
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.http_answer import (
    BLOCK,
    AgainError,
    NotPublicError,
    as_fetch_errors,
    check_range,
    check_status,
    packings_of,
    read_body,
)
from retrieval.photographs.http_request import as_written, headers_for, redirected, take_cookies

T = TypeVar("T")
Lookup = Callable[[str, int], list[str]]
"""Host name and port to numeric addresses; blocking; raises ``socket.gaierror``."""
REDIRECTS: Final = (301, 302, 303, 307, 308)
# Idle connections are kept only this long: a million hosts must not use up the file descriptors.
KEEP_ALIVE_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 5.0  # for looking a name up and connecting


class _Slots:
    """At most ``limit`` holders for each key; unused keys are dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[str, tuple[asyncio.Semaphore, list[None]]] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        slots, users = self._open.setdefault(key, (asyncio.Semaphore(self._limit), []))
        users.append(None)
        try:
            async with slots:
                yield
        finally:
            users.pop()
            if not users:
                del self._open[key]


class _Budget:
    """Bytes that may be in flight; who asks first is served first, so a large one is not starved.

    An answer's share is reserved before its first byte is read, and none waits while holding a
    share, so the budget cannot lock up as long as one photograph fits into it.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def reserve(self, size: int) -> None:
        async with self._turn:
            while self._free < size:
                self._freed.clear()
                await self._freed.wait()
            self._free -= size

    def release(self, size: int) -> None:
        self._free += size
        self._freed.set()


class _Clock:
    """Seconds left for one try, running only while the server is being waited for."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    async def run(self, work: Awaitable[T]) -> T:
        start = time.monotonic()
        try:
            return await asyncio.wait_for(work, self._left)
        finally:
            self._left = max(0.0, self._left - (time.monotonic() - start))


class _CheckedResolver(AbstractResolver):
    """Looks names up, in threads of its own, and refuses a name if any of its addresses is bad."""

    def __init__(self, lookup: Lookup, allow_private: bool, threads: int) -> None:
        self._lookup = lookup
        self._allow_private = allow_private
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lookup")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(self._pool, self._lookup, host, port)
        if not self._allow_private and not all(map(is_public, addresses)):
            raise NotPublicError(errno.EACCES, "not public")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        # A lookup that hangs in the C library cannot be ended, and is not waited for.
        self._pool.shutdown(wait=False, cancel_futures=True)


class Client:
    """The asynchronous core: one session, its slots and its budget."""

    def __init__(
        self, config: FetchConfig, session: aiohttp.ClientSession, resolver: _CheckedResolver
    ) -> None:
        self.config = config
        self._resolver = resolver
        self.budget = _Budget(config.bytes_in_flight)
        self._session = session
        self._all = asyncio.Semaphore(config.concurrency)
        self._hosts = _Slots(config.per_host)

    @classmethod
    async def open(cls, config: FetchConfig, lookup: Lookup) -> Client:
        def make_socket(info: tuple[Any, ...]) -> socket.socket:
            # Called with the very address that is connected to next, a literal in a URL included.
            family, kind, protocol, _, address = info
            if not config.allow_private and not is_public(address[0]):
                raise NotPublicError(errno.EACCES, "not public")
            return socket.socket(family, kind, protocol)

        resolver = _CheckedResolver(lookup, config.allow_private, min(32, config.concurrency))
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=resolver,
            ttl_dns_cache=60,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            socket_factory=make_socket,
        )
        make = partial(Connection, loop=asyncio.get_running_loop())
        connector._factory = make  # type: ignore[assignment]
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            max_line_size=MAX_HEAD,
            max_field_size=MAX_HEAD,
            max_headers=MAX_HEAD,
            headers={"User-Agent": config.user_agent, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=None, connect=CONNECT_SECONDS, sock_read=config.read_seconds
            ),
        )
        return cls(config, session, resolver)

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()

    async def fetch(self, url: str) -> bytes:
        """The bytes at ``url``; they stay reserved in the budget until they are released.

        Raises:
            FetchError: with the reason.
        """
        attempt = 0
        while True:
            try:
                return await self._try_fetch(url)
            except AgainError as error:
                await self._pause(url, attempt, error)
                attempt += 1

    async def download(self, url: str, part: Path, max_bytes: int, resume: bool) -> None:
        """The bytes at ``url`` into the file ``part``, from where it ends if ``resume``."""
        attempt = 0
        with part.open("ab") as file:
            while True:
                before = file.tell()
                try:
                    await self._try_download(url, file, max_bytes)
                    file.flush()
                    await asyncio.to_thread(os.fsync, file.fileno())
                    return
                except AgainError as error:
                    if resume and file.tell() > before:
                        attempt = 0
                    await self._pause(url, attempt, error)
                    attempt += 1
                if not resume:
                    _empty(file)

    async def _pause(self, url: str, attempt: int, error: AgainError) -> None:
        """Wait before the next try, or give up: the pauses double, and are spread by the URL so
        that rows do not march in step, yet are the same from run to run."""
        config = self.config
        if attempt >= config.retries:
            raise FetchError(str(error)) from None
        spread = 0.5 + zlib.crc32(f"{attempt} {url}".encode(errors="replace")) / 2**33
        pause = max(config.backoff_seconds * 2**attempt * spread, error.pause)
        await asyncio.sleep(min(pause, config.backoff_cap_seconds))

    async def _try_fetch(self, url: str) -> bytes:
        clock = _Clock(self.config.total_seconds)
        with as_fetch_errors():
            async with self._answer(url, {}, clock) as response:
                check_status(response, (200, 203, 206))
                whole = check_range(response)
                packings = packings_of(response)
                share = self._expected(response, self.config.max_bytes)
                if packings:
                    share = self.config.max_bytes  # what is announced is the packed size
                await self.budget.reserve(share)
                size = 0
                try:
                    body = read_body(response, share, self.config.max_bytes, packings)
                    data = await clock.run(body)
                    if whole is not None and not packings and len(data) != whole:
                        raise AgainError("connection broken off")
                    size = len(data)
                    return data
                finally:
                    self.budget.release(share - size)

    async def _try_download(self, url: str, file: BinaryIO, max_bytes: int) -> None:
        clock = _Clock(self.config.total_seconds)  # of the headers; a large body takes its time
        start = file.tell()
        headers = {"Range": f"bytes={start}-"} if start else {}
        with as_fetch_errors():
            async with self._answer(url, headers, clock) as response:
                content_range = response.headers.get("Content-Range", "")
                if start and response.status == 416 and content_range == f"bytes */{start}":
                    return
                check_status(response, (200, 203, 206, 416) if start else (200, 203))
                if packings_of(response):
                    raise FetchError("compressed answer, though none was asked for")
                if response.status != 206 or not content_range.startswith(f"bytes {start}-"):
                    _empty(file)  # the server does not resume, or not from here
                    start = 0
                if response.status == 416 or (response.status == 206 and not start):
                    raise AgainError("the server cannot resume")
                self._expected(response, max_bytes - start)
                async for block in response.content.iter_chunked(BLOCK * 4):
                    file.write(block)
                    if file.tell() > max_bytes:
                        raise FetchError(f"larger than {max_bytes} bytes")

    @asynccontextmanager
    async def _answer(
        self, url: str, headers: dict[str, str], clock: _Clock
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The first answer that is not a redirect, while a slot of its host is held."""
        target = first = as_written(url)
        cookies: dict[str, dict[str, str]] = {}
        for _ in range(self.config.max_redirects + 1):
            sent = headers_for(target, first, self.config.headers, cookies) | headers
            async with self._hosts.hold(target.host or ""), self._all:
                request = self._session.get(target, headers=sent, allow_redirects=False)
                response = await clock.run(request)
                try:
                    if response.status not in REDIRECTS:
                        yield response
                        return
                    take_cookies(cookies.setdefault(target.host or "", {}), response)
                    target = redirected(target, response)
                finally:
                    response.release()
        raise FetchError(f"more than {self.config.max_redirects} redirects")

    def _expected(self, response: aiohttp.ClientResponse, max_bytes: int) -> int:
        """How many bytes may come: the announced size where there is one, else the cap."""
        size = response.content_length
        if size is not None and size > max_bytes:
            raise FetchError(f"larger than {max_bytes} bytes")
        return max_bytes if size is None else size


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def system_lookup(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A link-local IPv6 address carries its interface (fe80::1%2); getnameinfo keeps it.
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    found = [socket.getnameinfo(address, numeric)[0] for *_, address in infos]
    return list(dict.fromkeys(found))
