"""Made-up galleries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.gallery import Gallery


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def gallery_of(
    descriptors: NDArray[np.float32],
    codes: NDArray[np.int64],
    bank: NDArray[np.float32] | None = None,
    landmarks: int | None = None,
) -> Gallery:
    count = int(codes.max()) + 1 if landmarks is None else landmarks
    none = np.empty((0, descriptors.shape[1]), np.float32)
    return Gallery.of(
        descriptors,
        codes.astype(np.int64),
        [f"landmark {code:03d}" for code in range(count)],
        none if bank is None else bank,
        FaissIndex.build(descriptors, IndexConfig(factory="Flat")),
    )


def with_bank(gallery: Gallery, bank: NDArray[np.float32]) -> Gallery:
    """The same photographs beside another bank."""
    return gallery_of(gallery.vectors, gallery.codes, bank, len(gallery.landmarks))


def clusters(
    landmarks: int, photographs: int, bank: int, spread: float, seed: int = 0, dimension: int = 16
) -> Gallery:
    """Landmarks as clouds around random directions; the bank is spread everywhere."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((landmarks, dimension)))
    codes = np.repeat(np.arange(landmarks), photographs)
    noise = rng.standard_normal((len(codes), dimension)) / np.sqrt(dimension)
    anywhere = rng.standard_normal((bank, dimension))
    bank_rows = unit(anywhere) if bank else None
    return gallery_of(unit(centres[codes] + spread * noise), codes, bank_rows)
