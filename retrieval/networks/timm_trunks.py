"""timm's networks as trunks, with their own preprocessing; timm is an optional part.

Vision transformers are built for photographs of any size where they can be; others see squares.
Layers are named as timm names modules, and caught as the whole network runs.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import timm
from torch import Tensor, nn

from retrieval.errors import ConfigError, WeightsError
from retrieval.networks.trunk import NONE, TIMM, Tokens, Trunk, fitting_state, identity_of, seeded

OWN: Final = "DEFAULT"
"""Weights by this name are those of the tag in the network's name."""
LAST: Final = "forward_features"
"""What the network itself would pool: the layer unless another is named."""


class Caught(nn.Module):
    """A network without its classifier, whose layers' outputs are caught on the way.

    Args:
        network: timm's.
        layers: names of its modules, or :data:`LAST`.

    Raises:
        ConfigError: there is no such module.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], name: str) -> None:
        super().__init__()
        self.network: Any = network
        # Threads share the network, each with a batch of its own.
        self.here = threading.local()
        for layer in sorted(set(layers) - {LAST}):
            try:
                module = network.get_submodule(layer)
            except AttributeError:
                parts = ", ".join(part for part, _ in network.named_children())
                raise ConfigError(f"{name} has no layer {layer!r}; its parts are {parts}") from None
            module.register_forward_hook(partial(self._catch, layer))
        self.layers = tuple(layers)

    def _catch(self, layer: str, module: nn.Module, given: Any, output: Any) -> None:
        self.here.outputs[layer] = output

    def forward(self, values: Tensor) -> dict[str, Any]:
        """(n, 3, h, w) to each layer's output.

        Raises:
            ValueError: a layer takes no part in this.
        """
        outputs = self.here.outputs = {}
        outputs[LAST] = self.network.forward_features(values)
        for layer in self.layers:
            if layer not in outputs:
                raise ValueError(f"{layer} comes after its features")
        return outputs


def load(name: str, layers: Sequence[str | None], weights: str, seed: int) -> Trunk:
    """Build ``timm/NAME``; see :func:`retrieval.networks.trunks.load_trunk`."""
    known = check_name(name)
    wanted = tuple(layer or LAST for layer in layers)
    if weights == NONE:
        with seeded(seed):
            model = _made(known, num_classes=0)
    elif Path(weights).suffix == ".safetensors":
        model = _from_file(known, Path(weights))
    elif weights == OWN:
        model = _downloaded(known)
    else:
        raise WeightsError(
            f"{name} has no weights {weights!r}: timm's are part of the name (timm/NAME.TAG, with"
            f" weights {OWN}); or give a .safetensors file, or {NONE}"
        )
    preset = model.pretrained_cfg
    mean, std = tuple(preset["mean"]), tuple(preset["std"])
    interpolation = "bilinear" if preset["interpolation"] == "bilinear" else "bicubic"
    fixed = preset["fixed_input_size"] and not _any_size(model)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    classed = getattr(model, "cls_token", None) is not None
    prefix = getattr(model, "num_prefix_tokens", int(classed))
    return Trunk(
        Caught(model, wanted, name).eval(),
        wanted,
        mean,
        std,
        interpolation,
        identity_of(name, wanted, model, mean, std, interpolation),
        square=preset["input_size"][-1] if fixed else None,
        step=patch[0] if patch else 1,
        tokens=Tokens(prefix, classed, patch) if patch else None,
        channels_last=getattr(model, "output_fmt", None) == "NHWC",
    )


def check_name(name: str) -> str:
    """A network's name without ``timm/``.

    Raises:
        ConfigError: timm has no such network, or no such weights of it.
    """
    known = name.removeprefix(TIMM)
    if not timm.is_model(known):
        near = difflib.get_close_matches(known.partition(".")[0], timm.list_models(), 3)
        hint = f"; near it: {', '.join(TIMM + one for one in near)}" if near else ""
        raise ConfigError(f"trunk {name!r} is not one of timm's networks{hint}")
    try:
        timm.get_pretrained_cfg(known)
    except RuntimeError:
        tags = ", ".join(timm.list_models(known.partition(".")[0], include_tags=True))
        raise ConfigError(f"trunk {name!r} is none of {tags}") from None
    return known


def bare_network(name: str) -> tuple[nn.Module, int]:
    """``timm/NAME`` with its classifier and with random parameters, and its side in pixels."""
    model = _made(check_name(name))
    return model, model.pretrained_cfg["input_size"][-1]


def _made(name: str, **options: Any) -> Any:
    """For photographs of any size where it can be built so."""
    try:
        model = timm.create_model(name, dynamic_img_size=True, **options)
    except TypeError:  # this network has no such option
        model = timm.create_model(name, **options)
    return model.eval()


def _any_size(model: nn.Module) -> bool:
    return bool(getattr(model, "dynamic_img_size", False))


def _from_file(name: str, path: Path) -> Any:
    model = _made(name, num_classes=0)
    own = model.state_dict()
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    state = fitting_state(path, TIMM + name, own, own, tuple(f"{head}." for head in heads))
    model.load_state_dict(state, strict=False)
    return model


def _downloaded(name: str) -> Any:
    try:
        return _made(name, num_classes=0, pretrained=True)
    except Exception as error:  # the hub's client, urllib and timm raise many kinds
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"the weights of {TIMM}{name} could not be downloaded ({reason}): fetch them by hand"
            f" and give the file (--weights), named {name}.safetensors in a folder, or take a"
            " config that needs none, such as rootsift-vlad"
        ) from None
