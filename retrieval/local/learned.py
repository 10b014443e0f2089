"""ALIKED: keypoints and descriptors learnt together.

Zhao et al., "ALIKED: A lighter keypoint and descriptor extraction network via deformable
transformation" (IEEE Transactions on Instrumentation and Measurement 2023), by kornia, which is an
optional part of the installation. Its weights are a file that the user has: nothing is downloaded.
Keypoints have neither a scale nor a direction; the descriptors bear turns of up to some 60 degrees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from retrieval.errors import ConfigError, WeightsError
from retrieval.local.base import Local
from retrieval.local.features import LocalFeatures, encode, no_features
from retrieval.types import Photograph, StrictModel

NETWORK: Final = "aliked-n16rot"
"""The variant trained on turned photographs; plain aliked-n16 is of the same shape."""
FILE: Final = f"{NETWORK}.pth"
DIMENSION: Final = 128
MIN_SIDE: Final = 16
"""Smaller photographs are all border to the network."""
DIAMETER: Final = 16.0
"""ALIKED measures no scale: all its keypoints are given the same."""
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
    """

    kind: Literal["aliked"] = "aliked"
    weights: str | None = None
    size: int = Field(512, ge=MIN_SIDE, le=4096)
    keypoints: int = Field(800, ge=1, le=20_000)
    threshold: float = Field(0.2, ge=1e-6, lt=1.0)


@dataclass(frozen=True)
class AlikedDetector(Local):
    """See :class:`AlikedConfig`; made by :func:`build`.

    One photograph is a batch, as how many keypoints it has is its own: so photographs need not be
    of one shape, and on a GPU the calling thread alone describes.
    """

    config: AlikedConfig
    network: nn.Module = field(repr=False)
    device: torch.device
    checksum: str
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
        shown = self.config.model_dump(exclude={"weights"})
        return {**shown, "network": NETWORK, "weights": self.checksum}

    def features(self, photographs: Sequence[Photograph]) -> list[LocalFeatures]:
        return [self._one(photograph) for photograph in photographs]

    def _one(self, photograph: Photograph) -> LocalFeatures:
        size = (photograph.shape[0], photograph.shape[1])
        if min(size) < MIN_SIDE:
            return no_features(DIMENSION, size, signed=True)
        values = torch.tensor(photograph, device=self.device).permute(2, 0, 1)[None]
        with torch.inference_mode():
            (found,) = self.network(values.float() / 255)
        points = found.keypoints.float().cpu().numpy()
        scores = found.keypoint_scores.float().cpu().numpy()
        descriptors = found.descriptors.float().cpu().numpy()
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
    return AlikedDetector(config, network.eval().to(where), where, _digest(state))


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, and nothing else: ``weights_only`` runs none of a pickle's code."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file (--weights)")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # PyTorch and its unpickler raise many kinds
        reason = (str(error).splitlines() or ["it is cut short"])[0]
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
