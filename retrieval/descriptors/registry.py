"""Which extractors there are: a line each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from retrieval.descriptors import aggregated, cnn, hog, hough, joint, trained
from retrieval.descriptors.base import Extractor, parts_of, with_parts
from retrieval.errors import PhotographError
from retrieval.local import delf
from retrieval.networks.runtime import quantise
from retrieval.photographs.decoding import read_photograph
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


def eight_bits(config: Any) -> list[Any]:
    """The configs of an extractor's or detector's networks that are to be of eight bits."""
    inner = [getattr(one, "local", one) for one in parts_of(config)]
    return [one for one in inner if getattr(one, "precision", None) == "int8"]


def with_quantised(config: Any, folder: Path) -> Any:
    """A config whose networks of eight bits lie in a folder, where none is named."""

    def change(one: Any) -> Any:
        if getattr(one, "local", None) is not None:
            return one.model_copy(update={"local": change(one.local)})
        named = getattr(one, "precision", None) != "int8" or one.quantised is not None
        return one if named else one.model_copy(update={"quantised": str(folder)})

    return with_parts(config, change)


def unsettled(config: Any, seed: int) -> cnn.CnnExtractor | delf.DelfDetector:
    """One of :func:`eight_bits` with its network as it is loaded."""
    return delf.unsettled(config) if config.kind == "delf" else cnn.unsettled(config, seed)


def quantise_network(
    network: cnn.CnnExtractor | delf.DelfDetector, sources: Sequence[str], folder: Path
) -> None:
    """Make a network of eight bits; see :func:`retrieval.networks.runtime.quantise`.

    Args:
        network: from :func:`unsettled`.
        sources: paths of photographs that its ranges are measured on, each at one of its scales;
            those that cannot be read are left out.
        folder: where it goes.
    """
    values: list[Tensor] = []
    for source in sources:
        with contextlib.suppress(PhotographError), torch.inference_mode():
            shown = network.shown(read_photograph(source, network.longest_side))
            values.append(shown[len(values) % len(shown)])
    quantise(network.trunk, values, folder)
