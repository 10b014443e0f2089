"""Networks whose weights are made random, layer by layer from the top.

Adebayo et al., "Sanity checks for saliency maps" (NeurIPS 2018), section 3.1: the cascading
randomisation. A layer's numbers are shuffled, which draws new ones of the same distribution: what
flows through a network without batch norms keeps its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from retrieval.explain.derivable import Derivable, Seen


def randomised(by: Derivable, steps: int, seed: int = 0) -> Iterator[float]:
    """Make more and more of the networks random, in place; at the end they are as they were.

    Args:
        by: of any photograph.
        steps: into which the layers are parted, as evenly as can be.
        seed: of the shuffles.

    Yields:
        the share of layers that are random by now, counted from the output.
    """
    groups = [_parameters(one) for one in by.seen]
    kept = [[tensor.detach().clone() for tensor in layer] for own in groups for layer in own]
    random = torch.Generator().manual_seed(seed)
    try:
        for step in range(steps):
            for own in groups:
                ends = [round(len(own) * share / steps) for share in (step, step + 1)]
                for layer in own[ends[0] : ends[1]]:
                    for tensor in layer:
                        _shuffle(tensor, random)
            yield (step + 1) / steps
    finally:
        flat = [layer for own in groups for layer in own]
        with torch.no_grad():
            for layer, before in zip(flat, kept, strict=True):
                for tensor, old in zip(layer, before, strict=True):
                    tensor.copy_(old)


def _parameters(seen: Seen) -> list[Sequence[Tensor]]:
    """Each layer's own, the last layer first: a trained neck's, then the trunk's."""
    modules = [*seen.trunk.network.modules(), *(seen.neck.modules() if seen.neck else ())]
    own = [list(module.parameters(recurse=False)) for module in modules]
    return [layer for layer in reversed(own) if layer]


def _shuffle(tensor: Tensor, random: torch.Generator) -> None:
    order = torch.randperm(tensor.numel(), generator=random).to(tensor.device)
    with torch.no_grad():
        tensor.copy_(tensor.flatten()[order].view_as(tensor))
