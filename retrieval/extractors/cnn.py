"""A network's feature map, pooled by GeM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from pydantic import Field

from retrieval.errors import ConfigError
from retrieval.extractors.base import Photograph, StrictModel, VectorExtractor, Vectors
from retrieval.extractors.pooling import first_tensor, gem, tokens_to_map
from retrieval.extractors.trunks import Colour, Trunk, find_weights, load_trunk

MIN_SIDE: Final = 80
"""Narrower photographs are enlarged to this, so that every trunk has a map left to pool."""


class CnnConfig(StrictModel):
    """A network as an extractor.

    Attributes:
        trunk: a torchvision classification network's name.
        layer: where it is cut (``None``: its last feature map).
        weights: torchvision weights, a safetensors file, or ``none`` (seeded random ones).
        size: longest side in pixels; the aspect ratio is kept.
        p: GeM's exponent.
        precision: ``auto`` is bfloat16 where the device is fast at it, else float32.
        batch: photographs a batch.
    """

    kind: Literal["cnn"] = "cnn"
    trunk: str = "mobilenet_v2"
    layer: str | None = None
    weights: str = "DEFAULT"
    size: int = Field(448, ge=MIN_SIDE, le=4096)
    p: float = Field(3.0, gt=0.0, le=64.0)
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    batch: int = Field(8, ge=1, le=1024)


@dataclass(frozen=True)
class CnnExtractor(VectorExtractor):
    """See :class:`CnnConfig`; made by :func:`build`."""

    config: CnnConfig
    trunk: Trunk
    device: torch.device
    dtype: torch.dtype
    dimension: int
    batched = True

    @property
    def longest_side(self) -> int:
        return self.config.size

    @property
    def batch(self) -> int:
        return self.config.batch

    @property
    def threaded(self) -> bool:
        return self.device.type == "cpu"

    def identity(self) -> dict[str, Any]:
        shown = self.config.model_dump(exclude={"weights", "precision", "trunk", "layer"})
        return {**shown, **self.trunk.identity, "precision": str(self.dtype).removeprefix("torch.")}

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        """The (height, width) at which the network sees a photograph."""
        if self.trunk.square is not None:
            return self.trunk.square, self.trunk.square
        height, width = photograph.shape[:2]
        return max(height, MIN_SIDE), max(width, MIN_SIDE)

    def features(self, photographs: Sequence[Photograph]) -> list[Vectors]:
        height, width = self.shape(photographs[0])
        stacked = np.stack([_at_size(photograph, height, width) for photograph in photographs])
        with torch.inference_mode():
            pooled = self.pooled(torch.from_numpy(stacked))
        return list(pooled.cpu().numpy())

    def pooled(self, photographs: torch.Tensor) -> torch.Tensor:
        """(n, h, w, 3) uint8 to (n, dimension) float32."""
        values = photographs.to(self.device, non_blocking=True)
        # (n, h, w, 3) seen as (n, 3, h, w) is channels-last already: no copy.
        values = values.permute(0, 3, 1, 2).float()
        scale, shift = _normaliser(self.trunk.mean, self.trunk.std, self.device)
        values = torch.addcmul(shift, values, scale).to(self.dtype)
        values = values.contiguous(memory_format=torch.channels_last)
        return gem(tokens_to_map(first_tensor(self.trunk.network(values)["map"])), self.config.p)


@lru_cache(maxsize=8)
def _normaliser(
    mean: Colour, std: Colour, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift, (1, 3, 1, 1), from 0…255 to the weights' normalisation."""
    spread = torch.tensor(std, device=device).view(1, 3, 1, 1)
    centre = torch.tensor(mean, device=device).view(1, 3, 1, 1)
    return 1.0 / (255.0 * spread), -centre / spread


def located(config: CnnConfig, given: Path) -> CnnConfig:
    """The config with its weights as ``--weights`` gives them, a file or a folder.

    Raises:
        WeightsError: what was given is not there.
    """
    weights = find_weights(config.trunk, given)
    return config.model_copy(update={"weights": weights})


def build(config: CnnConfig, device: str, seed: int) -> CnnExtractor:
    """Load the trunk on a device ("cpu" or "cuda").

    Raises:
        ConfigError, WeightsError: as :func:`retrieval.extractors.trunks.load_trunk`.
    """
    trunk = load_trunk(config.trunk, config.layer, config.weights, seed)
    where = torch.device(device)
    dtype = torch.bfloat16 if _is_bfloat16(config, where) else torch.float32
    trunk.network.to(where, dtype).to(memory_format=torch.channels_last)
    extractor = CnnExtractor(config, trunk, where, dtype, dimension=0)
    return replace(extractor, dimension=_dimension(extractor))


def _dimension(extractor: CnnExtractor) -> int:
    """How many numbers the pooled map has, tried on photographs of nothing.

    Raises:
        ConfigError: the layer's output cannot be pooled, or not to one length for all sizes.
    """
    trunk = extractor.trunk
    what = f"{extractor.config.trunk} cut at {trunk.identity['layer']} cannot be pooled"
    square, narrow = (2 * MIN_SIDE, 2 * MIN_SIDE, 3), (MIN_SIDE, 3 * MIN_SIDE, 3)
    try:
        lengths = [
            len(extractor.features([np.zeros(shape, np.uint8)])[0]) for shape in (square, narrow)
        ]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{what}: {' '.join(str(error).split())}") from None
    if lengths[0] != lengths[1]:
        raise ConfigError(f"{what}: its channels do not come first")
    return lengths[0]


def _is_bfloat16(config: CnnConfig, device: torch.device) -> bool:
    if config.precision == "auto":
        return fast_bfloat16(device)
    return config.precision == "bfloat16"


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (elsewhere it is slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16"))


def _at_size(photograph: Photograph, height: int, width: int) -> Photograph:
    if photograph.shape[:2] == (height, width):
        return photograph
    resized = cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)
