"""Which aggregations of local features there are: a line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import Field

from retrieval.aggregation import fisher, vlad
from retrieval.aggregation.base import Aggregator

AggregationConfig = Annotated[vlad.VladConfig | fisher.FisherConfig, Field(discriminator="kind")]

AGGREGATORS: Final[dict[str, Callable[[Any, int], Aggregator]]] = {
    "fisher": lambda config, dimension: fisher.Fisher(config, dimension),
    "vlad": lambda config, dimension: vlad.Vlad(config, dimension),
}


def build_aggregator(config: AggregationConfig, dimension: int) -> Aggregator:
    """The aggregator that a config describes, of local descriptors of so many numbers."""
    return AGGREGATORS[config.kind](config, dimension)
