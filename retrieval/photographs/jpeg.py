"""Whether a JPEG is whole, found while its pixels are decoded.

libjpeg fills what it lacks with grey and passes over what it cannot use, and says so by warnings
that no library hands on. So the coded data are handed to the decoder piece by piece, and after
each piece it is seen whether it asks for more: one that is done long before a piece ends, or not
done where it ends, was given other data than were once written. Decoding is done once, at full
speed; what is added are a few calls for each piece. (Markers and scans: ITU-T T.81, annex B.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import Final, Protocol

from retrieval.errors import DecodeError

MAX_BLOCKS: Final = 30_000_000
"""Blocks of 8 × 8 that all scans together may visit, at most a few seconds' work; 100 megapixels in
ten scans, as cameras and programs write them, are fewer."""
SURPLUS: Final = 16
"""Bytes behind the last block of a piece that some cameras write needlessly."""
MAX_WATCHED: Final = 2000
"""Pieces (between restart markers) of a file up to which each is watched."""
PROBE: Final = 6
"""Bytes given one by one to see whether the decoder has use for them."""
ZEROS: Final = bytes(64)
COEFFICIENTS: Final = 64

# \xff\x00 stands for a coded \xff, and any number of \xff may stand before a marker.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")
_STUFFED: Final = b"\xff\x00"
_CODED_BYTE: Final = re.compile(rb"\xff\x00|.", re.DOTALL)
# libjpeg looks up to 57 bits ahead: these ones end its wait, and are no code of any table.
_LOOK_AHEAD: Final = _STUFFED * 10
# Enough for one block more, where a file was cut within its last few bytes.
_CUT: Final = _STUFFED * 32
_SOI, _EOI, _SOS, _DHT, _DRI, _TEM = 0xD8, 0xD9, 0xDA, 0xC4, 0xDD, 0x01
_FIRST_KNOWN: Final = 0xC0
_RESTARTS: Final = range(0xD0, 0xD8)
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
_PROGRESSIVE: Final = (0xC2, 0xC6)
_LOSSLESS: Final = (0xC3, 0xC7)
_ARITHMETIC: Final = range(0xC9, 0xD0)


class Decoder(Protocol):
    """What is asked of Pillow's incremental decoder."""

    def decode(self, data: bytes, /) -> tuple[int, int]:
        """Bytes used up, or a negative number where it has ended; and an error's number."""
        ...


@dataclass(frozen=True)
class Component:
    """One colour of the frame: its number and its sampling factors."""

    number: int
    across: int
    down: int


@dataclass(frozen=True)
class Frame:
    """What the frame's header promises."""

    kind: int
    height: int
    width: int
    components: tuple[Component, ...]

    @property
    def progressive(self) -> bool:
        return self.kind in _PROGRESSIVE

    def blocks(self, components: Sequence[Component]) -> int:
        """Blocks that a scan of these components visits."""
        if len(components) == 1:
            return self.units(components)
        return self.units(components) * sum(one.across * one.down for one in components)

    def units(self, components: Sequence[Component]) -> int:
        """Minimum coded units of a scan: a block of a single component, else one of each."""
        side = 1 if self.kind in _LOSSLESS else 8
        across = max(one.across for one in self.components)
        down = max(one.down for one in self.components)
        if len(components) > 1:
            return ceil(self.width / (side * across)) * ceil(self.height / (side * down))
        (one,) = components
        columns = ceil(self.width * one.across / across)
        rows = ceil(self.height * one.down / down)
        return ceil(columns / side) * ceil(rows / side)


@dataclass(frozen=True)
class Scan:
    """One scan: what it codes, and where its coded data stand."""

    components: tuple[Component, ...]
    tables: tuple[tuple[int, int], ...]
    """Of each component, the Huffman tables for its DC and its AC coefficients."""
    first: int
    last: int
    high: int
    low: int
    pieces: tuple[tuple[int, int], ...]
    """(start, stop) between restart markers."""


@dataclass(frozen=True)
class Layout:
    """What a JPEG's scans code and where they stand.

    Attributes:
        cut: the file ends within the last scan, so there is no end marker.
        coefficients: bytes in which libjpeg keeps them: none where one scan holds everything.
    """

    scans: tuple[Scan, ...]
    cut: bool
    coefficients: int


