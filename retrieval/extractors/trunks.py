"""Networks by name: a torchvision trunk, cut at a layer, with its weights and normalisation."""

from __future__ import annotations

import difflib
import hashlib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torch.fx.experimental.optimization import fuse
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from retrieval.errors import ConfigError, WeightsError

log = logging.getLogger(__name__)

NONE: Final = "none"
Colour = tuple[float, float, float]
"""A number for each of red, green and blue."""

IMAGENET_MEAN: Final[Colour] = (0.485, 0.456, 0.406)
IMAGENET_STD: Final[Colour] = (0.229, 0.224, 0.225)
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
)  # fmt: skip


@dataclass(frozen=True)
class Trunk:
    """A network cut at a layer.

    Attributes:
        network: (n, 3, h, w) normalised photographs to that layer's output.
        mean: of each channel of RGB in 0 to 1, as the weights were trained with.
        std: likewise.
        identity: what decides its output: name, layer, a checksum of its weights, normalisation.
        square: the only size that it takes, or ``None`` (a vision transformer's is fixed).
    """

    network: nn.Module
    mean: Colour
    std: Colour
    identity: dict[str, Any]
    square: int | None


def load_trunk(name: str, layer: str | None, weights: str, seed: int, fused: bool = True) -> Trunk:
    """Build a trunk with weights.

    Args:
        name: of a torchvision classification network.
        layer: where it is cut, as ``torchvision.models.feature_extraction`` names nodes, or
            ``None`` for the last feature map.
        weights: a file (safetensors), the name of torchvision weights such as ``IMAGENET1K_V1``,
            or ``none`` for seeded random ones.
        seed: of random weights.
        fused: whether batch norms are folded into the convolutions; not if they are to learn.

    Raises:
        ConfigError: no such network or layer.
        WeightsError: the weights cannot be had or do not fit.
    """
    check_trunk(name)
    layer = layer or last_map(name)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if weights == NONE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _bare(name)
    elif Path(weights).suffix == ".safetensors":
        model = _from_file(name, layer, Path(weights))
    else:
        model, mean, std = _from_torchvision(name, weights)
    network = _cut(model, layer, name)
    identity = {
        "trunk": name,
        "layer": layer,
        # Of the parameters and not of the file: a run built with downloaded weights takes the
        # same ones from a file, wherever that lies.
        "weights": _digest(network),
        "mean": list(mean),
        "std": list(std),
    }
    square = getattr(model, "image_size", None)
    return Trunk(_fused(network) if fused else network, mean, std, identity, square)


def check_trunk(name: str) -> None:
    """Refuse a name that torchvision does not have.

    Raises:
        ConfigError: with the nearest names.
    """
    names = torchvision.models.list_models(module=torchvision.models)
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
    raise ConfigError(f"trunk {name!r}: say where to cut it (extractor.layer)")


def find_weights(trunk: str, given: Path) -> str:
    """Settle the weights: ``--weights`` (a file, or a folder holding ``<trunk>.safetensors``).

    Raises:
        WeightsError: what was given is not there.
    """
    path = given / f"{trunk}.safetensors" if given.is_dir() else given
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file; --weights takes a safetensors file, or a folder with"
            f" {trunk}.safetensors in it"
        )
    return str(path)


def _bare(name: str) -> nn.Module:
    options = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        # The auxiliary heads serve training only, and the default initialisation takes a minute.
        options |= {"aux_logits": False, "init_weights": False}  # type: ignore[dict-item]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = torchvision.models.get_model(name, **options)
    return model.eval()


def _from_file(name: str, layer: str, path: Path) -> nn.Module:
    """A model whose parameters, up to the cut, all come from the file."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file (--weights)")
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        raise WeightsError(f"{path} is not a safetensors file ({error})") from None
    model = _bare(name)
    needed = set(_cut(model, layer, name).state_dict())
    own = model.state_dict()
    missing = sorted(needed - state.keys() - _counters(needed))
    foreign = sorted(state.keys() - own.keys())
    wrong = sorted(key for key in state.keys() & own.keys() if state[key].shape != own[key].shape)
    for what, keys in (("lacks", missing), ("has no place for", foreign), ("misfits", wrong)):
        if keys:
            raise WeightsError(
                f"{path} does not fit {name} cut at {layer}: {what} {keys[0]} ({len(keys)} in all)"
            )
    model.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()},
                          strict=False)  # fmt: skip
    return model


def _counters(keys: set[str]) -> set[str]:
    """Batch norm's step counters: torchvision has them, nothing reads them, files may lack them."""
    return {key for key in keys if key.endswith("num_batches_tracked")}


def _from_torchvision(name: str, weights: str) -> tuple[nn.Module, Colour, Colour]:
    known = torchvision.models.get_model_weights(name)
    try:
        entry = known[weights]
    except KeyError:
        names = ", ".join(member.name for member in known)
        raise WeightsError(
            f"{name} has no weights {weights!r}; it has {names}; or give a .safetensors file, or"
            f" {NONE}"
        ) from None
    url = str(entry.url)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        model = torchvision.models.get_model(name, weights=entry).eval()
    except Exception as error:  # urllib and hashing errors alike: the remedy is the same
        raise WeightsError(
            f"the weights of {name} ({weights}) could not be downloaded ({error}): fetch"
            f" {url.rsplit('/', 1)[-1]} by hand and put it in {folder}, or give a file"
            " (--weights), or take a config that needs none, such as rootsift-vlad"
        ) from None
    preset = entry.transforms()
    return model, tuple(preset.mean), tuple(preset.std)


def _cut(model: nn.Module, layer: str, name: str) -> GraphModule:
    _, nodes = get_graph_node_names(model)
    if layer not in nodes and not any(node.startswith(f"{layer}.") for node in nodes):
        tops = ", ".join(dict.fromkeys(node.split(".")[0] for node in nodes))
        raise ConfigError(f"{name} has no layer {layer!r}; its parts are {tops}")
    cut: GraphModule = create_feature_extractor(model, {layer: "map"}).eval()
    return cut


def _fused(network: GraphModule) -> nn.Module:
    """Batch norms folded into the convolutions before them: the same map, fewer passes.

    Traced once more for that: to torchvision's tracer a block of convolution, norm and activation
    is one step, inside which nothing can be folded.
    """
    return fuse(symbolic_trace(network).eval(), no_trace=True).eval()


def _digest(network: nn.Module) -> str:
    """A checksum over the parameters up to the cut."""
    digest = hashlib.sha256()
    state: Mapping[str, Tensor] = network.state_dict()
    for key in sorted(state.keys() - _counters(set(state))):
        digest.update(key.encode())
        digest.update(state[key].detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
