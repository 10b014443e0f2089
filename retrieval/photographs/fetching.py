"""URL to bytes: the only place that opens a connection.

URLs come from strangers too. So only http and https are spoken; an address that is not public is
refused, and what is judged is the address that the socket connects to, after every redirect (a
name that resolves to something else a moment later gains nothing); sizes are capped while the
bytes arrive, whatever the server announces; and no message repeats a URL, which may hold
credentials. Proxies of the environment are not used: behind one, nobody knows what is connected to.

Everything runs in one event loop in a thread of its own. How many bytes are in flight is bounded,
so memory does not grow with the number of rows. Reasons are short and the same from run to run:
they name neither times nor sockets.
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import re
import socket
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote, urljoin

import aiohttp
import brotli
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from yarl import URL

from retrieval.errors import FetchError
from retrieval.photographs.addresses import is_public
from retrieval.photographs.connections import MAX_HEAD, Connection

T = TypeVar("T")
Lookup = Callable[[str, int], list[str]]
"""Host name and port to numeric addresses; blocking; raises ``socket.gaierror``."""

MIB: Final = 1024 * 1024
BLOCK: Final = 64 * 1024
REDIRECTS: Final = (301, 302, 303, 307, 308)
# Idle connections are kept only this long: a million hosts must not use up the file descriptors.
KEEP_ALIVE_SECONDS: Final = 2.0
# Encodings that leave the bytes as they are, and those that are unpacked.
AS_IT_IS: Final = ("", "identity", "none", "binary", "utf-8", "aws-chunked")
PACKED: Final = ("gzip", "x-gzip", "deflate", "br")
MAX_PACKINGS: Final = 3
GZIP: Final = b"\x1f\x8b"
# Statuses that a further try may change.
PASSING: Final = (408, 425, 429)
WHOLE_RANGE: Final = re.compile(r"bytes 0-(\d+)/(\d+)")
HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
OWN_HEADERS: Final = {
    "user-agent": "give --user-agent (user_agent)",
    **dict.fromkeys(
        ("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
         "expect", "range", "if-range", "accept-encoding"),
        "is decided for each request",
    ),
}  # fmt: skip
"""Headers that would break a request, or make another answer of it than a whole photograph."""
PLAIN: Final = 'give "Name: value", of plain characters'
# What may stand in a URL as it is sent; whatever is already escaped stays so.
UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f]")
PARTS: Final = re.compile(r"(?:([^:/?#]*):)?(?://([^/?#]*))?(.*)", re.DOTALL)
URL_CHARACTERS: Final = "".join(map(chr, range(0x21, 0x7F)))
NO_SUCH_NAME: Final = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


class FetchConfig(BaseModel):
    """How photographs are fetched.

    Attributes:
        concurrency: requests at a time in all.
        per_host: requests at a time to one host.
        connect_seconds: cap on looking a name up and connecting.
        read_seconds: cap on silence between two pieces of an answer.
        total_seconds: cap on one try, from connecting to the last byte; waiting for a free slot
            is not counted. A try that takes longer is not repeated.
        retries: further tries after a 5xx, 408, 425 or 429 answer or a broken connection.
        backoff_seconds: pause before the first further try; it doubles each time.
        backoff_cap_seconds: cap on that pause, and on what a Retry-After header may ask for.
        max_bytes: cap on one photograph.
        bytes_in_flight: cap on the bytes that are arriving or waiting to be taken, in all.
        look_ahead: URLs that :func:`fetch_all` has begun and not yet handed over.
        max_redirects: redirects followed for one URL.
        allow_private: fetch from loopback, private and other addresses that are not public.
        user_agent: what the servers are told; some (Wikimedia) ask for a way to reach you in it.
        headers: sent with every request; not to another server that one redirects to, since they
            may hold credentials.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    concurrency: int = Field(default=64, ge=1, le=1024)
    per_host: int = Field(default=8, ge=1, le=1024)
    connect_seconds: float = Field(default=5.0, ge=1e-3, le=86_400.0)
    read_seconds: float = Field(default=15.0, ge=1e-3, le=86_400.0)
    total_seconds: float = Field(default=60.0, ge=1e-3, le=86_400.0)
    retries: int = Field(default=2, ge=0, le=20)
    backoff_seconds: float = Field(default=0.5, ge=0, le=86_400.0)
    backoff_cap_seconds: float = Field(default=30.0, ge=0, le=86_400.0)
    max_bytes: int = Field(default=32 * MIB, ge=1, le=2**34)
    bytes_in_flight: int = Field(default=256 * MIB, ge=1, le=2**40)
    look_ahead: int = Field(default=256, ge=1, le=1_000_000)
    max_redirects: int = Field(default=5, ge=0, le=20)
    allow_private: bool = False
    user_agent: str = Field(default="landmarks (photograph fetcher)", min_length=1)
    headers: Mapping[str, str] = Field(default_factory=dict)

    @field_validator("user_agent")
    @classmethod
    def _agent_is_sendable(cls, value: str) -> str:
        if not HEADER_VALUE.fullmatch(value):
            raise ValueError(f"{value!r}: give plain characters")
        return value

    @field_validator("headers")
    @classmethod
    def _headers_are_sendable(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
                raise ValueError(f"{name!r}: {PLAIN}")
            if name.lower() in OWN_HEADERS:
                raise ValueError(f"{name}: {OWN_HEADERS[name.lower()]}")
        return headers

    @model_validator(mode="after")
    def _one_photograph_fits(self) -> FetchConfig:
        if self.bytes_in_flight < self.max_bytes:
            raise ValueError("bytes_in_flight must be at least max_bytes")
        return self


@dataclass(frozen=True)
class Fetched:
    """One row's outcome: exactly one of ``data`` and ``error`` is there."""

    row: int
    data: bytes | None
    error: FetchError | None


class Fetcher:
    """Fetches in the background; a context manager, whose end cancels whatever is still running.

    Args:
        config: limits and timeouts.
        lookup: how names become addresses; the system's way by default.
    """

    def __init__(self, config: FetchConfig, lookup: Lookup | None = None) -> None:
        self.config = config
        self._lookup = lookup or _system_lookup
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fetcher", daemon=True)
        self._client: _Client | None = None

    def __enter__(self) -> Fetcher:
        self._thread.start()
        self._client = self._wait_for(_Client.open(self.config, self._lookup))
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
            a future of what ``then`` returns; its exception is a :class:`FetchError` or whatever
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

    def fetch(self, url: str) -> Future[bytes]:
        """Fetch ``url``; whoever takes the bytes must :meth:`release` them."""
        return asyncio.run_coroutine_threadsafe(self._opened().fetch(url), self._loop)

    def release(self, data: bytes) -> None:
        """Say that these bytes have been taken, so that others may arrive."""
        self._loop.call_soon_threadsafe(self._opened().budget.release, len(data))

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

    def _opened(self) -> _Client:
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

    async def _stop(self, client: _Client | None) -> None:
        # More than once: asyncio.wait_for loses a cancellation that meets the end of its work.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.1)
        if client is not None:
            await client.close()


def fetch_all(
    urls: Iterable[tuple[int, str]], config: FetchConfig, lookup: Lookup | None = None
) -> Iterator[Fetched]:
    """Fetch many URLs, in the order in which they arrive.

    Args:
        urls: (row, URL) pairs, read as far ahead as ``config.look_ahead`` and no further.
        config: limits and timeouts.
        lookup: how names become addresses; the system's way by default.

    Yields:
        each row exactly once. Leaving the loop early stops what is under way.
    """
    done: queue.SimpleQueue[tuple[int, Future[bytes]]] = queue.SimpleQueue()
    pending = iter(urls)
    begun = 0
    with Fetcher(config, lookup) as fetcher:

        def begin() -> bool:
            for row, url in pending:
                fetcher.fetch(url).add_done_callback(partial(arrived, row))
                return True
            return False

        def arrived(row: int, future: Future[bytes]) -> None:
            done.put((row, future))

        while begun < config.look_ahead and begin():
            begun += 1
        while begun:
            row, future = done.get()
            begun -= 1
            try:
                data = future.result()
            except FetchError as error:
                yield Fetched(row, None, error)
            else:
                fetcher.release(data)
                yield Fetched(row, data, None)
            begun += begin()


class _AgainError(Exception):
    """A failure that a further try may mend; ``pause`` is what the server asked for."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _NotPublicError(OSError):
    """The address to connect to is refused. An OSError, as aiohttp expects of its resolver."""


class _Slots:
    """At most ``limit`` holders for each key; keys that nobody wants any more are forgotten."""

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

    An answer's share is reserved before its first byte is read, and nobody waits while holding a
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
            raise _NotPublicError(errno.EACCES, "not public")
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
        # A lookup that hangs in the C library cannot be ended; nobody waits for it.
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Client:
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
    async def open(cls, config: FetchConfig, lookup: Lookup) -> _Client:
        def make_socket(info: tuple[Any, ...]) -> socket.socket:
            # Called with the very address that is connected to next, a literal in a URL included.
            family, kind, protocol, _, address = info
            if not config.allow_private and not is_public(address[0]):
                raise _NotPublicError(errno.EACCES, "not public")
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
                total=None, connect=config.connect_seconds, sock_read=config.read_seconds
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
            except _AgainError as error:
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
                except _AgainError as error:
                    if resume and file.tell() > before:
                        attempt = 0
                    await self._pause(url, attempt, error)
                    attempt += 1
                if not resume:
                    _empty(file)

    async def _pause(self, url: str, attempt: int, error: _AgainError) -> None:
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
        with _reasons():
            async with self._answer(url, {}, clock) as response:
                _check_status(response, (200, 203, 206))
                whole = _check_range(response)
                packings = _packings(response)
                share = self._expected(response, self.config.max_bytes)
                if packings:
                    share = self.config.max_bytes  # what is announced is the packed size
                await self.budget.reserve(share)
                size = 0
                try:
                    body = _body(response, share, self.config.max_bytes, packings)
                    data = await clock.run(body)
                    if whole is not None and not packings and len(data) != whole:
                        raise _AgainError("connection broken off")
                    size = len(data)
                    return data
                finally:
                    self.budget.release(share - size)

    async def _try_download(self, url: str, file: BinaryIO, max_bytes: int) -> None:
        clock = _Clock(self.config.total_seconds)  # of the headers; a large body takes its time
        start = file.tell()
        headers = {"Range": f"bytes={start}-"} if start else {}
        with _reasons():
            async with self._answer(url, headers, clock) as response:
                content_range = response.headers.get("Content-Range", "")
                if start and response.status == 416 and content_range == f"bytes */{start}":
                    return
                _check_status(response, (200, 203, 206, 416) if start else (200, 203))
                if _packings(response):
                    raise FetchError("compressed answer, though none was asked for")
                if response.status != 206 or not content_range.startswith(f"bytes {start}-"):
                    _empty(file)  # the server does not resume, or not from here
                    start = 0
                if response.status == 416 or (response.status == 206 and not start):
                    raise _AgainError("the server cannot resume")
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
        target = first = _as_written(url)
        cookies: dict[str, dict[str, str]] = {}
        for _ in range(self.config.max_redirects + 1):
            sent = _headers_for(target, first, self.config.headers, cookies) | headers
            async with self._hosts.hold(target.host or ""), self._all:
                request = self._session.get(target, headers=sent, allow_redirects=False)
                response = await clock.run(request)
                try:
                    if response.status not in REDIRECTS:
                        yield response
                        return
                    _take_cookies(cookies.setdefault(target.host or "", {}), response)
                    target = _redirected(target, response)
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


def _packings(response: aiohttp.ClientResponse) -> list[str]:
    """How the answer is compressed, the last step first.

    It is asked for as it is, but some servers keep files compressed and send them so to everyone.
    """
    said = ",".join(response.headers.getall("Content-Encoding", ()))
    steps = [step.strip().lower() for step in said.split(",")]
    packings = [step for step in reversed(steps) if step not in AS_IT_IS]
    for step in packings:
        if step not in PACKED:
            name = step if HEADER_NAME.fullmatch(step) and len(step) < 20 else "something unknown"
            raise FetchError(f"compressed by {name}, which is not read")
    if len(packings) > MAX_PACKINGS:
        raise FetchError("compressed many times over")
    return packings


class _Unpacker:
    """Unpacks gzip or deflate, with or without zlib's frame, and never much more than may come."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._start = b""
        self._unpack: Any = None

    def feed(self, data: bytes) -> bytes:
        """Unpack what has come.

        Raises:
            FetchError: it is not compressed as the server says, or larger than may be.
        """
        if self._unpack is None:
            data = self._start = self._start + data
            if len(data) < 2:
                return b""
            self._unpack = zlib.decompressobj(_window_bits(data))
        out = bytearray()
        try:
            while data:
                if self._unpack.eof:
                    if not data.startswith(GZIP):
                        break  # gzip comes in several members, and some servers pad it
                    self._unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
                out += self._unpack.decompress(data, self._max_bytes + 1 - len(out))
                if len(out) > self._max_bytes:
                    raise FetchError(f"larger than {self._max_bytes} bytes")
                data = self._unpack.unconsumed_tail or self._unpack.unused_data
        except zlib.error:
            raise FetchError("compressed answer that cannot be unpacked") from None
        return bytes(out)

    @property
    def ended(self) -> bool:
        return self._unpack is not None and bool(self._unpack.eof)


class _BrotliUnpacker:
    """Unpacks brotli, and never much more than may come."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._unpack = brotli.Decompressor()

    def feed(self, data: bytes) -> bytes:
        """As :meth:`_Unpacker.feed`."""
        out = bytearray()
        try:
            while not self.ended:
                found = self._unpack.process(data, output_buffer_limit=BLOCK)
                out += found
                if len(out) > self._max_bytes:
                    raise FetchError(f"larger than {self._max_bytes} bytes")
                if self._unpack.can_accept_more_data() or not (found or data):
                    break
                data = b""
            return bytes(out)
        except brotli.error:
            raise FetchError("compressed answer that cannot be unpacked") from None

    @property
    def ended(self) -> bool:
        return bool(self._unpack.is_finished())


def _window_bits(start: bytes) -> int:
    """What zlib calls the frame: gzip's, its own, or none, which servers call deflate too."""
    own = start[0] & 15 == zlib.DEFLATED and int.from_bytes(start[:2]) % 31 == 0
    return zlib.MAX_WBITS | 32 if own or start.startswith(GZIP) else -zlib.MAX_WBITS


async def _body(
    response: aiohttp.ClientResponse, share: int, max_bytes: int, packings: Iterable[str]
) -> bytes:
    data = bytearray()
    unpackers = [
        _BrotliUnpacker(max_bytes) if step == "br" else _Unpacker(max_bytes) for step in packings
    ]
    async for block in response.content.iter_chunked(BLOCK):
        for unpacker in unpackers:
            block = unpacker.feed(block)
        data += block
        if len(data) > share:
            raise FetchError(f"larger than {max_bytes} bytes")
    if not data:
        raise FetchError("empty answer")
    if not all(unpacker.ended for unpacker in unpackers):
        raise FetchError("compressed answer that is cut off")
    return bytes(data)


def _as_written(url: str) -> URL:
    """A URL whose path and query are sent as they stand; only what no request can hold is escaped.

    yarl would turn escapes into characters where it can, which makes signed addresses void.

    Raises:
        FetchError: not an http or https address, or without a host.
    """
    scheme, authority, rest = PARTS.fullmatch(url.strip()).groups("")  # type: ignore[union-attr]
    if UNPRINTABLE.search(authority):
        raise FetchError("not a usable address")
    server = _checked_url(URL(f"{scheme}://{authority}"))
    # Bytes that were no UTF-8 came in as lone surrogates and go out as they were.
    sent = quote(rest.partition("#")[0], safe=URL_CHARACTERS, errors="surrogateescape")
    slash = "" if sent.startswith("/") else "/"
    return URL(f"{server.scheme}://{server.raw_authority}{slash}{sent}", encoded=True)


def _checked_url(url: URL) -> URL:
    if url.scheme not in ("http", "https"):
        raise FetchError("not an http or https address")
    if not url.host:
        raise FetchError("the address names no host")
    return url


def _redirected(url: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if not location:
        raise FetchError("redirect to nowhere")
    return _as_written(urljoin(str(url), location.strip()))


def _headers_for(
    target: URL, first: URL, headers: Mapping[str, str], cookies: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """The user's headers, to the server that they are meant for, and a host's own cookies."""
    safer = (first.scheme, target.scheme) == ("http", "https")
    same = target.origin() == first.origin()
    upgraded = safer and first.host == target.host and first.is_default_port()
    sent = dict(headers) if same or (upgraded and target.is_default_port()) else {}
    if pairs := cookies.get(target.host or ""):
        given = [value for name, value in sent.items() if name.lower() == "cookie"]
        sent = {name: value for name, value in sent.items() if name.lower() != "cookie"}
        sent["Cookie"] = "; ".join([*given, *(f"{name}={value}" for name, value in pairs.items())])
    return sent


def _take_cookies(cookies: dict[str, str], response: aiohttp.ClientResponse) -> None:
    """Keep the cookies that a redirect sets, for the rest of its chain."""
    for name, morsel in response.cookies.items():
        if morsel["max-age"] == "0" or (morsel["secure"] and response.url.scheme != "https"):
            cookies.pop(name, None)
        else:
            cookies[name] = morsel.coded_value


def _check_range(response: aiohttp.ClientResponse) -> int | None:
    """The size of the whole that a partial answer gives.

    Raises:
        FetchError: it is a part only; none was asked for.
    """
    if response.status != 206:
        return None
    said = WHOLE_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if said is None or int(said[1]) + 1 != int(said[2]):
        raise FetchError("HTTP 206, a part of the file alone")
    return int(said[2])


def _check_status(response: aiohttp.ClientResponse, welcome: tuple[int, ...]) -> None:
    status = response.status
    if status in welcome:
        return
    if status in PASSING or status >= 500:
        raise _AgainError(f"HTTP {status}", _retry_after(response.headers.get("Retry-After", "")))
    raise FetchError(f"HTTP {status}")


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError, TypeError):
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    return 0.0


def _system_lookup(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A link-local IPv6 address carries its interface (fe80::1%2); getnameinfo keeps it.
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    found = [socket.getnameinfo(address, numeric)[0] for *_, address in infos]
    return list(dict.fromkeys(found))


@contextmanager
def _reasons() -> Iterator[None]:
    """Turns whatever a try may raise into a :class:`FetchError` or an :class:`_AgainError`."""
    try:
        yield
    except (FetchError, _AgainError):
        raise
    except Exception as error:
        mended = _reason(error)
        if mended is None:
            raise
        raise mended from None


def _reason(error: BaseException) -> Exception | None:
    """Order matters: aiohttp's classes inherit from one another and from OSError."""
    if isinstance(getattr(error, "os_error", None), _NotPublicError):
        return FetchError("the address is not a public one (private, loopback or reserved)")
    match error:
        case aiohttp.ClientConnectorDNSError():
            lasting = getattr(error.os_error, "errno", None) in NO_SUCH_NAME
            return FetchError("host not found") if lasting else _AgainError("host not found")
        case aiohttp.ClientConnectorCertificateError():
            return FetchError("the certificate is not trusted")
        case aiohttp.ClientConnectorSSLError():
            return FetchError("no secure connection")
        case aiohttp.ServerTimeoutError():
            return _AgainError("timed out")
        case asyncio.TimeoutError():
            return FetchError("timed out")
        case aiohttp.ClientConnectorError():
            return _AgainError("cannot connect")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return FetchError("not a usable address")
        case aiohttp.ClientResponseError():
            return FetchError("not an HTTP answer")
        case aiohttp.ClientError():
            return _AgainError("connection broken off")
        case ValueError():  # yarl's, and the codec's that turns names into ASCII
            return FetchError("not a usable address")
        case _:
            return None
