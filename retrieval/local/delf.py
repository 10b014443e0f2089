"""DELF: the places of a network's feature map as keypoints, chosen by attention.

Noh et al., "Large-scale image retrieval with attentive deep local features" (ICCV 2017): a map from
the middle of a classification network is computed at several scales of the photograph; each of its
places is a keypoint at the centre of its receptive field, with the map's column as descriptor; an
attention network, learnt with landmark labels (:mod:`retrieval.training.attention`), says which of
them matter. Where none was learnt, the length of a column stands in for it.

Keypoints lie on a coarse grid (16 pixels at ResNet's layer3, at scale 1) and have no direction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.nn.functional import interpolate, relu, softplus

from retrieval.devices import CPU
from retrieval.errors import ConfigError, WeightsError, first_line
from retrieval.frontend import Shared
from retrieval.local.base import Local
from retrieval.local.features import LocalFeatures, encode, no_features
from retrieval.networks.running import MIN_SIDE
from retrieval.networks.runtime import Precision, Runtime, settled
from retrieval.networks.trunk import Trunk
from retrieval.networks.trunks import find_weights, load_trunk
from retrieval.storage.files import atomic_write
from retrieval.storage.fingerprint import checksum
from retrieval.types import Photograph, StrictModel, unit_rows

LEAST_SIDE: Final = 16
"""Smaller photographs have no keypoints; others are enlarged to what every trunk takes."""
SEED: Final = 0
"""Of random weights."""


class DelfConfig(StrictModel):
    """How keypoints are found.

    Attributes:
        trunk: a torchvision classification network.
        layer: whose feature map is taken.
        weights: as of :class:`retrieval.descriptors.cnn.CnnConfig`.
        size: longest side in pixels at scale 1; a smaller photograph's own.
        scales: relative to that.
        keypoints: the strongest this many are kept.
        attention: a file that ``landmarks attention`` wrote for this trunk, layer and weights;
            ``None``: the length of the descriptors before they are brought to unit length.
        threshold: least score of a keypoint.
        overlap: a keypoint goes where a stronger one's receptive field overlaps its own by more
            than this (intersection over union), at whatever scale.
        precision, runtime: as of :func:`retrieval.networks.runtime.settled`.
        quantised: folder of the network in int8; ``None``: the run's own.
    """

    kind: Literal["delf"] = "delf"
    trunk: str = "resnet50"
    layer: str = "layer3"
    weights: str = "DEFAULT"
    size: int = Field(512, ge=MIN_SIDE, le=4096)
    # YAML and JSON know lists alone.
    scales: tuple[Annotated[float, Field(ge=0.1, le=4.0)], ...] = Field(
        (0.5, 0.7071, 1.0, 1.4142), min_length=1, max_length=16, strict=False
    )
    keypoints: int = Field(500, ge=1, le=20_000)
    attention: str | None = None
    threshold: float = Field(0.0, ge=0.0, le=1e6)
    overlap: float = Field(0.9, ge=0.0, le=1.0)
    precision: Precision = "auto"
    runtime: Runtime = "auto"
    quantised: str | None = None


class Attention(nn.Module):
    """(n, c) columns of a map to (n,) float32 scores above nought.

    Section 3.2 of the paper: two convolutions of one place each, then softplus.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.hidden = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, columns: Tensor) -> Tensor:
        inner = relu(self.hidden(columns.to(self.hidden.weight.dtype)))
        scores: Tensor = softplus(self.out(inner.to(self.out.weight.dtype)).float())[:, 0]
        return scores


@dataclass(frozen=True)
class Geometry:
    """Where the places of a map look in what the network sees; (y, x) each, in pixels.

    Attributes:
        step: from one place to the next.
        size: of the receptive field.
        start: centre of the first place's.
    """

    step: NDArray[np.float64]
    size: NDArray[np.float64]
    start: NDArray[np.float64]

    def through(self, layer: nn.Module) -> Geometry:
        """What it is after a convolution or a pooling."""
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            return self
        kernel, stride, padding = (
            np.broadcast_to(one, 2).astype(np.float64)
            for one in (layer.kernel_size, layer.stride, layer.padding)
        )
        reach = (kernel - 1) * np.broadcast_to(getattr(layer, "dilation", 1), 2)
        return Geometry(
            self.step * stride,
            self.size + self.step * reach,
            self.start + self.step * (reach / 2 - padding),
        )


