"""ALIKED: keypoints and descriptors learnt together.

Zhao et al., "ALIKED: A lighter keypoint and descriptor extraction network via deformable
transformation" (IEEE Transactions on Instrumentation and Measurement 2023), by kornia, which is an
optional part of the installation. Its weights are a file that the user has: nothing is downloaded.
Keypoints have neither a scale nor a direction; the descriptors bear turns of up to some 60 degrees.
The maps are those of :mod:`retrieval.local.aliked_network`, by the runtime that networks have here;
keypoints and descriptors are chosen in float32 by torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from retrieval.errors import ConfigError, WeightsError, first_line
from retrieval.local.base import Local
from retrieval.local.features import LocalFeatures, encode, no_features
from retrieval.networks.runtime import Runtime, settled
from retrieval.networks.trunk import Trunk
from retrieval.types import Photograph, StrictModel

NETWORK: Final = "aliked-n16rot"
"""The variant trained on turned photographs; plain aliked-n16 is of the same shape."""
FILE: Final = f"{NETWORK}.pth"
DIMENSION: Final = 128
MIN_SIDE: Final = 16
"""Smaller photographs are all border to the network."""
DIAMETER: Final = 16.0
"""ALIKED measures no scale: all its keypoints are given the same."""
BLACK: Final = (0.0, 0.0, 0.0)
WHITE: Final = (1.0, 1.0, 1.0)
"""Colours as the network takes them: in 0 to 1, not normalised."""
MADE: Final = {"dkd.hw_grid"}
"""What the network makes for itself, and files lack."""


class AlikedConfig(StrictModel):
    """How keypoints are found.

    Attributes:
        weights: a file of parameters as PyTorch saves them, such as ``aliked-n16rot.pth`` of the
            authors' repository (``None``: ``--weights`` gives it).
        size: longest side of the photograph in pixels.
        keypoints: the strongest this many are kept.
        threshold: least score of a keypoint, in 0 to 1.
        precision, runtime: of the maps, as of :func:`retrieval.networks.runtime.settled`.
    """

    kind: Literal["aliked"] = "aliked"
    weights: str | None = None
    size: int = Field(512, ge=MIN_SIDE, le=4096)
    keypoints: int = Field(800, ge=1, le=20_000)
    threshold: float = Field(0.2, ge=1e-6, lt=1.0)
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    runtime: Runtime = "auto"


@dataclass(frozen=True)
class AlikedDetector(Local):
    """See :class:`AlikedConfig`; made by :func:`build`.

    One photograph is a batch, as how many keypoints it has is its own: so photographs need not be
    of one shape, and on a GPU the calling thread alone describes.
    """

    config: AlikedConfig
    trunk: Trunk = field(repr=False)
    keypoints: nn.Module = field(repr=False)
    head: nn.Module = field(repr=False)
    device: torch.device
    dimension = DIMENSION
    batched = True
    batch = 1

    @property
    def longest_side(self) -> int:
        return self.config.size

    @property
    def threaded(self) -> bool:
        return self.device.type == "cpu"

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        return photograph.shape[0], photograph.shape[1]

    def identity(self) -> dict[str, Any]:
        shown = self.config.model_dump(exclude={"weights", "runtime"})
        return {**shown, **self.trunk.identity}

    def features(self, photographs: Sequence[Photograph]) -> list[LocalFeatures]:
        return [self._one(photograph) for photograph in photographs]

    def _one(self, photograph: Photograph) -> LocalFeatures:
        size = (photograph.shape[0], photograph.shape[1])
        if min(size) < MIN_SIDE:
            return no_features(DIMENSION, size, signed=True)
        with torch.inference_mode():
            points, scores, descriptors = self._found(photograph)
        points *= np.array(size[::-1], np.float32) - 1
        # Where no score passes the threshold, kornia lowers it.
        order = np.lexsort([points[:, 0], points[:, 1], -scores])
        order = order[scores[order] > self.config.threshold]
        return LocalFeatures(
            points=points[order],
            scales=np.full(len(order), DIAMETER, dtype=np.float32),
            angles=np.zeros(len(order), dtype=np.float32),
            codes=encode(descriptors[order], signed=True),
            size=size,
        )

    def _found(self, photograph: Photograph) -> tuple[NDArray[np.float32], ...]:
        """(k, 2) x and y in 0 to 1, (k,) scores and (k, 128) unit descriptors of keypoints."""
        from retrieval.local.aliked_network import LAYERS, descriptors, padded

        height, width = photograph.shape[:2]
        given = torch.tensor(photograph, device=self.device)[None]
        values, left, above = padded(self.trunk.normalised(given))
        values = values.to(self.trunk.dtype).contiguous(memory_format=torch.channels_last)
        maps = self.trunk.network(values)
        *features, scores = (maps[layer] for layer in LAYERS)
        inside = scores[:, :, above : above + height, left : left + width].float()
        (found,), (strength,), _ = self.keypoints(inside)
        points = found / 2 + 0.5
        rows = torch.zeros(0, DIMENSION)
        if len(points):
            rows = descriptors(features, points, (height, width), (left, above), self.head)
        return points.cpu().numpy(), strength.cpu().numpy(), rows.cpu().numpy()


def located(config: AlikedConfig, given: Path | None) -> AlikedConfig:
    """The config with its weights settled by ``--weights`` (a file, or a folder holding it).

    Raises:
        WeightsError: what was given is not there.
    """
    if given is None:
        return config
    path = given / FILE if given.is_dir() else given
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file; --weights takes a file of ALIKED's parameters, or a"
            f" folder with {FILE} in it"
        )
    return config.model_copy(update={"weights": str(path)})


def build(config: AlikedConfig, device: str) -> AlikedDetector:
    """Load the network on a device ("cpu" or "cuda").

    Raises:
        ConfigError: kornia is not installed.
        WeightsError: the weights are not given, not there, damaged, or another network's.
    """
    try:
        from kornia.feature import ALIKED

        from retrieval.local.aliked_network import LAYERS, STEP, AlikedMaps
    except ModuleNotFoundError:
        raise ConfigError(
            "the detector aliked needs kornia, which is not installed: pip install '.[learned]'"
        ) from None
    if config.weights is None:
        raise WeightsError(
            f"the detector aliked needs weights: give its file {FILE}, or a folder with it"
            " (--weights)"
        )
    network = ALIKED(NETWORK, config.keypoints, config.threshold)
    state = _read(Path(config.weights))
    _check(Path(config.weights), state, network.state_dict())
    network.load_state_dict(state, strict=False)
    where = torch.device(device)
    head, keypoints = network.eval().desc_head.to(where), network.dkd.to(where)
    identity = {"network": NETWORK, "layers": list(LAYERS), "weights": _digest(state)}
    maps = AlikedMaps(network).eval()
    trunk = Trunk(maps, LAYERS, BLACK, WHITE, "bilinear", identity, step=STEP, rough=LAYERS[:-1])
    trunk = settled(trunk, where, config.precision, config.runtime)
    return AlikedDetector(config, trunk, keypoints, head, where)


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, and nothing else: ``weights_only`` runs none of a pickle's code."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file (--weights)")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # PyTorch and its unpickler raise many kinds
        reason = first_line(error, "it is cut short")
        raise WeightsError(f"{path} is not a file of PyTorch parameters ({reason})") from None
    if not isinstance(state, Mapping) or not all(isinstance(one, Tensor) for one in state.values()):
        raise WeightsError(f"{path} does not hold a network's parameters by name")
    return state


def _check(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    missing = sorted(own.keys() - state.keys() - MADE)
    foreign = sorted(state.keys() - own.keys())
    wrong = sorted(key for key in state.keys() & own.keys() if state[key].shape != own[key].shape)
    for what, keys in (("lacks", missing), ("has no place for", foreign), ("misfits", wrong)):
        if keys:
            raise WeightsError(
                f"{path} does not fit {NETWORK}: {what} {keys[0]} ({len(keys)} in all)"
            )


def _digest(state: Mapping[str, Tensor]) -> str:
    """A checksum over the parameters."""
    digest = hashlib.sha256()
    for key in sorted(state.keys() - MADE):
        digest.update(key.encode())
        digest.update(state[key].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
