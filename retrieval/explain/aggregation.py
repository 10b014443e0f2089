"""VLAD and Fisher vectors taken apart: what each local feature adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from retrieval.aggregation.codebook import nearest_words
from retrieval.aggregation.fisher import Fisher, FisherConfig
from retrieval.aggregation.vlad import Vlad, VladConfig
from retrieval.descriptors.aggregated import AggregatedExtractor
from retrieval.errors import ExplainError
from retrieval.explain.grid import Grid
from retrieval.explain.split import TINY, Pieces, Split, powered
from retrieval.local.features import LocalFeatures
from retrieval.types import Photograph, unit_rows


def of_aggregated(extractor: AggregatedExtractor, photograph: Photograph, grid: Grid) -> Split:
    """The local features' shares of their words, as the aggregation has them.

    Raises:
        ExplainError: an aggregation of which it is not known.
    """
    found = extractor.features([photograph])
    if extractor.reducer is not None:
        found = list(extractor.reducer.reduce(found))
    (features,) = found
    take_apart = APART.get(type(extractor.aggregator))
    if take_apart is None:
        raise ExplainError(
            f"{type(extractor.aggregator).__name__} cannot be split into its features' shares"
        )
    if not len(features):
        return Split(grid, (), np.zeros(extractor.dimension))
    boxes = boxes_of(features)
    splits = [
        Split(grid, (Pieces("features", values, 0, grid.spread(boxes), boxes),), np.zeros(width))
        for values in take_apart(extractor.aggregator, features.descriptors)
        for width in [values.shape[1]]
    ]
    config: VladConfig | FisherConfig = extractor.aggregator.config  # type: ignore[attr-defined]
    if isinstance(config, VladConfig) and config.intra:
        splits = [_intra(one, config.words) for one in splits]
    splits = [powered(one, config.power).unit() for one in splits]
    return _one_kind(splits).scaled(1.0 / np.sqrt(len(splits)))


def boxes_of(features: LocalFeatures) -> NDArray[np.float64]:
    """(n, 4) squares around keypoints, as large as their scales, in shares of the sides."""
    height, width = features.size
    sides = np.array([width, height], np.float64)
    points = features.points.astype(np.float64) + 0.5
    half = features.scales.astype(np.float64)[:, None] / 2
    return np.hstack([(points - half) / sides, (points + half) / sides])


def _residuals(vlad: Vlad, descriptors: NDArray[np.float32]) -> list[csr_array]:
    """(n, words * d) what each feature adds before normalisation, by each codebook."""
    assert vlad.codebooks is not None
    return [_residuals_of(one, descriptors, vlad.config.residual) for one in vlad.codebooks]


def _residuals_of(
    codebook: NDArray[np.float32], descriptors: NDArray[np.float32], unit: bool
) -> csr_array:
    words, dimension = codebook.shape
    nearest = nearest_words(descriptors, codebook)
    residuals = descriptors - codebook[nearest]
    residuals = (unit_rows(residuals) if unit else residuals).astype(np.float64)
    columns = nearest[:, None] * dimension + np.arange(dimension)
    starts = np.arange(len(descriptors) + 1) * dimension
    shape = len(descriptors), words * dimension
    return csr_array((residuals.ravel(), columns.ravel(), starts), shape)


def _intra(split: Split, words: int) -> Split:
    """Every word's sum brought to unit length."""
    sums = split.total.reshape(words, -1)
    lengths = np.maximum(np.linalg.norm(sums, axis=1), TINY)
    return split.scaled(np.repeat(1.0 / lengths, sums.shape[1]))


def _gradients(fisher: Fisher, descriptors: NDArray[np.float32]) -> list[csr_array]:
    """(n, d) what each feature adds to :func:`retrieval.aggregation.fisher.fisher_vector` before
    its powers."""
    assert fisher.projection is not None
    assert fisher.mixture is not None
    mixture, rows = fisher.mixture, fisher.projection.apply(descriptors)
    shares = mixture.posteriors(rows)
    feature, word = np.nonzero(shares)
    own = shares[feature, word].astype(np.float64)[:, None]
    away = (rows[feature].astype(np.float64) - mixture.means[word]) / mixture.deviations[word]
    root = np.sqrt(mixture.weights[word].astype(np.float64))[:, None] * len(rows)
    parts = [own * away / root]
    if fisher.config.deviations:
        parts.append(own * (away**2 - 1.0) / (root * np.sqrt(2.0)))
    dimension = rows.shape[1]
    columns = word[:, None] * dimension + np.arange(dimension)
    starts = np.searchsorted(feature, np.arange(len(rows) + 1)) * dimension
    shape = len(rows), mixture.means.size
    made = [csr_array((part.ravel(), columns.ravel(), starts), shape) for part in parts]
    return [csr_array(hstack(made))]


APART: Final[dict[type[Any], Callable[[Any, NDArray[np.float32]], list[csr_array]]]] = {
    Vlad: _residuals,
    Fisher: _gradients,
}
"""(n, d) what each of n local features adds to an aggregation, a matrix for each codebook."""


def _one_kind(splits: list[Split]) -> Split:
    """Descriptors side by side that are of the same pieces."""
    (first,) = splits[0].pieces
    values = csr_array(hstack([one.pieces[0].values for one in splits]))
    pieces = Pieces(first.kind, values, 0, first.spread, first.marks)
    return Split(splits[0].grid, (pieces,), np.zeros(values.shape[1]))
