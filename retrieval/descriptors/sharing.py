"""What the parts of a joint extractor share: a network's passes, and SIFT's keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retrieval.descriptors.aggregated import AggregatedExtractor
from retrieval.descriptors.base import Extractor
from retrieval.descriptors.cnn import CnnExtractor
from retrieval.local.base import Detector
from retrieval.local.delf import DelfDetector
from retrieval.local.sift import SiftDetector

NETWORK_FIELDS: tuple[str, ...] = ("trunk", "weights", "precision", "runtime", "quantised")
"""What decides a network, in the configs of extractor and detector."""


def sharing(extractors: Sequence[Extractor]) -> list[Extractor]:
    """The same extractors, each of which takes from the others what these work out too."""
    return [
        replace(one, detector=_sharing_detector(one.detector, extractors))
        if isinstance(one, AggregatedExtractor)
        else one
        for one in extractors
    ]


def _sharing_detector(detector: Detector, extractors: Sequence[Extractor]) -> Detector:
    """DELF takes the passes of a global descriptor's network; SIFT finds keypoints once for itself
    and for the same with the other ``upright``."""
    if isinstance(detector, DelfDetector):
        for one in extractors:
            if isinstance(one, CnnExtractor) and _same_passes(one, detector):
                return replace(detector, passes=one.trunk)
    if isinstance(detector, SiftDetector):
        twin = detector.config.model_copy(update={"upright": not detector.config.upright})
        inner = [getattr(one, "detector", None) for one in extractors]
        paired = any(isinstance(one, SiftDetector) and one.config == twin for one in inner)
        return replace(detector, paired=paired)
    return detector


def _same_passes(extractor: CnnExtractor, detector: DelfDetector) -> bool:
    """Whether the extractor's network, at a size of the detector's, gives its map too."""
    one, other = extractor.config, detector.config
    sides = [{round(own.size * scale) for scale in own.scales} for own in (one, other)]
    return (
        all(getattr(one, name) == getattr(other, name) for name in NETWORK_FIELDS)
        and other.layer in extractor.trunk.layers
        and bool(sides[0] & sides[1])
    )
