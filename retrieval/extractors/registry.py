"""Which extractors there are: a line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import Field

from retrieval.extractors import aggregated, cnn, hog
from retrieval.extractors.base import Extractor

ExtractorConfig = Annotated[
    cnn.CnnConfig | aggregated.AggregatedConfig | hog.HogConfig, Field(discriminator="kind")
]

BUILDERS: Final[dict[str, Callable[[Any, str, int], Extractor]]] = {
    "cnn": cnn.build,
    "aggregated": lambda config, device, seed: aggregated.build(config, device),
    "hog": lambda config, device, seed: hog.HogExtractor(config),
}


def build_extractor(config: ExtractorConfig, device: str, seed: int) -> Extractor:
    """The extractor that a config describes, on a device ("cpu" or "cuda"), not yet fitted."""
    return BUILDERS[config.kind](config, device, seed)
