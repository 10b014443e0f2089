"""The kinds of classifier by their configs' ``kind``; a new one is a file and a line in members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from retrieval.classifiers import members
from retrieval.classifiers.base import Classifier, HeldOut
from retrieval.classifiers.ensemble import EnsembleClassifier, EnsembleConfig
from retrieval.classifiers.members import Fitting, MemberConfig
from retrieval.index.gallery import Gallery, GalleryChange

ClassifierConfig = MemberConfig | EnsembleConfig
KINDS: Final[dict[type[Any], Any]] = {**members.KINDS, EnsembleConfig: EnsembleClassifier}


def fit_classifier(config: ClassifierConfig, gallery: Gallery, seed: int = 0) -> Classifier:
    """The classifier that a config describes, fitted to a gallery."""
    fitted: Classifier = KINDS[type(config)].fit(config, gallery, seed)
    return fitted


def held_out_scores(
    config: ClassifierConfig, calibration: Sequence[Gallery], seed: int = 0
) -> HeldOut:
    """Scores of photographs by such a classifier that has not seen them.

    Args:
        config: of the classifier.
        calibration: galleries, of which each holds out photographs of its own.
        seed: of everything random.
    """
    if isinstance(config, EnsembleConfig):  # whose members are held out, and then fused
        return EnsembleClassifier.held_out(config, calibration, seed)
    return Fitting(calibration[0], calibration, seed).held_out(config)


def fit_and_hold_out(config: ClassifierConfig, fitting: Fitting) -> tuple[Classifier, HeldOut]:
    """:func:`fit_classifier` and :func:`held_out_scores` at once, of which ensembles share what
    classifiers beside them are."""
    if isinstance(config, EnsembleConfig):
        return EnsembleClassifier.fit_and_hold_out(config, fitting)
    return fitting.fitted(config), fitting.held_out(config)


def load_classifier(config: ClassifierConfig, folder: Path, gallery: Gallery) -> Classifier:
    """Read what the classifier's ``save`` wrote.

    Raises:
        RunError: it is missing, damaged, or was fitted to another gallery.
    """
    loaded: Classifier = KINDS[type(config)].load(folder, gallery)
    return loaded


def updated_classifier(
    config: ClassifierConfig, folder: Path, gallery: Gallery, change: GalleryChange, seed: int
) -> Classifier:
    """What the classifier's ``save`` wrote, for a gallery that has changed a little since.

    Raises:
        RunError: it is missing, damaged, or was fitted to another gallery than that before.
    """
    found: Classifier = KINDS[type(config)].updated(folder, gallery, change, seed)
    return found
