"""Which detectors of local features there are: a line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from retrieval.local import delf, dense, harris, learned, sift, surf
from retrieval.local.base import Detector

DetectorConfig = Annotated[
    sift.SiftConfig
    | dense.DenseConfig
    | harris.HarrisConfig
    | surf.SurfConfig
    | learned.AlikedConfig
    | delf.DelfConfig,
    Field(discriminator="kind"),
]

DETECTORS: Final[dict[str, Callable[[Any, str], Detector]]] = {
    "aliked": learned.build,
    "delf": delf.build,
    "dense": lambda config, device: dense.DenseDetector(config),
    "harris": lambda config, device: harris.HarrisDetector(config),
    "sift": lambda config, device: sift.SiftDetector(config),
    "surf": lambda config, device: surf.SurfDetector(config),
}


def build_detector(config: DetectorConfig, device: str) -> Detector:
    """The detector that a config describes, on a device ("cpu" or "cuda")."""
    return DETECTORS[config.kind](config, device)


def located(config: DetectorConfig, given: Path) -> DetectorConfig:
    """The config of a detector, which takes its weights from ``given`` if it is a network.

    Raises:
        WeightsError: what was given is not there.
    """
    match config:
        case learned.AlikedConfig():
            return learned.located(config, given)
        case delf.DelfConfig():
            return delf.located(config, given)
        case _:
            return config
