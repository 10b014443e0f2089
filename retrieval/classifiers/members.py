"""The kinds of classifier that stand alone, and may be members of an ensemble, by their configs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from retrieval.classifiers.base import Classifier, Gallery, HeldOut
from retrieval.classifiers.centroid import CentroidClassifier, CentroidConfig
from retrieval.classifiers.mlp import MlpClassifier, MlpConfig
from retrieval.classifiers.network import NetworkClassifier, NetworkClassifierConfig
from retrieval.classifiers.svm import SvmClassifier, SvmConfig
from retrieval.classifiers.vote import VoteClassifier, VoteConfig

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


def fit_member(config: MemberConfig, gallery: Gallery, seed: int) -> Classifier:
    """The classifier that a config describes, fitted to a gallery."""
    fitted: Classifier = KINDS[type(config)].fit(config, gallery, seed)
    return fitted


def member_held_out(config: MemberConfig, gallery: Gallery, seed: int) -> HeldOut:
    """Scores of gallery and bank photographs by such a classifier that has not seen them."""
    scores: HeldOut = KINDS[type(config)].held_out(config, gallery, seed)
    return scores


def load_member(config: MemberConfig, folder: Path, gallery: Gallery) -> Classifier:
    """Read what the classifier's ``save`` wrote.

    Raises:
        RunError: it is missing, damaged, or was fitted to another gallery.
    """
    loaded: Classifier = KINDS[type(config)].load(folder, gallery)
    return loaded
