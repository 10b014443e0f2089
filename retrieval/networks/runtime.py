"""What runs a network: torch, or OpenVINO, which is faster on processors.

A trunk comes from :mod:`retrieval.networks.trunks` as a torch module. :func:`settled` puts it where
it is to run, in the precision that it is to have there. OpenVINO's network takes and gives the same
tensors as torch's, so that nothing else asks which of them it is.

A converted network is kept in the folder of torch's downloaded weights, named by a checksum of all
that decides it: weights, layers, OpenVINO's version. A file that is damaged is made anew. Beside
torch's maps it is compared once, when it is made, at sizes that it was not converted with: a
network whose graph has a size baked in runs by torch.

In int8 a network is OpenVINO's alone: :func:`quantise` makes it of photographs of the gallery, into
a folder of the run, and needs nncf for that; to run it nothing more is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retrieval.devices import CPU, cores
from retrieval.errors import ConfigError, LandmarksError, RunError, without_remedy
from retrieval.networks.pooling import first_tensor
from retrieval.networks.running import Float, chosen_float
from retrieval.networks.trunk import Trunk
from retrieval.storage.files import read_sealed, reading, write_sealed, writing
from retrieval.storage.fingerprint import checksum, fingerprint

log = logging.getLogger(__name__)

Runtime = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "bfloat16", "float32", "int8"]

FOLDER: Final = "openvino"
SHAPES: Final = ((160, 224), (224, 128), (96, 160))
"""(height, width) that a network is converted with, and those that it is tried at."""
ALIKE: Final = 0.01
"""Share of their length by which maps may differ from torch's, both in float32."""
QUANTISE: Final = "run landmarks index again"


def settled(
    trunk: Trunk,
    device: torch.device,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    quantised: str | None = None,
) -> Trunk:
    """A trunk where it is to run.

    Args:
        trunk: as it was loaded, in float32 on the processor.
        device: where it is to run.
        precision: ``auto`` is bfloat16 where the device is fast at it, else float32; ``int8`` is
            for processors, by OpenVINO, and as ``auto`` where nothing was quantised.
        runtime: ``auto`` is OpenVINO on a processor where it is installed and the network can be
            converted, else torch.
        quantised: folder of what :func:`quantise` made, for ``int8``.

    Raises:
        ConfigError: OpenVINO was asked for and cannot be had.
        RunError: what was quantised is missing or damaged.
    """
    name = chosen_float("auto" if precision == "int8" else precision, device)
    small = _eight_bits(trunk, device, name, quantised) if precision == "int8" else None
    if small is not None:
        return small
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
    return replace(trunk, dtype=dtype, identity={**trunk.identity, "precision": name})


class _UnlikeError(Exception):
    """Why a network cannot run by OpenVINO."""


def _eight_bits(
    trunk: Trunk, device: torch.device, beside: Float, folder: str | None
) -> Trunk | None:
    """A trunk that was quantised, other numbers as ``beside``; ``None`` where there is none."""
    if _why_torch(device, "openvino") or folder is None:
        return None
    key = _key(trunk)
    note = Path(folder) / f"{key}.json"
    if not note.exists():
        return None
    told = read_sealed(note, QUANTISE)
    model = _read(Path(folder), key, told)
    return _running(trunk, model, beside, {"precision": "int8", "quantised": fingerprint(told)})


def _why_torch(device: torch.device, runtime: Runtime) -> str | None:
    """Why OpenVINO is not to be tried; ``None`` where it is."""
    if runtime == "torch":
        return "torch was asked for"
    if device.type != CPU:
        return "it runs on processors alone"
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed"
    try:
        openvino()
    except Exception as error:  # a library that it needs is missing, or another than it expects
        return f"openvino cannot be loaded ({_reason(error)})"
    return None


_loading = threading.Lock()


