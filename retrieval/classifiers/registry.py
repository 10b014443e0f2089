"""The kinds of classifier by their configs' ``kind``; a new one is a file and a line here."""

from __future__ import annotations

from pathlib import Path

from retrieval.classifiers.base import Classifier, Gallery, HeldOut
from retrieval.classifiers.network import NetworkClassifier, NetworkClassifierConfig
from retrieval.classifiers.svm import SvmClassifier, SvmConfig
from retrieval.classifiers.vote import VoteClassifier, VoteConfig

ClassifierConfig = VoteConfig | SvmConfig | NetworkClassifierConfig


def fit_classifier(config: ClassifierConfig, gallery: Gallery, seed: int = 0) -> Classifier:
    """The classifier that a config describes, fitted to a gallery."""
    if isinstance(config, VoteConfig):
        return VoteClassifier.fit(config, gallery, seed)
    if isinstance(config, NetworkClassifierConfig):
        return NetworkClassifier.fit(config, gallery, seed)
    return SvmClassifier.fit(config, gallery, seed)


def held_out_scores(config: ClassifierConfig, gallery: Gallery, seed: int = 0) -> HeldOut:
    """Scores of gallery and bank photographs by such a classifier that has not seen them."""
    if isinstance(config, VoteConfig):
        return VoteClassifier.held_out(config, gallery, seed)
    if isinstance(config, NetworkClassifierConfig):
        return NetworkClassifier.held_out(config, gallery, seed)
    return SvmClassifier.held_out(config, gallery, seed)


def load_classifier(config: ClassifierConfig, folder: Path, gallery: Gallery) -> Classifier:
    """Read what the classifier's ``save`` wrote.

    Raises:
        RunError: it is missing, damaged, or was fitted to another gallery.
    """
    if isinstance(config, VoteConfig):
        return VoteClassifier.load(folder, gallery)
    if isinstance(config, NetworkClassifierConfig):
        return NetworkClassifier.load(folder, gallery)
    return SvmClassifier.load(folder, gallery)
