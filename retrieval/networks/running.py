"""How networks run on a device: precision, batches, and results on their way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor

from retrieval.devices import CPU
from retrieval.types import Vectors

Float = Literal["bfloat16", "float32"]

MIN_SIDE: Final = 80
"""Narrower photographs are enlarged to this, so that every trunk has a map left to pool."""
GPU_BATCHES: Final = 8
"""A core's batches at 448 pixels that a GPU needs at once to be busy."""


def on_the_way(rows: Tensor) -> Callable[[], list[Vectors]]:
    """(n, d) float32 rows that a device is still working on; what this gives waits for them."""
    if rows.device.type == CPU:
        return lambda: list(rows.numpy())
    there = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    there.copy_(rows, non_blocking=True)
    arrived = torch.cuda.current_stream().record_event()

    def wait() -> list[Vectors]:
        arrived.synchronize()
        # A copy: features may be kept for long, and pinned memory is scarce.
        return list(there.numpy().copy())

    return wait


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (elsewhere it is slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16"))


def chosen_float(precision: Literal["auto", "bfloat16", "float32"], device: torch.device) -> Float:
    """The precision on a device: ``auto`` is bfloat16 where it is fast at that, else float32."""
    if precision == "auto":
        return "bfloat16" if fast_bfloat16(device) else "float32"
    return precision
