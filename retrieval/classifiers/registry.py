"""The kinds of classifier by their configs' ``kind``; a new one is a file and a line in members."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from retrieval.classifiers import members
from retrieval.classifiers.base import Classifier, Gallery, HeldOut
from retrieval.classifiers.ensemble import EnsembleClassifier, EnsembleConfig
from retrieval.classifiers.members import MemberConfig

ClassifierConfig = MemberConfig | EnsembleConfig
KINDS: Final[dict[type[Any], Any]] = {**members.KINDS, EnsembleConfig: EnsembleClassifier}


def fit_classifier(config: ClassifierConfig, gallery: Gallery, seed: int = 0) -> Classifier:
    """The classifier that a config describes, fitted to a gallery."""
    fitted: Classifier = KINDS[type(config)].fit(config, gallery, seed)
    return fitted


def held_out_scores(config: ClassifierConfig, gallery: Gallery, seed: int = 0) -> HeldOut:
    """Scores of gallery and bank photographs by such a classifier that has not seen them."""
    kind = KINDS[type(config)]
    if isinstance(config, EnsembleConfig):  # whose members are held out, and then fused
        whole: HeldOut = kind.held_out(config, gallery, seed)
        return whole
    return HeldOut.joined([kind.held_out(config, part, seed) for part in gallery.calibration])


def fit_and_hold_out(
    config: ClassifierConfig, gallery: Gallery, seed: int = 0
) -> tuple[Classifier, HeldOut]:
    """:func:`fit_classifier` and :func:`held_out_scores` at once, which an ensemble does sooner."""
    if isinstance(config, EnsembleConfig):
        return EnsembleClassifier.fit_and_hold_out(config, gallery, seed)
    return fit_classifier(config, gallery, seed), held_out_scores(config, gallery, seed)


def load_classifier(config: ClassifierConfig, folder: Path, gallery: Gallery) -> Classifier:
    """Read what the classifier's ``save`` wrote.

    Raises:
        RunError: it is missing, damaged, or was fitted to another gallery.
    """
    loaded: Classifier = KINDS[type(config)].load(folder, gallery)
    return loaded
