"""Descriptors written straight from their definitions, a number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def gem(feature_map: NDArray[np.float64], p: float, eps: float = 1e-6) -> list[float]:
    """Generalised mean of each channel of (c, h, w)."""
    pooled = []
    for channel in feature_map:
        total, places = 0.0, 0
        for row in channel:
            for value in row:
                total += max(float(value), eps) ** p
                places += 1
        pooled.append((total / places) ** (1 / p))
    return pooled


def rmac(feature_map: NDArray[np.float64], levels: int) -> list[float]:
    """Sum of the unit maxima of R-MAC's regions of (c, h, w), from the paper's own words.

    Tolias et al. 2016, section 3.2: at the first level squares as large as can be, so many along
    the longer side that neighbours overlap by what is nearest to 40 %; ``l (l + m - 1)`` squares
    of ``2 min(w, h) / (l + 1)`` at level ``l``, spread evenly.
    """
    channels, height, width = feature_map.shape
    narrow, long = min(height, width), max(height, width)
    best, m = math.inf, 1
    for count in range(2, 200) if long > narrow else ():
        overlap = (narrow - (long - narrow) / (count - 1)) / narrow
        if abs(overlap - 0.4) < best:
            best, m = abs(overlap - 0.4), count
    total = [0.0] * channels
    for level in range(1, levels + 1):
        side = max(1, int(2 * narrow / (level + 1)))
        down = level + (m - 1 if height > width else 0)
        right = level + (m - 1 if width > height else 0)
        for i in range(down):
            for j in range(right):
                top = int(i * (height - side) / max(1, down - 1))
                left = int(j * (width - side) / max(1, right - 1))
                places = [(y, x) for y in range(top, top + side) for x in range(left, left + side)]
                most = [max(float(channel[place]) for place in places) for channel in feature_map]
                norm = math.sqrt(sum(value**2 for value in most))
                for c in range(channels):
                    total[c] += most[c] / norm if norm > 0 else 0.0
    return total


def vlad(
    descriptors: NDArray[np.float32],
    codebook: NDArray[np.float32],
    power: float,
    intra: bool = True,
    residual: bool = False,
) -> list[float]:
    """Sums of (unit) residuals by word, each brought to unit length or not, powered, normalised."""
    words, dimension = codebook.shape
    sums = [[0.0] * dimension for _ in range(words)]
    for descriptor in descriptors:
        distances = [
            sum((float(a) - float(b)) ** 2 for a, b in zip(descriptor, word, strict=True))
            for word in codebook
        ]
        nearest = distances.index(min(distances))
        away = [float(descriptor[i]) - float(codebook[nearest][i]) for i in range(dimension)]
        length = math.sqrt(sum(value**2 for value in away)) if residual else 1.0
        for i in range(dimension):
            sums[nearest][i] += away[i] / length if length > 0 else 0.0
    flat: list[float] = []
    for one in sums:
        norm = math.sqrt(sum(value**2 for value in one)) if intra else 1.0
        flat += [value / norm if norm > 0 else 0.0 for value in one]
    powered = [math.copysign(abs(value) ** power, value) for value in flat]
    norm = math.sqrt(sum(value**2 for value in powered))
    return [value / norm if norm > 0 else 0.0 for value in powered]


def whiten(
    descriptors: NDArray[np.float64], dimension: int, power: float, shrinkage: float
) -> NDArray[np.float64]:
    """The descriptors whitened by what they themselves teach, by a full singular decomposition."""
    centred = descriptors - descriptors.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    eigenvalues = singular**2 / len(descriptors)
    average = (centred**2).sum() / len(descriptors) / min(centred.shape)
    softened = (1 - shrinkage) * eigenvalues + shrinkage * average
    projected = centred @ rows.T[:, :dimension] * softened[:dimension] ** power
    return projected / np.linalg.norm(projected, axis=1, keepdims=True)


def whiten_on_pairs(
    descriptors: NDArray[np.float64],
    labels: list[str | None] | None,
    dimension: int,
    power: float,
    shrinkage: float,
    views: tuple[NDArray[np.float64], list[int]] | None = None,
) -> NDArray[np.float64]:
    """The same with the covariance of all matching pairs' differences, each pair by itself.

    A landmark of m photographs counts for m - 1, as they have that many independent differences;
    so do a photograph and its views. Where both are there, they count alike.
    """
    centred = descriptors - descriptors.mean(axis=0)
    everything, found = centred, []
    if labels is not None:
        found.append(_covariance_of_pairs(centred, labels))
    if views is not None:
        everything = np.vstack([centred, views[0] - descriptors.mean(axis=0)])
        names = [str(i) for i in [*range(len(centred)), *views[1]]]
        found.append(_covariance_of_pairs(everything, names))
    within = np.mean(found, axis=0)
    # Along the directions in which photographs differ at all.
    rank = np.linalg.matrix_rank(everything)
    span = np.linalg.svd(everything, full_matrices=False)[2][:rank].T
    values, axes = np.linalg.eigh(span.T @ within @ span)
    softened = (1 - shrinkage) * values + shrinkage * values.mean()
    alike = centred @ span @ axes * softened**-0.5
    _, spread, turn = np.linalg.svd(alike, full_matrices=False)
    projected = alike @ turn[:dimension].T * (spread[:dimension] ** 2 / len(centred)) ** power
    return projected / np.linalg.norm(projected, axis=1, keepdims=True)


def _covariance_of_pairs(
    rows: NDArray[np.float64], names: Sequence[str | None]
) -> NDArray[np.float64]:
    within = np.zeros((rows.shape[1],) * 2)
    for i, one in enumerate(names):
        for j in range(i):
            if one is not None and names[j] == one:
                difference = rows[i] - rows[j]
                within += np.outer(difference, difference) / names.count(one)
    covariance: NDArray[np.float64] = within / np.trace(within)
    return covariance


Mixture = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def fisher(
    rows: NDArray[np.float32], mixture: Mixture, power: float, deviations: bool
) -> list[float]:
    """The Fisher vector of rows under a mixture: weights (w,), means and deviations (w, d).

    Perronnin et al. 2010: the gradients by the means and by the deviations, each over the root of
    its Fisher information, then the signed power and the unit length.
    """
    weights, means, spreads = (one.astype(np.float64).tolist() for one in mixture)
    words, dimension = len(weights), len(means[0])
    by_means = [[0.0] * dimension for _ in range(words)]
    by_deviations = [[0.0] * dimension for _ in range(words)]
    for row in rows.astype(np.float64).tolist():
        logs = []
        for i in range(words):
            log = math.log(weights[i])
            for j in range(dimension):
                log -= math.log(spreads[i][j] * math.sqrt(2 * math.pi))
                log -= (row[j] - means[i][j]) ** 2 / (2 * spreads[i][j] ** 2)
            logs.append(log)
        most = max(logs)
        total = sum(math.exp(log - most) for log in logs)
        for i in range(words):
            share = math.exp(logs[i] - most) / total
            for j in range(dimension):
                away = (row[j] - means[i][j]) / spreads[i][j]
                by_means[i][j] += share * away
                by_deviations[i][j] += share * (away**2 - 1)
    flat = []
    for i in range(words):
        flat += [value / (len(rows) * math.sqrt(weights[i])) for value in by_means[i]]
    if deviations:
        for i in range(words):
            flat += [value / (len(rows) * math.sqrt(2 * weights[i])) for value in by_deviations[i]]
    powered = [math.copysign(abs(value) ** power, value) for value in flat]
    norm = math.sqrt(sum(value**2 for value in powered))
    return [value / norm if norm > 0 else 0.0 for value in powered]


def nearest(
    descriptor: NDArray[np.float32], codebook: NDArray[np.float32], count: int
) -> list[int]:
    """The nearest words of one descriptor, nearest first."""
    distances = [float(((descriptor.astype(float) - word) ** 2).sum()) for word in codebook]
    return sorted(range(len(codebook)), key=lambda word: distances[word])[:count]


def signs(
    descriptors: NDArray[np.float32], codebook: NDArray[np.float32], assignments: int
) -> dict[int, list[int]]:
    """For each word of a photograph, the signs (1 or -1) of its summed residuals."""
    residuals: dict[int, list[NDArray[np.float64]]] = {}
    for descriptor in descriptors:
        for word in nearest(descriptor, codebook, assignments):
            residuals.setdefault(word, []).append(descriptor.astype(float) - codebook[word])
    return {
        word: [1 if value > 0 else -1 for value in sum(each)] for word, each in residuals.items()
    }


def asmk(
    one: dict[int, list[int]],
    other: dict[int, list[int]],
    weights: dict[int, float],
    alpha: float,
    threshold: float,
) -> float:
    """ASMK* of two photographs' signs (Tolias et al. 2013); a word of neither weight counts 0."""

    def match(x: dict[int, list[int]], y: dict[int, list[int]]) -> float:
        total = 0.0
        for word in x:
            if word in y:
                differing = sum(a != b for a, b in zip(x[word], y[word], strict=True))
                u = 1 - 2 * differing / len(x[word])
                if u > threshold:
                    total += weights[word] * math.copysign(abs(u) ** alpha, u)
        return total

    norms = math.sqrt(match(one, one)) * math.sqrt(match(other, other))
    return match(one, other) / norms if norms > 0 else 0.0


def bag(one: dict[int, int], other: dict[int, int], idf: dict[int, float], power: float) -> float:
    """The cosine of two photographs' tf-idf weights; they are given as how often each word is."""
    x, y = ({word: n**power * idf[word] for word, n in bag.items()} for bag in (one, other))
    product = sum(x[word] * y[word] for word in x if word in y)
    norms = math.sqrt(sum(v**2 for v in x.values())) * math.sqrt(sum(v**2 for v in y.values()))
    return product / norms if norms > 0 else 0.0
