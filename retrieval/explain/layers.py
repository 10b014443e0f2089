"""The layers of a system's networks: what comes out of each, and what changes if that does.

A layer is a module that is called as the network runs; of one that is called several times (the
rectifier of a residual block) the last call counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import ExplainError
from retrieval.explain.derivable import Derivable, Seen

MAPS = 3
"""Axes that a layer's output has at least: photographs, channels, places."""


@dataclass(frozen=True)
class MapLayer:
    """A layer of one of a describer's networks.

    Attributes:
        name: of the module, with the network's before it where the describer has several.
        seen: place of the network among :attr:`Derivable.seen`.
        module: it.
        calls: how often it is called in a pass.
        axis: of its output's channels.
        channels: how many.
        places: rows and columns of its map; (tokens, 1) of a transformer's.
    """

    name: str
    seen: int
    module: nn.Module
    calls: int
    axis: int
    channels: int
    places: tuple[int, int]

    def channels_first(self, output: Tensor) -> Tensor:
        """(n, channels, rows, columns) of what comes out of it."""
        moved = output.movedim(self.axis, 1)
        return moved if moved.ndim == 4 else moved.unsqueeze(-1)


def layers_of(by: Derivable) -> list[MapLayer]:
    """The layers with maps, network by network, each from its input on.

    Args:
        by: of a photograph; the sizes are those of the largest view of it.
    """
    names = [str(one.trunk.identity["trunk"]) for one in by.seen]
    return [
        layer
        for place, one in enumerate(by.seen)
        for layer in _layers(one, place, f"{names[place]}:" if len(names) > 1 else "")
    ]


def _layers(seen: Seen, place: int, prefix: str) -> list[MapLayer]:
    outputs: dict[str, list[tuple[int, ...]]] = {}

    def note(name: str, module: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(name, []).append(tuple(output.shape))

    modules = dict(seen.trunk.network.named_modules())
    hooks = [
        one.register_forward_hook(partial(note, name)) for name, one in modules.items() if name
    ]
    try:
        with torch.inference_mode():
            seen.trunk.network(next(iter(seen.views(seen.values))))
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for name, shapes in outputs.items():
        last = shapes[-1]
        axis = 1 if len(last) == 4 and not seen.trunk.channels_last else len(last) - 1
        rest = [size for at, size in enumerate(last) if at not in (0, axis)]
        if len(last) < MAPS or max(rest) == 1 or last[axis] == 1:
            continue
        places = (rest[0], rest[1] if len(rest) > 1 else 1)
        found.append(
            MapLayer(prefix + name, place, modules[name], len(shapes), axis, last[axis], places)
        )
    return found


def layer_named(layers: list[MapLayer], name: str | None) -> MapLayer:
    """One of them; by default the last of the first network.

    Raises:
        ExplainError: there is none of that name.
    """
    if name is None:
        return [layer for layer in layers if layer.seen == layers[0].seen][-1]
    for layer in layers:
        if layer.name == name:
            return layer
    some = ", ".join(one.name for one in layers[:: max(1, len(layers) // 8)])
    raise ExplainError(f"--layer {name}: there is none with a map; there are {some} …")


@contextmanager
def met(layer: MapLayer, take: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Within, ``take`` is given what comes out of the layer; what it returns goes on instead."""
    count = 0

    def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor | None:
        nonlocal count
        count += 1
        return take(output) if count % layer.calls == 0 else None

    handle = layer.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _EnoughError(Exception):
    """The layer was reached: what comes behind it need not run."""


def output_of(by: Derivable, layer: MapLayer, values: Tensor) -> Tensor:
    """(n, channels, rows, columns) of (n, 3, h, w) normalised photographs, with derivatives."""
    found: list[Tensor] = []

    def take(output: Tensor) -> None:
        # A rectifier behind it may work in place.
        found.append(output.clone())
        raise _EnoughError

    with met(layer, take), suppress(_EnoughError):
        by.seen[layer.seen].trunk.network(values)
    return layer.channels_first(found[0])


def outputs(by: Derivable, layer: MapLayer) -> Tensor:
    """(channels, rows, columns) of the photograph's largest view."""
    seen = by.seen[layer.seen]
    with torch.inference_mode():
        largest = max(seen.views(seen.values), key=lambda view: view.shape[-1] * view.shape[-2])
        return output_of(by, layer, largest)[0].cpu()


def channel_slopes(by: Derivable, layer: MapLayer, function: Callable[[Tensor], Tensor]) -> Tensor:
    """(channels,) how fast a target grows where a channel does, at all places of all views."""
    shift = torch.zeros(layer.channels, device=by.seen[layer.seen].values.device)
    shift.requires_grad_()

    def take(output: Tensor) -> Tensor:
        shape = [1] * output.ndim
        shape[layer.axis] = layer.channels
        return output + shift.view(shape)

    with met(layer, take):
        value = function(by([one.values for one in by.seen]))
    (slopes,) = torch.autograd.grad(value.sum(), [shift], allow_unused=True)
    return torch.zeros(layer.channels) if slopes is None else slopes.detach().cpu()
