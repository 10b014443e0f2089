"""Concepts: directions in a layer's channels that photographs of something lie in, and how far
landmarks hang on them (TCAV).

Kim et al., "Interpretability beyond feature attribution: quantitative testing with concept
activation vectors" (ICML 2018). A linear separator between photographs of the concept and random
counterparts gives the direction; a score is the share of a landmark's photographs of which the
target grows in that direction (equation 1). Two things are otherwise than there.

Channels are averaged over places, so that photographs may be of any shape.

What is tested is not the share but the mean cosine between direction and derivative. A landmark's
photographs have much the same derivative: the share is near 0 or 1 in any direction, a random one
too. And the scores of one concept against several random sets are not independent, since the
concept's photographs are the same in all: a t-test among them finds chance significant. Here random
sets stand in the concept's place, each against others, and the concept's mean is held against
theirs by a two-sided t-test for one observation more, corrected for the number of tests (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ExplainError
from retrieval.explain.derivable import derivable
from retrieval.explain.layers import Layer, channel_slopes, layer_named, layers_of, outputs
from retrieval.explain.targets import Asked, Target
from retrieval.types import Photograph, Reals

RANDOM: Final = "random"
"""The folder of counterparts among those of concepts."""
COUNTERPARTS: Final = 8
"""Random sets that each concept is separated from."""
CHANCES: Final = 24
"""Random sets in a concept's place."""
LEAST: Final = 8
"""Photographs of a concept, at least."""
SIGNIFICANT: Final = 0.05
HELD_OUT: Final = 0.3
"""Share of the photographs by which a separator is measured."""

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class ConceptVector:
    """A concept's direction.

    Attributes:
        name: of the concept.
        photographs: of it.
        directions: (r, channels) unit normals of the separators from each random set.
        accuracy: of separators on photographs that they were not fitted to, the mean.
    """

    name: str
    photographs: int
    directions: NDArray[np.float64]
    accuracy: float

    @property
    def direction(self) -> NDArray[np.float64]:
        """(channels,) the mean of these, of unit length."""
        mean = self.directions.mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))


@dataclass(frozen=True)
class ConceptScore:
    """How far one landmark hangs on one concept.

    Attributes:
        concept, landmark: their names.
        score: the share of the landmark's photographs of which the target grows with the concept.
        cosine: of the concept's direction and the target's derivative, the mean.
        p: two-sided, corrected for the number of tests.
    """

    concept: str
    landmark: str
    score: float
    cosine: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether chance does not explain it."""
        return self.p < SIGNIFICANT


def layer_for(asked: Asked, name: str | None) -> Layer:
    """The layer by name, or the default (:func:`retrieval.explain.layers.layer_named`).

    Raises:
        ExplainError: the system has no network, or it has no such layer.
    """
    return layer_named(layers_of(derivable(asked.describer, asked.photograph)), name)


def mean_channels(asked: Asked, layer: Layer, photographs: Sequence[Photograph]) -> Rows:
    """(n, channels) of n photographs, the mean over their places."""
    found = [
        outputs(derivable(asked.describer, one), layer).mean(dim=(1, 2)).numpy()
        for one in photographs
    ]
    return np.array(found, np.float32).reshape(len(photographs), layer.channels)


def slopes(asked: Asked, layer: Layer, target: Target) -> Rows:
    """(channels,) derivatives of a photograph's target by the channels."""
    by = derivable(asked.describer, asked.photograph)
    return np.asarray(channel_slopes(by, layer, target.function).numpy(), np.float32)


