"""Networks by name: a trunk, cut at its layers, with its weights and their preprocessing.

torchvision's are cut here; timm's, an optional part of the installation, in
:mod:`retrieval.networks.timm_trunks`.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import nn
from torch.fx import GraphModule, symbolic_trace

from retrieval.errors import ConfigError, WeightsError
from retrieval.networks import small_vgg
from retrieval.networks.trunk import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NONE,
    TIMM,
    Tokens,
    Trunk,
    fitting_state,
    identity_of,
    seeded,
)

OWN: Final = {small_vgg.NAME: small_vgg.SmallVgg}
"""Networks that torchvision does not have; normalised as ImageNet's."""

LAST_MAPS: Final = (
    # (module, trunks whose last feature map it is): where a trunk is cut unless a config says.
    ("features", ("alexnet", "vgg", "squeezenet", "densenet", "mobilenet", "efficientnet",
                  "convnext")),
    ("layer4", ("resnet", "resnext", "wide_resnet")),
    ("inception5b", ("googlenet",)),
    ("Mixed_7c", ("inception_v3",)),
    ("trunk_output", ("regnet",)),
    ("conv5", ("shufflenet",)),
    ("layers", ("mnasnet",)),
    ("encoder.ln", ("vit",)),
    ("permute", ("swin",)),
    ("blocks", ("maxvit",)),
)  # fmt: skip
AUXILIARY: Final = ("aux1.", "aux2.", "AuxLogits.")
"""GoogLeNet's and Inception's heads along the way, which serve training only."""
SQUARES: Final = {"maxvit_t": 224}
"""Networks of one size that do not say so themselves."""


def load_trunk(
    name: str, layers: Sequence[str | None], weights: str, seed: int, fused: bool = True
) -> Trunk:
    """Build a trunk with weights.

    Args:
        name: of a torchvision classification network, or ``timm/NAME``.
        layers: where it is cut, as ``torchvision.models.feature_extraction`` names nodes (timm's
            by the names of their modules); ``None`` is the last feature map.
        weights: a file (safetensors), the name of torchvision weights such as ``IMAGENET1K_V1``
            (timm's own are ``DEFAULT``), or ``none`` for seeded random ones.
        seed: of random weights.
        fused: whether batch norms are folded into the convolutions (torchvision's alone); not if
            they are to learn.

    Raises:
        ConfigError: no such network or layer, or timm is not installed.
        WeightsError: the weights cannot be had or do not fit.
    """
    from torchvision import models

    if name.startswith(TIMM):
        trunk: Trunk = timm_trunks(name).load(name, layers, weights, seed)
        return trunk
    check_trunk(name)
    wanted = tuple(layer or last_map(name) for layer in layers)
    entry = None if name in OWN else models.get_model_weights(name).DEFAULT
    if weights == NONE:
        with seeded(seed):
            model = bare_network(name)
    elif Path(weights).suffix == ".safetensors":
        model = _from_file(name, wanted, Path(weights))
    else:
        entry = _entry(name, weights)
        model = _downloaded(name, entry)
    mean, std, interpolation = IMAGENET_MEAN, IMAGENET_STD, "bilinear"
    if entry is not None:
        preset = entry.transforms()
        mean, std, interpolation = tuple(preset.mean), tuple(preset.std), preset.interpolation.value
    network = _cut(model, wanted, name)
    square = getattr(model, "image_size", SQUARES.get(name))
    patch = getattr(model, "patch_size", None)
    return Trunk(
        fuse_norms(network) if fused else network,
        wanted,
        mean,
        std,
        interpolation,
        identity_of(name, wanted, network, mean, std, interpolation),
        square,
        tokens=Tokens(1, True, (patch, patch)) if patch else None,
    )


def timm_trunks(name: str) -> ModuleType:
    """The module of timm's networks.

    Raises:
        ConfigError: timm is not installed.
    """
    try:
        from retrieval.networks import timm_trunks as module
    except ModuleNotFoundError:
        raise ConfigError(
            f"trunk {name!r} needs timm, which is not installed: pip install '.[timm]'"
        ) from None
    return module


def check_trunk(name: str) -> None:
    """Refuse a name that neither torchvision has nor this project.

    Raises:
        ConfigError: with the nearest names.
    """
    from torchvision import models

    names = [*models.list_models(module=models), *OWN]
    if name not in names:
        near = ", ".join(difflib.get_close_matches(name, names, 3)) or ", ".join(names[:3])
        raise ConfigError(f"trunk {name!r} is not a torchvision network; near it: {near}")


def last_map(name: str) -> str:
    """The layer of a trunk's last feature map.

    Raises:
        ConfigError: unknown for this trunk; the config has to name a layer.
    """
    for layer, prefixes in LAST_MAPS:
        if name.startswith(prefixes):
            return layer
    raise ConfigError(f"trunk {name!r}: say where to cut it (extractor.layers)")


