"""Pooling a network's feature map to one vector: MAC, SPoC, GeM, R-MAC, or the class token."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from retrieval.types import StrictModel


class MacConfig(StrictModel):
    """See :func:`mac`."""

    kind: Literal["mac"] = "mac"


class SpocConfig(StrictModel):
    """See :func:`spoc`."""

    kind: Literal["spoc"] = "spoc"


class GemConfig(StrictModel):
    """See :func:`gem`.

    Attributes:
        p: the exponent.
    """

    kind: Literal["gem"] = "gem"
    p: float = Field(3.0, ge=1e-2, le=64.0)


class RmacConfig(StrictModel):
    """See :func:`rmac`.

    Attributes:
        levels: of regions, each level's smaller than the last's.
    """

    kind: Literal["rmac"] = "rmac"
    levels: int = Field(3, ge=1, le=8)


class ClsConfig(StrictModel):
    """A transformer's class token."""

    kind: Literal["cls"] = "cls"


PoolingConfig = Annotated[
    MacConfig | SpocConfig | GemConfig | RmacConfig | ClsConfig, Field(discriminator="kind")
]


def pool(config: PoolingConfig, feature_map: Tensor, class_token: Tensor | None) -> Tensor:
    """Pool as a config says.

    Args:
        feature_map: (n, c, h, w), any float type.
        class_token: (n, c) of a transformer that has one.

    Returns:
        (n, c) float32.

    Raises:
        ValueError: a class token is asked for where there is none.
    """
    match config:
        case MacConfig():
            return mac(feature_map)
        case SpocConfig():
            return spoc(feature_map)
        case GemConfig():
            return gem(feature_map, config.p)
        case RmacConfig():
            return rmac(feature_map, config.levels)
        case ClsConfig():
            if class_token is None:
                raise ValueError("it has no class token")
            return class_token.float()


def mac(feature_map: Tensor) -> Tensor:
    """The most of each channel over all places, (n, c, h, w) to (n, c) float32.

    Tolias, Sicre and Jégou, "Particular object retrieval with integral max-pooling of CNN
    activations" (ICLR 2016), equation 1.
    """
    return feature_map.amax(dim=(-2, -1)).float()


def spoc(feature_map: Tensor) -> Tensor:
    """The mean of each channel over all places, (n, c, h, w) to (n, c) float32.

    Babenko and Lempitsky, "Aggregating deep convolutional features for image retrieval" (ICCV
    2015), equation 3, whose sum differs by a factor alone; without its centre prior.
    """
    return feature_map.float().mean(dim=(-2, -1))


def gem(feature_map: Tensor, p: float | Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised-mean pooling.

    Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation" (TPAMI
    2019), equation 2: each channel's mean of ``max(x, eps) ** p`` over all places, to the power
    ``1 / p``. ``p = 1`` is average pooling (SPoC); large ``p`` nears max pooling (MAC).

    Args:
        feature_map: (n, c, h, w), any float type; computed in float32.
        p: the exponent, above 0; a tensor where it is learnt.
        eps: the floor that keeps the root's slope finite.

    Returns:
        (n, c) float32.
    """
    values = feature_map.float().clamp(min=eps)
    # Two products are far cheaper than a power, and three is the usual exponent.
    cubed = isinstance(p, float) and p == 3.0
    powered = values * values * values if cubed else values.pow(p)
    return powered.mean(dim=(-2, -1)).pow(1.0 / p)


def rmac(feature_map: Tensor, levels: int) -> Tensor:
    """The sum of square regions' maxima, each region's brought to unit length first.

    Tolias, Sicre and Jégou (ICLR 2016), section 3.2, without the whitening of regions.

    Args:
        feature_map: (n, c, h, w), any float type.
        levels: see :func:`regions`.

    Returns:
        (n, c) float32.
    """
    height, width = feature_map.shape[-2:]
    found = regions(height, width, levels)
    # Regions beside each other share the maxima of their columns, which are quick to take.
    columns = {
        (top, side): feature_map[..., top : top + side, :].amax(dim=-2, keepdim=True)
        for top, side in {(top, side) for top, _, side in found}
    }
    maxima = [mac(columns[top, side][..., left : left + side]) for top, left, side in found]
    return torch.stack([normalize(one, dim=1) for one in maxima]).sum(dim=0)


def regions(height: int, width: int, levels: int) -> list[tuple[int, int, int]]:
    """R-MAC's regions of a map, as (top, left, side).

    At the first level they are as large as the map is narrow, and as many lie along its longer
    side as bring the overlap of neighbours nearest to 40 %. Level ``l`` has regions of
    ``2 / (l + 1)`` that side, and ``l - 1`` more along either side of the map.
    """
    narrow, long = min(height, width), max(height, width)
    more = 0
    if long > narrow:
        # One region more than it takes for neighbours to overlap by 40 % or above.
        enough = ceil((long - narrow) / (0.6 * narrow)) + 1
        more = min(
            range(1, enough), key=lambda gaps: abs(1 - (long - narrow) / (gaps * narrow) - 0.4)
        )
    found = []
    for level in range(1, levels + 1):
        side = max(1, 2 * narrow // (level + 1))
        across, along = _spread(narrow - side, level), _spread(long - side, level + more)
        tops, lefts = (across, along) if width > height else (along, across)
        found += [(top, left, side) for top in tops for left in lefts]
    return found


def _spread(room: int, count: int) -> list[int]:
    """So many positions from 0 to ``room``, evenly."""
    return [i * room // (count - 1) for i in range(count)] if count > 1 else [0]


def tokens_to_map(features: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Feature maps of any layer as (n, c, h, w).

    A layer behind the network's own pooling gives (n, c) and is one place; a transformer's tokens
    (n, places, c) lie in the grid's rows, or are a row of places where no grid is given.
    """
    if features.ndim == 4:
        return features
    if features.ndim == 3:
        count, places, channels = features.shape
        return features.transpose(1, 2).reshape(count, channels, *(grid or (places, 1)))
    if features.ndim == 2:
        return features[:, :, None, None]
    raise ValueError(f"cannot pool features of shape {tuple(features.shape)}")


def first_tensor(output: object) -> Tensor:
    """The tensor in what a layer returns."""
    if isinstance(output, torch.Tensor):
        return output
    raise TypeError(f"the layer returns {type(output).__name__}, not one tensor: cut elsewhere")
