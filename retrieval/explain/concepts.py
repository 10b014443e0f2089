"""Concepts: directions in a layer's channels that photographs of something lie in, and how far
landmarks depend on them (TCAV).

Kim et al., "Interpretability beyond feature attribution: quantitative testing with concept
activation vectors" (ICML 2018). A linear separator between photographs of the concept and random
counterparts gives the direction; a score is the share of a landmark's photographs of which the
target grows in that direction (equation 1). Some things are otherwise than there.

Channels are averaged over places, so that photographs may be of any shape, and each is measured in
its deviation over random photographs: else those that hardly vary would make the direction.

What is tested is not the share. A landmark's photographs have much the same derivative: the share
is near 0 or 1 in any direction, a random one too. And the scores of one concept against several
random sets are not independent, since the concept's photographs are the same in all: a t-test among
them finds chance significant. Here the effect is tested: the derivative in the separator's
direction times how far photographs that it was not fitted to lie apart in it, which is to first
order what the target gains with the concept. Random sets stand in the concept's place, each against
others. The concept's mean effect is compared with theirs by a two-sided t-test for one further
observation, corrected for the number of concepts (Holm). An effect is a product of two numbers, of
which chance makes both: its tails are long, and a t-test of it finds chance at a level of 0.01
three times as often as it should. Signed roots are compared, whose tails are a normal's or shorter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ExplainError
from retrieval.explain.derivable import derivable
from retrieval.explain.layers import MapLayer, channel_slopes, layer_named, layers_of, outputs
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
PENALTY: Final = 0.01
"""Of separators, as scikit-learn's C: there are more channels than photographs."""
HELD_OUT: Final = 0.3
"""Share of the photographs by which a separator is measured."""

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Separators:
    """Of one set of photographs from several random ones.

    Attributes:
        directions: (r, channels) their unit normals.
        apart: (r,) how far the two sets' means lie apart in that direction, by photographs that
            were held out.
        accuracy: (r,) share of these that are told apart, both sides alike.
    """

    directions: NDArray[np.float64]
    apart: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def direction(self) -> NDArray[np.float64]:
        """(channels,) the mean direction, of unit length."""
        mean = self.directions.mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))

    def effect(self, derivatives: NDArray[np.float64]) -> float:
        """Of (n, channels) derivatives brought to unit length, the mean."""
        return float((unit(derivatives) @ self.directions.T @ self.apart).mean() / len(self.apart))


@dataclass(frozen=True)
class Concept:
    """A concept's separators.

    Attributes:
        name: of the concept.
        photographs: of it.
        separators: from random sets.
    """

    name: str
    photographs: int
    separators: Separators


@dataclass(frozen=True)
class ConceptScore:
    """How far one landmark depends on one concept.

    Attributes:
        concept, landmark: their names.
        score: the share of the landmark's photographs of which the target grows with the concept.
        effect: what the target gains with the concept, in units of its steepest slope.
        p: two-sided, corrected for the number of concepts.
    """

    concept: str
    landmark: str
    score: float
    effect: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether chance does not explain it."""
        return self.p < SIGNIFICANT


def layer_for(asked: Asked, name: str | None) -> MapLayer:
    """The layer by name, or the default (:func:`retrieval.explain.layers.layer_named`).

    Raises:
        ExplainError: the system has no network, or it has no such layer.
    """
    return layer_named(layers_of(derivable(asked.describer, asked.photograph)), name)


def mean_channels(asked: Asked, layer: MapLayer, photographs: Sequence[Photograph]) -> Rows:
    """(n, channels) of n photographs, the mean over their places."""
    found = [
        outputs(derivable(asked.describer, one), layer).mean(dim=(1, 2)).numpy()
        for one in photographs
    ]
    return np.array(found, np.float32).reshape(len(photographs), layer.channels)


def slopes(asked: Asked, layer: MapLayer, target: Target) -> Rows:
    """(channels,) derivatives of a photograph's target by the channels."""
    by = derivable(asked.describer, asked.photograph)
    return np.asarray(channel_slopes(by, layer, target.function).numpy(), np.float32)


def channel_scale(random: Rows) -> tuple[Rows, Rows]:
    """(channels,) mean and deviation over photographs of nothing in particular."""
    return random.mean(axis=0), np.maximum(random.std(axis=0), 1e-6)


