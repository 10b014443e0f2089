"""The kinds of classifier that stand alone, and may be members of an ensemble, by their configs."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

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
