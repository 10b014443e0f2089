"""A network that can be trained: a trunk, a pooling that learns, a neck, and unit embeddings.

The trunk's batch norms stay as they are (the extractors that are not trained fold them into the
convolutions). Its graph is the one for inference, so that what is frozen behaves as it did before;
:func:`set_trained` turns training on for the rest, part by part.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from retrieval.errors import ConfigError
from retrieval.networks.pooling import first_tensor, gem
from retrieval.networks.trunk import seeded
from retrieval.networks.trunks import fuse_norms, load_trunk
from retrieval.types import StrictModel, Vectors
from retrieval.vectors.whitening import Whitening, WhiteningConfig

TRIED: Final = 160
"""Side of the photograph of nothing by which the number of channels is found."""


class NeckConfig(StrictModel):
    """The linear layer between pooling and embedding.

    Attributes:
        dimension: numbers in an embedding.
        batch_norm: whether a batch norm follows.
        start: ``random``, or ``whitening``: that of the untrained network's pooled vectors, so that
            training begins at what the network describes without any.
        power: of the eigenvalues, in that whitening.
    """

    dimension: int = Field(256, ge=2, le=8192)
    batch_norm: bool = False
    start: Literal["random", "whitening"] = "whitening"
    power: float = Field(-0.5, ge=-1.0, le=0.0)


class NetworkConfig(StrictModel):
    """What is trained, but for the head.

    Attributes:
        trunk, layer, weights: as of :class:`retrieval.descriptors.cnn.CnnConfig`.
        p: GeM's exponent at the start; it learns where the trunk does.
        neck: or ``None``: the embedding is the pooled vector.
    """

    trunk: str = "mobilenet_v2"
    layer: str | None = None
    weights: str = "DEFAULT"
    p: float = Field(3.0, ge=1e-2, le=64.0)
    neck: NeckConfig | None = Field(default_factory=NeckConfig)


@dataclass(frozen=True)
class Frozen:
    """A trunk in two: what does not learn, and what does.

    Attributes:
        trunk: both.
        layer: whose output counts.
        still: the steps of the graph that come before anything that learns.
        last: the one of them from which the rest goes on.
    """

    trunk: GraphModule
    layer: str
    still: tuple[Node, ...]
    last: Node

    def before(self, values: Tensor) -> Tensor:
        """Of (n, 3, h, w) normalised photographs what ``last`` gives."""
        run = Interpreter(self.trunk, garbage_collect_values=False)
        for node in self.still:
            run.env[node] = values if node.op == "placeholder" else run.run_node(node)
        return first_tensor(run.env[self.last])

    def after(self, given: Tensor) -> Tensor:
        """The trunk's maps from there on."""
        known: dict[Node, Any] = {**dict.fromkeys(self.still), self.last: given}
        return first_tensor(Interpreter(self.trunk).run(initial_env=known)[self.layer])


def _frozen(network: Embedder) -> Frozen:
    """See :meth:`Embedder.divide`."""
    trunk, form = network.trunk, network.form
    if not isinstance(trunk, GraphModule) or form.tokens is not None:
        raise ConfigError("training.views: 0 it has to be, where a transformer or timm's learns")
    learning = [name for name, one in trunk.named_parameters() if one.requires_grad]
    moved: set[Node] = set()
    for node in trunk.graph.nodes:
        own = node.op in ("call_module", "get_attr") and any(
            f"{name}.".startswith(f"{node.target}.") for name in learning
        )
        if own or any(one in moved for one in node.all_input_nodes):
            moved.add(node)
    still = tuple(node for node in trunk.graph.nodes if node not in moved)
    feeding = [node for node in still if any(user in moved for user in node.users)]
    if len(feeding) != 1:
        raise ConfigError("training.views: the stages that learn begin in several places: set 0")
    return Frozen(trunk, form.layers[0], still, feeding[0])


class LearntGem(nn.Module):
    """:func:`retrieval.networks.pooling.gem` whose exponent is a parameter."""

    def __init__(self, p: float):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))

    def forward(self, feature_map: Tensor) -> Tensor:
        learning = torch.is_grad_enabled() and self.p.requires_grad
        return gem(feature_map, self.p if learning else float(self.p))


