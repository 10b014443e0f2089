"""From a photograph to the explanation of its answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from retrieval.classifiers.base import Classifier
from retrieval.classifiers.rejection import Rejection
from retrieval.classifiers.signals import Signals
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.representation import Representation
from retrieval.errors import ExplainError, FetchError, PhotographError
from retrieval.explain import SHARES
from retrieval.explain.explanation import (
    SHOWN,
    Explanation,
    GalleryPhotograph,
    PhotographPair,
    best_row,
    similarity_shares,
    verified_matches,
)
from retrieval.explain.methods import METHODS, attribution
from retrieval.explain.split import Split
from retrieval.explain.splitting import split
from retrieval.explain.targets import Asked
from retrieval.explain.verdict import Verdict, verdict
from retrieval.index.gallery import Gallery
from retrieval.index.neighbours import Neighbours
from retrieval.photographs.given import Given, open_given
from retrieval.types import Photograph

NEIGHBOURS: Final = 50
"""Neighbours looked for, at least."""


@dataclass(frozen=True)
class Explainer:
    """What explains the answers of a system.

    Attributes:
        describer: the system's own.
        in_float32: the same with networks that have derivatives.
        gallery: of the system.
        rows: the gallery's ``id`` and ``source``, one for each descriptor.
        classifiers: by name.
        rejections: by the same names.
        answer: the name of the classifier that answers.
        name: of a landmark's id, what people call it.
    """

    describer: Describer
    in_float32: Describer
    gallery: Gallery
    rows: pd.DataFrame
    classifiers: Mapping[str, Classifier]
    rejections: Mapping[str, Rejection]
    answer: str
    name: Callable[[str], str]

    def explain(
        self, photograph: Given, against: str | None, method: str, target: str
    ) -> Explanation:
        """As :meth:`retrieval.system.System.explain`."""
        if method not in (SHARES, *METHODS):
            known = ", ".join((SHARES, *METHODS))
            raise ExplainError(f"--method {method}: there is none; there are {known}")
        own_id = "the photograph"
        if isinstance(photograph, str | os.PathLike):
            own_id = os.fspath(photograph)
        try:
            # At the size at which the run sees it, lest another descriptor be explained.
            opened = open_given(photograph, self.describer.longest_side)
        except FetchError:
            raise ExplainError(f"{own_id}: a URL: save the photograph to a file") from None
        except PhotographError as error:
            raise ExplainError(f"{own_id}: {error}") from None
        query = self._described(opened)
        splits = self._split(opened)
        verdicts = self._verdicts(query, splits)
        row = self._row(query, verdicts[0], against)
        other = self._gallery_photograph(row, self.describer.longest_side)
        their = self._split(other)
        why = splits if isinstance(splits, ExplainError) else their
        if method == SHARES and isinstance(why, ExplainError) and not self._by_words:
            raise why
        apart = (
            None
            if isinstance(splits, ExplainError) or isinstance(their, ExplainError)
            else (splits, their)
        )
        both = PhotographPair(opened, other, apart)
        found = similarity_shares(self.in_float32, both, self.gallery)
        code = int(self.gallery.codes[row])
        held = GalleryPhotograph(
            row, self._of("id", row), code, self._gallery_photograph(row, SHOWN),
            float(self.gallery.vectors[row] @ query.vectors[0]),
        )  # fmt: skip
        made = None
        if method != SHARES:
            asked = Asked(self.in_float32, opened, other, code, self.classifiers, self.answer)
            made = attribution(method, target, asked)
        spoken = {code} | {case.code for one in verdicts for case in one.cases}
        rows = {row} | {v.row for one in verdicts for case in one.cases for v in case.voters}
        return Explanation(
            id=own_id,
            photograph=open_given(photograph, SHOWN),
            against=held,
            verdicts=verdicts,
            names={one: self.name(self.gallery.landmarks[one]) for one in sorted(spoken)},
            ids={one: self._of("id", one) for one in sorted(rows)},
            sources={one: self._of("source", one) for one in sorted(rows)},
            shares=found,
            matches=verified_matches(self.in_float32, query, both, self.gallery, row),
            attribution=made,
            notes=tuple(self._notes(found is None, held, why)),
        )

    def _of(self, column: str, row: int) -> str:
        return str(self.rows[column].iloc[row])

    @property
    def _by_words(self) -> bool:
        """Whether similarities are the visual words' alone."""
        searcher = self.gallery.searcher
        return searcher.inverted is not None and searcher.config.share == 1.0

    def _described(self, photograph: Photograph) -> Representation:
        """One photograph by the run's own networks, as it is classified.

        Raises:
            PhotographError: it cannot be read or described.
        """
        ((described, errors),) = self.describer.stream([[photograph]])
        if errors[0] is not None:
            raise ExplainError(f"it cannot be explained: {errors[0]}")
        return described

    def _split(self, photograph: Photograph) -> Split | ExplainError:
        """A photograph's descriptor taken apart, or why it is not."""
        try:
            return split(self.in_float32, photograph)
        except ExplainError as error:
            return error

    def _verdicts(self, query: Representation, apart: Split | ExplainError) -> tuple[Verdict, ...]:
        """Of all classifiers, the one that answers first."""
        names = sorted(self.classifiers, key=lambda name: name != self.answer)
        wanted = max(NEIGHBOURS, *(one.neighbours for one in self.classifiers.values()))
        found = self.gallery.searcher.search(query, wanted)
        found_apart = None if isinstance(apart, ExplainError) else apart
        return tuple(
            verdict(
                name, self.classifiers[name], self.rejections[name], query,
                found.first(self.classifiers[name].neighbours or NEIGHBOURS),
                self._signals(query, found, self.rejections[name]), found_apart,
            )
            for name in names
        )  # fmt: skip

    def _signals(
        self, query: Representation, found: Neighbours, rejection: Rejection
    ) -> Signals | None:
        return Signals.of(self.gallery, query, found) if rejection.needs_signals else None

    def _row(self, query: Representation, first: Verdict, against: str | None) -> int:
        """The gallery photograph that the query is compared with.

        Raises:
            ExplainError: there is none.
        """
        if against is not None:
            found = np.flatnonzero(self.rows["id"] == against)
            if not len(found):
                raise ExplainError(
                    f"--against {against}: the gallery has no photograph of this id: landmarks list"
                    " --photographs shows them"
                )
            return int(found[0])
        row = best_row(self.gallery, query, first.cases[0].code) if first.cases else -1
        if row < 0:
            raise ExplainError(
                "none, and no landmark is a candidate: name a gallery photograph (--against)"
            )
        return row

    def _gallery_photograph(self, row: int, longest_side: int) -> Photograph:
        """Read again.

        Raises:
            ExplainError: it cannot be.
        """
        try:
            return open_given(self._of("source", row), longest_side)
        except PhotographError as error:
            which = f"{self._of('id', row)} ({self._of('source', row)})"
            raise ExplainError(
                f"gallery photograph {which} cannot be read again: {error}"
            ) from None

    def _notes(
        self, unplaced: bool, held: GalleryPhotograph, why: Split | ExplainError
    ) -> list[str]:
        notes = []
        if unplaced and isinstance(why, ExplainError):
            notes.append(str(why))
        config = self.gallery.searcher.config
        if config.expansion.queries:
            notes.append(
                "the search takes the nearest neighbours into the photograph's descriptor; what is"
                " split here is the descriptor without them"
            )
        return notes
