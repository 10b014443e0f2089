"""The device: chosen once, and refused with a way out."""

from __future__ import annotations

import pytest
import torch

from retrieval.devices import choose_device, gpu_mistake
from retrieval.errors import DeviceError

BUSY = (
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nSearch for `cudaErrorDevices"
    "Unavailable' in the manual for more information.\nCUDA kernel errors might be reported later."
)
FULL = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of"
    " which 3 MiB is free."
)
FAISS_FULL = (
    "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory(...) at a.cpp:530:"
    " Error: 'err == cudaSuccess' failed: StandardGpuResources: alloc fail type FlatData dev 0"
    " space Device stream 0x5581 size 1073741824 bytes (cudaMalloc error out of memory [2])"
)


def refused(*_: object, **__: object) -> None:
    raise RuntimeError(BUSY)


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_a_gpu_that_is_there(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.ones(1))
    assert choose_device("auto") == ("cuda" if there else "cpu")
    assert choose_device("cpu") == "cpu"


def test_a_busy_gpu_is_one_line_and_auto_goes_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", refused)
    with pytest.raises(DeviceError) as caught:
        choose_device("cuda")
    message = str(caught.value)
    for part in ("another process has it", "busy or unavailable", "nvidia-smi", "--device cpu"):
        assert part in message
    assert "\n" not in message
    assert "Search for" not in message
    assert choose_device("auto") == "cpu"
    assert "on the processor instead" in caplog.text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError(FULL), "memory ran out (20.00 MiB more were asked for)"),
        (RuntimeError(FAISS_FULL), "memory ran out (1073741824 bytes more were asked for)"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "the GPU failed"),
    ],
)
def test_a_gpu_that_gives_out_is_told_by_what_it_lacks(error: RuntimeError, told: str) -> None:
    message = gpu_mistake(error)
    assert message is not None
    assert told in message
    assert "--device cpu" in message


@pytest.mark.parametrize("error", [ValueError(FULL), RuntimeError("shapes do not fit"), KeyError()])
def test_other_errors_are_no_gpus(error: Exception) -> None:
    assert gpu_mistake(error) is None


def test_a_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.ones(1))
    assert choose_device("cuda") == "cuda"


@pytest.mark.parametrize(
    ("built", "why"),
    [(None, "torch was built without CUDA"), ("13.1", "torch finds no usable GPU")],
)
def test_a_gpu_that_is_not_there(
    built: str | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(DeviceError) as caught:
        choose_device("cuda")
    message = str(caught.value)
    for part in (f"--device cuda: {why}", f"CUDA {built or '13'}", "doctor", "--device cpu"):
        assert part in message
    assert "\n" not in message


def test_a_device_that_is_none() -> None:
    with pytest.raises(DeviceError, match="device 'gpu': choose auto, cpu or cuda"):
        choose_device("gpu")
