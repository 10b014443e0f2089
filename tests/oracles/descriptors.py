"""Descriptors written straight from their definitions, a number at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def gem(feature_map: NDArray[np.float64], p: float, eps: float = 1e-6) -> list[float]:
    """Generalised mean of each channel of (c, h, w)."""
    pooled = []
    for channel in feature_map:
        total, places = 0.0, 0
        for row in channel:
            for value in row:
                total += max(float(value), eps) ** p
                places += 1
        pooled.append((total / places) ** (1 / p))
    return pooled


def vlad(
    descriptors: NDArray[np.float32], codebook: NDArray[np.float32], power: float
) -> list[float]:
    """Sums of residuals by word, each normalised, powered, normalised as a whole."""
    words, dimension = codebook.shape
    sums = [[0.0] * dimension for _ in range(words)]
    for descriptor in descriptors:
        distances = [
            sum((float(a) - float(b)) ** 2 for a, b in zip(descriptor, word, strict=True))
            for word in codebook
        ]
        nearest = distances.index(min(distances))
        for i in range(dimension):
            sums[nearest][i] += float(descriptor[i]) - float(codebook[nearest][i])
    flat: list[float] = []
    for one in sums:
        norm = math.sqrt(sum(value**2 for value in one))
        flat += [value / norm if norm > 0 else 0.0 for value in one]
    powered = [math.copysign(abs(value) ** power, value) for value in flat]
    norm = math.sqrt(sum(value**2 for value in powered))
    return [value / norm if norm > 0 else 0.0 for value in powered]


def whiten(
    descriptors: NDArray[np.float64], dimension: int, power: float, shrinkage: float
) -> NDArray[np.float64]:
    """The descriptors whitened by what they themselves teach, by a full singular decomposition."""
    centred = descriptors - descriptors.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    eigenvalues = singular**2 / len(descriptors)
    average = (centred**2).sum() / len(descriptors) / min(centred.shape)
    softened = (1 - shrinkage) * eigenvalues + shrinkage * average
    projected = centred @ rows.T[:, :dimension] * softened[:dimension] ** power
    return projected / np.linalg.norm(projected, axis=1, keepdims=True)
