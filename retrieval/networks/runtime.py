"""What runs a network: torch, or OpenVINO, which is faster on processors.

A trunk comes from :mod:`retrieval.networks.trunks` as a torch module. :func:`settled` puts it where
it is to run, in the precision that it is to have there. OpenVINO's network takes and gives the same
tensors as torch's, so that nothing else asks which of them it is.

A converted network is kept in the folder of torch's downloaded weights, named by a checksum of all
that decides it: weights, layers, OpenVINO's version. A file that is damaged is made anew. Beside
torch's maps it is compared once, when it is made, at sizes that it was not converted with: a
network whose graph has a size baked in runs by torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from retrieval.devices import CPU, cores
from retrieval.errors import ConfigError, LandmarksError
from retrieval.networks.pooling import first_tensor
from retrieval.networks.running import fast_bfloat16
from retrieval.networks.trunk import Trunk
from retrieval.storage.files import read_sealed, write_sealed
from retrieval.storage.fingerprint import checksum, fingerprint

log = logging.getLogger(__name__)

Runtime = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "bfloat16", "float32"]

FOLDER: Final = "openvino"
SHAPES: Final = ((160, 224), (224, 128), (96, 160))
"""(height, width) that a network is converted with, and those that it is tried at."""
ALIKE: Final = 0.999
"""Cosine that the converted network's maps have at least to torch's, both in float32."""
AGAIN: Final = "delete it"


def settled(
    trunk: Trunk, device: torch.device, precision: Precision = "auto", runtime: Runtime = "auto"
) -> Trunk:
    """A trunk where it is to run.

    Args:
        trunk: as it was loaded, in float32 on the processor.
        device: where it is to run.
        precision: ``auto`` is bfloat16 where the device is fast at it, else float32.
        runtime: ``auto`` is OpenVINO on a processor where it is installed and the network can be
            converted, else torch.

    Raises:
        ConfigError: OpenVINO was asked for and cannot be had.
    """
    fast = precision == "auto" and fast_bfloat16(device)
    name: Literal["bfloat16", "float32"] = (
        "bfloat16" if fast or precision == "bfloat16" else "float32"
    )
    refused = _why_torch(device, runtime)
    if refused is None:
        try:
            return _converted(trunk, name)
        except _UnlikeError as error:
            refused = str(error)
    if runtime == "openvino":
        raise ConfigError(f"runtime: openvino: {refused}; take runtime: auto")
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    trunk.network.to(device, dtype).to(memory_format=torch.channels_last)
    return replace(trunk, dtype=dtype, precision=name)


class _UnlikeError(Exception):
    """Why a network cannot run by OpenVINO."""


def _why_torch(device: torch.device, runtime: Runtime) -> str | None:
    """Why OpenVINO is not to be tried; ``None`` where it is."""
    if runtime == "torch":
        return "torch was asked for"
    if device.type != CPU:
        return "it runs on processors alone"
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed"
    return None


def openvino() -> ModuleType:
    """OpenVINO, without what would send statistics of its use over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("openvino")


class CompiledNetwork(nn.Module):
    """A network that OpenVINO runs: one stream a core, each with a batch of its own.

    Args:
        model: OpenVINO's, of (n, h, w, 3) to a map for each of the layers.
        layers: their names.
        precision: of its numbers.
    """

    def __init__(
        self, model: Any, layers: Sequence[str], precision: Literal["bfloat16", "float32"]
    ):
        super().__init__()
        many = cores()
        self._model = (
            openvino()
            .Core()
            .compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
                    "NUM_STREAMS": many,
                    "INFERENCE_NUM_THREADS": many,
                    "ENABLE_CPU_PINNING": False,
                },
            )
        )
        self._layers = list(layers)
        self._here = threading.local()

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) float32 to each layer's output, float32."""
        if not hasattr(self._here, "request"):
            self._here.request = self._model.create_infer_request()
        request = self._here.request
        given = values.permute(0, 2, 3, 1).contiguous()  # no copy of what is channels-last
        request.infer([given.numpy()], share_inputs=True)
        # Copies: the next batch is written where these lie.
        return {
            layer: torch.tensor(request.get_output_tensor(place).data)
            for place, layer in enumerate(self._layers)
        }


class _Outputs(nn.Module):
    """A network that gives a tuple, as OpenVINO takes it."""

    def __init__(self, network: nn.Module, layers: Sequence[str]):
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        found = self.network(values)
        return tuple(first_tensor(found[layer]) for layer in self.layers)


