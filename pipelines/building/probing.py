"""What this machine takes to describe a photograph and to multiply: tried for a few seconds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from pipelines.building.costs import measured_costs
from retrieval.config import SystemConfig
from retrieval.describing import local_branch_of
from retrieval.descriptors.describer import frontend_of
from retrieval.descriptors.extraction import extract
from retrieval.descriptors.registry import build_extractor
from retrieval.devices import cores
from retrieval.errors import PhotographError

DESCRIBING_SECONDS: Final = 3.0
MULTIPLYING_SECONDS: Final = 1.5
"""On a busy machine a moment says little."""
WINDOW_PER_CORE: Final = 16
PRODUCT: Final = (2048, 256, 8192)
"""Rows, depth and columns of the product that is tried."""
MADE_UP_PHOTOGRAPHS: Final = 16


@dataclass(frozen=True)
class ProbedSystem:
    """What was found of a system.

    Attributes:
        milliseconds: of decoding and describing a photograph, all cores at work.
        numbers: of a descriptor before it is whitened.
        feature_bytes: of what a photograph's descriptor is made from.
        side: of photographs as they are decoded, in pixels.
    """

    milliseconds: float
    numbers: int
    feature_bytes: float
    side: int


def probe_pace() -> float:
    """How many times as long as the machine of the table this one takes to multiply."""
    rows, depth, columns = PRODUCT
    rng = np.random.default_rng(0)
    left = rng.standard_normal((rows, depth), dtype=np.float32)
    right = rng.standard_normal((depth, columns), dtype=np.float32)
    taken: list[float] = []
    while sum(taken) < MULTIPLYING_SECONDS:
        begun = time.perf_counter()
        np.matmul(left, right)
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken)) / (measured_costs().seconds.product * rows * depth * columns)


def probe_system(config: SystemConfig, sources: Sequence[str], device: str) -> ProbedSystem:
    """Describe photographs for a few seconds.

    Args:
        config: of the system, its weights settled.
        sources: photographs on disk; made-up ones are taken where there are none.
        device: ``cpu`` or ``cuda``.

    Raises:
        PhotographError: none of them can be described.
        WeightsError: the system's weights are not here.
    """
    extractor = build_extractor(config.extractor, device, config.seed)
    frontend = frontend_of(extractor, local_branch_of(config, device))
    with _some(sources) as paths:
        size = WINDOW_PER_CORE * cores()
        windows = ([paths[i % len(paths)] for i in range(start, start + size)]
                   for start in range(0, 10**9, size))  # fmt: skip
        done, begun, good, failed = 0, 0.0, [], None
        with closing(extract(windows, frontend)) as stream:
            for outcomes in stream:
                now = time.perf_counter()
                if not begun:  # the first window has warmed up what there is to
                    begun = now
                    failed = next((o for o in outcomes if isinstance(o, PhotographError)), None)
                    good = [one for one in outcomes if not isinstance(one, PhotographError)]
                    continue
                done += len(outcomes)
                if now - begun > DESCRIBING_SECONDS:
                    break
    if not good:
        assert failed is not None
        raise failed
    packed = sum(array.nbytes for array in frontend.pack(good).values())
    return ProbedSystem(
        1000 * (now - begun) / done, extractor.dimension, packed / len(good), frontend.longest_side
    )


@contextmanager
def _some(sources: Sequence[str]) -> Iterator[list[str]]:
    """Photographs on disk: some of those given, spread over all; or made-up ones."""
    there = [one for one in sources[:: max(1, len(sources) // 256)] if Path(one).is_file()]
    if there:
        yield there
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        paths = [str(Path(folder) / f"{i}.jpg") for i in range(MADE_UP_PHOTOGRAPHS)]
        for path in paths:
            coarse = rng.integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((1024, 768), Image.Resampling.BICUBIC).save(path)
        yield paths
