"""ALIKED's network with less to compute: maps at their own sizes, read only where it looks.

kornia's network brings four maps to full size, joins them, and reads the result at some ten
thousand places. Here each map keeps its size, and is brought up at those places alone. The scores'
first convolution looks at one pixel and is linear, as bringing up is: so it comes first, and eight
numbers a pixel are brought up rather than 128. All comes out as kornia's, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from kornia.feature import ALIKED
from kornia.feature.aliked.aliked import DeformableConv2d
from torch import Tensor, nn
from torch.nn.functional import elu, embedding_bag, normalize, pad, selu
from torchvision.ops import deform_conv2d

STEP: Final = 32
"""Both sides of what the network sees are multiples of this."""
LAYERS: Final = ("full", "half", "eighth", "thirty-second", "scores")
"""Maps by their size, beside the photograph's."""
PATCH: Final = 3
"""Pixels across that a keypoint's places are chosen from."""
TINY: Final = 1e-12
"""Least length that a vector is divided by."""
SELU: Final = (1.6732632423543772, 1.0507009873554805)
"""Klambauer et al., "Self-normalizing neural networks" (NeurIPS 2017): alpha and the scale."""


class Selu(nn.Module):
    """SELU by ELU, which runtimes are faster at."""

    def forward(self, values: Tensor) -> Tensor:
        alpha, scale = SELU
        return scale * elu(values, alpha)


class Deformable(nn.Module):
    """kornia's deformable convolution by torchvision's, for photographs of any size when traced."""

    def __init__(self, own: DeformableConv2d):
        super().__init__()
        self.offsets, self.weights = own.offset_conv, own.regular_conv

    def forward(self, values: Tensor) -> Tensor:
        offsets = self.offsets(values).float()
        # The longer side, worked out of values: a tracer would take the shape for a constant.
        ones = torch.ones_like(values[0, 0], dtype=torch.float32)
        most = torch.maximum(ones.sum(0).max(), ones.sum(1).max()) / 4
        offsets = torch.maximum(torch.minimum(offsets, most), -most)
        weight, bias = self.weights.weight.float(), self.weights.bias
        found = deform_conv2d(
            values.float(), offsets, weight, None if bias is None else bias.float(), padding=1
        )
        moved: Tensor = found.to(values.dtype)
        return moved


class AlikedMaps(nn.Module):
    """(n, 3, h, w) photographs in 0 to 1 to maps (n, c, h, w) by :data:`LAYERS`.

    Height and width are multiples of :data:`STEP`.
    """

    def __init__(self, own: ALIKED):
        super().__init__()
        blocks = [own.block1, own.block2, own.block3, own.block4]
        self.blocks = nn.ModuleList(_replaced(block) for block in blocks)
        self.shrinks = nn.ModuleList([nn.Identity(), own.pool2, own.pool4, own.pool4])
        self.joins = nn.ModuleList([own.conv1, own.conv2, own.conv3, own.conv4])
        self.grows = nn.ModuleList([nn.Identity(), own.upsample2, own.upsample8, own.upsample32])
        head = _replaced(own.score_head)
        largest, *others = head[0].weight.chunk(4, dim=1)
        self.firsts = nn.ModuleList([nn.Identity(), *(_by_pixel(part) for part in others)])
        # The largest map's part and the sum of all, in one: adding maps is slower than this.
        same = torch.eye(len(largest))[:, :, None, None]
        self.sum = _by_pixel(torch.cat([largest, same, same, same], dim=1))
        self.head, self.gate = head[1:], Selu()

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        found, grown = [], []
        steps = (self.blocks, self.shrinks, self.joins, self.grows, self.firsts)
        for block, shrink, join, grow, first in zip(*steps, strict=True):
            values = block(shrink(values))
            found.append(self.gate(join(values)))
            grown.append(grow(first(found[-1])))
        found.append(torch.sigmoid(self.head(self.sum(torch.cat(grown, dim=1)))))
        return dict(zip(LAYERS, found, strict=True))


def _replaced(module: nn.Module) -> Any:
    """A module of kornia's whose parts are the ones above."""
    for name, inner in list(module.named_children()):
        if isinstance(inner, DeformableConv2d):
            setattr(module, name, Deformable(inner))
        elif isinstance(inner, nn.SELU):
            setattr(module, name, Selu())
        else:
            _replaced(inner)
    return module


def _by_pixel(weight: Tensor) -> nn.Conv2d:
    """A convolution of one pixel by weights (out, in, 1, 1)."""
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    convolution.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    return convolution


