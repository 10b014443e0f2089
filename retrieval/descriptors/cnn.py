"""A network's feature maps, pooled: several layers, scales and mirror images as one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from retrieval.descriptors.base import VectorExtractor
from retrieval.devices import CPU, CUDA, gpu_mistake
from retrieval.errors import ConfigError
from retrieval.frontend import Shared
from retrieval.networks.pooling import GemConfig, PoolingConfig, pool
from retrieval.networks.running import GPU_BATCHES, MIN_SIDE, on_the_way
from retrieval.networks.runtime import Precision, Runtime, settled
from retrieval.networks.trunk import Trunk
from retrieval.networks.trunks import find_weights, load_trunk
from retrieval.types import Photograph, StrictModel, Vectors

Outputs = Sequence[tuple[Tensor, Tensor | None]]
"""Each layer's map, and class token where there is one."""


class LayerConfig(StrictModel):
    """A layer, and how it is pooled.

    Attributes:
        layer: its name (``None``: the last feature map).
        pooling: of its map.
        weight: its vector is this long before all are brought to unit length together.
    """

    layer: str | None = None
    pooling: PoolingConfig = GemConfig()
    weight: float = Field(1.0, ge=1e-3, le=1e3)


class CnnConfig(StrictModel):
    """A network as an extractor.

    Attributes:
        trunk: a torchvision classification network's name, or ``timm/NAME``.
        weights: torchvision weights, a safetensors file, or ``none`` (seeded random ones); timm's
            are ``DEFAULT``, those of the tag in the name.
        size: longest side in pixels at scale 1; the aspect ratio is kept.
        scales: the network sees a photograph at each, relative to ``size``; a photograph smaller
            than the largest scale is as large as it is there.
        flip: whether it sees each mirrored too.
        layers: pooled from the same passes and concatenated; each one's unit vectors of all scales
            are summed.
        precision, runtime: as of :func:`retrieval.networks.runtime.settled`.
        quantised: folder of the network in int8; ``None``: the run's own.
        batch: photographs a batch on a processor's core; a GPU takes :data:`GPU_BATCHES` of them
            at once, fewer where they are larger than 448 pixels.
    """

    kind: Literal["cnn"] = "cnn"
    trunk: str = "mobilenet_v2"
    weights: str = "DEFAULT"
    size: int = Field(448, ge=MIN_SIDE, le=4096)
    # YAML and JSON know lists alone.
    scales: tuple[Annotated[float, Field(ge=1e-2, le=4.0)], ...] = Field(
        (1.0,), min_length=1, strict=False
    )
    flip: bool = False
    layers: tuple[LayerConfig, ...] = Field((LayerConfig(),), min_length=1, strict=False)
    precision: Precision = "auto"
    runtime: Runtime = "auto"
    quantised: str | None = None
    batch: int = Field(8, ge=1, le=1024)


