"""Bytes to an RGB array: the only place that decodes.

Photographs come from strangers, so the header is judged before any pixel is decoded, a truncated
file is an error and never half a picture, and the EXIF orientation is applied (OpenCV applies it,
Pillow and torchvision do not: one decoder settles it). Large JPEGs are decoded at a reduced scale
by libjpeg's DCT scaling, which costs a fraction of a full decode.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from retrieval.errors import DecodeError

PillowImage = Image.Image
"""What Pillow opens; other modules take it from here."""

MAX_PIXELS: Final = 100_000_000
PILLOW_CAP: Final = 178_956_970
"""Pixels that Pillow itself refuses to go beyond."""
MAX_BYTES: Final = 64 * 1024 * 1024
MIN_SIDE: Final = 2
ORIENTATION_TAG: Final = 0x0112
# Only these readers are ever tried: Pillow knows formats (PostScript, say) that start programs.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

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
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _pixels(image, longest_side, max_pixels)
    except (DecodeError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DecodeError(_not_a_photograph(data)) from None
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
    max_bytes: int = MAX_BYTES,
) -> NDArray[np.uint8]:
    """Read and :func:`decode` a local file.

    Returns:
        (height, width, 3) uint8.

    Raises:
        DecodeError: as :func:`decode`; or the file is missing, unreadable, or over ``max_bytes``.
    """
    return decode(_file_bytes(Path(source), max_bytes), longest_side, max_pixels=max_pixels)


def from_image(image: PillowImage, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """A Pillow image as :func:`decode` makes it of its file: RGB (height, width, 3), upright.

    Raises:
        DecodeError: as :func:`decode`; or its file was closed or is damaged.
    """
    try:
        return _pixels(image, None, max_pixels)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # as in decode; a closed image is a ValueError
        text = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(f"an image that cannot be read ({_without_addresses(text)})") from None


def _file_bytes(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file; of nothing else, which might never end or never answer.

    Raises:
        DecodeError: it is missing, unreadable, no regular file, or over ``max_bytes``.
    """
    try:
        # Without waiting for whoever would write into a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            os.close(handle)
            raise DecodeError("not a regular file")
        with os.fdopen(handle, "rb") as file:
            if found.st_size > max_bytes:
                raise DecodeError(f"file of {found.st_size} bytes is over the cap of {max_bytes}")
            # Nothing is read of what says it is empty: kernels have such files that never end.
            return file.read(found.st_size)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in it
        raise DecodeError("no such file") from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise DecodeError("not a regular file") from None
        raise DecodeError(f"cannot be read ({error.strerror or type(error).__name__})") from None


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


def _pixels(image: Image.Image, longest_side: int | None, max_pixels: int) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels are over the cap of {max_pixels}")
    _refuse_tiny(height, width)
    target = shrunk_size(height, width, longest_side)
    if longest_side is not None and image.format in ("JPEG", "MPO"):
        # libjpeg may scale by 1/2, 1/4, 1/8; ask for at least the target, so quality never drops.
        image.draft("RGB", (target[1], target[0]))
    image.load()
    orientation = _orientation(image)
    rgb = _flattened(image)
    if (rgb.height, rgb.width) != target:
        rgb = _resized(rgb, target)
    return np.ascontiguousarray(_upright(np.asarray(rgb, dtype=np.uint8), orientation))


def _refuse_tiny(height: int, width: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise DecodeError(f"{width} x {height} pixels are too few")


def _resized(rgb: Image.Image, size: tuple[int, int]) -> Image.Image:
    """At (height, width) ``size``; roughly and quickly first where it shrinks a great deal."""
    return rgb.resize(size[::-1], Image.Resampling.BILINEAR, reducing_gap=2.0)


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


def _flattened(image: Image.Image) -> Image.Image:
    """RGB of any mode: transparency is laid on white, 16-bit grey scaled rather than clipped."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image, dtype=np.float64)
        # A 32-bit file does not say how many of its bits are used.
        deep = image.mode != "I" or grey.max(initial=0.0) > 255
        top = 65535.0 if deep else 255.0
        return Image.fromarray((grey * (255.0 / top)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _not_a_photograph(data: bytes) -> str:
    if not data:
        return "empty file"
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "not a photograph (a web page or text)"
    return "not a photograph of a known format"


def _without_addresses(text: str) -> str:
    """Drop memory addresses such as ``<_io.BytesIO object at 0x7f…>``: reasons must be stable."""
    return text.split(" <")[0] if " at 0x" in text else text