def read_layout(data: bytes) -> Layout:
    """Find the scans of the first photograph in ``data``, and judge what can be judged by them.

    Raises:
        DecodeError: cut off, damaged, or of a kind that takes too long or is not decoded.
    """
    frame: Frame | None = None
    scans: list[Scan] = []
    codes: dict[int, int] = {}
    interval, visited = 0, 0
    for marker, body, at in _segments(data):
        if marker in _FRAMES:
            frame = _frame(marker, body)
        elif marker == _DRI:
            interval = int.from_bytes(body[:2])
        elif marker == _DHT:
            codes |= _zero_codes(body)
        elif marker == _SOS and frame is not None:
            scan = _scan(frame, body, _pieces(data, at, interval > 0))
            visited += frame.blocks(scan.components)
            if visited > MAX_BLOCKS:
                raise DecodeError(
                    f"JPEG of {len(scans) + 1} or more scans takes too long to decode"
                )
            _check_pieces(frame, scan, interval)
            if not _zeros_are_plain(scan, codes):
                scan = _without_zeros(data, scan)
            scans.append(scan)
            if not frame.progressive and _complete(frame, scans):
                break  # whatever follows adds nothing to the pixels
    if frame is None or not _complete(frame, scans):
        raise _damaged("scans are missing")
    at_once = len(scans) == 1 and not frame.progressive
    return Layout(
        tuple(scans),
        cut=scans[-1].pieces[-1][1] >= len(data.rstrip(b"\xff")),
        coefficients=0 if at_once else frame.blocks(frame.components) * COEFFICIENTS * 2,
    )


def decode_whole(decoder: Decoder, data: bytes, layout: Layout) -> None:
    """Feed a JPEG to ``decoder``, whose image holds all pixels afterwards.

    Raises:
        DecodeError: the coded data end before the pixels do, or the pixels before the data.
    """
    feed = _Feed(decoder, data)
    every = sum(len(scan.pieces) for scan in layout.scans) <= MAX_WATCHED
    watched = [piece for scan in layout.scans for piece in scan.pieces[0 if every else -1 :]]
    for start, stop in watched:
        padding = _padding(data, start, stop)
        early = feed.done_by(padding - SURPLUS, start, stop)
        # A file may be padded behind its last block, but padding must not be what completes it.
        if not early and padding < stop and not feed.done_by(padding + SURPLUS, start, stop):
            early = feed.done_by(stop - SURPLUS, start, stop)
        if early:
            raise _damaged("the pixels end before their data")
        feed.go_on(stop)
        cut = layout.cut and stop == watched[-1][1]
        if not feed.waits_for_marker(_CUT if cut else _LOOK_AHEAD):
            raise _damaged("the data end before their pixels")
    feed.give(bytes([0xFF, _EOI]))
    if not feed.ended:
        raise _damaged("the data end before their pixels")


class _Feed:
    """Hands a file to an incremental decoder and notes whether it asks for more."""

    def __init__(self, decoder: Decoder, data: bytes) -> None:
        self._decoder = decoder
        self._data = data
        self._at = 0
        self._unused = b""
        self.ended = False

    def give(self, data: bytes) -> bool:
        """Decode ``data``; whether all bytes so far have been used."""
        if not self.ended:
            self._unused += data
            used, error = self._decoder.decode(self._unused)
            self.ended = used < 0
            if self.ended and error < 0:
                raise _damaged("it cannot be decoded")
            self._unused = b"" if self.ended else self._unused[used:]
        return not self._unused

    def go_on(self, to: int) -> None:
        """Decode the file up to there."""
        if to > self._at:
            self.give(self._data[self._at : to])
            self._at = to

    def done_by(self, at: int, start: int, stop: int) -> bool:
        """Whether the decoder has no use for what stands from ``at`` on in a piece of the file;
        not where the piece is too short to tell."""
        at = max(at, self._at)
        if at <= start or at + PROBE > stop:
            return False
        self.go_on(at)
        probe = self._data[at : at + PROBE]
        self._at += PROBE
        return self.waits_for_marker(probe)

    def waits_for_marker(self, probe: bytes) -> bool:
        """Whether the decoder passes over these bytes one by one.

        Where it needs more for the next block, it takes nothing before it has seven or eight.
        """
        used = [self.give(one) for one in _CODED_BYTE.findall(probe)]
        return all(used[-3:])


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """(marker, content, where the next begins), up to the end marker or what is no segment.

    Coded data are passed over by looking for the next marker.
    """
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker in (_SOI, _TEM) or marker in _RESTARTS:
            continue
        length = int.from_bytes(data[at : at + 2])
        if marker == _EOI or marker < _FIRST_KNOWN or not 2 <= length <= len(data) - at:
            return
        at += length
        yield marker, data[at - length + 2 : at], at


def _frame(kind: int, body: bytes) -> Frame:
    if kind in _ARITHMETIC:
        raise DecodeError("JPEG with arithmetic coding is not read; save it as an ordinary JPEG")
    try:
        height, width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
        components = tuple(
            Component(body[at], body[at + 1] >> 4, body[at + 1] & 15)
            for at in range(6, 6 + 3 * body[5], 3)
        )
    except IndexError:
        raise _damaged("its header is cut off") from None
    if not all((height, width, components, *(c.across and c.down for c in components))):
        raise _damaged("its header promises no pixels")
    return Frame(kind, height, width, components)


