"""The form of local features, and how they are packed into a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from retrieval.storage.ragged import starts_of

UNSIGNED_SCALE: Final = 512.0
"""Histograms of unit length are kept as uint8, value * 512: RootSIFT's rarely pass 0.5."""
SIGNED_SCALE: Final = 127.0
"""Unit descriptors with negative values are kept as int8, value * 127: SURF's reach 1."""

COLUMNS: Final = ("points", "scales", "angles", "codes")
"""The arrays of local features that have a row a feature."""

Codes = NDArray[np.uint8] | NDArray[np.int8]


@dataclass(frozen=True)
class LocalFeatures:
    """The local features of one photograph, strongest first; there may be none.

    Attributes:
        points: (n, 2) float32, x and y in pixels of the photograph as decoded.
        scales: (n,) float32, diameter in pixels.
        angles: (n,) float32, radians.
        codes: (n, d) unit descriptors as bytes; see :func:`encode`.
        size: (height, width) of the photograph as decoded.
    """

    points: NDArray[np.float32]
    scales: NDArray[np.float32]
    angles: NDArray[np.float32]
    codes: Codes
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def descriptors(self) -> NDArray[np.float32]:
        """(n, d) float32, of about unit length."""
        return dequantised(self.codes)


def encode(descriptors: NDArray[np.float32], signed: bool = False) -> Codes:
    """Unit descriptors (n, d) as a byte a number: uint8, or int8 where some may be negative."""
    if signed:
        codes: Codes = np.clip(np.rint(descriptors * SIGNED_SCALE), -127, 127).astype(np.int8)
    else:
        codes = np.minimum(np.rint(descriptors * UNSIGNED_SCALE), 255).astype(np.uint8)
    return codes


def dequantised(codes: Codes) -> NDArray[np.float32]:
    """The inverse of :func:`encode`, but for rounding and clipping."""
    scale = SIGNED_SCALE if codes.dtype == np.int8 else UNSIGNED_SCALE
    values: NDArray[np.float32] = codes.astype(np.float32) / np.float32(scale)
    return values


def no_features(dimension: int, size: tuple[int, int], signed: bool = False) -> LocalFeatures:
    """The features of a photograph in which no keypoint was found."""
    empty = np.zeros(0, dtype=np.float32)
    codes = encode(np.zeros((0, dimension), dtype=np.float32), signed)
    return LocalFeatures(np.zeros((0, 2), dtype=np.float32), empty, empty, codes, size)


def joined(features: Sequence[LocalFeatures]) -> dict[str, NDArray[Any]]:
    """Photographs' features, one after another: :data:`COLUMNS` of at least one photograph."""
    return {name: np.concatenate([getattr(one, name) for one in features]) for name in COLUMNS}


def pack(features: Sequence[LocalFeatures]) -> dict[str, NDArray[Any]]:
    """Many photographs' features as a few long arrays, with where each photograph begins."""
    if not features:
        return {}
    return {
        "starts": starts_of([len(one) for one in features]),
        **joined(features),
        "sizes": np.array([one.size for one in features], dtype=np.int32),
    }


def unpack(arrays: Mapping[str, NDArray[Any]]) -> list[LocalFeatures]:
    """The inverse of :func:`pack`."""
    if not arrays:
        return []
    starts = arrays["starts"]
    return [
        LocalFeatures(
            arrays["points"][a:b],
            arrays["scales"][a:b],
            arrays["angles"][a:b],
            arrays["codes"][a:b],
            (int(size[0]), int(size[1])),
        )
        for a, b, size in zip(starts[:-1], starts[1:], arrays["sizes"], strict=True)
    ]
