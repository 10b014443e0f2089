"""Which extractors there are: a line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from retrieval.extractors import aggregated, cnn, combination, hog, hough, trained
from retrieval.extractors.base import Extractor

PartExtractorConfig = Annotated[
    cnn.CnnConfig
    | aggregated.AggregatedConfig
    | hog.HogConfig
    | hough.HoughConfig
    | trained.TrainedConfig,
    Field(discriminator="kind"),
]
combination.PartConfig.model_rebuild()
combination.CombinationConfig.model_rebuild()
ExtractorConfig = Annotated[
    PartExtractorConfig | combination.CombinationConfig, Field(discriminator="kind")
]

BUILDERS: Final[dict[str, Callable[[Any, str, int], Extractor]]] = {
    "cnn": cnn.build,
    "aggregated": lambda config, device, seed: aggregated.build(config, device),
    "hog": lambda config, device, seed: hog.HogExtractor(config),
    "hough": lambda config, device, seed: hough.HoughExtractor(config),
    "trained": lambda config, device, seed: trained.build(config, device),
    "combination": lambda config, device, seed: combination.build(
        config, lambda part: build_extractor(part, device, seed)
    ),
}


def build_extractor(config: ExtractorConfig, device: str, seed: int) -> Extractor:
    """The extractor that a config describes, on a device ("cpu" or "cuda"), not yet fitted."""
    return BUILDERS[config.kind](config, device, seed)


def located(config: ExtractorConfig, given: Path) -> ExtractorConfig:
    """A config whose networks, those within its parts too, take their weights from ``given``.

    Raises:
        WeightsError: what was given is not there.
    """
    match config:
        case cnn.CnnConfig():
            return cnn.located(config, given)
        case aggregated.AggregatedConfig():
            return aggregated.located(config, given)
        case combination.CombinationConfig():
            parts = tuple(
                part.model_copy(update={"extractor": located(part.extractor, given)})
                for part in config.parts
            )
            return config.model_copy(update={"parts": parts})
        case _:
            return config