def separate(
    concepts: Mapping[str, Rows], random: Rows, seed: int = 0
) -> tuple[list[Concept], list[Separators]]:
    """Concepts' separators, and those of random sets in a concept's place.

    Args:
        concepts: (n, channels) scaled rows of each concept's photographs.
        random: (m, channels) scaled rows of photographs of nothing in particular.
        seed: of the sets that are drawn.

    Raises:
        ExplainError: there are too few photographs.
    """
    for name, rows in concepts.items():
        if len(rows) < LEAST:
            raise ExplainError(
                f"concept {name}: {len(rows)} photographs, and at least {LEAST} are needed"
            )
    size = min(max(len(rows) for rows in concepts.values()), len(random) // 3)
    if size < LEAST:
        raise ExplainError(
            f"{len(random)} random photographs are too few for concepts: at least {3 * LEAST} are"
            " needed"
        )
    rng = np.random.default_rng(seed)
    found = [
        Concept(name, len(rows), _separators(rows, random, size, rng))
        for name, rows in concepts.items()
    ]
    chances = []
    for _ in range(CHANCES):
        order = rng.permutation(len(random))
        chances.append(_separators(random[order[:size]], random[order[size:]], size, rng))
    return found, chances


def _separators(own: Rows, random: Rows, size: int, rng: np.random.Generator) -> Separators:
    made = [
        _separator(own, random[rng.permutation(len(random))[:size]], rng)
        for _ in range(COUNTERPARTS)
    ]
    directions, apart, accuracy = zip(*made, strict=True)
    return Separators(np.array(directions), np.array(apart), np.array(accuracy))


def _separator(
    own: Reals, other: Reals, rng: np.random.Generator
) -> tuple[NDArray[np.float64], float, float]:
    """(channels,) a separator's unit normal; by photographs that are held out how far the two sets
    lie apart in it, and the share that is told apart."""
    from sklearn.linear_model import LogisticRegression

    sets = [rows[rng.permutation(len(rows))].astype(np.float64) for rows in (own, other)]
    held = [rows[: max(1, round(HELD_OUT * len(rows)))] for rows in sets]
    rest = [rows[len(out) :] for rows, out in zip(sets, held, strict=True)]
    labels = np.repeat([1, 0], [len(rows) for rows in rest])
    model = LogisticRegression(C=PENALTY, class_weight="balanced")
    model.fit(np.concatenate(rest), labels)
    (normal,) = unit(model.coef_.astype(np.float64))
    right = [
        (model.predict(rows) == label).mean() for rows, label in zip(held, (1, 0), strict=True)
    ]
    apart = float((held[0].mean(axis=0) - held[1].mean(axis=0)) @ normal)
    return normal, apart, float(np.mean(right))


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, d) rows of unit length; of nothing nothing."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    made: NDArray[np.float64] = rows / np.maximum(lengths, 1e-12)
    return made


def concept_scores(
    concepts: Sequence[Concept], chances: Sequence[Separators], derivatives: Mapping[str, Rows]
) -> list[ConceptScore]:
    """How far landmarks depend on concepts.

    Args:
        concepts: with their separators.
        chances: the separators of random sets in a concept's place.
        derivatives: of each landmark, (photographs, channels) derivatives of its target by scaled
            channels.
    """
    found = []
    for landmark, rows in derivatives.items():
        wide = rows.astype(np.float64)
        by_chance = np.array([one.effect(wide) for one in chances])
        effects = [one.separators.effect(wide) for one in concepts]
        corrected = holm([by_roots(effect, by_chance) for effect in effects])
        for concept, effect, p in zip(concepts, effects, corrected, strict=True):
            growing = float((wide @ concept.separators.directions.T > 0).mean())
            found.append(ConceptScore(concept.name, landmark, growing, effect, p))
    return found


def by_roots(effect: float, others: NDArray[np.float64]) -> float:
    """:func:`one_more` of the signed roots."""
    root = np.sign(others) * np.sqrt(np.abs(others))
    return one_more(float(np.sign(effect) * np.sqrt(abs(effect))), root)


def one_more(value: float, others: NDArray[np.float64]) -> float:
    """Probability that one further value is as far from the mean (Student's t, two-sided)."""
    from scipy.stats import t

    spread = float(others.std(ddof=1)) * np.sqrt(1.0 + 1.0 / len(others))
    if spread == 0:
        return 1.0 if value == others[0] else 0.0
    return float(2.0 * t.sf(abs(value - others.mean()) / spread, len(others) - 1))


def holm(chances: Sequence[float]) -> list[float]:
    """Probabilities corrected for their number (Holm, "A simple sequentially rejective multiple
    test procedure", 1979)."""
    values = np.asarray(chances, np.float64)
    order = np.argsort(values)
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(one) for one in corrected]
