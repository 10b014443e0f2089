"""Bytes to an RGB array: the only place that decodes.

Photographs come from strangers, so the header is judged before any pixel is decoded: how many
pixels there are and how much memory decoding them takes, which all threads together keep within a
budget. A photograph is decoded whole or refused: half a picture is an error. The EXIF orientation
is applied (OpenCV applies it, Pillow and torchvision do not: one decoder settles it), and
transparency is laid on white. Large JPEGs are decoded at a reduced scale by libjpeg's DCT scaling,
which costs a fraction of a full decode.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
import warnings
from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from retrieval.errors import DecodeError
from retrieval.photographs.file_kinds import HEAD, photograph_kind
from retrieval.photographs.jpeg import Layout, decode_whole, read_layout
from retrieval.photographs.memory import MemoryBudget
from retrieval.photographs.png import SIGNATURE, PlainPng, plain_png
from retrieval.photographs.refusals import not_a_photograph, refuse_undecoded

PillowImage = Image.Image
"""What Pillow opens; other modules take it from here."""
MISSING: Final = "no such file"
MAX_PIXELS: Final = 100_000_000
PILLOW_CAP: Final = 178_956_970
"""Pixels that Pillow itself refuses to go beyond."""
MAX_BYTES: Final = 64 * 1024 * 1024
MIN_SIDE: Final = 2
ORIENTATION_TAG: Final = 0x0112
# Only these readers are ever tried: Pillow knows formats (PostScript, say) that start programs.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
MEMORY: Final = MemoryBudget(1024 * 1024 * 1024)
"""What decoding may take, in all threads of the process together; so also for one photograph."""
BAND: Final = 256 * 1024
"""Pixels that are turned into RGB at a time, where that takes more than the pixels themselves."""
REDUCING_GAP: Final = 2.0
"""Up to this many times the wanted size a photograph is shrunk roughly and quickly."""
# Bytes a pixel: of Pillow's image, where not four; and what else a format's decoder keeps.
_PILLOW_BYTES: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_DECODER_BYTES: Final = {"WEBP": 16, "AVIF": 10, "HEIF": 10, "JPEG2000": 18, "GIF": 4, "PPM": 4}
_BAND_BYTES: Final = 64
_GREY_16: Final = 65535.0
# Tags of TIFF.
_BITS, _PHOTOMETRIC, _SAMPLES, _STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT = 258, 262, 277, 278, 322, 323
_MIN_IS_WHITE: Final = 0
# Pillow's remarks on odd metadata say nothing of pixels, and our own cap replaces its warning of
# large ones. Settled once: warnings.catch_warnings is not safe in the threads that decode.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(
    data: bytes, longest_side: int | None = None, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode a photograph to RGB, upright, at most ``longest_side`` pixels on its longer side.

    Args:
        data: the encoded file.
        longest_side: the cap on ``max(height, width)`` of the result; a smaller photograph is
            never enlarged. ``None`` keeps its size.
        max_pixels: refuse a photograph whose header promises more than this; at most
            :data:`PILLOW_CAP`.

    Returns:
        (height, width, 3) uint8, C-contiguous.

    Raises:
        DecodeError: not a photograph, truncated, damaged, or over the cap.
    """
    try:
        png = plain_png(data) if data.startswith(SIGNATURE) else None
        refuse_undecoded(data)
        formats = _with_heif() if photograph_kind(data[:HEAD]) == "HEIC" else FORMATS
        with Image.open(io.BytesIO(png.data if png else data), formats=formats) as image:
            return _pixels(image, data, png, longest_side, max_pixels)
    except (DecodeError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DecodeError(not_a_photograph(data)) from None
    except Image.DecompressionBombError:
        raise DecodeError(f"pixels are over the cap of {min(max_pixels, PILLOW_CAP)}") from None
    except Exception as error:  # decoders raise anything from OSError to struct.error
        text = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(f"damaged or truncated photograph ({_without_addresses(text)})") from None


def read_photograph(
    source: str | Path,
    longest_side: int | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Read and :func:`decode` a local file.

    Returns:
        (height, width, 3) uint8.

    Raises:
        DecodeError: as :func:`decode`; or the file is missing, unreadable, or too large.
    """
    try:
        data = _bytes_of(os.fspath(source))
    except OSError as error:
        raise DecodeError(f"cannot be read ({error.strerror or type(error).__name__})") from None
    except ValueError:  # a zero byte in the name
        raise DecodeError(MISSING) from None
    return decode(data, longest_side, max_pixels=max_pixels)


def from_image(image: PillowImage) -> NDArray[np.uint8]:
    """A Pillow image as :func:`decode` makes it of its file: RGB (height, width, 3), upright.

    Raises:
        DecodeError: as :func:`decode`; or its file was closed or is damaged.
    """
    try:
        data = _unread(image)
        if data is not None:
            return decode(data)
        return _pixels(image, b"", None, None, MAX_PIXELS)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # as in decode; a closed image is a ValueError
        text = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(f"an image that cannot be read ({_without_addresses(text)})") from None


def _unread(image: PillowImage) -> bytes | None:
    """The file of an image whose pixels Pillow has not read: it would pass over missing ones."""
    if not isinstance(image, JpegImageFile | PngImageFile) or not image.tile or image.tell():
        return None
    file = image.fp
    if file is None:
        return None
    at = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(at)
    return data


def _bytes_of(path: str) -> bytes:
    """A regular file's bytes; nothing else is opened, since opening or reading it may hang."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DecodeError(MISSING) from None
    if not stat.S_ISREG(found.st_mode):
        raise DecodeError("not a regular file")
    # What stands under the name may have changed by now.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise DecodeError("not a regular file")
        if found.st_size > MAX_BYTES:
            raise DecodeError(f"file of {found.st_size} bytes is over the cap of {MAX_BYTES}")
        # The kernel's own files (/proc/kmsg) pass for regular and empty: nothing is read of them.
        data = bytearray()
        while block := file.read(found.st_size - len(data)):
            data += block
        return bytes(data)


def shrink(photograph: NDArray[np.uint8], longest_side: int) -> NDArray[np.uint8]:
    """A photograph (height, width, 3) as :func:`decode` would have shrunk it; never enlarged.

    Raises:
        DecodeError: it has too few pixels, as :func:`decode` says of a file.
    """
    _refuse_tiny(photograph.shape[0], photograph.shape[1])
    return shrink_further(photograph, longest_side)


def shrink_further(photograph: NDArray[np.uint8], longest_side: int | None) -> NDArray[np.uint8]:
    """:func:`shrink` for what was decoded already: shrunk, it may be a single pixel across."""
    height, width = photograph.shape[:2]
    target = shrunk_size(height, width, longest_side)
    if target == (height, width):
        return photograph
    return np.asarray(_resized(Image.fromarray(photograph), target), dtype=np.uint8)


def shrunk_size(height: int, width: int, longest_side: int | None) -> tuple[int, int]:
    """The (height, width) of a photograph whose longer side is capped, aspect ratio kept."""
    longer = max(height, width)
    if longest_side is None or longer <= longest_side:
        return height, width
    scale = longest_side / longer
    return max(1, round(height * scale)), max(1, round(width * scale))


def _pixels(
    image: Image.Image, data: bytes, png: PlainPng | None, longest_side: int | None, max_pixels: int
) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels are over the cap of {max_pixels}")
    _refuse_tiny(height, width)
    target = shrunk_size(height, width, longest_side)
    layout = read_layout(data) if data and isinstance(image, JpegImageFile) else None
    if longest_side is not None and layout:
        # libjpeg may scale by 1/2, 1/4, 1/8; ask for at least the target, so quality never drops.
        image.draft("RGB", (target[1], target[0]))
    needed = _memory_needed(image, layout, target)
    if needed > MEMORY.size:
        raise DecodeError(
            f"{width} x {height} pixels take {needed >> 20} MiB to decode, over the cap of"
            f" {MEMORY.size >> 20}"
        )
    with MEMORY.hold(needed):
        loaded = _loaded(image, data, layout)
        orientation = _orientation(image)
        rgb = _rgb(loaded, target, png)
        return np.ascontiguousarray(_upright(np.asarray(rgb, dtype=np.uint8), orientation))


def _memory_needed(image: Image.Image, layout: Layout | None, target: tuple[int, int]) -> int:
    """Bytes that decoding takes at most, by the header: of an image not yet loaded."""
    pixels = image.width * image.height
    needed = pixels * (_PILLOW_BYTES.get(image.mode, 4) + _DECODER_BYTES.get(image.format or "", 0))
    if layout:
        needed += layout.coefficients
    if isinstance(image, TiffImageFile):
        needed += _strip_bytes(image)
    across, down = _reduction(image.size, target)
    if image.mode != "RGB" or (across, down) != (1, 1):
        needed += 4 * ceil(image.width / across) * ceil(image.height / down)
    # The array, and another where it is turned upright.
    return needed + 6 * target[0] * target[1] + BAND * _BAND_BYTES


def _strip_bytes(image: TiffImageFile) -> int:
    """What one strip or tile of a TIFF takes: it may be larger than the photograph."""

    def largest(tag: int, default: int) -> int:
        value = image.tag_v2.get(tag, default)
        return max(map(int, value if isinstance(value, tuple) else (value,)))

    width = largest(_TILE_WIDTH, image.width)
    height = largest(_TILE_HEIGHT, min(image.height, largest(_STRIP_ROWS, image.height)))
    return ceil(width * height * largest(_BITS, 1) * largest(_SAMPLES, 1) / 8)


def _loaded(image: Image.Image, data: bytes, layout: Layout | None) -> Image.Image:
    """All pixels of the photograph, in its own mode.

    Raises:
        DecodeError: some are missing.
    """
    if layout is None or not isinstance(image, JpegImageFile):
        image.load()
        return image
    (tile,) = image.tile
    raw, *more = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    if raw == "CMYK;I" and "adobe" not in image.info:
        raw = "CMYK"  # only Adobe's programs write inks inverted
    loaded = Image.new(image.mode, image.size)
    # Pillow's own loop hands on neither how far its decoder has come nor libjpeg's warnings.
    decoder: Any = Image._getdecoder(image.mode, "jpeg", (raw, *more), image.decoderconfig)
    try:
        decoder.setimage(loaded.im, tile.extents)
        decode_whole(decoder, data, layout)
    finally:
        decoder.cleanup()
    return loaded


def _refuse_tiny(height: int, width: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise DecodeError(f"{width} x {height} pixels are too few")


def _resized(rgb: Image.Image, size: tuple[int, int]) -> Image.Image:
    """At (height, width) ``size``; roughly and quickly first where it shrinks a great deal."""
    return rgb.resize(size[::-1], Image.Resampling.BILINEAR, reducing_gap=REDUCING_GAP)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image; metadata that cannot be read take nothing from it.

    Asked after loading, since Pillow turns TIFFs upright itself and then drops the tag.
    """
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # as for pixels: parsers of metadata raise anything
        return 1
    return value if isinstance(value, int) else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the camera's EXIF orientation, 1 to 8; other values are taken as upright."""
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.swapaxes(0, 1)
        case 6:
            return np.rot90(pixels, k=-1)
        case 7:
            return pixels.swapaxes(0, 1)[::-1, ::-1]
        case 8:
            return np.rot90(pixels, k=1)
        case _:
            return pixels


def _rgb(image: Image.Image, target: tuple[int, int], png: PlainPng | None) -> Image.Image:
    """RGB of any mode, at (height, width) ``target``.

    Other modes than RGB are turned into it band by band, each shrunk at once: what transparency
    and deep pixels take would else be many times the photograph.
    """
    transparent = png.transparent if png else None
    if image.mode == "RGB" and transparent is None:
        return image if image.size == target[::-1] else _resized(image, target)
    to_rgb = _conversion(image, png)
    width, height = image.size
    across, down = _reduction(image.size, target)
    reduced = Image.new("RGB", (ceil(width / across), ceil(height / down)))
    rows = max(1, BAND // (width * down)) * down
    for top in range(0, height, rows):
        band = to_rgb(image.crop((0, top, width, min(height, top + rows))))
        reduced.paste(band.reduce((across, down)), (0, top // down))
    if reduced.size == target[::-1]:
        return reduced
    box = (0.0, 0.0, width / across, height / down)
    return reduced.resize(target[::-1], Image.Resampling.BILINEAR, box)


def _reduction(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """By how much (across, down) Pillow shrinks roughly before it resizes."""
    width, height = size
    across, down = width / target[1] / REDUCING_GAP, height / target[0] / REDUCING_GAP
    return max(1, int(across)), max(1, int(down))


def _conversion(image: Image.Image, png: PlainPng | None) -> Callable[[Image.Image], Image.Image]:
    """What turns bands of this image into RGB."""
    transparent = png.transparent if png else None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return partial(_scaled, *_range(image), transparent)
    if image.has_transparency_data:
        return _on_white
    if png and transparent is not None:
        top = 2**png.depth - 1
        eight_bits = tuple(value * 255 // top for value in transparent)
        return partial(_without_colour, eight_bits)
    return lambda band: band.convert("RGB")


def _range(image: Image.Image) -> tuple[float, float]:
    """The values that are black and white: in formats that do not say, the darkest and lightest.

    Raises:
        DecodeError: pixels that are no numbers.
    """
    if image.mode.startswith("I;16"):
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
        inverted = tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE
        return (_GREY_16, 0.0) if inverted else (0.0, _GREY_16)
    if image.mode == "I" and image.format == "PPM":
        return 0.0, _GREY_16
    rows = max(1, BAND // image.width)
    low, high = 0.0, 0.0
    for top in range(0, image.height, rows):
        band = np.asarray(image.crop((0, top, image.width, min(image.height, top + rows))))
        if not np.isfinite(band).all():
            raise DecodeError("pixels that are not finite numbers")
        low, high = min(low, float(band.min())), max(high, float(band.max()))
    if image.mode == "I" and low >= 0 and high <= 255:
        return 0.0, 255.0
    return (low, high) if high > low else (0.0, 1.0)


def _scaled(
    low: float, high: float, transparent: tuple[int, ...] | None, band: Image.Image
) -> Image.Image:
    values = np.asarray(band, dtype=np.float64)
    grey = ((values - low) * (255.0 / (high - low))).clip(0, 255).astype(np.uint8)
    if transparent:
        grey[values == transparent[0]] = 255
    return Image.fromarray(grey).convert("RGB")


def _on_white(band: Image.Image) -> Image.Image:
    rgba = band.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _without_colour(colour: tuple[int, ...], band: Image.Image) -> Image.Image:
    """White in place of one colour."""
    pixels = np.array(band.convert("RGB"))
    pixels[(pixels == colour).all(axis=2)] = 255
    return Image.fromarray(pixels)


def _with_heif() -> tuple[str, ...]:
    """The formats and HEIC, which Pillow reads by an extra, where that is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
        return (*FORMATS, "HEIF")
    except ImportError:
        raise DecodeError(
            'HEIC photograph: install the extra "heif" (pip install "landmark-retrieval[heif]"),'
            " or save it as JPEG"
        ) from None


def _without_addresses(text: str) -> str:
    """Drop memory addresses such as ``<_io.BytesIO object at 0x7f…>``: reasons must be stable."""
    return text.split(" <")[0] if " at 0x" in text else text
