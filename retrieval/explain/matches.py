"""Local features that two photographs have in common: matches that one homography carries over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.index.verification import Descriptors, VerificationConfig, match, verify
from retrieval.local.features import LocalFeatures


@dataclass(frozen=True)
class Matches:
    """What the verification of a pair found.

    Attributes:
        query, gallery: (i, 2) the inliers' places, x and y as shares of each photograph's sides,
            the best match first.
        frame: (4, 2) where the corners of the query's photograph lie in the gallery's, in shares of
            its sides, from the top left clockwise; ``None`` where there is no homography.
        matches: how many features matched, before geometry.
        features: how many the two photographs have.
    """

    query: NDArray[np.float64]
    gallery: NDArray[np.float64]
    frame: NDArray[np.float64] | None
    matches: int
    features: tuple[int, int]

    @property
    def inliers(self) -> int:
        """How many matches the homography carries over."""
        return len(self.query)

    def __str__(self) -> str:
        own, theirs = self.features
        fit = f"{self.inliers} of {self.matches} matches lie as one thing seen twice would"
        return f"{fit} ({own} and {theirs} features)"


def matches(
    query: LocalFeatures,
    gallery: LocalFeatures,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    config: VerificationConfig,
) -> Matches:
    """Verify a pair, and keep what was found.

    Args:
        query, gallery: kept features.
        sizes: (height, width) of the two photographs as their features were found.
        config: of the verification.
    """
    (found,) = verify(query, [gallery], config)
    many = len(match(query, Descriptors.of(query.codes), gallery, config))
    sides = [np.array([width, height], np.float64) for height, width in sizes]
    own = (query.points[found.pairs[:, 0]].astype(np.float64) + 0.5) / sides[0]
    theirs = (gallery.points[found.pairs[:, 1]].astype(np.float64) + 0.5) / sides[1]
    frame = None
    if found.homography is not None:
        width, height = sides[0]
        corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1.0]])
        moved = corners @ found.homography.T
        # A corner behind the camera has no place.
        if (moved[:, 2] > 0).all():
            frame = moved[:, :2] / moved[:, 2:] / sides[1]
    return Matches(own, theirs, frame, many, (len(query), len(gallery)))