def openvino() -> ModuleType:
    """OpenVINO, without what would send statistics of its use over the network.

    Its first look at numpy's types is taken here, by one thread: where two take it at a time, as
    those that begin to describe would, they wait for each other for ever, Python's lock in hand.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    with _loading, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module("openvino")
        found.Type.f32.to_dtype()
        return found


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """What the root logger is stays: OpenVINO's converter silences it, nncf makes its class."""
    root, made = logging.getLogger(), logging.getLoggerClass()
    level, filters = root.level, list(root.filters)
    handlers = [(one, one.level) for one in root.handlers]
    try:
        yield
    finally:
        logging.setLoggerClass(made)
        root.setLevel(level)
        root.handlers[:], root.filters[:] = [one for one, _ in handlers], filters
        for one, own in handlers:
            one.setLevel(own)


class CompiledNetwork(nn.Module):
    """A network that OpenVINO runs: one stream a core, each with a batch of its own.

    Args:
        model: OpenVINO's, of (n, h, w, 3) to a map for each of the layers.
        layers: their names.
        precision: of its numbers.
        rough: layers whose outputs stay in that precision, and are not float32.
    """

    def __init__(
        self, model: Any, layers: Sequence[str], precision: Float, rough: Sequence[str] = ()
    ):
        super().__init__()
        ov, many = openvino(), cores()
        halves = precision == "bfloat16"
        self._rough = set(rough) if halves else set()
        if self._rough:
            steps = ov.preprocess.PrePostProcessor(model)
            for place, layer in enumerate(layers):
                if layer in self._rough:
                    steps.output(place).tensor().set_element_type(ov.Type.bf16)
            model = steps.build()
        self._model = ov.Core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if halves else "f32",
                "NUM_STREAMS": many,
                "INFERENCE_NUM_THREADS": many,
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._layers = list(layers)
        self._here = threading.local()

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) float32 to each layer's output, float32 or rough."""
        if not hasattr(self._here, "request"):
            self._here.request = self._model.create_infer_request()
        request = self._here.request
        given = values.permute(0, 2, 3, 1).contiguous()  # no copy of what is channels-last
        request.infer([given.numpy()], share_inputs=True)
        return {
            layer: _copied(request.get_output_tensor(place).data, layer in self._rough)
            for place, layer in enumerate(self._layers)
        }


def _copied(found: NDArray[Any], rough: bool) -> Tensor:
    """An output; the next batch is written where it lies."""
    if not rough:
        return torch.tensor(found)
    # numpy knows no bfloat16: OpenVINO hands out its bits as float16's.
    return torch.tensor(found.view(np.int16)).view(torch.bfloat16)


class _Outputs(nn.Module):
    """A network that gives a tuple, as OpenVINO takes it."""

    def __init__(self, network: nn.Module, layers: Sequence[str]):
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        found = self.network(values)
        return tuple(first_tensor(found[layer]) for layer in self.layers)


def _converted(trunk: Trunk, precision: Float) -> Trunk:
    """A trunk by OpenVINO, from the cache or converted.

    Raises:
        _UnlikeError: it cannot be converted, or its maps differ from torch's.
    """
    key = _key(trunk)
    folder = Path(torch.hub.get_dir()) / FOLDER
    model = _cached(folder, key)
    if model is None:
        model = _convert(trunk)
        _require_alike(trunk, CompiledNetwork(model, _layers(trunk), "float32"))
        try:
            _keep(folder, key, model)
        except (LandmarksError, OSError) as error:
            log.debug("%s is not kept: %s", key, error)
    return _running(trunk, model, precision, {"precision": precision})


def _running(trunk: Trunk, model: Any, precision: Float, told: Mapping[str, str]) -> Trunk:
    """A trunk whose network is a model of OpenVINO's."""
    version = openvino().get_version().partition("-")[0]
    return replace(
        trunk,
        network=CompiledNetwork(model, _layers(trunk), precision, trunk.rough),
        dtype=torch.float32,
        identity={**trunk.identity, **told, "runtime": f"openvino {version}"},
    )


def _layers(trunk: Trunk) -> list[str]:
    """The layers whose outputs are asked for, each once."""
    return list(dict.fromkeys(trunk.layers))