class Embedder(nn.Module):
    """(n, h, w, 3) uint8 photographs to (n, dimension) float32 unit rows.

    Args:
        config: its form.
        seed: of parameters that begin at random.

    Raises:
        ConfigError, WeightsError: as :func:`retrieval.networks.trunks.load_trunk`.
    """

    def __init__(self, config: NetworkConfig, seed: int):
        super().__init__()
        self.form = load_trunk(config.trunk, [config.layer], config.weights, seed, fused=False)
        self.precision = torch.float32
        self.trunk = self.form.network
        self.pooling = LearntGem(config.p)
        self.channels = self._channels()
        self.neck: nn.Module | None = None
        if config.neck is not None:
            with seeded(seed):
                layers: list[nn.Module] = [nn.Linear(self.channels, config.neck.dimension)]
            if config.neck.batch_norm:
                layers.append(nn.BatchNorm1d(config.neck.dimension))
            self.neck = nn.Sequential(*layers)
        self.dimension = config.neck.dimension if config.neck else self.channels
        self.frozen: Frozen | None = None

    @property
    def device(self) -> torch.device:
        return self.pooling.p.device

    def fold(self) -> None:
        """Fold batch norms into convolutions (torchvision's): the same embeddings, sooner."""
        if isinstance(self.form.network, GraphModule):
            self.trunk = fuse_norms(self.form.network)
            self.form = replace(self.form, network=self.trunk)

    def side(self, wanted: int) -> int:
        """The side of squares that the trunk takes, near the one wanted."""
        return self.form.square or self.form.step * max(1, round(wanted / self.form.step))

    def maps(self, values: Tensor) -> Tensor:
        """The trunk's maps (n, c, h, w) of (n, 3, h, w) normalised photographs."""
        with self._cast(values):
            return self.form.outputs(values)[0][0]

    def divide(self) -> None:
        """Look for where what learns begins, for ``halfway`` and what goes on from there.

        Raises:
            ConfigError: there is no one place where it does.
        """
        self.frozen = _frozen(self)

    def halfway(self, values: Tensor) -> Tensor:
        """(n, c, h, w) that the part which learns is given, of (n, 3, h, w) normalised ones."""
        assert self.frozen is not None
        with self._cast(values):
            return self.frozen.before(values)

    def _cast(self, values: Tensor) -> torch.autocast:
        wanted = self.precision != torch.float32
        return torch.autocast(values.device.type, self.precision, enabled=wanted)

    def _beyond(self, given: Tensor) -> Tensor:
        """From what ``halfway`` gave to embeddings."""
        assert self.frozen is not None
        with self._cast(given):
            maps = self.frozen.after(given.contiguous(memory_format=torch.channels_last))
        return self.embedded(nn.functional.normalize(self.pooling(maps), dim=1))

    def pooled(self, values: Tensor) -> Tensor:
        """(n, 3, h, w) normalised photographs to (n, channels) float32 unit rows."""
        return nn.functional.normalize(self.pooling(self.maps(values)), dim=1)

    def embedded(self, pooled: Tensor) -> Tensor:
        """(n, channels) to (n, dimension) unit rows."""
        if self.neck is None:
            return pooled
        return nn.functional.normalize(self.neck(pooled), dim=1)

    def described(self, values: Tensor) -> Tensor:
        """(n, 3, h, w) normalised photographs to embeddings."""
        return self.embedded(self.pooled(values))

    def forward(self, inputs: Tensor) -> Tensor:
        """To embeddings: (n, h, w, 3) uint8 photographs, or what was made of them before."""
        if inputs.ndim == 2:
            return self.embedded(inputs)
        if inputs.is_floating_point():
            return self._beyond(inputs.float())
        values = self.form.normalised(inputs)
        return self.described(values.contiguous(memory_format=torch.channels_last))

    def start_neck(self, pooled: Vectors, config: NeckConfig, seed: int) -> None:
        """Set the neck's linear layer to the whitening of (n, channels) pooled vectors.

        Directions that so few photographs do not span begin at zero.
        """
        assert isinstance(self.neck, nn.Sequential)
        wanted = WhiteningConfig(dimension=config.dimension, power=config.power)
        learnt = Whitening.fit(pooled, wanted, seed)
        # As a whole the rows are brought to unit length later: their scale is free, and of this
        # one a learning rate means the same whatever the eigenvalues are.
        projection = learnt.projection / np.linalg.norm(learnt.projection, axis=0).mean()
        linear = self.neck[0]
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.zero_()
            linear.weight[: learnt.dimension] = torch.from_numpy(projection.T.copy())
            linear.bias[: learnt.dimension] = -torch.from_numpy(learnt.mean @ projection)

    def _channels(self) -> int:
        side = self.form.square or TRIED
        with torch.inference_mode():
            shape = self.maps(torch.zeros((1, 3, side, side))).shape
        return int(shape[1])


def set_trained(network: Embedder, which: str, stages: Sequence[str]) -> None:
    """Freeze what does not learn: its parameters, and its batch norms' statistics.

    Args:
        network: its neck always learns.
        which: ``head`` (nothing of the trunk), ``last`` (the stages named) or ``all``.
        stages: the trunk's modules, such as ``features.17``.

    Raises:
        ConfigError: the trunk has no such module.
    """
    network.trunk.requires_grad_(which == "all")
    network.pooling.p.requires_grad_(which != "head")
    # Not GraphModule.train, which would change to the graph for training in all parts.
    nn.Module.train(network.trunk, which == "all")
    if which == "last":
        for name in stages:
            stage = _stage(network.trunk, name)
            stage.requires_grad_(True)
            stage.train()
    if network.neck is not None:
        network.neck.train()


def _stage(trunk: nn.Module, name: str) -> nn.Module:
    try:
        return trunk.get_submodule(name)
    except AttributeError:
        tops = dict.fromkeys(".".join(one.split(".")[:2]) for one, _ in trunk.named_parameters())
        raise ConfigError(
            f"training.trainable: the trunk has no {name!r}; it has {', '.join(tops)}"
        ) from None


@contextlib.contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """The module as it answers, every part's training mode put back afterwards."""
    modes = [(one, one.training) for one in module.modules()]
    nn.Module.train(module, False)
    try:
        yield
    finally:
        for one, mode in modes:
            one.training = mode


def digest(state: Mapping[str, Tensor]) -> str:
    """A checksum over parameters and buffers by their names."""
    told = hashlib.sha256()
    for key in sorted(state):
        told.update(key.encode())
        told.update(state[key].detach().contiguous().cpu().numpy().tobytes())
    return told.hexdigest()[:16]
