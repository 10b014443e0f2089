"""Where the work runs: chosen once, handed down; on how many cores, and by which libraries.

torch is imported where it is asked: what needs the number of cores alone starts seconds sooner.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any, Final, Literal

from retrieval.errors import DeviceError

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
AUTO: Final = "auto"
CPU: Final = "cpu"
CUDA: Final = "cuda"
PACKAGES: Final = ("torch", "torchvision", "opencv-python", "numpy", "scikit-learn", "scikit-image")
MODULES: Final = {"opencv-python": "cv2", "scikit-learn": "sklearn", "scikit-image": "skimage"}


_limit: int | None = None


def cores() -> int:
    """The processor cores that this process may use."""
    there = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return there if _limit is None else min(there, _limit)


def limit_cores(many: int) -> None:
    """Have this process use so many cores at most, where it shares the machine with others."""
    global _limit
    _limit = many


def choose_device(wanted: str) -> str:
    """Settle ``auto``, ``cpu`` or ``cuda``.

    A GPU that is there but cannot be used (busy, say) is an error where it was asked for by name;
    ``auto`` says so and takes the processor.

    Raises:
        DeviceError: no such device here; the message says how to get one.
    """
    if wanted not in (AUTO, CPU, CUDA):
        raise DeviceError(f"device {wanted!r}: choose auto, cpu or cuda")
    if wanted == CPU:
        return CPU
    import torch

    if torch.cuda.is_available():
        problem = _unusable()
        if problem is None:
            return CUDA
        if wanted == CUDA:
            raise DeviceError(problem)
        log.warning("%s; on the processor instead", problem)
        return CPU
    if wanted == AUTO:
        return CPU
    built = torch.version.cuda
    why = "torch was built without CUDA" if built is None else "torch finds no usable GPU"
    raise DeviceError(
        f"--device cuda: {why}; install an NVIDIA driver that serves CUDA {built or '13'} and"
        " look at: landmarks doctor; or take --device cpu"
    )


def gpu_mistake(error: BaseException) -> str | None:
    """What to tell whoever's GPU gave out during the work; ``None`` for any other error.

    torch and FAISS have no error class in common, hence by what they say.
    """
    if not isinstance(error, RuntimeError):
        return None
    import torch

    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError) or re.search("cuda.*out of memory", text):
        size = re.search(r"Tried to allocate ([\d.]+ \w+)|size (\d+) bytes", text)
        asked = f" ({size[1] or size[2] + ' bytes'} more were asked for)" if size else ""
        return (
            f"the GPU's memory ran out{asked}: end what else uses it (nvidia-smi lists that), lower"
            " extractor.batch or training.batch, take a smaller index.factory (SQfp16, or"
            " IVF4096,SQ8), or --device cpu"
        )
    if re.search("CUDA error|cuda error|cudaError|CUBLAS_STATUS|cuDNN error", text):
        what = text.split(" CUDA kernel errors")[0].split(" Search for ")[0]
        return (
            f"the GPU failed, or another process has it ({what[:200]}): nvidia-smi lists what uses"
            " it; try again, look at: landmarks doctor; or take --device cpu"
        )
    return None


def _unusable() -> str | None:
    """Why a GPU that is there cannot be used; ``None`` where it can."""
    import torch

    try:
        torch.zeros(1, device=CUDA).item()
    except RuntimeError as error:
        return gpu_mistake(error) or f"the GPU cannot be used ({error})"
    return None


def machine() -> dict[str, Any]:
    """What the work runs on, without a name of the host."""
    return {
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of the libraries that decide the bytes."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    """That of a distribution, or of the one that brings its module (opencv-python-headless)."""
    with contextlib.suppress(PackageNotFoundError):
        return version(name)
    brings = packages_distributions().get(MODULES.get(name, name), [])
    return version(brings[0]) if brings else "not installed as a package"
