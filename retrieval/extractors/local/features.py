"""The form of local features, and how they are packed into a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CODE_SCALE: Final = 512.0
"""Unit descriptors are kept as bytes: value * 512, clipped; RootSIFT's values rarely pass 0.5."""


@dataclass(frozen=True)
class LocalFeatures:
    """The local features of one photograph, strongest first; there may be none.

    Attributes:
        points: (n, 2) float32, x and y in pixels of the photograph as decoded.
        scales: (n,) float32, diameter in pixels.
        angles: (n,) float32, radians.
        codes: (n, d) uint8, unit descriptors times :data:`CODE_SCALE`.
        size: (height, width) of the photograph as decoded.
    """

    points: NDArray[np.float32]
    scales: NDArray[np.float32]
    angles: NDArray[np.float32]
    codes: NDArray[np.uint8]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def descriptors(self) -> NDArray[np.float32]:
        """(n, d) float32, of about unit length."""
        values: NDArray[np.float32] = self.codes.astype(np.float32) / np.float32(CODE_SCALE)
        return values


def encode(descriptors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Non-negative unit descriptors (n, d) as bytes."""
    codes: NDArray[np.uint8] = np.minimum(np.rint(descriptors * CODE_SCALE), 255).astype(np.uint8)
    return codes


def no_features(dimension: int, size: tuple[int, int]) -> LocalFeatures:
    """The features of a photograph in which no keypoint was found."""
    empty = np.zeros(0, dtype=np.float32)
    return LocalFeatures(
        np.zeros((0, 2), dtype=np.float32), empty, empty, np.zeros((0, dimension), np.uint8), size
    )


def pack(features: Sequence[LocalFeatures]) -> dict[str, NDArray[Any]]:
    """Many photographs' features as a few long arrays, with where each photograph begins."""
    if not features:
        return {}
    counts = [len(one) for one in features]
    return {
        "starts": np.cumsum([0, *counts], dtype=np.int64),
        "points": np.concatenate([one.points for one in features]),
        "scales": np.concatenate([one.scales for one in features]),
        "angles": np.concatenate([one.angles for one in features]),
        "codes": np.concatenate([one.codes for one in features]),
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
