"""Small photographs made up on the spot, and data sets of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.descriptors.base import Extractor
from retrieval.descriptors.extraction import extract

Photograph = NDArray[np.uint8]
HEADER = ("id", "path", "landmark_id")


def picture(seed: int, height: int = 96, width: int = 128) -> Photograph:
    """A photograph with corners and edges to find: a mosaic over a slope of light, (h, w, 3)."""
    random = np.random.default_rng(seed)
    tiles = random.integers(0, 200, size=(-(-height // 12), -(-width // 12), 3))
    mosaic = np.kron(tiles, np.ones((12, 12, 1), dtype=np.int64))[:height, :width]
    slope = np.linspace(0, 40, width)[None, :, None]
    grain = random.integers(0, 12, size=(height, width, 1))
    return (mosaic + slope + grain).clip(0, 255).astype(np.uint8)


def blank(height: int = 96, width: int = 128, grey: int = 128) -> Photograph:
    """A photograph of nothing."""
    return np.full((height, width, 3), grey, dtype=np.uint8)


def view(landmark: int, number: int, height: int = 96, width: int = 128) -> Photograph:
    """One of several photographs of a landmark: another frame, light and grain each."""
    random = np.random.default_rng(1000 * landmark + number)
    top, left = random.integers(0, 10, size=2)
    whole = picture(landmark, height + 10, width + 10)[top : top + height, left : left + width]
    shown = whole * random.uniform(0.8, 1.1) + random.normal(0, 3, size=whole.shape)
    return shown.clip(0, 255).astype(np.uint8)


def encoded(photograph: Photograph | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of an image file."""
    image = photograph if isinstance(photograph, Image.Image) else Image.fromarray(photograph)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_orientation(photograph: Photograph, orientation: int, kind: str = "JPEG") -> bytes:
    """A file whose EXIF says how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    return encoded(photograph, kind, exif=exif.tobytes(), **options)


def write_photograph(path: Path, photograph: Photograph) -> Path:
    """Write a PNG or, where the name says so, a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    path.write_bytes(encoded(photograph, kind))
    return path


def write_csv(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = HEADER) -> Path:
    """Write a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_data_set(
    folder: Path, landmarks: int = 6, views: int = 4, bank: int = 8, queries: int = 2
) -> Path:
    """A data set: gallery, bank and test tables, with names."""

    def labelled(first: int, count: int) -> list[tuple[str, str, str]]:
        rows = []
        for landmark in range(1, landmarks + 1):
            for number in range(first, first + count):
                name = f"m{landmark}v{number}"
                write_photograph(folder / "photos" / f"{name}.jpg", view(landmark, number))
                rows.append((name, f"photos/{name}.jpg", f"L{landmark}"))
        return rows

    def unlabelled(first: int, count: int) -> list[tuple[str, str, str]]:
        rows = []
        for number in range(first, first + count):
            name = f"n{number}"
            write_photograph(folder / "photos" / f"{name}.jpg", picture(5000 + number))
            rows.append((name, f"photos/{name}.jpg", ""))
        return rows

    write_csv(folder / "index.csv", labelled(0, views))
    write_csv(folder / "none.csv", unlabelled(0, bank))
    write_csv(folder / "test.csv", [*labelled(views, queries), *unlabelled(bank, 4)])
    names = [(f"L{landmark}", f"Landmark {landmark}") for landmark in range(1, landmarks + 1)]
    write_csv(folder / "landmarks.csv", names, ("landmark_id", "name"))
    return folder


def features_of(extractor: Extractor, photographs: Sequence[Photograph]) -> list[Any]:
    """An extractor's features of photographs, in order, errors among them."""
    (features,) = extract([photographs], extractor)
    return features
