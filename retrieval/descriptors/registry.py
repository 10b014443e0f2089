"""Which extractors there are: a line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

from pydantic import Field, model_validator

from retrieval.descriptors import aggregated, cnn, hog, hough, joint, trained
from retrieval.descriptors.base import Extractor, with_parts
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
    """One of a joint extractor's.

    Attributes:
        weight: its rows are this long before all are brought to unit length together.
        extractor: photographs to raw descriptors; any but another joint one.
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

LOCATED: Final[dict[str, Callable[[Any, Path], Any]]] = {
    "cnn": cnn.located,
    "aggregated": aggregated.located,
}
"""How those that start from a network that is not of this project are told of its weights."""


def build_extractor(config: ExtractorConfig, device: str, seed: int) -> Extractor:
    """The extractor that a config describes, on a device ("cpu" or "cuda"), not yet fitted."""
    return BUILDERS[config.kind](config, device, seed)


def located(config: ExtractorConfig, given: Path) -> ExtractorConfig:
    """A config whose networks, those within its parts too, take their weights from ``given``.

    Raises:
        WeightsError: what was given is not there.
    """

    def change(one: Any) -> Any:
        locate = LOCATED.get(one.kind)
        return one if locate is None else locate(one, given)

    return cast(ExtractorConfig, with_parts(config, change))


def part_whitenings(config: ExtractorConfig) -> list[WhiteningConfig]:
    """How the parts of a joint extractor are whitened; nothing of any other extractor."""
    parts = config.parts if isinstance(config, JointConfig) else ()
    return [part.whitening for part in parts if part.whitening is not None]