def geometry_of(network: nn.Module, layer: str) -> Geometry:
    """Follow receptive fields through a network's graph; of branches that join, the widest counts.

    Args:
        network: that returns maps by name.
        layer: which of them.

    Raises:
        ConfigError: its graph cannot be followed.
    """
    try:
        traced = symbolic_trace(network)
    except Exception as error:  # torch.fx raises many kinds
        raise ConfigError(
            f"the detector delf cannot follow the trunk's graph ({first_line(error)})"
        ) from None
    begun = Geometry(np.ones(2), np.ones(2), np.zeros(2))
    seen: dict[Any, Geometry] = {}
    for node in traced.graph.nodes:
        before = [seen[one] for one in node.all_input_nodes if one in seen] or [begun]
        widest = max(before, key=lambda one: (*one.step, *one.size))
        module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        seen[node] = widest if module is None else widest.through(module)
    return seen[node.args[0][layer]]


@dataclass(frozen=True)
class DelfDetector(Local):
    """See :class:`DelfConfig`; made by :func:`build`.

    One photograph is a batch, at all its scales.

    Attributes:
        passes: another extractor's trunk, by whose passes at the same sizes the map comes too
            (:data:`retrieval.frontend.Shared`); or ``None``.
    """

    config: DelfConfig
    trunk: Trunk = field(repr=False)
    geometry: Geometry
    attention: Attention | None = field(repr=False)
    checksum: str | None
    device: torch.device
    dimension: int
    passes: Trunk | None = field(default=None, repr=False)
    batched = True
    batch = 1

    @property
    def longest_side(self) -> int:
        return round(self.config.size * max(1.0, *self.config.scales))

    @property
    def threaded(self) -> bool:
        return self.device.type == CPU

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        return photograph.shape[0], photograph.shape[1]

    def identity(self) -> dict[str, Any]:
        shown = self.config.model_dump(
            mode="json", exclude={"layer", "weights", "runtime", "quantised"}
        )
        learnt: dict[str, Any] = {"attention": self.checksum}
        if self.passes is not None:
            learnt["passes"] = self.passes.identity
        return {**shown, **self.trunk.identity, **learnt}

    def features(self, photographs: Sequence[Photograph]) -> list[LocalFeatures]:
        return self.start(self.prepare(photographs))()

    def prepare(
        self, photographs: Sequence[Photograph], shared: Shared | None = None
    ) -> Sequence[Photograph]:
        """The photographs; others' passes are asked for."""
        if shared is not None and self.passes is not None:
            shared.setdefault(self.passes.network, {})
        return photographs

    def start(
        self, prepared: Sequence[Photograph], shared: Shared | None = None
    ) -> Callable[[], list[LocalFeatures]]:
        """All of it is done when it is waited for: others' passes are there by then."""

        def features() -> list[LocalFeatures]:
            known = self._known(shared or {})
            return [
                self._one(one, {size: maps[i] for size, maps in known.items()})
                for i, one in enumerate(prepared)
            ]

        return features

    def _known(self, shared: Shared) -> dict[tuple[int, int], Tensor]:
        """Maps (n, c, h, w) of others' passes, by the (height, width) that was seen."""
        if self.passes is None:
            return {}
        place = self.passes.layers.index(self.config.layer)
        outputs = shared.get(self.passes.network, {})
        return {size: found[place][0] for size, found in outputs.items()}

    def columns(
        self,
        photograph: Photograph,
        scale: float,
        known: Mapping[tuple[int, int], Tensor] = MappingProxyType({}),
    ) -> tuple[Tensor, NDArray[np.float32]]:
        """A photograph's map at one scale, as (n, c) columns of its n places.

        Also (n, 4) where each looks: centre (x, y) and size (x, y) of its receptive field, in
        pixels of the photograph as it is given.

        Args:
            known: maps (c, h, w) that are there already, by the (height, width) that was seen.
        """
        size, seen = np.array(photograph.shape[:2]), self._seen_at(photograph, scale)
        found = known.get(seen)
        if found is None:
            with torch.inference_mode():
                ((maps, _),) = self.trunk.outputs(self.values(photograph, scale))
            found = maps[0]
        places = np.indices(found.shape[-2:]).reshape(2, -1).T
        shown = size / np.array(seen)
        centres = (self.geometry.start + places * self.geometry.step + 0.5) * shown - 0.5
        sizes = np.broadcast_to(self.geometry.size * shown, centres.shape)
        looks = np.hstack([np.clip(centres, 0, size - 1)[:, ::-1], sizes[:, ::-1]])
        return found.flatten(1).T, looks.astype(np.float32)

    def shown(self, photograph: Photograph) -> list[Tensor]:
        """All that the network sees of a photograph, (1, 3, h, w) each."""
        return [self.values(photograph, scale) for scale in self.config.scales]

    def values(self, photograph: Photograph, scale: float) -> Tensor:
        """(1, 3, h, w): a photograph at one scale, as the network takes it."""
        seen = self._seen_at(photograph, scale)
        values = self.trunk.normalised(torch.tensor(photograph, device=self.device)[None])
        if seen != photograph.shape[:2]:
            # Channel by channel is faster, to the same numbers.
            values = interpolate(
                values.contiguous(), seen, mode=self.trunk.interpolation, antialias=True
            )
        return values.to(self.trunk.dtype).contiguous(memory_format=torch.channels_last)

    def _seen_at(self, photograph: Photograph, scale: float) -> tuple[int, int]:
        """The (height, width) at which the network sees a photograph."""
        size = np.array(photograph.shape[:2])
        factor = scale * min(self.config.size, size.max()) / size.max()
        height, width = np.maximum(np.rint(size * factor), MIN_SIDE).astype(int).tolist()
        return height, width

    def _one(
        self, photograph: Photograph, known: Mapping[tuple[int, int], Tensor]
    ) -> LocalFeatures:
        size = (photograph.shape[0], photograph.shape[1])
        if min(size) < LEAST_SIDE:
            return no_features(self.dimension, size, signed=True)
        seen = [self.columns(photograph, scale, known) for scale in self.config.scales]
        with torch.inference_mode():
            scores = torch.cat([self._scores(columns) for columns, _ in seen]).cpu().numpy()
            looks = np.concatenate([one for _, one in seen])
            chosen = self._strongest(scores, looks)
            columns = torch.cat([one for one, _ in seen])[torch.from_numpy(chosen).to(self.device)]
        codes = encode(unit_rows(columns.float().cpu().numpy()), signed=True)
        chosen, codes = chosen[codes.any(axis=1)], codes[codes.any(axis=1)]
        return LocalFeatures(
            points=looks[chosen, :2],
            scales=np.sqrt(looks[chosen, 2] * looks[chosen, 3]),
            angles=np.zeros(len(chosen), dtype=np.float32),
            codes=codes,
            size=size,
        )

    def _scores(self, columns: Tensor) -> Tensor:
        scores: Tensor = (self.attention or _lengths)(columns)
        return scores

    def _strongest(
        self, scores: NDArray[np.float32], looks: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """Positions of the keypoints, strongest first, after non-maximum suppression."""
        from torchvision.ops import nms

        x, y, width, height = looks.T
        order = np.lexsort([width, x, y, -scores])
        order = order[scores[order] > self.config.threshold]
        edges = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        # By rank: equal scores would leave the order to how they are sorted. Weaker ones take
        # nothing from stronger ones, and its cost is their number squared: as few as will do.
        ranks = torch.arange(len(order), 0, -1, dtype=torch.float32)
        tried = self.config.keypoints
        while True:
            boxes = torch.from_numpy(edges[order[:tried]])
            kept = nms(boxes, ranks[:tried], self.config.overlap).numpy()[: self.config.keypoints]
            if len(kept) == self.config.keypoints or tried >= len(order):
                strongest: NDArray[np.int64] = order[kept]
                return strongest
            tried *= 2


def _lengths(columns: Tensor) -> Tensor:
    """(n, c) to (n,): what stands in for attention."""
    lengths: Tensor = torch.linalg.vector_norm(columns.float(), dim=1)
    return lengths


def located(config: DelfConfig, given: Path) -> DelfConfig:
    """The config with its weights as ``--weights`` gives them; a folder may hold attention too.

    Raises:
        WeightsError: what was given is not there.
    """
    changes = {"weights": find_weights(config.trunk, given)}
    if config.attention is not None and (given / Path(config.attention).name).is_file():
        changes["attention"] = str(given / Path(config.attention).name)
    return config.model_copy(update=changes)


def build(config: DelfConfig, device: str) -> DelfDetector:
    """Load the network on a device ("cpu" or "cuda").

    Raises:
        ConfigError: a layer without a map that could be looked at place by place.
        WeightsError: weights or attention are missing, damaged, or another network's.
    """
    loaded = unsettled(config)
    where = torch.device(device)
    trunk = settled(loaded.trunk, where, config.precision, config.runtime, config.quantised)
    if loaded.attention is not None:
        loaded.attention.to(where).hidden.to(trunk.dtype)
    return replace(loaded, trunk=trunk, device=where)


def unsettled(config: DelfConfig) -> DelfDetector:
    """As :func:`build` with the network as it is loaded: in float32, run by torch."""
    trunk = load_trunk(config.trunk, [config.layer], config.weights, SEED)
    geometry = geometry_of(trunk.network, config.layer)
    channels = _channels(trunk, geometry)
    attention = None if config.attention is None else load_attention(Path(config.attention), trunk)
    return DelfDetector(
        config, trunk, geometry, attention,
        None if config.attention is None else checksum(Path(config.attention))[:16],
        torch.device(CPU), channels,
    )  # fmt: skip


def _channels(trunk: Trunk, geometry: Geometry) -> int:
    """How many numbers a column has, tried on a photograph of nothing.

    Raises:
        ConfigError: there is no map, or its places do not lie where its graph says.
    """
    side = trunk.square or 2 * MIN_SIDE
    with torch.inference_mode():
        found, _ = trunk.outputs(torch.zeros((1, 3, side, side)))[0]
    places = (side - 1 - 2 * geometry.start) / geometry.step + 1
    # A pooling that rounds up has one place more.
    if trunk.square or np.abs(np.array(found.shape[-2:]) - places).max() > 1:
        raise ConfigError(
            f"the detector delf needs a layer of convolutions, for photographs of any size:"
            f" {trunk.identity['trunk']} cut at {trunk.layers[0]} is none"
        )
    return int(found.shape[1])


def save_attention(
    path: Path, attention: Attention, trunk: Trunk, notes: Mapping[str, Any]
) -> None:
    """Write learnt attention, with what it was learnt on."""
    state = {key: value.float().cpu().contiguous() for key, value in attention.state_dict().items()}
    told = {**_belongs_to(trunk), "notes": json.dumps(notes, sort_keys=True)}
    atomic_write(path, save(state, told))


def load_attention(path: Path, trunk: Trunk) -> Attention:
    """Read what :func:`save_attention` wrote.

    Raises:
        WeightsError: the file is missing, damaged, or belongs to another trunk, layer or weights.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such attention file (landmarks attention learns one)")
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        attention = Attention(*reversed(state["hidden.weight"].shape))
        attention.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path} holds no attention ({first_line(error)})") from None
    for what, own in _belongs_to(trunk).items():
        if told.get(what) != own:
            raise WeightsError(
                f"{path} was learnt on another network ({what} {told.get(what)}, here {own}):"
                " learn it anew (landmarks attention)"
            )
    return attention.eval()


def _belongs_to(trunk: Trunk) -> dict[str, str]:
    """The network whose columns attention can judge."""
    return {
        "trunk": str(trunk.identity["trunk"]),
        "layer": trunk.layers[0],
        "weights": str(trunk.identity["weights"]),
    }
