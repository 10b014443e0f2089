"""A describer as a function of what its networks see, with derivatives.

Parts that are no networks are described once, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from retrieval.descriptors.base import Extractor
from retrieval.descriptors.cnn import CnnExtractor
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.joint import JointExtractor
from retrieval.descriptors.trained import TrainedExtractor
from retrieval.errors import ExplainError
from retrieval.networks.trunk import Trunk
from retrieval.photographs.decoding import shrink_further
from retrieval.types import Photograph

Maps = list[list[tuple[Tensor, Tensor | None]]]
"""Of every view, each layer's map and class token."""


@dataclass(frozen=True)
class Seen:
    """One of a describer's networks, and what it sees of a photograph.

    Attributes:
        trunk: the network.
        values: (1, 3, h, w) normalised, at the largest scale.
        views: all that the trunk is shown, of such values.
        pooled: (n, d) of the trunk's maps of all views.
        neck: what was trained with the trunk and stands behind its pooling, or ``None``.
    """

    trunk: Trunk
    values: Tensor
    views: Callable[[Tensor], Iterator[Tensor]]
    pooled: Callable[[Maps], Tensor]
    neck: nn.Module | None = None

    def maps(self, values: Tensor) -> Maps:
        """The trunk's, of every view."""
        return [self.trunk.outputs(view) for view in self.views(values)]


@dataclass(frozen=True)
class Derivable:
    """A photograph's descriptor as a function of what networks see.

    Attributes:
        seen: the networks, at least one.
        whole: (n, d) unit rows from each network's (n, e) rows.
    """

    seen: tuple[Seen, ...]
    whole: Callable[[Sequence[Tensor]], Tensor]

    def of_maps(self, maps: Sequence[Maps]) -> Tensor:
        """(n, d) from the maps of every network."""
        return self.whole([one.pooled(its) for one, its in zip(self.seen, maps, strict=True)])

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        """(n, d) from (n, 3, h, w) of every network."""
        return self.of_maps([one.maps(its) for one, its in zip(self.seen, values, strict=True)])


def derivable(describer: Describer, photograph: Photograph) -> Derivable:
    """The function of one photograph.

    Raises:
        ExplainError: none of it is made by a network that torch runs.
    """
    seen: list[Seen] = []
    whole = _whitened(describer, shrink_further(photograph, describer.longest_side), seen)
    if not seen:
        raise ExplainError(
            "the descriptor is made by no network, and has no derivative: take shares or occlusion"
        )
    return Derivable(tuple(seen), whole)


def _whitened(
    describer: Describer, photograph: Photograph, seen: list[Seen]
) -> Callable[[Sequence[Tensor]], Tensor]:
    raw = _extracted(describer.extractor, photograph, seen)
    if describer.whitening is None:
        return raw
    mean = torch.from_numpy(np.array(describer.whitening.mean))
    projection = torch.from_numpy(np.array(describer.whitening.projection))
    return lambda rows: normalize((raw(rows) - mean) @ projection, dim=1)


def _extracted(
    extractor: Extractor, photograph: Photograph, seen: list[Seen]
) -> Callable[[Sequence[Tensor]], Tensor]:
    small = shrink_further(photograph, extractor.longest_side)
    if isinstance(extractor, JointExtractor):
        parts = [(part.weight, _whitened(part.describer, small, seen)) for part in extractor.parts]
        return lambda rows: normalize(
            torch.cat([weight * part(rows) for weight, part in parts], dim=1), dim=1
        )
    if isinstance(extractor, CnnExtractor | TrainedExtractor):
        place = len(seen)
        seen.append(_seen(extractor, small))
        return lambda rows: normalize(rows[place], dim=1).cpu()
    fixed = torch.from_numpy(extractor.aggregate(extractor.features([small])))

    def unchanged(rows: Sequence[Tensor]) -> Tensor:
        return fixed.expand(len(rows[0]) if len(rows) else 1, -1)

    return unchanged


def _seen(extractor: CnnExtractor | TrainedExtractor, photograph: Photograph) -> Seen:
    inner = extractor if isinstance(extractor, CnnExtractor) else extractor.seen
    values = inner.trunk.normalised(inner.prepare([photograph]).to(inner.device))
    if isinstance(extractor, CnnExtractor):
        return Seen(extractor.trunk, values, extractor.views_of, extractor.pooled_maps)
    network = extractor.network

    def pooled(maps: Maps) -> Tensor:
        each = [network.embedded(normalize(network.pooling(one[0][0]), dim=1)) for one in maps]
        return torch.stack(each).sum(dim=0)

    return Seen(network.form, values, inner.views_of, pooled, network.neck)
