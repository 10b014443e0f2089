"""Decoding against Pillow as the oracle, and against files that mean harm."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from retrieval.errors import DecodeError
from retrieval.photographs import decoding, refusals
from retrieval.photographs.decoding import decode, read_photograph, shrink, shrunk_size
from retrieval.photographs.memory import MemoryBudget
from tests.photographs import blank, encoded, picture, with_orientation

ORIENTATIONS = range(1, 9)


def corners(height: int = 48, width: int = 72) -> np.ndarray:
    """A photograph whose four corners differ, smooth enough for JPEG."""
    photograph = blank(height, width, 90)
    photograph[: height // 2, : width // 2] = (220, 30, 30)
    photograph[: height // 2, width // 2 :] = (30, 220, 30)
    photograph[height // 2 :, : width // 2] = (30, 30, 220)
    return photograph


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a great many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_is_applied_as_pillow_does(orientation: int, kind: str) -> None:
    data = with_orientation(corners(), orientation, kind)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape == ((48, 72, 3) if orientation < 5 else (72, 48, 3))
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_is_applied_to_a_shrunk_photograph(orientation: int) -> None:
    data = with_orientation(corners(480, 720), orientation)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        expected = np.asarray(upright.resize((upright.width // 10, upright.height // 10)))
    small = decode(data, 72)
    assert small.shape == expected.shape
    # Seams aside, where the filters differ, the corners hold the colours that they ought to.
    rows, columns = small.shape[0] // 4, small.shape[1] // 4
    for y in (rows, -rows):
        for x in (columns, -columns):
            np.testing.assert_allclose(small[y, x], expected[y, x].astype(int), atol=4)


def test_an_orientation_that_does_not_exist_is_taken_as_upright() -> None:
    np.testing.assert_array_equal(
        decode(with_orientation(corners(), 9)), decode(with_orientation(corners(), 1))
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"no TIFF header at all", b"II*\0", b"II*\0\x08\0\0\0\xff\xff"])
def test_broken_metadata_take_nothing_from_the_pixels(kind: str, exif: bytes) -> None:
    broken = encoded(corners(), kind, exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(decode(broken), decode(encoded(corners(), kind)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats(kind: str) -> None:
    pixels = decode(encoded(corners(), kind))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels[12, 18].astype(int), (220, 30, 30), atol=12)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})],
)
def test_truncated_files_are_refused(kind: str, options: dict[str, bool], share: float) -> None:
    data = encoded(picture(1, 200, 300), kind, **options)
    with pytest.raises(DecodeError) as caught:
        decode(data[: int(share * len(data))])
    assert caught.value.status == "decode_failed"


def test_a_truncated_jpeg_is_refused_at_a_reduced_scale_too() -> None:
    data = encoded(picture(1, 400, 600))
    with pytest.raises(DecodeError, match="truncated"):
        decode(data[: len(data) // 2], 64)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height", "cap", "reason"),
    [
        (20_000, 8_000, 100_000_000, "20000 x 8000 pixels are over the cap of 100000000"),
        (60_000, 60_000, 100_000_000, "pixels are over the cap of 100000000"),
        (60_000, 60_000, 10**12, "pixels are over the cap of 178956970"),
        (300, 200, 50_000, "300 x 200 pixels are over the cap of 50000"),
    ],
)
def test_bombs_are_refused_by_their_header(width: int, height: int, cap: int, reason: str) -> None:
    with pytest.raises(DecodeError, match=f"^{reason}$"):
        decode(bomb(width, height), 64, max_pixels=cap)


@pytest.mark.parametrize("size", [(1, 50), (50, 1)])
def test_a_line_of_pixels_is_no_photograph(size: tuple[int, int]) -> None:
    with pytest.raises(DecodeError, match="too few"):
        decode(encoded(blank(*size), "PNG"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"  <!DOCTYPE html><html>gone</html>", "not a photograph (a web page or text)"),
        (b"<HTML>", "not a photograph (a web page or text)"),
        (b'{"error": 404}', "not a photograph (a web page or text)"),
        (b"\x00\x01\x02\x03 whatever", "not a photograph of a known format"),
        # Pillow would hand this one to another program.
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "not a photograph of a known format",
        ),
    ],
)
def test_what_is_no_photograph_says_what_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert str(caught.value) == reason


def test_reasons_are_one_stable_line() -> None:
    for data in (
        b"nothing",
        encoded(picture(1))[:200],
        encoded(picture(1), "GIF")[:300],
        bomb(50, 50),
    ):
        reasons = set()
        for _ in range(2):
            with pytest.raises(DecodeError) as caught:
                decode(data)
            reasons.add(str(caught.value))
        assert len(reasons) == 1
        assert not re.search(r"0x[0-9a-f]+|\n", reasons.pop())


def test_grey_becomes_three_equal_channels() -> None:
    grey = picture(2)[..., 0]
    pixels = decode(encoded(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_a_palette_is_looked_up() -> None:
    image = Image.fromarray(corners()).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(decode(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.fromarray(blank(grey=100)).convert(mode)
    image.putalpha(Image.fromarray(np.repeat(np.uint8([[0, 255] * 64]), 96, axis=0)))
    pixels = decode(encoded(image, "PNG"))
    assert (pixels[:, 0] == 255).all()
    assert (pixels[:, 1] == 100).all()


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.fromarray(blank(grey=0)[..., 0]).convert("P")
    assert (decode(encoded(image, "PNG", transparency=0)) == 255).all()


def test_cmyk_is_turned_into_rgb() -> None:
    image = Image.fromarray(corners()).convert("CMYK")
    pixels = decode(encoded(image, "JPEG", quality=95))
    np.testing.assert_allclose(pixels[12, 18].astype(int), (220, 30, 30), atol=12)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("value", [100, 30_000, 65_535])
def test_sixteen_bits_are_scaled_not_clipped(kind: str, value: int) -> None:
    grey = np.full((20, 30), value, dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(grey), kind))
    assert np.unique(pixels).tolist() == [int(value * 255 / 65535)]


@settings(max_examples=40)
@given(
    height=st.integers(2, 90),
    width=st.integers(2, 90),
    longest_side=st.integers(1, 120) | st.none(),
    orientation=st.sampled_from(ORIENTATIONS),
    kind=st.sampled_from(["JPEG", "PNG"]),
)
def test_never_larger_than_asked_and_never_enlarged(
    height: int, width: int, longest_side: int | None, orientation: int, kind: str
) -> None:
    data = with_orientation(blank(height, width), orientation, kind)
    pixels = decode(data, longest_side)
    upright = (width, height) if orientation > 4 else (height, width)
    assert pixels.shape == (*shrunk_size(*upright, longest_side), 3)
    assert max(pixels.shape[:2]) == min(max(height, width), longest_side or 1000)


def test_shrinking_keeps_the_aspect_ratio() -> None:
    assert shrunk_size(300, 400, 100) == (75, 100)
    assert shrunk_size(4000, 3, 100) == (100, 1)
    assert shrunk_size(30, 40, 100) == (30, 40)


def test_shrinking_an_array_is_decoding_it_small() -> None:
    photograph = picture(3, 300, 200)
    np.testing.assert_array_equal(shrink(photograph, 75), decode(encoded(photograph, "PNG"), 75))
    assert shrink(photograph, 300) is photograph


def test_a_reduced_scale_looks_like_the_whole() -> None:
    photograph = np.kron(picture(4, 200, 300), np.ones((4, 4, 1), dtype=np.uint8))
    data = encoded(photograph, "JPEG", quality=95)
    small = decode(data, 150).astype(int)
    expected = shrink(decode(data), 150).astype(int)
    assert np.abs(small - expected).mean() < 8


def progressive_bomb(scans: int, side: int = 6000) -> bytes:
    """A small progressive JPEG whose last scan is repeated, which takes a decoder minutes."""
    data = encoded(blank(side, side), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


JPEGS: list[dict[str, object]] = [
    {},
    {"optimize": True},
    {"progressive": True},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 3},
    {"progressive": True, "restart_marker_rows": 2},
    {"quality": 100, "subsampling": 0},
]


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("longest_side", [None, 60])
@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("grey", [False, True])
class TestWholeJpegs:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data,
            lambda data: data[:-1],
            lambda data: data[:-2],
            lambda data: data + b"\0" * 5000,
            lambda data: data + b"\xff\xd8\xff\xe0 more \xff\xda",
            lambda data: data[:-2] + b"\xff" * 300 + data[-2:],
            lambda data: data[:-2] + bytes(3) + data[-2:],
            lambda data: data[:-2] + bytes(900) + data[-2:],
            lambda data: data[:-2] + bytes(900),
        ],
    )
    def test_are_decoded_whole(
        self,
        options: dict[str, object],
        grey: bool,
        longest_side: int | None,
        change: Callable[[bytes], bytes],
    ) -> None:
        image = Image.fromarray(picture(5, 230, 330)[..., 0] if grey else picture(5, 230, 330))
        data = encoded(image, **options)
        with Image.open(io.BytesIO(data)) as opened:
            if longest_side:
                opened.draft("RGB", (60, 42))
            expected = np.asarray(opened.convert("RGB"))
        pixels = decode(change(data), longest_side)
        if longest_side is None:
            np.testing.assert_array_equal(pixels, expected)
        else:
            np.testing.assert_array_equal(pixels, decode(data, longest_side))

    @pytest.mark.parametrize(
        "change",
        [
            halved,
            lambda data: halved(data) + b"\xff\xd9",
            lambda data: halved(data) + bytes(70_000),
            lambda data: halved(data) + bytes(70_000) + b"\xff\xd9",
            lambda data: halved(data) + bytes(len(data) - len(data) // 2),
            lambda data: halved(data) + b"\xaa" * 70_000 + b"\xff\xd9",
            lambda data: halved(data) + b"\xff" * 70_000,
            lambda data: halved(data) + b"no photograph " * 5000,
            lambda data: (
                data[: len(data) * 2 // 5] + bytes(len(data) // 5) + data[-len(data) * 2 // 5 :]
            ),
            lambda data: data[: len(data) * 2 // 5] + data[-len(data) * 2 // 5 :],
            lambda data: data[: len(data) * 9 // 10] + b"\xff\xd9",
        ],
    )
    def test_or_refused(
        self,
        options: dict[str, object],
        grey: bool,
        longest_side: int | None,
        change: Callable[[bytes], bytes],
    ) -> None:
        image = Image.fromarray(picture(5, 230, 330)[..., 0] if grey else picture(5, 230, 330))
        with pytest.raises(DecodeError, match="damaged or truncated"):
            decode(change(encoded(image, **options)), longest_side)


def test_plain_surfaces_are_no_damage() -> None:
    """Their codes may be all zeros."""
    for options in JPEGS:
        for level in (0, 128, 255):
            image = blank(800, 900, level)
            image[:100, :100] = picture(1, 100, 100)
            assert decode(encoded(image, **options)).shape == (800, 900, 3)
            assert decode(encoded(Image.fromarray(image[..., 0]), **options)).shape[:2] == (
                800,
                900,
            )


def test_a_progressive_jpeg_cut_between_scans_is_refused() -> None:
    data = encoded(picture(1, 200, 300), progressive=True)
    starts = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    assert len(starts) > 5
    for start in starts[1:]:
        for end in (b"", b"\xff\xd9"):
            with pytest.raises(DecodeError, match="truncated"):
                decode(data[:start] + end)


def test_endless_scans_are_refused_before_they_are_decoded() -> None:
    data = progressive_bomb(2000)
    start = time.perf_counter()
    with pytest.raises(DecodeError, match=r"^JPEG of \d+ or more scans takes too long to decode$"):
        decode(data, 64)
    assert time.perf_counter() - start < 1


def test_a_few_more_scans_are_decoded() -> None:
    assert decode(progressive_bomb(9, 300)).shape == (300, 300, 3)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_endless_strips_is_refused_unread(order: str, big: bool) -> None:
    entry = struct.pack(order + ("HHQQ" if big else "HHII"), 273, 4, 5_000_000, 8)
    name = {"<": b"II", ">": b"MM"}[order]
    if big:
        data = name + struct.pack(order + "HHHQQ", 43, 8, 0, 16, 1)
    else:
        data = name + struct.pack(order + "HIH", 42, 8, 1)
    with pytest.raises(DecodeError, match=r"^TIFF of 5000000 strips or tiles, over the cap"):
        decode(data + entry + bytes(8))


def test_pixels_as_text_are_read_up_to_a_size() -> None:
    assert decode(b"P3\n30 20\n255\n" + b"7 8 9 " * 600)[-1, -1].tolist() == [7, 8, 9]
    with pytest.raises(DecodeError, match=r"^plain PNM of over 8 MiB"):
        decode(b"P3\n3000 2000\n255\n" + b"7 8 9 " * 6_000_000)


def test_other_jpegs_are_refused_by_name() -> None:
    data = encoded(picture(1))
    at = data.index(b"\xff\xc0")
    with pytest.raises(DecodeError, match="arithmetic coding"):
        decode(data[: at + 1] + b"\xc9" + data[at + 2 :])


def test_inks_are_turned_over_only_where_adobe_wrote_them() -> None:
    data = encoded(Image.fromarray(corners()).convert("CMYK"), "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    length = int.from_bytes(data[at + 2 : at + 4])
    plain = decode(data[:at] + data[at + 2 + length :]).astype(int)
    inverted = Image.fromarray(np.asarray(Image.open(io.BytesIO(data))) ^ 255, "CMYK")
    np.testing.assert_array_equal(plain, np.asarray(inverted.convert("RGB")))


class TestPng:
    def chunk(self, kind: bytes, content: bytes, flip: int = 0) -> bytes:
        check = zlib.crc32(kind + content) ^ flip
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    @pytest.mark.parametrize(
        ("kind", "content", "flip"),
        [
            (b"tEXt", b"Comment\0" + b"a" * 2_000_000, 0),
            (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000)), 0),
            (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(80_000_000)), 0),
            (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(80_000_000)), 0),
            (b"iCCP", b"profile\0\0" + zlib.compress(bytes(80_000_000)), 0),
            (b"iCCP", b"profile", 0),
            (b"tEXt", b"Comment\0a", 1),
            (b"eXIf", b"", 7),
            (b"acTL", bytes(8), 0),
            (b"pHYs", b"", 0),
        ],
    )
    def test_remarks_take_nothing_from_the_pixels(
        self, kind: bytes, content: bytes, flip: int
    ) -> None:
        data = encoded(picture(1), "PNG")
        remarked = data[:33] + self.chunk(kind, content, flip) + data[33:]
        np.testing.assert_array_equal(decode(remarked), picture(1))

    @pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
    def test_a_wrong_check_sum_of_pixels_is_refused(self, kind: bytes) -> None:
        data = bytearray(encoded(picture(1), "PNG"))
        at = data.index(kind)
        length = int.from_bytes(data[at - 4 : at])
        data[at + 4 + length] ^= 1
        with pytest.raises(DecodeError, match="check sum"):
            decode(bytes(data))

    @pytest.mark.parametrize("packed", [False, True])
    def test_orientation_is_read_from_texts(self, packed: bool) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        text = f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}".encode()
        name = b"Raw profile type exif\0"
        chunk = (
            self.chunk(b"zTXt", name + b"\0" + zlib.compress(text))
            if packed
            else self.chunk(b"tEXt", name + text)
        )
        data = encoded(picture(1), "PNG")
        assert decode(data[:33] + chunk + data[33:]).shape == (128, 96, 3)

    def test_the_end_chunk_is_not_missed(self) -> None:
        data = encoded(picture(1), "PNG")
        np.testing.assert_array_equal(decode(data[:-12]), picture(1))
        np.testing.assert_array_equal(decode(data[:-16]), picture(1))

    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_a_transparent_grey_is_white(self, depth: int) -> None:
        header = struct.pack(">IIBBBBB", 16, 4, depth, 0, 0, 0, 0)
        row = b"\0" + (b"\0\1" * 16 if depth == 16 else b"\1" * (2 * depth))
        parts = [
            self.chunk(b"IHDR", header),
            self.chunk(b"tRNS", b"\0\1"),
            self.chunk(b"IDAT", zlib.compress(row * 4)),
            self.chunk(b"IEND", b""),
        ]
        pixels = decode(b"\x89PNG\r\n\x1a\n" + b"".join(parts))[..., 0]
        # The last bits of each byte are one: of the value's size, every such pixel is white.
        assert (pixels[:, 15] == 255).all()
        assert depth >= 8 or (pixels[:, 0] == 0).all()

    @pytest.mark.parametrize("longest_side", [None, 24])
    def test_a_transparent_colour_is_white(self, longest_side: int | None) -> None:
        photograph = blank(48, 48, 90)
        photograph[:24] = (10, 20, 30)
        data = encoded(photograph, "PNG", transparency=(10, 20, 30))
        pixels = decode(data, longest_side)
        assert (pixels[: len(pixels) // 4] == 255).all()
        assert (pixels[-len(pixels) // 4 :] == 90).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
@pytest.mark.parametrize("longest_side", [None, 32])
def test_every_transparency_is_laid_on_white(mode: str, longest_side: int | None) -> None:
    image = Image.fromarray(blank(64, 128, 100)).convert("RGBA")
    image.paste((100, 100, 100, 0), (0, 0, 64, 64))
    if mode == "P":
        data = encoded(image.quantize(), "PNG")
    else:
        kind = {"RGBA": "WEBP", "LA": "TIFF", "PA": "PNG"}[mode]
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        data = encoded(image.convert("LA") if mode != "RGBA" else image, kind, **options)
    pixels = decode(data, longest_side).astype(int)
    quarter = pixels.shape[1] // 4
    np.testing.assert_allclose(pixels[:, :quarter], 255, atol=1)
    np.testing.assert_allclose(pixels[:, -quarter:], 100, atol=1)


class TestDeepPixels:
    @pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (0, 1e-3), (-7, 9), (0, 1e30)])
    @pytest.mark.parametrize("kind", ["TIFF", "PFM"])
    def test_floats_are_scaled_by_their_range(self, low: float, high: float, kind: str) -> None:
        slope = np.linspace(low, high, 40 * 60, dtype=np.float32).reshape(40, 60)
        data = encoded(Image.fromarray(slope), "TIFF")
        if kind == "PFM":
            data = b"Pf\n60 40\n-1.0\n" + slope[::-1].tobytes()
        expected = np.linspace(0, 255, 40 * 60).reshape(40, 60)
        np.testing.assert_allclose(decode(data)[..., 1], expected, atol=1)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_no_number_is_refused(self, value: float) -> None:
        slope = np.full((40, 60), 0.5, dtype=np.float32)
        slope[30, 20] = value
        with pytest.raises(DecodeError, match="not finite"):
            decode(encoded(Image.fromarray(slope), "TIFF"))

    @pytest.mark.parametrize("value", [100, 30_000, 65_535])
    def test_sixteen_bits_of_pgm(self, value: int) -> None:
        data = b"P5\n30 20\n65535\n" + np.full((20, 30), value, dtype=">u2").tobytes()
        assert np.unique(decode(data)).tolist() == [int(value * 255 / 65535)]

    def test_white_may_be_zero(self) -> None:
        grey = np.full((20, 30), 65535, dtype=np.uint16)
        grey[:10] = 0
        data = bytearray(encoded(Image.fromarray(grey), "TIFF"))
        at = data.index(struct.pack("<HHII", 262, 3, 1, 1))
        data[at + 8] = 0
        assert decode(bytes(data))[::19, 0, 0].tolist() == [255, 0]

    def test_sixteen_bit_colours(self) -> None:
        data = b"P6\n30 20\n65535\n" + np.full((20, 30, 3), 30_000, dtype=">u2").tobytes()
        np.testing.assert_allclose(decode(data), 117, atol=1)

    def test_whole_numbers_of_thirty_two_bits(self) -> None:
        slope = np.linspace(0, 3_000_000, 40 * 60).astype(np.int32).reshape(40, 60)
        expected = np.linspace(0, 255, 40 * 60).reshape(40, 60)
        pixels = decode(encoded(Image.fromarray(slope), "TIFF"))[..., 0]
        np.testing.assert_allclose(pixels, expected, atol=1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO", "TIFF", "AVIF"])
def test_of_several_pictures_the_first_is_taken(kind: str) -> None:
    others = [Image.fromarray(blank(48, 72, 10)), Image.fromarray(blank(48, 72, 240))]
    data = encoded(corners(), kind, save_all=True, append_images=others)
    np.testing.assert_allclose(decode(data)[12, 18].astype(int), (220, 30, 30), atol=20)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_newer_formats(kind: str) -> None:
    data = encoded(corners(), kind)
    np.testing.assert_allclose(decode(data)[12, 18].astype(int), (220, 30, 30), atol=20)
    with pytest.raises(DecodeError, match="truncated"):
        decode(halved(data))


@pytest.mark.parametrize(
    ("kind", "options"), [("AVIF", {"quality": 100}), ("WEBP", {"lossless": True})]
)
def test_zeros_in_place_of_pixels_are_refused(kind: str, options: dict[str, object]) -> None:
    data = encoded(picture(1, 400, 600), kind, **options)
    with pytest.raises(DecodeError, match="truncated"):
        decode(halved(data) + bytes(len(data) - len(data) // 2))


def test_heic_is_read_by_an_extra() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    data = encoded(corners(), "HEIF")
    np.testing.assert_allclose(decode(data)[12, 18].astype(int), (220, 30, 30), atol=20)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    box = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"
    with pytest.raises(DecodeError, match=r'^HEIC photograph: install the extra "heif" '):
        decode(box + bytes(100))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL photograph: save it as JPEG or PNG"),
        (b"%PDF-1.7\n", "PDF: save it as JPEG or PNG"),
        (b'<?xml version="1.0"?>\n<svg xmlns="">', "SVG drawing: save it as PNG"),
        (b"\0\0\0\x18ftypmp42", "a video or another file of the MP4 family, not a photograph"),
        (b"RIFF\x04\0\0\0WEBP", "damaged or truncated photograph (WebP photograph)"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert str(caught.value) == reason


def test_a_pillow_without_avif_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "FORMATS", ("JPEG", "PNG"))
    monkeypatch.setattr(refusals.features, "check", lambda feature: False)
    with pytest.raises(DecodeError, match=r"^AVIF photograph, which the installed Pillow does not"):
        decode(encoded(corners(), "AVIF"))


class TestMemory:
    def webp(self, width: int, height: int) -> bytes:
        """A lossless WebP of one colour, which takes a few bytes."""
        size = (width - 1) | (height - 1) << 14 | 1 << 28
        content = b"\x2f" + struct.pack("<I", size) + b"\x07\x10\x11\x11\x88\x88\xfe\x07\0"
        content += b"\0" * (len(content) % 2)
        return (
            b"RIFF"
            + struct.pack("<I", len(content) + 12)
            + b"WEBPVP8L"
            + struct.pack("<I", len(content))
            + content
        )

    def test_tiny_files_of_many_pixels_are_refused(self) -> None:
        with pytest.raises(DecodeError, match=r"^16383 x 6103 pixels take \d+ MiB to decode, over"):
            decode(self.webp(16383, 6103), 64)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_deep_pixels_are_turned_into_rgb_little_by_little(self, kind: str) -> None:
        grey = np.zeros((3000, 4000), dtype=np.uint16 if kind == "PNG" else np.int32)
        grey[0, 0] = 60_000
        data = encoded(Image.fromarray(grey), kind)
        del grey
        tracemalloc.start()
        try:
            decode(data, 100)
            # Pillow's own image is not among them; a copy as floats would be 96 MB.
            assert tracemalloc.get_traced_memory()[1] < len(data) + 20_000_000
        finally:
            tracemalloc.stop()

    def test_a_tile_may_be_larger_than_the_photograph(self) -> None:
        data = bytearray(encoded(blank(20, 30), "TIFF"))
        at = data.index(struct.pack("<H", 278))  # rows a strip, in whose place a tile's width
        data[at : at + 12] = struct.pack("<HHII", 322, 4, 1, 1 << 29)
        with pytest.raises(DecodeError, match="over the cap"):
            decode(bytes(data))

    def test_a_reduced_scale_counts_less(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encoded(blank(2000, 3000))
        monkeypatch.setattr(decoding, "MEMORY", MemoryBudget(20_000_000))
        assert decode(data, 100).shape == (67, 100, 3)
        with pytest.raises(DecodeError, match="over the cap of 19"):
            decode(data)

    def test_threads_share_one_budget(self, monkeypatch: pytest.MonkeyPatch) -> None:
        held: list[int] = []
        most = 0

        class Watched(MemoryBudget):
            @contextmanager
            def hold(self, size: int) -> Iterator[None]:
                nonlocal most
                with super().hold(size):
                    held.append(size)
                    most = max(most, sum(held))
                    time.sleep(0.001)
                    yield
                    held.remove(size)

        data = [encoded(picture(1, 100, 100 * i), "PNG") for i in range(1, 5)]
        budget = Watched(40_000_000)
        monkeypatch.setattr(decoding, "MEMORY", budget)
        with ThreadPoolExecutor(8) as pool:
            shapes = list(pool.map(lambda i: decode(data[i % 4]).shape, range(60)))
        assert shapes[:4] == [(100, 100 * i, 3) for i in range(1, 5)]
        assert not held
        assert 20_000_000 < most <= budget.size


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(1), "PNG"))
    np.testing.assert_array_equal(read_photograph(path), picture(1))
    assert max(read_photograph(str(path), 64).shape) == 64


def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_BYTES", 1000)
    large = tmp_path / "large.png"
    large.write_bytes(encoded(picture(1), "PNG"))
    size = large.stat().st_size
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, reason in (
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe.jpg", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (Path("/proc/kmsg"), "empty file"),
        (Path("/proc/self/status"), "empty file"),
        (tmp_path / "large.png" / "a", "no such file"),
        ("a\0b", "no such file"),
        (tmp_path / ("x" * 300), "cannot be read (File name too long)"),
        (large, f"file of {size} bytes is over the cap of 1000"),
    ):
        with pytest.raises(DecodeError) as caught:
            read_photograph(path)
        assert str(caught.value) == reason