def _converted(trunk: Trunk, precision: Literal["bfloat16", "float32"]) -> Trunk:
    """A trunk by OpenVINO, from the cache or converted.

    Raises:
        _UnlikeError: it cannot be converted, or its maps differ from torch's.
    """
    layers = list(dict.fromkeys(trunk.layers))
    version = openvino().get_version()
    key = fingerprint({**trunk.identity, "square": trunk.square, "openvino": version})
    folder = Path(torch.hub.get_dir()) / FOLDER
    model = _cached(folder, key)
    if model is None:
        model = _convert(trunk, layers)
        _require_alike(trunk, CompiledNetwork(model, layers, "float32"))
        _keep(folder, key, model)
    network = CompiledNetwork(model, layers, precision)
    return replace(
        trunk,
        network=network,
        dtype=torch.float32,
        precision=precision,
        identity={**trunk.identity, "runtime": f"openvino {version.partition('-')[0]}"},
    )


def _shapes(trunk: Trunk) -> list[tuple[int, int]]:
    """What a trunk is tried with: multiples of its step, or the one size that it takes."""
    if trunk.square is not None:
        return [(trunk.square, trunk.square)] * 2
    up = [(-(-h // trunk.step) * trunk.step, -(-w // trunk.step) * trunk.step) for h, w in SHAPES]
    return up


def _convert(trunk: Trunk, layers: Sequence[str]) -> Any:
    """OpenVINO's model of a trunk, of (n, h, w, 3) photographs of any number and size."""
    ov = openvino()
    height, width = _shapes(trunk)[0]
    free = [-1, -1] if trunk.square is None else [height, width]
    outputs = _Outputs(trunk.network, layers).eval()
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            model = ov.convert_model(
                outputs,
                example_input=torch.zeros(2, 3, height, width),
                input=[ov.PartialShape([-1, 3, *free])],
            )
        steps = ov.preprocess.PrePostProcessor(model)
        steps.input().tensor().set_layout(ov.Layout("NHWC"))
        steps.input().model().set_layout(ov.Layout("NCHW"))
        return steps.build()
    except LandmarksError:
        raise
    except Exception as error:  # OpenVINO and torch's tracer raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise _UnlikeError(f"the network cannot be converted ({reason})") from None


def _require_alike(trunk: Trunk, network: CompiledNetwork) -> None:
    """Compare the maps of both at sizes that the network was not converted with.

    Raises:
        _UnlikeError: they differ.
    """
    random = torch.Generator().manual_seed(0)
    for many, shape in enumerate(_shapes(trunk)[1:], start=1):
        values = torch.randn((many, 3, *shape), generator=random)
        with torch.inference_mode():
            expected = trunk.network(values)
            try:
                found = network(values)
            except RuntimeError as error:
                raise _UnlikeError(f"it takes one size alone ({str(error)[:100]})") from None
        for layer, one in found.items():
            wanted = first_tensor(expected[layer])
            cosine = torch.cosine_similarity(one.flatten(), wanted.float().flatten(), dim=0)
            if one.shape != wanted.shape or not cosine >= ALIKE:
                raise _UnlikeError(f"{layer} comes out otherwise than by torch")


def _cached(folder: Path, key: str) -> Any | None:
    """The model of an earlier conversion, or ``None``."""
    note = folder / f"{key}.json"
    if not note.is_file():
        return None
    try:
        told = read_sealed(note, AGAIN)
        for name, digest in told.items():
            if checksum(folder / name) != digest:
                raise OSError("another checksum")
        return openvino().Core().read_model(folder / f"{key}.xml")
    except (LandmarksError, OSError, RuntimeError, AttributeError) as error:
        log.warning("%s: %s: converted anew", note, error)
        return None


def _keep(folder: Path, key: str, model: Any) -> None:
    """Keep a model for the next time; where that cannot be, it is converted again then."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as place:
            # Names within the files are relative: they may be renamed together.
            openvino().save_model(model, Path(place) / f"{key}.xml", compress_to_fp16=False)
            sums = {one.name: checksum(one) for one in sorted(Path(place).iterdir())}
            for name in sums:
                (Path(place) / name).replace(folder / name)
        write_sealed(folder / f"{key}.json", sums)
    except (LandmarksError, OSError) as error:
        log.debug("%s: not kept (%s)", key, error)
