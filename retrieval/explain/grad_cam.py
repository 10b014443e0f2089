"""Grad-CAM: the last map's channels, each weighed by the target's mean derivative.

Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
localization" (ICCV 2017), equations 1 and 2, for any number made of the descriptor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval.errors import ExplainError
from retrieval.explain.derivable import Derivable
from retrieval.explain.targets import Function


def grad_cam(by: Derivable, function: Function) -> list[Tensor]:
    """Each network's (1, 1, h, w) map, at its largest view.

    Maps of all layers are leaves; the map of the last layer named is taken.

    Raises:
        ExplainError: nothing of the target goes by a map's places.
    """
    with torch.no_grad():
        maps = [one.maps(one.values) for one in by.seen]
    leaves: list[Tensor] = []
    for its in maps:
        for view in its:
            for place, (one, token) in enumerate(view):
                leaf = one.detach().clone().requires_grad_()
                leaves.append(leaf)
                view[place] = leaf, token
    value = function(by.of_maps(maps))
    slopes = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    by_leaf = {id(leaf): slope for leaf, slope in zip(leaves, slopes, strict=True)}
    found = []
    for its in maps:
        largest = max(its, key=lambda view: view[-1][0].shape[-1] * view[-1][0].shape[-2])
        last = largest[-1][0]
        slope = by_leaf[id(last)]
        if slope is None or last.shape[-2:] == (1, 1):
            raise ExplainError(
                "Grad-CAM: the descriptor is not made of the last map's places (a class token, or"
                " a layer behind the network's own pooling): take gradient or occlusion"
            )
        found.append(cam(last.detach(), slope))
    return found


def cam(maps: Tensor, slopes: Tensor) -> Tensor:
    """(n, 1, h, w) of (n, c, h, w) maps and derivatives, what speaks against left out."""
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    return (weights * maps).sum(dim=1, keepdim=True).relu()