def padded(values: Tensor) -> tuple[Tensor, int, int]:
    """Photographs (n, 3, h, w) with their edges repeated, as many pixels as the network wants.

    Also how many pixels were put to the left, and above.
    """
    down, across = -values.shape[-2] % STEP, -values.shape[-1] % STEP
    left, above = across // 2, down // 2
    return pad(values, [left, across - left, above, down - above], mode="replicate"), left, above


def descriptors(
    maps: Sequence[Tensor],
    points: Tensor,
    size: tuple[int, int],
    corner: tuple[int, int],
    head: Any,
) -> Tensor:
    """Unit descriptors (k, 128) of one photograph's keypoints.

    Section III-C of the paper: from the pixels around a keypoint the network chooses places, and
    what the maps hold there, between pixels, makes the descriptor.

    Args:
        maps: the four of a photograph with its edges repeated, (1, 32, h, w) each.
        points: (k, 2) x and y in 0 to 1 of the photograph, k at least 1.
        size: its (height, width).
        corner: (x, y) of its first pixel in the maps.
        head: kornia's descriptor head.
    """
    height, width = size
    last = torch.tensor([width - 1, height - 1], device=points.device)
    pixels = points * last
    around = torch.arange(PATCH, device=points.device)
    first = (pixels.long() - PATCH // 2).clamp(min=0).minimum(last - PATCH)
    patch = first[:, None, None] + torch.stack(torch.meshgrid(around, around, indexing="xy"), -1)
    parts, lengths, places = _read(maps, patch.reshape(-1, 2), corner)
    seen = (torch.cat(parts, dim=1) / lengths[:, None])[places]
    channels = seen.shape[1]
    patches = seen.reshape(-1, PATCH, PATCH, channels).permute(0, 3, 1, 2)
    most = max(size) / 4
    offsets = head.offset_conv(patches).clamp(-most, most).reshape(len(points), 2, -1).mT
    x, y, shares = _around((pixels[:, None] + offsets).reshape(-1, 2))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    inner = torch.stack([x.clamp(0, width - 1), y.clamp(0, height - 1)], -1)
    parts, lengths, places = _read(maps, inner.reshape(-1, 2), corner)
    places = places.reshape(shares.shape)
    shares = shares * inside / lengths[places]
    seen = torch.cat([_weighted(part, places, shares) for part in parts], dim=1)
    found = selu(seen @ head.sf_conv.weight[:, :, 0, 0].T).reshape(len(points), -1)
    return normalize(found @ head.agg_weights.reshape(-1, channels), dim=1)


def _read(
    maps: Sequence[Tensor], pixels: Tensor, corner: tuple[int, int]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """What the maps hold at (m, 2) pixels, each once: of every map (u, 32), the length of all four
    together, (u,), and the place of each pixel's, (m,)."""
    _, channels, height, width = maps[0].shape
    x, y = (pixels + torch.tensor(corner, device=pixels.device)).int().T
    once, places = torch.unique(y * width + x, return_inverse=True)
    shown = torch.stack([once % width, once // width], -1)
    last = torch.tensor([width - 1, height - 1], device=pixels.device)
    parts = [maps[0].reshape(channels, -1)[:, once].T.float()]
    for one in maps[1:]:
        down, across = one.shape[2] - 1, one.shape[3] - 1
        x, y, shares = _around(shown * (torch.tensor([across, down], device=pixels.device) / last))
        rows = one.reshape(channels, -1).T.float().contiguous()
        parts.append(
            _weighted(rows, y.clamp(max=down) * (across + 1) + x.clamp(max=across), shares)
        )
    lengths = torch.stack([one.square().sum(1) for one in parts]).sum(0).sqrt()
    return parts, lengths.clamp(min=TINY), places


def _around(places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The four pixels around each of (m, 2) places: x and y, (m, 4) int32, and their shares in it,
    (m, 4)."""
    low = places.floor()
    x, y = (places - low).unbind(-1)
    shares = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
    left, above = low.int().unbind(-1)
    right, below = left + 1, above + 1
    return (
        torch.stack([left, right, left, right], -1),
        torch.stack([above, above, below, below], -1),
        shares,
    )


def _weighted(rows: Tensor, places: Tensor, shares: Tensor) -> Tensor:
    """Sums (m, c) of the rows at (m, 4) places, each by its share."""
    return embedding_bag(places, rows, mode="sum", per_sample_weights=shares)
