"""What a file is, by its first bytes: a photograph, text, or what else it looks like."""

from __future__ import annotations

import re
from typing import Final

HEAD: Final = 4096
"""Bytes of a file's start that are looked at."""
PHOTOGRAPHS: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\0\0\0\x0cjP", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS\0", "Photoshop"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance"),
)
HEIC_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"))
AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
HEIF_BRANDS: Final = frozenset((b"mif1", b"msf1", b"miaf"))
"""Of either of the two; films are of other brands."""
BITMAP_HEADERS: Final = frozenset((12, 40, 52, 56, 64, 108, 124))
STARTS: Final = (
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"{\\rtf", "a text document (RTF)"),
    (b"\xd0\xcf\x11\xe0", "a workbook or document of old Microsoft Office"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x1f\x8b", "a gzip file in a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x80\x04\x95", "a pickle"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a Git LFS pointer, whose file was not downloaded"),
    (b"\xff\xfe\0\0", "text encoded as UTF-32"),
    (b"\0\0\xfe\xff", "text encoded as UTF-32"),
)
PORTABLE_MAP: Final = re.compile(rb"P([1-6]|[Ff])\s+(#[^\n]*\n\s*)*\d+\s+\d+\s")
MARKUP: Final = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|svg|!--)", re.IGNORECASE)
JSON: Final = re.compile(rb"\s*(\{\s*[\"}]|\[\s*[\[{\"\]])")


def photograph_kind(head: bytes) -> str | None:
    """The format of a photograph that begins so; ``None`` for what is none."""
    for start, name in PHOTOGRAPHS:
        if head.startswith(start):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return _of_iso(head)
    if PORTABLE_MAP.match(head):
        return "PNM"
    # Text may begin with BM too, but not with the zeros and the header's size behind it.
    bitmap = head.startswith(b"BM") and head[6:10] == bytes(4)
    if bitmap and int.from_bytes(head[14:18], "little") in BITMAP_HEADERS:
        return "BMP"
    return None


def _of_iso(head: bytes) -> str | None:
    """What a file of the MP4 family says that it is; ``None`` for films."""
    box = head[8 : min(int.from_bytes(head[:4]), 256)]
    brands = {box[at : at + 4] for at in range(0, len(box), 4)}
    if box[:4] == b"crx ":
        return "raw"
    if brands & HEIC_BRANDS:
        return "HEIC"
    if brands & AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if box[:4] in HEIF_BRANDS else None


def looks_like(head: bytes) -> str | None:
    """What the first :data:`HEAD` bytes of a file are; ``None`` for text.

    Text is what holds no zero bytes and hardly any control characters, or has a UTF-16 mark.
    """
    photograph = photograph_kind(head)
    if photograph is not None:
        return f"a photograph ({photograph})"
    for start, name in STARTS:
        if head.startswith(start):
            return name
    if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
        return _of_zip(head)
    if head[4:8] == b"ftyp":
        return "a video (MP4)"
    if head.startswith(b"RIFF"):
        return "a sound or video (RIFF)"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None
    return _of_text(head.removeprefix(b"\xef\xbb\xbf"))


def _of_zip(head: bytes) -> str:
    if b"xl/" in head or b"[Content_Types].xml" in head:
        return "a workbook or document (XLSX, DOCX)"
    if b"opendocument.spreadsheet" in head:
        return "a workbook (ODS)"
    return "a zip archive"


def _of_text(head: bytes) -> str | None:
    if MARKUP.match(head):
        return "a web page or XML"
    if JSON.match(head):
        return "JSON"
    zeros = head.count(0)
    if zeros > len(head) // 4 and (not head[1::2].strip(b"\0") or not head[::2].strip(b"\0")):
        return "text encoded as UTF-16 without its mark"
    odd = sum(byte < 32 and byte not in b"\t\n\v\f\r\x1a\x1b\x1f\0" for byte in head)
    return "a binary file" if odd > len(head) // 50 + 1 else None
