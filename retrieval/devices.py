"""Where the work runs: chosen once, handed down; and on how many cores."""

from __future__ import annotations

import os
from typing import Final, Literal

import torch

from retrieval.errors import DeviceError

Device = Literal["auto", "cpu", "cuda"]
CPU: Final = "cpu"
CUDA: Final = "cuda"


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(wanted: str) -> str:
    """Settle ``auto``, ``cpu`` or ``cuda``.

    Raises:
        DeviceError: no such device here; the message says how to get one.
    """
    if wanted == "auto":
        return CUDA if torch.cuda.is_available() else CPU
    if wanted == CPU:
        return CPU
    if wanted != CUDA:
        raise DeviceError(f"device {wanted!r}: choose auto, cpu or cuda")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "torch was built without CUDA" if built is None else "torch finds no usable GPU"
        raise DeviceError(
            f"--device cuda: {why}; install an NVIDIA driver that serves CUDA {built or '13'} and"
            " look at: landmarks doctor; or take --device cpu"
        )
    return CUDA
