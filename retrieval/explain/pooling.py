"""Feature maps taken apart: what each place adds to a pooled vector.

GeM's factor is a channel's own: see :mod:`retrieval.explain.split`. A maximum (MAC, and R-MAC's
regions) is the place's where it lies, the first of equal ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retrieval.explain.grid import Grid
from retrieval.explain.split import TINY, Matrix, Split, of_nowhere, of_places
from retrieval.networks.pooling import (
    ClsConfig,
    GemConfig,
    MacConfig,
    PoolingConfig,
    RmacConfig,
    SpocConfig,
    regions,
)

EPS = 1e-6
"""GeM's floor: see :func:`retrieval.networks.pooling.gem`."""


def pooled(
    config: PoolingConfig, feature_map: Tensor, token: Tensor | None, grid: Grid, mirrored: bool
) -> Split:
    """The pooled vector of one photograph.

    Args:
        config: of the pooling.
        feature_map: (1, c, h, w).
        token: (1, c) of a transformer that has one.
        grid: of the photograph.
        mirrored: whether the network saw it mirrored.
    """
    if isinstance(config, ClsConfig):
        assert token is not None
        return of_nowhere(grid, token[0].double().numpy())
    values = feature_map[0].double().numpy()
    if values.shape[1:] == (1, 1) and len(grid) > 1:
        # Behind the network's own pooling nothing is left of places.
        return of_nowhere(grid, added(config, values)[:, 0, 0])
    parts = added(config, values)
    return of_places(grid, grid.maps(parts[:, :, ::-1] if mirrored else parts))


def added(config: PoolingConfig, values: NDArray[np.float64]) -> Matrix:
    """(c, h, w) what each place of a map (c, h, w) adds to its pooled vector."""
    match config:
        case GemConfig():
            return gem_added(values, config.p)
        case SpocConfig():
            evenly: Matrix = values / values[0].size
            return evenly
        case MacConfig():
            return _at_maxima(values)
        case RmacConfig():
            parts = np.zeros_like(values)
            for top, left, side in regions(values.shape[1], values.shape[2], config.levels):
                here = np.s_[:, top : top + side, left : left + side]
                maxima = _at_maxima(values[here])
                parts[here] += maxima / max(float(np.linalg.norm(maxima.sum(axis=(1, 2)))), TINY)
            return parts
        case ClsConfig():
            raise ValueError("a class token has no places")


def gem_added(values: NDArray[np.float64], p: float) -> Matrix:
    """(c, h, w) what each place adds to GeM's (c,) vector."""
    powers = np.maximum(values, EPS) ** p
    mean = powers.mean(axis=(1, 2), keepdims=True)
    parts: Matrix = powers / values[0].size * mean ** (1.0 / p - 1.0)
    return parts


def _at_maxima(values: NDArray[np.float64]) -> Matrix:
    """(c, h, w) each channel's maximum where it lies, and noughts."""
    flat = values.reshape(len(values), -1)
    parts = np.zeros_like(flat)
    channels, places = np.arange(len(flat)), flat.argmax(axis=1)
    parts[channels, places] = flat[channels, places]
    return parts.reshape(values.shape)
