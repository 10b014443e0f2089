"""The kinds of classifier by their configs' ``kind``; a new one is a file and a line in members."""

from __future__ import annotations

from pathlib import Path

from retrieval.classifiers.base import Classifier, Gallery, HeldOut
from retrieval.classifiers.ensemble import EnsembleClassifier, EnsembleConfig
from retrieval.classifiers.members import MemberConfig, fit_member, load_member, member_held_out

ClassifierConfig = MemberConfig | EnsembleConfig


def fit_classifier(config: ClassifierConfig, gallery: Gallery, seed: int = 0) -> Classifier:
    """The classifier that a config describes, fitted to a gallery."""
    if isinstance(config, EnsembleConfig):
        return EnsembleClassifier.fit(config, gallery, seed)
    return fit_member(config, gallery, seed)


def held_out_scores(config: ClassifierConfig, gallery: Gallery, seed: int = 0) -> HeldOut:
    """Scores of gallery and bank photographs by such a classifier that has not seen them."""
    if isinstance(config, EnsembleConfig):
        return EnsembleClassifier.held_out(config, gallery, seed)
    return member_held_out(config, gallery, seed)


def fit_and_hold_out(
    config: ClassifierConfig, gallery: Gallery, seed: int = 0
) -> tuple[Classifier, HeldOut]:
    """:func:`fit_classifier` and :func:`held_out_scores` at once, which an ensemble does sooner."""
    if isinstance(config, EnsembleConfig):
        return EnsembleClassifier.fit_and_hold_out(config, gallery, seed)
    return fit_member(config, gallery, seed), member_held_out(config, gallery, seed)


def load_classifier(config: ClassifierConfig, folder: Path, gallery: Gallery) -> Classifier:
    """Read what the classifier's ``save`` wrote.

    Raises:
        RunError: it is missing, damaged, or was fitted to another gallery.
    """
    if isinstance(config, EnsembleConfig):
        return EnsembleClassifier.load(folder, gallery)
    return load_member(config, folder, gallery)
