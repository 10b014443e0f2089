"""A network layer by layer: what comes out of each, what it holds, and what it costs.

Counted as one photograph runs through the network on torch's meta device, which knows shapes
alone: even VGG16 takes a moment and no memory. Operations are counted and not kinds of module, so
that a pooling which is no module of its own stands with the module that does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from retrieval.errors import ConfigError
from retrieval.networks.trunks import whole_network

COUNTED: Final = (
    "Activations are the outputs of convolutions, poolings and fully connected layers, as float32;"
    " those of normalisations, non-linearities, sums and attention are not counted."
)
BYTES: Final = 4
"""Of an activation."""

aten = torch.ops.aten
OUTPUTS: Final = (
    aten.convolution,
    aten.mm,
    aten.addmm,
    aten.max_pool2d_with_indices,
    aten.avg_pool2d,
)
"""Convolutions, fully connected layers and poolings, each of whose outputs counts."""
TO_SIZE: Final = (aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d, aten.mean)
"""Poolings that do nothing where their input has the size already: VGG16's last at 224 pixels."""


@dataclass(frozen=True)
class Layer:
    """A module, and the operations that are its own and not those of a module within it.

    Attributes:
        name: dotted; empty for the whole network.
        kind: of module.
        shape: of its output for one photograph; ``None`` if it did not run.
        activations: numbers in the outputs that :data:`COUNTED` names.
        weights: numbers in its parameters of two axes and more, biases and norms left out.
        parameters: numbers in all its own parameters.
        multiply_adds: of convolutions, matrix products and attention.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    activations: int
    weights: int
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class LayerTable:
    """A network layer by layer.

    Attributes:
        network: its name.
        size: side of the photograph in pixels.
        layers: those that hold parameters, multiply, or whose outputs are counted; in the order in
            which they ran.
    """

    network: str
    size: int
    layers: tuple[Layer, ...]

    def total(self, column: str) -> int:
        """The sum of a column of numbers."""
        return sum(getattr(layer, column) for layer in self.layers)

    @property
    def inputs(self) -> int:
        """Numbers in a photograph."""
        return 3 * self.size**2

    def as_dict(self) -> dict[str, Any]:
        """Everything, the totals too, as JSON has it."""
        columns = ("activations", "weights", "parameters", "multiply_adds")
        return {
            "network": self.network,
            "size": self.size,
            "layers": [asdict(layer) for layer in self.layers],
            "inputs": self.inputs,
            "totals": {column: self.total(column) for column in columns},
            "counted": COUNTED,
        }


def layer_table(name: str, size: int | None = None) -> LayerTable:
    """Count a network of random parameters.

    Args:
        name: of a torchvision classification network, or ``timm/NAME``.
        size: side of the photograph in pixels; by default the one that its weights were made for.

    Raises:
        ConfigError: no such network, or it does not take photographs of this size.
    """
    try:
        with torch.device("meta"):
            network, own = whole_network(name)
    except (NotImplementedError, RuntimeError):  # it computes something while it is made
        network, own = whole_network(name)
    return table_of(network, name, size or own)


def table_of(network: nn.Module, name: str, size: int) -> LayerTable:
    """Count a network, which is moved to the meta device for it: its parameters are lost.

    Raises:
        ConfigError: it does not take photographs of this size.
    """
    network = network.to("meta").eval()
    recorder = _Recorder(network)
    photograph = torch.zeros(1, 3, size, size, device="meta")
    try:
        # Not inference mode, in which fully connected layers would stay whole.
        with torch.no_grad(), recorder:
            network(photograph)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} does not take photographs of {size} x {size} pixels"
            f" ({' '.join(str(error).split())})"
        ) from None
    return LayerTable(name, size, tuple(recorder.layers(network)))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what runs, for the innermost module that it runs in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.within: list[str] = []
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self.activations: Counter[str] = Counter()
        self.multiply_adds: Counter[str] = Counter()
        for name, module in network.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(self._leave)

    def _enter(self, name: str, module: nn.Module, given: Any) -> None:
        self.within.append(name)
        self.shapes.setdefault(name, None)

    def _leave(self, module: nn.Module, given: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        name = self.within.pop()
        self.shapes[name] = tuple(first.shape[1:]) if isinstance(first, Tensor) else None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        output = func(*args, **options)
        operation = func.overloadpacket
        if operation in flop_registry:
            # A multiplication and an addition each.
            flops = flop_registry[operation](*args, **options, out_val=output)
            self.multiply_adds[self.within[-1]] += flops // 2
        first = output[0] if isinstance(output, tuple) else output
        if operation in OUTPUTS or (operation in TO_SIZE and _pools(args, first)):
            self.activations[self.within[-1]] += first.numel()
        return output

    def layers(self, network: nn.Module) -> list[Layer]:
        """What was counted; modules that hold parameters and did not run come last."""
        modules = dict(network.named_modules())
        names = [*self.shapes, *(name for name in modules if name not in self.shapes)]
        found = [self._layer(name, modules[name]) for name in names]
        return [one for one in found if one.parameters or one.activations or one.multiply_adds]

    def _layer(self, name: str, module: nn.Module) -> Layer:
        own = list(module.parameters(recurse=False))
        return Layer(
            name,
            type(module).__name__,
            self.shapes.get(name),
            self.activations[name],
            sum(one.numel() for one in own if one.ndim > 1),
            sum(one.numel() for one in own),
            self.multiply_adds[name],
        )


def _pools(given: Sequence[Any], output: Tensor) -> bool:
    """Whether a map becomes smaller; a mean over tokens or channels is none of a map."""
    feature_map = given[0]
    over_two = len(given) < 2 or len(given[1]) == 2
    return bool(feature_map.ndim == 4 and over_two and output.numel() < feature_map.numel())
