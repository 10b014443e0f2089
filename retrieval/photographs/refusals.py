"""Files that are refused before they are decoded, and what to say of those that nothing reads."""

from __future__ import annotations

import struct
from typing import Final

from PIL import features

from retrieval.errors import DecodeError
from retrieval.photographs.file_kinds import HEAD, photograph_kind

MAX_STRIPS: Final = 100_000
MAX_PLAIN_BYTES: Final = 8 * 1024 * 1024
# Their remarks on the photograph may hold shorter stretches.
_ZEROS_OF_AVIF: Final = 2048
_UNREAD: Final = frozenset(("JPEG XL", "Photoshop", "raw", "OpenEXR", "Radiance"))
_READ_BY_SOME: Final = {"AVIF": "avif", "JPEG 2000": "jpg_2000", "WebP": "webp"}
"""Pillow's features for what only some builds of it read."""
_OFFSETS: Final = (273, 324)  # tags of TIFF that list strips and tiles
_TIFF_STARTS: Final = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
_PLAIN_PNM: Final = (b"P1", b"P2", b"P3")


def refuse_undecoded(data: bytes) -> None:
    """Refuse files in which decoders take lost sectors for pixels, or spend a time that their
    pixels do not account for.

    Lossy WebP is not told apart: a plain surface is coded by zeros there.

    Raises:
        DecodeError: stretches of zeros, as lost sectors leave them; a TIFF of very many strips or
            tiles, or pixels written as a long text.
    """
    lossless_webp = data[8:16] == b"WEBPVP8L" and data.find(bytes(64), 20) >= 0
    if lossless_webp or (data[4:8] == b"ftyp" and data.find(bytes(_ZEROS_OF_AVIF)) >= 0):
        raise DecodeError("damaged or truncated photograph (zeros in place of pixels)")
    if data.startswith(_PLAIN_PNM) and len(data) > MAX_PLAIN_BYTES:
        raise DecodeError(f"plain PNM of over {MAX_PLAIN_BYTES >> 20} MiB: save it as PNG")
    if (strips := _strips(data)) > MAX_STRIPS:
        raise DecodeError(f"TIFF of {strips} strips or tiles, over the cap of {MAX_STRIPS}")


def _strips(data: bytes) -> int:
    """How many strips and tiles a TIFF's directory lists; none for other files.

    (The layout of directories: TIFF 6.0, section 2; BigTIFF has 64 bits in place of 32.)
    """
    if data[:4] not in _TIFF_STARTS:
        return 0
    order, big = _TIFF_STARTS[data[:4]]
    offset, entries, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
    try:
        (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + entries, data, at)
        at += struct.calcsize(order + entries)
        size = struct.calcsize(order + entry)
        listed = struct.iter_unpack(order + entry, data[at : at + count * size])
        return max((many for tag, _, many, _ in listed if tag in _OFFSETS), default=0)
    except (struct.error, OverflowError):
        return 0  # cut off, as Pillow will say


def not_a_photograph(data: bytes) -> str:
    """What to say of a file that no decoder takes."""
    if not data:
        return "empty file"
    start = data[:256].lstrip().lower()
    if b"<svg" in start:
        return "SVG drawing: save it as PNG"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "not a photograph (a web page or text)"
    if start.startswith(b"%pdf"):
        return "PDF: save it as JPEG or PNG"
    kind = photograph_kind(data[:HEAD])
    if kind in _UNREAD:
        return f"{kind} photograph: save it as JPEG or PNG"
    if kind in _READ_BY_SOME:
        if features.check(_READ_BY_SOME[kind]):
            return f"damaged or truncated photograph ({kind} photograph)"
        return (
            f"{kind} photograph, which the installed Pillow does not read: save it as JPEG or PNG"
        )
    if data[4:8] == b"ftyp":
        return "a video or another file of the MP4 family, not a photograph"
    return "not a photograph of a known format"