def concept_vectors(
    concepts: Mapping[str, Rows], random: Rows, seed: int = 0
) -> tuple[list[ConceptVector], list[NDArray[np.float64]]]:
    """Directions of concepts, and of random sets in a concept's place.

    Args:
        concepts: (n, channels) rows of each concept's photographs.
        random: (m, channels) rows of photographs of nothing in particular.
        seed: of the sets that are drawn.

    Returns:
        the concepts', and of each random set the (r, channels) directions.

    Raises:
        ExplainError: there are too few photographs.
    """
    for name, rows in concepts.items():
        if len(rows) < LEAST:
            raise ExplainError(
                f"concept {name}: {len(rows)} photographs, and at least {LEAST} are needed"
            )
    largest = max(len(rows) for rows in concepts.values())
    size = min(largest, len(random) // 3)
    if size < LEAST:
        raise ExplainError(
            f"{len(random)} random photographs are too few for concepts: at least {3 * LEAST} are"
            " needed"
        )
    rng = np.random.default_rng(seed)
    scale = np.maximum(random.std(axis=0), 1e-6)
    centre = random.mean(axis=0)
    scaled = (random - centre) / scale
    found = []
    for name, rows in concepts.items():
        each = [
            _separator((rows - centre) / scale, scaled[rng.permutation(len(scaled))[:size]], rng)
            for _ in range(COUNTERPARTS)
        ]
        directions = unit(np.array([one for one, _ in each]) / scale)
        accuracy = float(np.mean([one for _, one in each]))
        found.append(ConceptVector(name, len(rows), directions, accuracy))
    chances = []
    for _ in range(CHANCES):
        order = rng.permutation(len(scaled))
        own, others = scaled[order[:size]], scaled[order[size:]]
        drawn = [others[rng.permutation(len(others))[:size]] for _ in range(COUNTERPARTS)]
        separators = np.array([_separator(own, other, rng, measured=False)[0] for other in drawn])
        chances.append(unit(separators / scale))
    return found, chances


def _separator(
    own: Reals, other: Reals, rng: np.random.Generator, measured: bool = True
) -> tuple[NDArray[np.float64], float]:
    """(channels,) weights of a linear separator, and its accuracy on some that are held out."""
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([own, other]).astype(np.float64)
    labels = np.r_[np.ones(len(own)), np.zeros(len(other))]
    model = LogisticRegression(C=0.01, class_weight="balanced", solver="liblinear")
    accuracy = np.nan
    if measured:
        held = np.concatenate(
            [
                start + rng.permutation(count)[: max(1, round(HELD_OUT * count))]
                for start, count in ((0, len(own)), (len(own), len(other)))
            ]
        )
        rest = np.delete(np.arange(len(rows)), held)
        right = model.fit(rows[rest], labels[rest]).predict(rows[held]) == labels[held]
        sides = labels[held] == 1
        accuracy = float((right[sides].mean() + right[~sides].mean()) / 2)
    return np.asarray(model.fit(rows, labels).coef_[0], np.float64), accuracy


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, d) rows of unit length; of nothing nothing."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    made: NDArray[np.float64] = rows / np.maximum(lengths, 1e-12)
    return made


def concept_scores(
    concepts: Sequence[ConceptVector],
    chances: Sequence[NDArray[np.float64]],
    derivatives: Mapping[str, Rows],
) -> list[ConceptScore]:
    """How far landmarks hang on concepts.

    Args:
        concepts: their directions.
        chances: of each random set in a concept's place, (r, channels).
        derivatives: of each landmark, (photographs, channels) derivatives of its target.
    """
    found = []
    for landmark, rows in derivatives.items():
        wide = rows.astype(np.float64)
        by_chance = np.array([_cosine(wide, one) for one in chances])
        for concept in concepts:
            growing = wide @ concept.directions.T > 0
            cosine = _cosine(wide, concept.directions)
            p = one_more(cosine, by_chance)
            found.append((concept.name, landmark, float(growing.mean()), cosine, p))
    corrected = holm([one[-1] for one in found])
    return [ConceptScore(*one[:-1], p) for one, p in zip(found, corrected, strict=True)]


def _cosine(derivatives: NDArray[np.float64], directions: NDArray[np.float64]) -> float:
    """The mean over photographs and separators."""
    return float((unit(derivatives) @ directions.T).mean())


def one_more(value: float, others: NDArray[np.float64]) -> float:
    """Chance that a value is as far from the mean of its likes, by Student's t (two-sided)."""
    from scipy.stats import t

    spread = float(others.std(ddof=1)) * np.sqrt(1.0 + 1.0 / len(others))
    if spread == 0:
        return 1.0 if value == others[0] else 0.0
    return float(2.0 * t.sf(abs(value - others.mean()) / spread, len(others) - 1))


def holm(chances: Sequence[float]) -> list[float]:
    """Corrected for their number (Holm, "A simple sequentially rejective multiple test procedure",
    1979)."""
    values = np.asarray(chances, np.float64)
    order = np.argsort(values)
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(one) for one in corrected]
