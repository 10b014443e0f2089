"""Whether FAISS can use a GPU, and the memory that it takes there."""

from __future__ import annotations

import functools
from typing import Any

import faiss

from retrieval.errors import DeviceError

_GPU_TEMPORARY_BYTES = 512 << 20


def gpu_problem() -> str | None:
    """Why FAISS cannot use a GPU here, with the remedy; None where it can."""
    if not hasattr(faiss, "StandardGpuResources"):
        return (
            "this FAISS has no GPU code: pip uninstall faiss-cpu and pip install faiss-gpu "
            "(Linux x86-64), or use --device cpu"
        )
    if faiss.get_num_gpus() < 1:
        return (
            "FAISS sees no GPU: nvidia-smi must list one and its driver be new enough for "
            "CUDA 12.6 (see `landmarks doctor`), or use --device cpu"
        )
    return None


def require_device(device: str) -> None:
    """Raise DeviceError unless ``device`` is "cpu", or "cuda" with a GPU that FAISS can use."""
    if device not in ("cpu", "cuda"):
        raise DeviceError(f'device "{device}" is unknown: choose cpu or cuda')
    problem = gpu_problem() if device == "cuda" else None
    if problem is not None:
        raise DeviceError(f"no GPU for the index: {problem}")


@functools.cache
def _gpu_resources() -> Any:
    """The one resources object: each would reserve GPU memory of its own and never free it."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_GPU_TEMPORARY_BYTES)
    return resources
