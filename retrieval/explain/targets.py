"""What an attribution explains: a number made of the descriptor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from retrieval.classifiers.base import Classifier
from retrieval.classifiers.ensemble import EnsembleClassifier
from retrieval.classifiers.mlp import MlpClassifier
from retrieval.classifiers.network import NetworkClassifier
from retrieval.classifiers.svm import SvmClassifier
from retrieval.descriptors.describer import NO_FEATURES, Describer
from retrieval.errors import ExplainError
from retrieval.explain import SIMILARITY
from retrieval.types import Photograph

Function = Callable[[Tensor], Tensor]
"""(n, d) float32 unit rows to (n,) numbers, with derivatives."""


@dataclass(frozen=True)
class Asked:
    """What is to be explained.

    Attributes:
        describer: in float32.
        photograph: (h, w, 3), at most as large as that sees it.
        against: the gallery photograph that it is compared with, likewise.
        code: of the landmark that is explained.
        classifiers: of the system, by name.
        answer: the name of the one that answers.
    """

    describer: Describer
    photograph: Photograph
    against: Photograph
    code: int
    classifiers: Mapping[str, Classifier]
    answer: str

    def each(self) -> Iterator[tuple[str, Classifier]]:
        """The classifiers and the members of ensembles, the one that answers first."""
        for name in sorted(self.classifiers, key=lambda one: one != self.answer):
            classifier = self.classifiers[name]
            yield name, classifier
            if isinstance(classifier, EnsembleClassifier):
                yield from classifier.members.items()


@dataclass(frozen=True)
class Target:
    """A number to be explained.

    Attributes:
        words: what it is.
        function: of descriptors.
    """

    words: str
    function: Function

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) of (n, d) unit rows."""
        with torch.inference_mode():
            return np.asarray(self.function(torch.from_numpy(np.array(rows, np.float32))).numpy())


def similarity(asked: Asked) -> Target:
    """To the gallery photograph."""
    (direction,) = asked.describer.describe([asked.against]).vectors
    if not direction.any():
        raise ExplainError(f"the gallery photograph cannot be described: {NO_FEATURES}")
    wide = torch.from_numpy(np.array(direction))
    return Target("similarity to the gallery photograph", lambda rows: rows @ wide)


def margin(asked: Asked) -> Target:
    """Of the landmark, by the system's SVM."""
    found = [(name, one) for name, one in asked.each() if isinstance(one, SvmClassifier)]
    if not found:
        raise ExplainError("--target margin: the system has no SVM")
    name, one = found[0]
    scale = torch.from_numpy(one.scale)
    weights = torch.from_numpy(np.array(one.weights[asked.code]))
    bias = float(one.biases[asked.code])
    return Target(f"margin by {name}", lambda rows: normalize(rows * scale, dim=1) @ weights + bias)


def logit(asked: Asked) -> Target:
    """Of the landmark, by a network's head."""
    kinds = MlpClassifier | NetworkClassifier
    found = [(name, one) for name, one in asked.each() if isinstance(one, kinds)]
    if not found:
        raise ExplainError("--target class: the system has no trained network or mlp to classify")
    name, one = found[0]
    place = asked.code
    if isinstance(one, NetworkClassifier):
        classes = np.flatnonzero(one.codes == asked.code)
        if not len(classes):
            raise ExplainError("--target class: the network was not trained on the landmark")
        place = int(classes[0])
    head = one.head
    return Target(f"logit by {name}", lambda rows: head(rows)[:, place])


TARGETS: Final[dict[str, Callable[[Asked], Target]]] = {
    SIMILARITY: similarity,
    "margin": margin,
    "class": logit,
}


def target_of(name: str, asked: Asked) -> Target:
    """A target by name.

    Raises:
        ExplainError: there is none, or the system has not what it needs.
    """
    if name not in TARGETS:
        raise ExplainError(f"--target {name}: there is none; there are {', '.join(TARGETS)}")
    return TARGETS[name](asked)
