"""A PNG without what says nothing of its pixels.

Pillow refuses a whole photograph for a long text, a large colour profile or a wrong check sum in
either, but passes over a wrong check sum among the pixels. Here it is the other way round.
(Chunks: the PNG specification, sections 5 and 11.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from retrieval.errors import DecodeError

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MAX_TEXT: Final = 256 * 1024
"""Bytes of a text that may hold the orientation; longer ones are left out."""
_PIXELS: Final = (b"IHDR", b"PLTE", b"IDAT", b"tRNS")
# Programs that write no eXIf chunk put the orientation into one of these.
_ORIENTATION_TEXTS: Final = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_COLOUR, _GREY = 2, 0


@dataclass(frozen=True)
class PlainPng:
    """A PNG's bytes without remarks and animation, and the colour that stands for nothing.

    Attributes:
        transparent: of a grey or colour PNG, the value, of ``depth`` bits, that is transparent.
    """

    data: bytes
    depth: int
    transparent: tuple[int, ...] | None


def plain_png(data: bytes) -> PlainPng:
    """Keep the chunks that hold pixels or tell which side is up.

    Raises:
        DecodeError: the pixels' chunks are damaged or cut off.
    """
    parts = [SIGNATURE]
    late: list[bytes] = []
    depth, colour = 0, -1
    transparent: tuple[int, ...] | None = None
    for kind, chunk, whole in _chunks(data):
        content = chunk[8:-4]
        if kind in _PIXELS:
            if not whole:
                raise DecodeError("damaged or truncated photograph (its check sum is wrong)")
            if kind == b"IHDR" and len(content) == 13:
                depth, colour = content[8], content[9]
            if kind == b"tRNS" and colour in (_GREY, _COLOUR):
                values = content[: 2 if colour == _GREY else 6]
                transparent = tuple(
                    int.from_bytes(values[at : at + 2]) for at in range(0, len(values), 2)
                )
                continue
            late.append(chunk) if kind == b"IDAT" else parts.append(chunk)
        elif whole and (kind == b"eXIf" or _tells_orientation(kind, content)):
            parts.append(chunk)
    end = _chunk(b"IEND", b"")
    return PlainPng(b"".join([*parts, *late, end]), depth, transparent)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(kind, the chunk, whether its check sum is right), up to the end or where it is cut off."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        chunk = data[at : at + 12 + length]
        if kind == b"IEND":
            return
        if len(chunk) < 12 + length:
            # All of its content may be there still, or of its pixels enough.
            yield kind, _chunk(kind, chunk[8 : 8 + length]), True
            return
        yield kind, chunk, zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        at += len(chunk)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return len(content).to_bytes(4) + kind + content + check.to_bytes(4)


def _tells_orientation(kind: bytes, content: bytes) -> bool:
    if kind not in _TEXTS or len(content) > MAX_TEXT or not content.startswith(_ORIENTATION_TEXTS):
        return False
    if kind == b"tEXt":
        return True
    # Compressed ones are unpacked by Pillow, which refuses the photograph for a long one.
    name = content.index(b"\0")
    packed = content[name + 2 :] if kind == b"zTXt" else content.split(b"\0", 4)[-1]
    if kind == b"iTXt" and content[name + 1 : name + 2] != b"\x01":
        return True
    unpacker = zlib.decompressobj()
    try:
        return len(unpacker.decompress(packed, MAX_TEXT + 1)) <= MAX_TEXT
    except zlib.error:
        return False