def find_weights(trunk: str, given: Path) -> str:
    """Settle the weights: ``--weights`` (a file, or a folder holding ``<trunk>.safetensors``).

    timm's networks are looked for by their names without ``timm/``.

    Raises:
        WeightsError: what was given is not there.
    """
    file = f"{trunk.removeprefix(TIMM)}.safetensors"
    path = given / file if given.is_dir() else given
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file; --weights takes a safetensors file, or a folder with"
            f" {file} in it"
        )
    return str(path)


def bare_network(name: str) -> nn.Module:
    """A network with its classifier and with random parameters: torchvision's, or our own."""
    from torchvision import models

    if name in OWN:
        return OWN[name]().eval()
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        # Their default initialisation takes a minute; their weights were trained on another
        # normalisation, which the network itself makes of the one it is given.
        options |= {"aux_logits": False, "init_weights": False, "transform_input": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = models.get_model(name, **options)
    return model.eval()


def whole_network(name: str) -> tuple[nn.Module, int]:
    """Any trunk with its classifier and with random parameters, and its own side in pixels.

    Raises:
        ConfigError: no such network, or timm is not installed.
    """
    from torchvision import models

    if name.startswith(TIMM):
        whole: tuple[nn.Module, int] = timm_trunks(name).bare_network(name)
        return whole
    check_trunk(name)
    if name in OWN:
        return bare_network(name), small_vgg.SIDE
    preset = models.get_model_weights(name).DEFAULT.transforms()
    return bare_network(name), preset.crop_size[0]


def _from_file(name: str, layers: Sequence[str], path: Path) -> nn.Module:
    """A model whose parameters, up to the cut, all come from the file."""
    model = bare_network(name)
    needed = set(_cut(model, layers, name).state_dict())
    what = f"{name} cut at {', '.join(layers)}"
    state = fitting_state(path, what, model.state_dict(), needed, AUXILIARY)
    model.load_state_dict(state, strict=False)
    return model


def _entry(name: str, weights: str) -> Any:
    """torchvision's weights by name."""
    from torchvision import models

    if name in OWN:
        raise WeightsError(
            f"there are no weights of {name}: train it (landmarks train), give a .safetensors file,"
            f" or {NONE}"
        )
    known = models.get_model_weights(name)
    try:
        return known[weights]
    except KeyError:
        names = ", ".join(member.name for member in known)
        raise WeightsError(
            f"{name} has no weights {weights!r}; it has {names}; or give a .safetensors file, or"
            f" {NONE}"
        ) from None


def cached_weights(name: str, weights: str) -> Path:
    """Where torchvision keeps weights once they were downloaded.

    Raises:
        WeightsError: the network has no such weights.
    """
    return _cached(_entry(name, weights))


def _cached(entry: Any) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / str(entry.url).rsplit("/", 1)[-1]


def _downloaded(name: str, entry: Any) -> nn.Module:
    """A model with torchvision's weights, fetched when they are first needed."""
    from torchvision import models

    cached = _cached(entry)
    try:
        model: nn.Module = models.get_model(name, weights=entry).eval()
    except Exception as error:  # urllib and hashing errors alike: the remedy is the same
        raise WeightsError(
            f"the weights of {name} ({entry.name}) could not be downloaded ({error}): fetch"
            f" {cached.name} by hand and put it in {cached.parent}, or give a file"
            " (--weights), or take a config that needs none, such as rootsift-vlad"
        ) from None
    return model


def _cut(model: nn.Module, layers: Sequence[str], name: str) -> GraphModule:
    from torchvision.models.feature_extraction import (
        create_feature_extractor,
        get_graph_node_names,
    )

    # Inception's graph for training has a head more, which is no news.
    _, nodes = get_graph_node_names(model, suppress_diff_warning=True)
    for layer in layers:
        if layer not in nodes and not any(node.startswith(f"{layer}.") for node in nodes):
            tops = ", ".join(dict.fromkeys(node.split(".")[0] for node in nodes))
            raise ConfigError(f"{name} has no layer {layer!r}; its parts are {tops}")
    return_nodes = {layer: layer for layer in layers}
    cut: GraphModule = create_feature_extractor(
        model, return_nodes, suppress_diff_warning=True
    ).eval()
    return cut


def fuse_norms(network: GraphModule) -> nn.Module:
    """Batch norms folded into the convolutions before them: the same map, fewer passes.

    Traced once more for that: to torchvision's tracer a block of convolution, norm and activation
    is one step, inside which nothing can be folded.
    """
    from torch.fx.experimental.optimization import fuse

    return fuse(symbolic_trace(network).eval(), no_trace=True).eval()