@dataclass(frozen=True)
class CnnExtractor(VectorExtractor):
    """See :class:`CnnConfig`; made by :func:`build`."""

    config: CnnConfig
    trunk: Trunk
    device: torch.device
    dimension: int
    batched = True

    @property
    def longest_side(self) -> int:
        return round(self.config.size * max(self.config.scales))

    @property
    def batch(self) -> int:
        if self.threaded:
            return self.config.batch
        pixels = min(1.0, (448 / self.longest_side) ** 2)
        return max(self.config.batch, round(GPU_BATCHES * self.config.batch * pixels))

    @property
    def threaded(self) -> bool:
        return self.device.type == CPU

    def identity(self) -> dict[str, Any]:
        shown = self.config.model_dump(
            mode="json", exclude={"weights", "trunk", "runtime", "quantised"}
        )
        # The layers by the names that they were found under.
        layers = [
            {**layer, "layer": name}
            for layer, name in zip(shown["layers"], self.trunk.layers, strict=True)
        ]
        return {**shown, **self.trunk.identity, "layers": layers}

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        """The (height, width) at which the network sees a photograph at the largest scale."""
        return self._shape_at(photograph.shape[0], photograph.shape[1])

    def features(self, photographs: Sequence[Photograph]) -> list[Vectors]:
        return self.start(self.prepare(photographs))()

    def prepare(self, photographs: Sequence[Photograph], shared: Shared | None = None) -> Tensor:
        """Photographs of one shape as (n, h, w, 3) uint8, at the largest scale.

        For a GPU in pinned memory, which it reads while the processor goes on.
        """
        shape = self.shape(photographs[0])
        stack = torch.empty(
            (len(photographs), *shape, 3), dtype=torch.uint8, pin_memory=self.device.type == CUDA
        )
        for place, one in zip(stack.numpy(), photographs, strict=True):
            place[...] = _at_size(one, shape, self.trunk.interpolation)
        return stack

    def start(self, prepared: Tensor, shared: Shared | None = None) -> Callable[[], list[Vectors]]:
        """Only the pooled vectors come back from the device.

        Where ``shared`` has a place for this network, the outputs of its passes are left there, by
        the (height, width) that it saw.
        """
        with torch.inference_mode():
            return on_the_way(self.pooled(prepared, shared))

    def pooled(self, photographs: Tensor, shared: Shared | None = None) -> Tensor:
        """(n, h, w, 3) uint8, at the largest scale, to (n, dimension) float32."""
        views = self.views(photographs.to(self.device, non_blocking=True))
        asked = None if shared is None else shared.get(self.trunk.network)
        return self.pooled_maps(self._passes(views, asked))

    def _passes(self, views: Iterable[Tensor], asked: Shared | None) -> Iterator[Outputs]:
        """The trunk's outputs of every view, left in ``asked`` too where others look for them."""
        for place, view in enumerate(views):
            outputs = self.trunk.outputs(view)
            mirrored = self.config.flip and place % 2
            if asked is not None and not mirrored:
                asked[tuple(view.shape[-2:])] = outputs
            yield outputs

    def pooled_maps(self, views: Iterable[Outputs]) -> Tensor:
        """The trunk's outputs of every view to (n, dimension) float32."""
        sums: list[Tensor | float] = [0.0] * len(self.config.layers)
        for outputs in views:
            for i, (feature_map, token) in enumerate(outputs):
                pooled = pool(self.config.layers[i].pooling, feature_map, token)
                sums[i] += normalize(pooled, dim=1)
        return torch.cat(
            [
                layer.weight * normalize(torch.as_tensor(one), dim=1)
                for layer, one in zip(self.config.layers, sums, strict=True)
            ],
            dim=1,
        )

    def shown(self, photograph: Photograph) -> list[Tensor]:
        """All that the network sees of a photograph, (1, 3, h, w) each."""
        return list(self.views(self.prepare([photograph])))

    def views(self, photographs: Tensor) -> Iterator[Tensor]:
        """What the network sees: (n, 3, h, w), at each scale, and mirrored."""
        return self.views_of(self.trunk.normalised(photographs))

    def views_of(self, values: Tensor) -> Iterator[Tensor]:
        """The same of (n, 3, h, w) normalised photographs at the largest scale."""
        height, width = values.shape[-2:]
        for scale in self.config.scales:
            shape = self._shape_at(height, width, scale / max(self.config.scales))
            view = _resized(values, shape, self.trunk.interpolation).to(self.trunk.dtype)
            view = view.contiguous(memory_format=torch.channels_last)
            yield view
            if self.config.flip:
                yield view.flip(-1)

    def _shape_at(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        if self.trunk.square is not None:
            return self.trunk.square, self.trunk.square
        return _side(height * scale, self.trunk.step), _side(width * scale, self.trunk.step)


def _side(pixels: float, step: int) -> int:
    """The nearest multiple of ``step`` that is long enough."""
    return step * max(round(pixels / step), ceil(MIN_SIDE / step))


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
        ConfigError, WeightsError: as :func:`retrieval.networks.trunks.load_trunk`; or a trunk
            that sees one size alone is given several.
    """
    trunk = unsettled(config, seed).trunk
    if trunk.square is not None and len(config.scales) > 1:
        raise ConfigError(
            f"{config.trunk} sees squares of {trunk.square} alone: extractor.scales can be but [1]"
        )
    where = torch.device(device)
    trunk = settled(trunk, where, config.precision, config.runtime, config.quantised)
    extractor = CnnExtractor(config, trunk, where, dimension=0)
    return replace(extractor, dimension=_dimension(extractor))


def unsettled(config: CnnConfig, seed: int) -> CnnExtractor:
    """As :func:`build` with the network as it is loaded: in float32, run by torch."""
    names = [layer.layer for layer in config.layers]
    trunk = load_trunk(config.trunk, names, config.weights, seed)
    return CnnExtractor(config, trunk, torch.device(CPU), dimension=0)


def _dimension(extractor: CnnExtractor) -> int:
    """How many numbers the pooled maps have, tried on photographs of nothing.

    Raises:
        ConfigError: a layer's output cannot be pooled, or not to one length for all sizes.
    """
    trunk = extractor.trunk
    what = f"{extractor.config.trunk} cut at {', '.join(trunk.layers)} cannot be pooled"
    square, narrow = (2 * MIN_SIDE, 2 * MIN_SIDE, 3), (MIN_SIDE, 3 * MIN_SIDE, 3)
    try:
        lengths = [
            len(extractor.features([np.zeros(shape, np.uint8)])[0]) for shape in (square, narrow)
        ]
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        if gpu_mistake(error):
            raise
        raise ConfigError(f"{what}: {' '.join(str(error).split())}") from None
    if lengths[0] != lengths[1]:
        raise ConfigError(f"{what}: its channels do not come first")
    return lengths[0]


def _at_size(photograph: Photograph, shape: tuple[int, int], interpolation: str) -> Photograph:
    """A photograph (h, w, 3) at a (height, width)."""
    if photograph.shape[:2] == shape:
        return photograph
    values = torch.tensor(photograph).permute(2, 0, 1)[None]
    resized = _resized(values, shape, interpolation)[0].permute(1, 2, 0)
    return np.asarray(resized.numpy(), dtype=np.uint8)


def _resized(values: Tensor, shape: tuple[int, int], interpolation: str) -> Tensor:
    """(n, 3, h, w) at another size, smoothed where that is smaller."""
    if values.shape[-2:] == shape:
        return values
    if values.is_floating_point():
        values = values.contiguous()  # channel by channel is faster, to the same numbers
    return interpolate(values, shape, mode=interpolation, antialias=True)
