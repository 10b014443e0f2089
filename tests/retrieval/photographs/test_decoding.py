"""Decoding against Pillow as the oracle, and against files that mean harm."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from retrieval.errors import DecodeError
from retrieval.photographs.decoding import decode, read_photograph, shrink, shrunk_size
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


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(1), "PNG"))
    np.testing.assert_array_equal(read_photograph(path), picture(1))
    assert max(read_photograph(str(path), 64).shape) == 64


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(encoded(picture(1), "PNG"))
    size = large.stat().st_size
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, reason in (
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe.jpg", "not a regular file"),
        (tmp_path / ("x" * 300), "cannot be read (File name too long)"),
        (large, f"file of {size} bytes is over the cap of 1000"),
    ):
        with pytest.raises(DecodeError) as caught:
            read_photograph(path, max_bytes=1000)
        assert str(caught.value) == reason