def _reason(error: Exception) -> str:
    """What a library's error says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _key(trunk: Trunk) -> str:
    """What decides a converted network: the name of its files."""
    version = openvino().get_version()
    told = {**trunk.identity, "square": trunk.square, "openvino": version}
    if trunk.rough:
        told["rough"] = trunk.rough
    return fingerprint(told)


def cannot_run_eight_bits(device: torch.device) -> str | None:
    """Why no network of eight bits can run here; ``None`` where it can."""
    return _why_torch(device, "openvino")


def cannot_quantise(device: torch.device) -> str | None:
    """Why no network can be made of eight bits here; ``None`` where it can."""
    refused = cannot_run_eight_bits(device)
    if refused is None and importlib.util.find_spec("nncf") is None:
        return "nncf is not installed: pip install '.[quantise]'"
    return refused


def quantise(trunk: Trunk, photographs: Sequence[Tensor], folder: Path) -> None:
    """Make a network of eight bits: post-training quantisation, ranges of activations measured.

    Args:
        trunk: as it was loaded.
        photographs: what the ranges are measured on, (n, 3, h, w) normalised float32 each.
        folder: where it goes; one of the same trunk is written over.

    Raises:
        ConfigError: the network cannot be converted.
        WriteError: the folder cannot be written.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it sends no statistics either
    try:
        model = _convert(trunk)
    except _UnlikeError as error:
        raise ConfigError(f"precision: int8: {error}; take precision: auto") from None
    samples = [one.permute(0, 2, 3, 1).contiguous().numpy() for one in photographs]
    with _own_logging(), contextlib.redirect_stdout(io.StringIO()):
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no GPU: no news
        try:
            nncf = importlib.import_module("nncf")
        except Exception as error:
            raise ConfigError(
                f"precision: int8: nncf cannot be loaded ({_reason(error)}); take precision: auto"
            ) from None
        nncf.set_log_level(logging.ERROR)
        small = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))
    with writing(folder):
        _keep(folder, _key(trunk), small)


def _shapes(trunk: Trunk) -> list[tuple[int, int]]:
    """What a trunk is tried with: multiples of its step, or the one size that it takes."""
    if trunk.square is not None:
        return [(trunk.square, trunk.square)] * 2
    step = trunk.step
    return [(-(-height // step) * step, -(-width // step) * step) for height, width in SHAPES]


def _convert(trunk: Trunk) -> Any:
    """OpenVINO's model of a trunk, of (n, h, w, 3) photographs of any number and size."""
    ov = openvino()
    height, width = _shapes(trunk)[0]
    free = [-1, -1] if trunk.square is None else [height, width]
    outputs = _Outputs(trunk.network, _layers(trunk)).eval()
    try:
        with warnings.catch_warnings(), torch.inference_mode(), _own_logging():
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
    except Exception as error:  # OpenVINO and torch's tracer raise many kinds
        raise _UnlikeError(f"the network cannot be converted ({_reason(error)})") from None


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
            if one.shape != wanted.shape or (one - wanted).norm() > ALIKE * wanted.norm():
                raise _UnlikeError(f"{layer} comes out otherwise than by torch")


def _read(folder: Path, key: str, sums: Mapping[str, str]) -> Any:
    """A model from its files.

    Raises:
        RunError: one is missing or damaged.
    """
    with reading(folder / f"{key}.xml", QUANTISE):
        for name, digest in sums.items():
            if checksum(folder / name) != digest:
                raise ValueError(f"{name} has another checksum")
        return openvino().Core().read_model(folder / f"{key}.xml")


def _cached(folder: Path, key: str) -> Any | None:
    """The model of an earlier conversion, or ``None``."""
    note = folder / f"{key}.json"
    if not note.is_file():
        return None
    try:
        return _read(folder, key, read_sealed(note))
    except RunError as error:
        log.warning("%s: converted anew", without_remedy(error))
        return None


def _keep(folder: Path, key: str, model: Any) -> None:
    """Write a model's files, and last the note that has their checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as place:
        openvino().save_model(model, Path(place) / f"{key}.xml", compress_to_fp16=False)
        sums = {one.name: checksum(one) for one in sorted(Path(place).iterdir())}
        for name in sums:
            (Path(place) / name).replace(folder / name)
    write_sealed(folder / f"{key}.json", sums)
