"""What comes back: status, range and body of an answer, unpacked, or the reason for a failure."""

from __future__ import annotations

import asyncio
import re
import socket
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import brotli

from retrieval.errors import FetchError
from retrieval.photographs.fetch_config import HEADER_NAME

BLOCK: Final = 64 * 1024
# Encodings that leave the bytes as they are, and those that are unpacked.
AS_IT_IS: Final = ("", "identity", "none", "binary", "utf-8", "aws-chunked")
PACKED: Final = ("gzip", "x-gzip", "deflate", "br")
MAX_PACKINGS: Final = 3
GZIP: Final = b"\x1f\x8b"
# Statuses that a further try may change.
PASSING: Final = (408, 425, 429)
WHOLE_RANGE: Final = re.compile(r"bytes 0-(\d+)/(\d+)")
NO_SUCH_NAME: Final = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


class AgainError(Exception):
    """A failure that a further try may mend; ``pause`` is what the server asked for."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class NotPublicError(OSError):
    """The address to connect to is refused. An OSError, as aiohttp expects of its resolver."""


def packings_of(response: aiohttp.ClientResponse) -> list[str]:
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


async def read_body(
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


def check_range(response: aiohttp.ClientResponse) -> int | None:
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


def check_status(response: aiohttp.ClientResponse, welcome: tuple[int, ...]) -> None:
    status = response.status
    if status in welcome:
        return
    if status in PASSING or status >= 500:
        raise AgainError(f"HTTP {status}", _retry_after(response.headers.get("Retry-After", "")))
    raise FetchError(f"HTTP {status}")


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError, TypeError):
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    return 0.0


@contextmanager
def as_fetch_errors() -> Iterator[None]:
    """Turn the errors of a try into a :class:`FetchError` or an :class:`AgainError`."""
    try:
        yield
    except (FetchError, AgainError):
        raise
    except Exception as error:
        mended = _reason(error)
        if mended is None:
            raise
        raise mended from None


def _reason(error: BaseException) -> Exception | None:
    """Order matters: aiohttp's classes inherit from one another and from OSError."""
    if isinstance(getattr(error, "os_error", None), NotPublicError):
        return FetchError("the address is not a public one (private, loopback or reserved)")
    match error:
        case aiohttp.ClientConnectorDNSError():
            lasting = getattr(error.os_error, "errno", None) in NO_SUCH_NAME
            return FetchError("host not found") if lasting else AgainError("host not found")
        case aiohttp.ClientConnectorCertificateError():
            return FetchError("the certificate is not trusted")
        case aiohttp.ClientConnectorSSLError():
            return FetchError("no secure connection")
        case aiohttp.ServerTimeoutError():
            return AgainError("timed out")
        case asyncio.TimeoutError():
            return FetchError("timed out")
        case aiohttp.ClientConnectorError():
            return AgainError("cannot connect")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return FetchError("not a usable address")
        case aiohttp.ClientResponseError():
            return FetchError("not an HTTP answer")
        case aiohttp.ClientError():
            return AgainError("connection broken off")
        case ValueError():  # yarl's, and the codec's that turns names into ASCII
            return FetchError("not a usable address")
        case _:
            return None
