"""Whether FAISS can use a GPU, the memory that it takes there, and indices moved to it."""

from __future__ import annotations

import functools
from typing import Any

import faiss

from retrieval.errors import ConfigError, DeviceError

ROWS_PER_BLOCK = 65_536  # handled at a time
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
def _gpu_resources(gpu: int) -> Any:
    """A GPU's one resources object: each would reserve memory there and never free it."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_GPU_TEMPORARY_BYTES)
    return resources


def to_device(index: Any, device: str, shard: int = 0) -> Any:
    """An index of the CPU on ``device``, the shards of one dealt out to all GPUs in turn;
    ConfigError where FAISS has its kind on the CPU alone."""
    require_device(device)
    if device == "cpu":
        return index
    if not (faiss.isGpuIndexImplemented(index) or _is_halves(index)):
        raise ConfigError(
            "FAISS has this kind of index on the CPU alone: use Flat, SQfp16, or IVF with Flat, "
            "SQ8 or PQ, or --device cpu"
        )
    gpu = shard % faiss.get_num_gpus()
    if isinstance(index, faiss.IndexScalarQuantizer):
        return _halves_on_gpu(index, gpu)
    options = faiss.GpuClonerOptions()
    options.useFloat16LookupTables = True  # codes of 56 bytes and more need it
    return faiss.index_cpu_to_gpu(_gpu_resources(gpu), gpu, index, options)


def _is_halves(index: Any) -> bool:
    return (
        isinstance(index, faiss.IndexScalarQuantizer)
        and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
    )


def _halves_on_gpu(index: Any, gpu: int) -> Any:
    """Rows of float16: on the GPU that is a way of storing a flat index, not a quantiser."""
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16, config.device = True, gpu
    moved = faiss.GpuIndexFlat(_gpu_resources(gpu), index.d, faiss.METRIC_INNER_PRODUCT, config)
    for start in range(0, index.ntotal, ROWS_PER_BLOCK):
        moved.add(index.reconstruct_n(start, min(ROWS_PER_BLOCK, index.ntotal - start)))
    return moved
