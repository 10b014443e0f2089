"""Gradient-boosted trees as plain arrays: J. Friedman, "Greedy function approximation", 2001.

scikit-learn grows them; what is kept are numbers, which are saved as JSON and walked here. Their
sum is the log-odds that an example is right.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from retrieval.types import Flags, StrictModel

TREES: Final = 60
DEPTH: Final = 3
RATE: Final = 0.1
LEAST: Final = 20
"""Examples in a leaf; with fewer right ones than that, or wrong ones, there is nothing to grow."""
EXAMPLES: Final = 20_000
"""Of more, so many are learnt from, at even distances."""
BLOCK: Final = 1 << 14
"""Examples walked at a time: about 30 MB of working memory."""
TIES: Final = 1e-3
"""Trees make equals of examples that differ; of a simpler model's log-odds, this much is added."""

Reals = NDArray[np.float64]


class Trees(StrictModel):
    """Nodes tree after tree; a leaf is its own child, to the left and to the right.

    Attributes:
        start: the log-odds that the trees add to.
        roots: (t,) nodes.
        features: (n,) a node's input.
        thresholds: (n,) up to which, in float32, it goes to the left.
        left: (n,) nodes.
        right: (n,) nodes.
        values: (n,) what a leaf adds.
    """

    start: float
    roots: list[int]
    features: list[int]
    thresholds: list[float]
    left: list[int]
    right: list[int]
    values: list[float]

    @classmethod
    def fit(cls, inputs: Reals, right: Flags, weights: Reals) -> Trees | None:
        """Grow them on (n, d) inputs of examples that are right or not, and weigh so much.

        Without ``LEAST`` examples of each kind there are none.
        """
        from sklearn.ensemble import GradientBoostingClassifier

        if len(right) > EXAMPLES:
            chosen = np.linspace(0, len(right) - 1, EXAMPLES).astype(np.int64)
            inputs, right, weights = inputs[chosen], right[chosen], weights[chosen]
        if min(right.sum(), (~right).sum()) < LEAST:
            return None
        model = GradientBoostingClassifier(
            n_estimators=TREES, max_depth=DEPTH, learning_rate=RATE, min_samples_leaf=LEAST,
            random_state=0,
        ).fit(inputs, right, weights)  # fmt: skip
        grown = [one.tree_ for one in model.estimators_[:, 0]]
        sizes = [one.node_count for one in grown]
        roots = np.cumsum([0, *sizes[:-1]])
        leaf = np.concatenate([one.children_left < 0 for one in grown])
        own, shift = np.arange(len(leaf)), np.repeat(roots, sizes)

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(one, name).ravel() for one in grown])

        before, after = model.init_.class_prior_
        return cls(
            start=float(np.log(after / before)),
            roots=roots.tolist(),
            features=np.where(leaf, 0, joined("feature")).tolist(),
            thresholds=joined("threshold").tolist(),
            left=np.where(leaf, own, joined("children_left") + shift).tolist(),
            right=np.where(leaf, own, joined("children_right") + shift).tolist(),
            values=(RATE * joined("value")).tolist(),
        )

    @functools.cached_property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        named = self.roots, self.features, self.thresholds, self.left, self.right, self.values
        return tuple(np.array(one) for one in named)

    def log_odds(self, inputs: Reals) -> Reals:
        """(n,) of (n, d) inputs."""
        starts = range(0, len(inputs), BLOCK)
        found = [self._walked(inputs[start : start + BLOCK]) for start in starts]
        return np.concatenate([np.zeros(0), *found])

    def _walked(self, inputs: Reals) -> Reals:
        roots, features, thresholds, left, right, values = self._arrays
        rows, values_of = np.arange(len(inputs))[:, None], inputs.astype(np.float32)
        nodes = np.broadcast_to(roots, (len(inputs), len(roots)))
        for _ in range(DEPTH):
            lower = values_of[rows, features[nodes]] <= thresholds[nodes]
            nodes = np.where(lower, left[nodes], right[nodes])
        odds: Reals = self.start + values[nodes].sum(axis=1)
        return odds
