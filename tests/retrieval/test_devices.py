"""The device: chosen once, and refused with a way out."""

from __future__ import annotations

import pytest
import torch

from retrieval.devices import choose_device
from retrieval.errors import DeviceError


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_a_gpu_that_is_there(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device("auto") == ("cuda" if there else "cpu")
    assert choose_device("cpu") == "cpu"


def test_a_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
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
