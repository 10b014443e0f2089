"""Which detectors of local features there are: a line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import Field

from retrieval.extractors.local import dense, harris, learned, sift, surf
from retrieval.extractors.local.base import Detector

DetectorConfig = Annotated[
    sift.SiftConfig
    | dense.DenseConfig
    | harris.HarrisConfig
    | surf.SurfConfig
    | learned.AlikedConfig,
    Field(discriminator="kind"),
]

DETECTORS: Final[dict[str, Callable[[Any, str], Detector]]] = {
    "aliked": learned.build,
    "dense": lambda config, device: dense.DenseDetector(config),
    "harris": lambda config, device: harris.HarrisDetector(config),
    "sift": lambda config, device: sift.SiftDetector(config),
    "surf": lambda config, device: surf.SurfDetector(config),
}


def build_detector(config: DetectorConfig, device: str) -> Detector:
    """The detector that a config describes, on a device ("cpu" or "cuda")."""
    return DETECTORS[config.kind](config, device)
