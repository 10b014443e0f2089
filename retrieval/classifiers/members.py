"""The kinds of classifier that stand alone, and may be members of an ensemble, by their configs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import Field

from retrieval.classifiers.base import Classifier, HeldOut
from retrieval.classifiers.centroid import CentroidClassifier, CentroidConfig
from retrieval.classifiers.mlp import MlpClassifier, MlpConfig
from retrieval.classifiers.network import NetworkClassifier, NetworkClassifierConfig
from retrieval.classifiers.svm import SvmClassifier, SvmConfig
from retrieval.classifiers.vote import VoteClassifier, VoteConfig
from retrieval.index.gallery import Gallery

MemberConfig = Annotated[
    VoteConfig | SvmConfig | CentroidConfig | MlpConfig | NetworkClassifierConfig,
    Field(discriminator="kind"),
]

KINDS: Final[dict[type[Any], Any]] = {
    VoteConfig: VoteClassifier,
    SvmConfig: SvmClassifier,
    CentroidConfig: CentroidClassifier,
    MlpConfig: MlpClassifier,
    NetworkClassifierConfig: NetworkClassifier,
}
"""A config's class to the classifier's."""


@dataclass(frozen=True)
class Fitting:
    """Fits classifiers to a gallery, and scores photographs by ones that have not seen them.

    Each config is fitted once, however many ask for it: a classifier that stands alone is often a
    member of the ensemble beside it.

    Attributes:
        gallery: that they are fitted to.
        calibration: galleries, of which each holds out photographs of its own.
        seed: of everything random.
    """

    gallery: Gallery
    calibration: Sequence[Gallery]
    seed: int = 0
    _fitted: dict[str, Classifier] = field(default_factory=dict, init=False, repr=False)
    _held_out: dict[str, HeldOut] = field(default_factory=dict, init=False, repr=False)

    def fitted(self, config: MemberConfig) -> Classifier:
        """The classifier, fitted to the gallery."""
        key = config.model_dump_json()
        if key not in self._fitted:
            kind = KINDS[type(config)]
            self._fitted[key] = kind.fit(config, self.gallery, self.seed)
        return self._fitted[key]

    def searched_as(self, calibration: Sequence[Gallery]) -> Fitting:
        """The same, where the galleries that hold photographs out find neighbours otherwise.

        Classifiers that look at no neighbours score those photographs as they did.
        """
        other = Fitting(self.gallery, calibration, self.seed)
        other._fitted.update(self._fitted)
        alike = {key for key, one in self._fitted.items() if not one.neighbours}
        other._held_out.update({key: self._held_out[key] for key in alike & self._held_out.keys()})
        return other

    def held_out(self, config: MemberConfig) -> HeldOut:
        """Scores of the photographs that the calibration galleries hold out."""
        key = config.model_dump_json()
        if key not in self._held_out:
            kind = KINDS[type(config)]
            self._held_out[key] = HeldOut.joined(
                [kind.held_out(config, one, self.seed) for one in self.calibration]
            )
        return self._held_out[key]
