"""Pooling a network's feature map to one vector."""

from __future__ import annotations

import torch
from torch import Tensor


def gem(feature_map: Tensor, p: float, eps: float = 1e-6) -> Tensor:
    """Generalised-mean pooling.

    Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation" (TPAMI
    2019), equation 2: each channel's mean of ``max(x, eps) ** p`` over all places, to the power
    ``1 / p``. ``p = 1`` is average pooling (SPoC); large ``p`` nears max pooling (MAC).

    Args:
        feature_map: (n, c, h, w), any float type; computed in float32.
        p: the exponent, above 0.
        eps: the floor that keeps the root's slope finite.

    Returns:
        (n, c) float32.
    """
    values = feature_map.float().clamp(min=eps)
    # Two products are far cheaper than a power, and three is the usual exponent.
    powered = values * values * values if p == 3.0 else values.pow(p)
    return powered.mean(dim=(-2, -1)).pow(1.0 / p)


def tokens_to_map(features: Tensor) -> Tensor:
    """Feature maps of any layer as (n, c, h, w).

    A layer behind the network's own pooling gives (n, c) and is one place; a transformer's
    (n, tokens, c) is a row of places, the class token among them.
    """
    if features.ndim == 4:
        return features
    if features.ndim == 3:
        return features.transpose(1, 2).unsqueeze(-1)
    if features.ndim == 2:
        return features[:, :, None, None]
    raise ValueError(f"cannot pool features of shape {tuple(features.shape)}")


def first_tensor(output: object) -> Tensor:
    """The tensor in what a layer returns."""
    if isinstance(output, torch.Tensor):
        return output
    raise TypeError(f"the layer returns {type(output).__name__}, not one tensor: cut elsewhere")
