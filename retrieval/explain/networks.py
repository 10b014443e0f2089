"""Networks' descriptors taken apart: layers, scales and mirror images, a trained neck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from retrieval.descriptors.cnn import CnnExtractor
from retrieval.descriptors.trained import TrainedExtractor
from retrieval.explain.grid import Grid
from retrieval.explain.pooling import gem_added, pooled
from retrieval.explain.split import Matrix, Split, joined, of_nowhere, of_places
from retrieval.types import Photograph


def of_cnn(extractor: CnnExtractor, photograph: Photograph, grid: Grid) -> Split:
    """As :meth:`CnnExtractor.pooled`: each layer's unit vectors of all views are summed."""
    layers = extractor.config.layers
    sums: list[Split | None] = [None] * len(layers)
    with torch.inference_mode():
        for place, view in enumerate(extractor.shown(photograph)):
            mirrored = extractor.config.flip and place % 2 == 1
            for i, (feature_map, token) in enumerate(extractor.trunk.outputs(view)):
                own = None if token is None else token.cpu()
                one = pooled(layers[i].pooling, feature_map.cpu(), own, grid, mirrored).unit()
                before = sums[i]
                sums[i] = one if before is None else _added([before, one])
    return joined(
        [
            one.unit().scaled(layer.weight)
            for layer, one in zip(layers, sums, strict=True)
            if one is not None
        ]
    ).unit()


def of_trained(extractor: TrainedExtractor, photograph: Photograph, grid: Grid) -> Split:
    """As :class:`TrainedExtractor`: the unit embeddings of all views are summed."""
    network, seen = extractor.network, extractor.seen
    views = []
    with torch.inference_mode():
        for place, view in enumerate(seen.shown(photograph)):
            values = network.maps(view)[0].double().cpu().numpy()
            if seen.config.flip and place % 2 == 1:
                values = values[:, :, ::-1]
            parts = gem_added(values, float(network.pooling.p))
            placed = values.shape[1:] != (1, 1) or len(grid) == 1
            whole = of_places(grid, grid.maps(parts)) if placed else of_nowhere(grid, parts.ravel())
            views.append(_embedded(whole.unit(), network.neck))
    return _added(views).unit()


def _embedded(split: Split, neck: nn.Module | None) -> Split:
    """As :meth:`retrieval.networks.embedder.Embedder.embedded`."""
    if neck is None:
        return split
    assert isinstance(neck, nn.Sequential)
    for layer in neck:
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight, layer.bias
            split = split.through(weight.detach().cpu().numpy().T, bias=_array(bias))
        else:
            assert isinstance(layer, nn.BatchNorm1d)
            factor = _array(layer.weight) / np.sqrt(_array(layer.running_var) + layer.eps)
            mean = _array(layer.running_mean)
            split = split.through(np.diag(factor), mean, _array(layer.bias))
    return split.unit()


def _array(values: torch.Tensor | None) -> Matrix:
    assert values is not None
    return np.asarray(values.detach().double().cpu().numpy())


def _added(splits: Sequence[Split]) -> Split:
    """The sum of descriptors whose pieces are the same places, or that have none."""
    first = splits[0]
    constant = np.sum([one.constant for one in splits], axis=0)
    if not first.pieces:
        return Split(first.grid, (), constant)
    (pieces,) = first.pieces
    values = np.sum([one.pieces[0].values for one in splits], axis=0)
    return Split(first.grid, (replace(pieces, values=values),), constant)
