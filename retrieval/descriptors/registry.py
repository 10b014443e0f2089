"""Which extractors there are: a line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from retrieval.descriptors import aggregated, cnn, hog, hough, joint, trained
from retrieval.descriptors.base import Extractor
from retrieval.types import StrictModel
from retrieval.vectors.whitening import WhiteningConfig

PartExtractorConfig = Annotated[
    cnn.CnnConfig
    | aggregated.AggregatedConfig
    | hog.HogConfig
    | hough.HoughConfig
    | trained.TrainedConfig,
    Field(discriminator="kind"),
]


class PartConfig(StrictModel):
    """One of a combination's extractors.

    Attributes:
        weight: its rows are this long before all are brought to unit length together.
        extractor: photographs to raw descriptors; any but another combination.
        whitening: of these descriptors alone, or ``None``.
    """

    weight: float = Field(1.0, ge=1e-3, le=1e3)
    extractor: PartExtractorConfig
    whitening: WhiteningConfig | None = None

    @model_validator(mode="after")
    def _without_views(self) -> PartConfig:
        if self.whitening is not None and self.whitening.views:
            raise ValueError("whitening.views: the whitening of all parts together takes views")
        return self


class JointConfig(StrictModel):
    """Extractors whose descriptors are concatenated.

    Attributes:
        parts: the extractors; those that start from the same features share them.
    """

    kind: Literal["combination"] = "combination"
    # YAML and JSON know lists alone.
    parts: tuple[PartConfig, ...] = Field(min_length=1, strict=False)


ExtractorConfig = Annotated[PartExtractorConfig | JointConfig, Field(discriminator="kind")]

BUILDERS: Final[dict[str, Callable[[Any, str, int], Extractor]]] = {
    "cnn": cnn.build,
    "aggregated": lambda config, device, seed: aggregated.build(config, device),
    "hog": lambda config, device, seed: hog.HogExtractor(config),
    "hough": lambda config, device, seed: hough.HoughExtractor(config),
    "trained": lambda config, device, seed: trained.build(config, device),
    "combination": lambda config, device, seed: joint.build(
        (one.weight, one.whitening, build_extractor(one.extractor, device, seed))
        for one in config.parts
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
        case JointConfig():
            parts = tuple(
                part.model_copy(update={"extractor": located(part.extractor, given)})
                for part in config.parts
            )
            return config.model_copy(update={"parts": parts})
        case _:
            return config
