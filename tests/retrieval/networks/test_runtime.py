"""A network by torch and by OpenVINO: the same maps, whatever their size, and nothing sent."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from retrieval.descriptors import cnn
from retrieval.descriptors.registry import quantise_network, unsettled
from retrieval.errors import ConfigError, RunError
from retrieval.networks import runtime
from retrieval.networks.running import Float
from retrieval.networks.runtime import CompiledNetwork, quantise, settled
from retrieval.networks.trunk import Trunk
from retrieval.networks.trunks import load_trunk
from tests.photographs import picture

pytestmark = pytest.mark.slow

pytest.importorskip("openvino")
QUANTISES = pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")
CPU = torch.device("cpu")
LAYERS = ["features.3", None]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


def trunk(layers: list[str | None] = LAYERS) -> Trunk:
    return load_trunk("vgg_small", layers, "none", 0)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a.float().flatten(), b.float().flatten(), dim=0))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_maps_are_those_of_torch_at_any_size(precision: Float) -> None:
    plain, fast = trunk(), settled(trunk(), CPU, precision)
    assert isinstance(fast.network, CompiledNetwork)
    for shape in ((1, 3, 96, 131), (3, 3, 160, 80), (1, 3, 96, 131)):
        given = values(*shape)
        with torch.inference_mode():
            pairs = list(zip(plain.outputs(given), fast.outputs(given), strict=True))
        for (expected, _), (found, _) in pairs:
            assert found.shape == expected.shape
            assert cosine(found, expected) > (0.99999 if precision == "float32" else 0.999)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rough_maps_stay_as_they_are_computed(precision: Float) -> None:
    both = trunk(), replace(trunk(), rough=("features.3",))
    fine, rough = (settled(one, CPU, precision).network(values(2, 3, 96, 131)) for one in both)
    kept = getattr(torch, precision)
    assert (rough["features.3"].dtype, rough["features"].dtype) == (kept, torch.float32)
    assert torch.equal(rough["features.3"], fine["features.3"].to(kept))
    assert torch.equal(rough["features"], fine["features"])


def test_maps_of_one_batch_outlive_the_next() -> None:
    fast = settled(trunk(), CPU, "float32")
    first = fast.outputs(values(1, 3, 96, 96))[1][0]
    before = first.clone()
    fast.outputs(values(1, 3, 96, 96, seed=1))
    assert torch.equal(first, before)


def test_threads_describe_the_same_as_one() -> None:
    fast = settled(trunk(), CPU)
    batches = [values(2, 3, 96, 80 + 16 * (i % 3), seed=i) for i in range(12)]
    alone = [fast.outputs(one)[1][0] for one in batches]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda one: fast.outputs(one)[1][0], batches))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_identity_tells_runtime_and_precision() -> None:
    slow, fast = settled(trunk(), CPU, "float32", "torch"), settled(trunk(), CPU, "bfloat16")
    assert slow.identity["precision"] == "float32"
    assert "runtime" not in slow.identity
    assert fast.identity["precision"] == "bfloat16"
    assert fast.identity["runtime"].startswith("openvino 20")


class Squared(nn.Module):
    """A network whose graph has the size of its example baked in."""

    def forward(self, given: torch.Tensor) -> dict[str, torch.Tensor]:
        side = int(given.shape[-1])
        return {"map": given[..., :side] * float(side)}


def test_a_network_with_a_size_baked_in_runs_by_torch() -> None:
    odd = Trunk(Squared(), ("map",), (0.5,) * 3, (0.5,) * 3, "bilinear", {"trunk": "squared"})
    assert isinstance(settled(odd, CPU, "float32").network, Squared)
    with pytest.raises(ConfigError, match="runtime: auto"):
        settled(odd, CPU, "float32", "openvino")


def test_a_conversion_is_kept_and_a_damaged_one_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = values(1, 3, 96, 96)
    first = settled(trunk(), CPU, "float32").outputs(given)[1][0]
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "_convert", None)  # nothing is converted twice
        again = settled(trunk(), CPU, "float32").outputs(given)[1][0]
    (weights,) = (tmp_path / runtime.FOLDER).glob("*.bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        mended = settled(trunk(), CPU, "float32").outputs(given)[1][0]
    assert "converted anew" in caplog.text
    assert torch.equal(first, again)
    assert torch.equal(first, mended)


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "file"))
    assert isinstance(settled(trunk(), CPU).network, CompiledNetwork)


@QUANTISES
def test_eight_bits_are_near_and_belong_to_their_weights(tmp_path: Path) -> None:
    photographs = [picture(i) for i in range(12)]
    sources = []
    for i, one in enumerate(photographs):
        sources.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(one).save(sources[-1])
    config = cnn.CnnConfig(
        trunk="vgg_small", weights="none", size=128, precision="int8", quantised=str(tmp_path)
    )
    plain = cnn.build(config, "cpu", 0)  # nothing is there yet
    assert plain.identity()["precision"] != "int8"
    quantise_network(unsettled(config, 0), [*sources, "missing.png"], tmp_path)
    small = cnn.build(config, "cpu", 0)
    assert small.identity()["precision"] == "int8"
    a, b = (np.stack(one.features(photographs)) for one in (plain, small))
    assert ((a * b).sum(axis=1) > 0.98).all()
    assert cnn.build(config, "cpu", 1).identity()["precision"] != "int8"  # other weights
    (weights,) = tmp_path.glob("*.bin")
    weights.write_bytes(b"?")
    with pytest.raises(RunError, match="landmarks index"):
        cnn.build(config, "cpu", 0)


@QUANTISES
def test_quantising_needs_a_folder_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="file"):
        quantise(trunk(), [values(1, 3, 96, 96)], tmp_path / "file")


def test_no_statistics_are_sent() -> None:
    code = (
        "import sys; from retrieval.networks.runtime import openvino;"
        " openvino().Core(); import openvino.tools.ovc;"
        " assert sys.modules['openvino_telemetry'] is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_openvino_that_cannot_be_loaded_is_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise ImportError("libtbb.so.12: cannot open shared object file")

    monkeypatch.setattr(runtime, "openvino", broken)
    assert not isinstance(settled(trunk(), CPU).network, CompiledNetwork)
    with pytest.raises(ConfigError, match="libtbb"):
        settled(trunk(), CPU, "auto", "openvino")


RACE = """
import sys, threading
from retrieval.networks.runtime import openvino

sys.setswitchinterval(1e-6)  # threads take turns as often as they can
many = 16
together = threading.Barrier(many)

def look(place):
    together.wait()
    for _ in range(20 * place):
        pass
    loaded.Type.f32.to_dtype()

loaded = openvino()
threads = [threading.Thread(target=look, args=(place,), daemon=True) for place in range(many)]
for one in threads:
    one.start()
for one in threads:
    one.join()
"""


def test_the_first_look_at_numpy_is_taken_on_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    types = SimpleNamespace(f32=SimpleNamespace(to_dtype=lambda: looked.append(1)))
    loaded: Any = SimpleNamespace(Type=types)
    monkeypatch.setitem(sys.modules, "openvino", loaded)
    assert runtime.openvino() is loaded
    assert looked


def test_threads_that_first_look_at_numpy_together_do_not_wait_for_each_other() -> None:
    """Each time in a process of its own: only the first look can stand still."""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", RACE], check=True, timeout=60)