def _scan(frame: Frame, body: bytes, pieces: Sequence[tuple[int, int]]) -> Scan:
    known = {component.number: component for component in frame.components}
    try:
        ends = 1 + 2 * body[0]
        components = tuple(known[body[at]] for at in range(1, ends, 2))
        tables = tuple((body[at] >> 4, body[at] & 15) for at in range(2, ends + 1, 2))
        first, last, bits = body[ends], body[ends + 1], body[ends + 2]
    except (IndexError, KeyError):
        raise _damaged("a scan's header") from None
    if not components or last >= COEFFICIENTS:
        raise _damaged("a scan's header")
    return Scan(components, tables, first, last, bits >> 4, bits & 15, tuple(pieces))


def _pieces(data: bytes, start: int, restarts: bool) -> list[tuple[int, int]]:
    """The coded data from ``start`` on, between restart markers where there are any.

    Raises:
        DecodeError: restart markers out of turn, a sign of lost data.
    """
    pieces: list[tuple[int, int]] = []
    for found in _MARKER.finditer(data, start):
        marker = data[found.end() - 1]
        pieces.append((start, _without_fill(data, start, found.start())))
        if not restarts or marker not in _RESTARTS:
            return pieces
        if marker != _RESTARTS[(len(pieces) - 1) % 8]:
            raise _damaged("restart markers out of turn")
        start = found.end()
    return [*pieces, (start, _without_fill(data, start, len(data)))]


def _without_fill(data: bytes, start: int, stop: int) -> int:
    """Where a piece stops, without the bytes that may stand before a marker."""
    return start + len(data[start:stop].rstrip(b"\xff")) if data[stop - 1] == 0xFF else stop


def _check_pieces(frame: Frame, scan: Scan, interval: int) -> None:
    if not interval:
        return
    wanted = ceil(frame.units(scan.components) / interval)
    found = len(scan.pieces)
    # Some encoders write one more marker, with nothing behind it.
    start, stop = scan.pieces[-1]
    if found != wanted and not (found == wanted + 1 and stop - start <= SURPLUS):
        raise _damaged("restart markers are missing" if found < wanted else "too many of them")


def _zero_codes(body: bytes) -> dict[int, int]:
    """Of each Huffman table the symbol whose code is all zeros: the first one."""
    codes: dict[int, int] = {}
    at = 0
    while at + 17 < len(body):
        codes[body[at]] = body[at + 17]
        at += 17 + sum(body[at + 1 : at + 17])
    return codes


def _zeros_are_plain(scan: Scan, codes: Mapping[int, int]) -> bool:
    """Whether zeros mean "the same grey, and no more of this block" throughout a scan."""
    plain = True
    for dc, ac in scan.tables:
        if scan.first == 0 and not scan.high:
            plain &= codes.get(dc, 0) == 0
        if scan.last > 0:
            symbol = codes.get(0x10 | ac, 0)
            plain &= symbol & 15 == 0 and symbol != 0xF0
    return plain


def _without_zeros(data: bytes, scan: Scan) -> Scan:
    """A scan in which zeros code nothing that a camera sees, without those that pad its end.

    Raises:
        DecodeError: there are zeros within, as lost sectors leave them.
    """
    *pieces, (start, stop) = scan.pieces
    if data[stop - 1] == 0:
        stop = min(stop, _padding(data, start, stop) + SURPLUS // 2)
    if data.find(ZEROS, scan.pieces[0][0], stop) >= 0:
        raise _damaged("zeros in place of pixels")
    return replace(scan, pieces=(*pieces, (start, stop)))


def _complete(frame: Frame, scans: Sequence[Scan]) -> bool:
    """Whether all components have been coded, in progressive files to the last bit."""
    if not frame.progressive:
        coded = {component for scan in scans for component in scan.components}
        return coded == set(frame.components)
    lacking: dict[tuple[Component, int], int] = {}
    for scan in scans:
        for component in scan.components:
            lacking |= {(component, at): scan.low for at in range(scan.first, scan.last + 1)}
    wanted = product(frame.components, range(COEFFICIENTS))
    return not any(lacking.get(one, 1) for one in wanted)


def _padding(data: bytes, start: int, stop: int) -> int:
    """Where a piece's end of bytes that are all the same begins; ``stop`` if it has none."""
    end = data[max(start, stop - 2 * SURPLUS) : stop]
    if len(end) < 2 * SURPLUS or len(set(end)) > 1:
        return stop
    return start + len(data[start:stop].rstrip(end[:1]))


def _damaged(what: str) -> DecodeError:
    return DecodeError(f"damaged or truncated photograph ({what})")
