"""What the report says of why: match maps beside examples, and what the evidence of false accepts
lies on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from retrieval.types import Photograph, Reals

THIRDS = ("upper third", "middle third", "lower third")


@dataclass(frozen=True)
class MatchMap:
    """Why a test photograph resembles its nearest gallery photograph.

    Attributes:
        similarity: that is split over the places.
        pictures: what is shown, by title: the query and the neighbour with their shares over them,
            and the query with an SVM's margin or a network's logit where there is one.
    """

    similarity: float
    pictures: Mapping[str, Photograph]


@dataclass(frozen=True)
class Evidence:
    """Where and on what the similarity of a photograph to its neighbour lies.

    Attributes:
        thirds: (3,) shares of what speaks for it, from the top.
        concepts: (k,) how much more of each concept there is where that lies than elsewhere in the
            photograph, in deviations over its places.
    """

    thirds: Reals
    concepts: Reals


@dataclass(frozen=True)
class FooledRow:
    """One place or concept: means over false accepts and over right answers.

    Attributes:
        name: of it.
        false, right: the means.
        p: chance of such a difference where there is none, corrected for the number of rows.
    """

    name: str
    false: float
    right: float
    p: float


@dataclass(frozen=True)
class Explained:
    """What was explained of an evaluation.

    Attributes:
        maps: of test rows.
        concepts: names of the concepts that the run knows.
        false, right: evidence of false accepts and of right answers.
    """

    maps: Mapping[int, MatchMap] = field(default_factory=dict)
    concepts: Sequence[str] = ()
    false: Sequence[Evidence] = ()
    right: Sequence[Evidence] = ()

    @property
    def places(self) -> list[FooledRow]:
        """By thirds of the photograph."""
        return self._rows(THIRDS, [[one.thirds for one in own] for own in (self.false, self.right)])

    @property
    def by_concept(self) -> list[FooledRow]:
        """By concept, those of which false accepts have the most first."""
        each = [[one.concepts for one in own] for own in (self.false, self.right)]
        return sorted(self._rows(self.concepts, each), key=lambda row: row.right - row.false)

    def _rows(self, names: Sequence[str], each: Sequence[Sequence[Reals]]) -> list[FooledRow]:
        from scipy.stats import ttest_ind

        from retrieval.explain.concepts import holm

        if min(map(len, each)) < 2 or not names:
            return []
        false, right = (np.array(own, np.float64) for own in each)
        # Welch's: the two kinds need not spread alike.
        chances = np.nan_to_num(ttest_ind(false, right, equal_var=False).pvalue, nan=1.0)
        return [
            FooledRow(name, float(one), float(other), p)
            for name, one, other, p in zip(
                names, false.mean(axis=0), right.mean(axis=0), holm(chances), strict=True
            )
        ]
