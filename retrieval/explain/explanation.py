"""One answer explained: the photograph, the gallery photograph it is compared with, and why."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from retrieval.descriptors.describer import Describer
from retrieval.descriptors.extraction import extract
from retrieval.descriptors.representation import Representation
from retrieval.errors import ExplainError, PhotographError
from retrieval.explain.attribution import Attribution
from retrieval.explain.matches import Matches, matches
from retrieval.explain.overlay import overlay
from retrieval.explain.shares import Shares, mixed, shares
from retrieval.explain.split import Split
from retrieval.explain.splitting import grid_of
from retrieval.explain.verdict import Verdict
from retrieval.explain.words import WordedFeatures, word_shares
from retrieval.index.gallery import Gallery
from retrieval.local.features import LocalFeatures
from retrieval.photographs.decoding import shrink, shrunk_size
from retrieval.types import Photograph, Reals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN: Final = 640
"""Photographs are shown at most this large, in pixels."""
LINKS: Final = 6
"""Pairs of places that are linked, those with the largest shares."""
LINES: Final = 40
"""Inliers that are drawn, the best matches."""


@dataclass(frozen=True)
class GalleryPhotograph:
    """The gallery photograph that a photograph is compared with.

    Attributes:
        row: of the gallery.
        id: of the photograph.
        code: of its landmark.
        photograph: (h, w, 3), at most :data:`SHOWN` large.
        similarity: by the run's own vectors; what networks of less precision, or a gallery that
            took in neighbours, make of it.
    """

    row: int
    id: str
    code: int
    photograph: Photograph
    similarity: float


@dataclass(frozen=True)
class Explanation:
    """Why an answer is what it is: arrays, and a figure.

    Attributes:
        id: of the photograph.
        photograph: (h, w, 3), at most :data:`SHOWN` large.
        against: the gallery photograph that it is compared with.
        verdicts: the classifiers', the one that answers first.
        names: readable names of the landmarks that are spoken of, by code.
        ids, sources: of the gallery photographs that are spoken of, by row.
        shares: the similarity of the two photographs by pairs of places; ``None`` where no place
            can be told.
        matches: the local features that they have in common; ``None`` where the system has none.
        attribution: what a method makes of the photograph; ``None`` for the shares alone.
        notes: what a reader has to know.
    """

    id: str
    photograph: Photograph
    against: GalleryPhotograph
    verdicts: tuple[Verdict, ...]
    names: dict[int, str]
    ids: dict[int, str]
    sources: dict[int, str]
    shares: Shares | None
    matches: Matches | None
    attribution: Attribution | None
    notes: tuple[str, ...]

    @property
    def answer(self) -> Verdict:
        """The verdict that counts."""
        return self.verdicts[0]

    @property
    def sentence(self) -> str:
        """The answer in a sentence."""
        return sentence(self.answer, self.names)

    def figure(self) -> Figure:
        """The maps on both photographs, by matplotlib; a notebook shows it as it is."""
        from retrieval.explain.figure import Panel, figure

        found, against = self.shares, self.against
        own, theirs = self.photograph, against.photograph
        similarity = against.similarity if found is None else found.similarity
        if found is not None:
            own, theirs = overlay(own, found.query.map), overlay(theirs, found.gallery.map)
        pair = (
            Panel(own, f"the photograph; similarity {similarity:.3f}"),
            Panel(theirs, f"{self.names[against.code]} ({against.id})"),
        )
        others = [
            Panel(
                overlay(self.photograph, case.score.map),
                f"{verdict.name}: for {self.names[case.code]}",
            )
            for verdict in self.verdicts
            for case in verdict.cases
            if case.score is not None
        ]
        made = self.attribution
        if made is not None:
            drawn = overlay(self.photograph, made.map, made.signed)
            others.insert(0, Panel(drawn, f"{made.method}: {made.target}"))
        return figure(self.sentence, pair, self.links(), others)

    def links(self) -> list[tuple[Reals, Reals]]:
        """Places of the two photographs that belong together, x and y as shares of the sides: the
        best inliers where there are any, or those of :meth:`place_links`."""
        if self.matches is not None and self.matches.inliers:
            both = zip(self.matches.query, self.matches.gallery, strict=True)
            return list(itertools.islice(both, LINES))
        return self.place_links()

    def place_links(self) -> list[tuple[Reals, Reals]]:
        """Middles of the pairs of places with the largest shares, x and y as shares of the sides,
        no place twice."""
        if self.shares is None:
            return []
        left = self.shares.pairs.copy()
        middles = [
            (boxes[:, :2] + boxes[:, 2:]) / 2
            for boxes in (self.shares.query.grid.boxes, self.shares.gallery.grid.boxes)
        ]
        found: list[tuple[Reals, Reals]] = []
        while len(found) < min(LINKS, *left.shape):
            own, theirs = np.unravel_index(int(left.argmax()), left.shape)
            if left[own, theirs] <= 0:
                break
            found.append((middles[0][own], middles[1][theirs]))
            left[own], left[:, theirs] = -np.inf, -np.inf
        return found


def sentence(verdict: Verdict, names: dict[int, str]) -> str:
    """What a classifier says."""
    if not verdict.cases:
        return "none, and no landmark comes near"
    best, sure = names[verdict.cases[0].code], verdict.probability
    # Never 1, which would promise too much.
    odds = "above 0.99" if sure >= 0.995 else f"of {sure:.2f}"
    if verdict.accepted:
        return best if np.isnan(sure) else f"{best}, with a probability {odds}"
    told = f"none; the best candidate is {best}"
    return told if np.isnan(sure) else f"{told}, with a probability {odds}"


def best_row(gallery: Gallery, query: Representation, code: int) -> int:
    """The gallery photograph of a landmark that is nearest by vectors; -1 where it has none."""
    rows = np.flatnonzero(gallery.codes == code)
    if not len(rows):
        return -1
    return int(rows[np.argmax(gallery.vectors[rows] @ query.vectors[0])])


@dataclass(frozen=True)
class PhotographPair:
    """The two photographs, as the describer takes them, and what is known of them.

    Attributes:
        query, gallery: (h, w, 3).
        splits: their descriptors taken apart; ``None`` where no place can be told.
    """

    query: Photograph
    gallery: Photograph
    splits: tuple[Split, Split] | None


def similarity_shares(
    describer: Describer, both: PhotographPair, gallery: Gallery
) -> Shares | None:
    """What the two photographs share by all that the gallery is searched by.

    Expansion and verification come after it.
    """
    searcher, branch = gallery.searcher, describer.local_branch
    by_vectors = None if both.splits is None else shares(*both.splits)
    if searcher.inverted is None or branch is None:
        return by_vectors
    local = _local_features(describer, (both.query, both.gallery))
    grids = [grid_of(describer, one) for one in (both.query, both.gallery)]
    by_words = word_shares(
        searcher.inverted,
        *(WordedFeatures.of(branch, one, grid) for one, grid in zip(local, grids, strict=True)),
    )
    share = searcher.config.share
    if share == 1.0:
        return by_words
    return None if by_vectors is None else mixed([(1.0 - share, by_vectors), (share, by_words)])


def verified_matches(
    describer: Describer, query: Representation, both: PhotographPair, gallery: Gallery, row: int
) -> Matches | None:
    """The local features in common, where the system verifies."""
    searcher, branch = gallery.searcher, describer.local_branch
    config = searcher.config.verification
    if config is None or branch is None or query.kept is None or searcher.kept is None:
        return None
    sides = describer.longest_side, branch.detector.longest_side
    sizes = _size_at(both.query, *sides), _size_at(both.gallery, *sides)
    return matches(query.kept.one(0), searcher.kept.one(row), sizes, config)


def _size_at(photograph: Photograph, first: int, then: int) -> tuple[int, int]:
    """(height, width) once it was shrunk for all, and for one of them."""
    height, width = shrunk_size(photograph.shape[0], photograph.shape[1], first)
    return shrunk_size(height, width, then)


def _local_features(describer: Describer, photographs: Sequence[Photograph]) -> list[LocalFeatures]:
    """The local branch's features of photographs.

    Raises:
        ExplainError: of one there are none.
    """
    small = [shrink(one, describer.longest_side) for one in photographs]
    (outcomes,) = extract([small], describer.frontend)
    found: list[LocalFeatures] = []
    for one in outcomes:
        if isinstance(one, PhotographError):
            raise ExplainError(f"it cannot be explained: {one}")
        found.append(one[1])
    return found
