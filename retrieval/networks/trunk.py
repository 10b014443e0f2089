"""A network cut at its layers, with what belongs to its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from retrieval.errors import WeightsError
from retrieval.networks.pooling import first_tensor, tokens_to_map

NONE: Final = "none"
TIMM: Final = "timm/"
"""Before the names of timm's networks."""
Colour = tuple[float, float, float]
"""A number for each of red, green and blue."""
IMAGENET_MEAN: Final[Colour] = (0.485, 0.456, 0.406)
IMAGENET_STD: Final[Colour] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Tokens:
    """How a transformer's tokens lie.

    Attributes:
        prefix: how many stand before the patches'.
        classed: whether the first of those is a class token.
        patch: (height, width) of a patch in pixels.
    """

    prefix: int
    classed: bool
    patch: tuple[int, int]


@dataclass(frozen=True)
class Trunk:
    """A network cut at its layers.

    Attributes:
        network: (n, 3, h, w) normalised photographs to each layer's output, by the layer's name.
        layers: their names, in the order in which they were asked for.
        mean: of each channel of RGB in 0 to 1, as the weights were trained with.
        std: likewise.
        interpolation: likewise, ``bilinear`` or ``bicubic``.
        identity: what decides its output: name, layers, a checksum of its weights, preprocessing.
        square: the only size that it takes, or ``None``.
        step: sides of photographs are to be multiples of this.
        tokens: of a transformer.
        channels_last: whether maps come as (n, h, w, c).
        dtype: of the values that the network takes where it runs.
        rough: layers whose maps may come in the precision that they are computed in, where that is
            less than float32: large ones, of which little is read.
    """

    network: nn.Module
    layers: tuple[str, ...]
    mean: Colour
    std: Colour
    interpolation: str
    identity: dict[str, Any]
    square: int | None = None
    step: int = 1
    tokens: Tokens | None = None
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    rough: tuple[str, ...] = ()

    def normalised(self, photographs: Tensor) -> Tensor:
        """(n, h, w, 3) uint8 to what the network takes: (n, 3, h, w) float32, channels last."""
        scale, shift = _normaliser(self.mean, self.std, photographs.device)
        # (n, h, w, 3) seen as (n, 3, h, w) is channels-last already: no copy.
        return torch.addcmul(shift, photographs.permute(0, 3, 1, 2).float(), scale)

    def outputs(self, values: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Each layer's feature map (n, c, h, w), and its class token (n, c) where it has one.

        Args:
            values: (n, 3, h, w), normalised.
        """
        found = self.network(values)
        size = (values.shape[-2], values.shape[-1])
        return [self._seen(first_tensor(found[layer]), size) for layer in self.layers]

    def _seen(self, features: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        if self.channels_last and features.ndim == 4:
            return features.permute(0, 3, 1, 2), None
        if self.tokens is None or features.ndim != 3:
            return tokens_to_map(features), None
        prefix = self.tokens.prefix
        grid = size[0] // self.tokens.patch[0], size[1] // self.tokens.patch[1]
        if features.shape[1] != prefix + grid[0] * grid[1]:
            return tokens_to_map(features), None
        token = features[:, 0] if self.tokens.classed else None
        return tokens_to_map(features[:, prefix:], grid), token


@lru_cache(maxsize=8)
def _normaliser(mean: Colour, std: Colour, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift, (1, 3, 1, 1), from 0…255 to the weights' normalisation."""
    spread = torch.tensor(std, device=device).view(1, 3, 1, 1)
    centre = torch.tensor(mean, device=device).view(1, 3, 1, 1)
    return 1.0 / (255.0 * spread), -centre / spread


def identity_of(
    name: str,
    layers: Sequence[str],
    network: nn.Module,
    mean: Colour,
    std: Colour,
    interpolation: str,
) -> dict[str, Any]:
    """What decides a trunk's output."""
    return {
        "trunk": name,
        "layers": list(layers),
        # Of the parameters and not of the file: a run built with downloaded weights takes the
        # same ones from a file, wherever that lies.
        "weights": _digest(network),
        "mean": list(mean),
        "std": list(std),
        "interpolation": interpolation,
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random parameters made within hang on the seed alone, and nothing else on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fitting_state(
    path: Path,
    what: str,
    own: Mapping[str, Tensor],
    needed: Collection[str],
    besides: tuple[str, ...],
) -> dict[str, Tensor]:
    """The parameters of a file that a network needs.

    Args:
        path: of a safetensors file.
        what: the network, for messages.
        own: all parameters of the network.
        needed: names of those up to the cut; what is made of the others does not matter.
        besides: how other names may begin that the file holds.

    Raises:
        WeightsError: the file is missing, damaged, or another network's.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file (--weights)")
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        raise WeightsError(f"{path} is not a safetensors file ({error})") from None
    held = set(needed) & state.keys()
    missing = sorted(set(needed) - held - _counters(set(needed)))
    foreign = sorted(key for key in state.keys() - own.keys() if not key.startswith(besides))
    wrong = sorted(key for key in held if state[key].shape != own[key].shape)
    for problem, keys in (("lacks", missing), ("has no place for", foreign), ("misfits", wrong)):
        if keys:
            raise WeightsError(
                f"{path} does not fit {what}: {problem} {keys[0]} ({len(keys)} in all)"
            )
    return {key: state[key].to(own[key].dtype) for key in held}


def _counters(keys: set[str]) -> set[str]:
    """Batch norm's step counters: torchvision has them, nothing reads them, files may lack them."""
    return {key for key in keys if key.endswith("num_batches_tracked")}


def _digest(network: nn.Module) -> str:
    """A checksum over the parameters up to the cut."""
    digest = hashlib.sha256()
    state: Mapping[str, Tensor] = network.state_dict()
    for key in sorted(state.keys() - _counters(set(state))):
        digest.update(key.encode())
        digest.update(state[key].detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
