"""Published protocols: which photographs are queries, what counts as right, and the figure.

INRIA Holidays (Jegou, Douze and Schmid, "Hamming embedding and weak geometric consistency", ECCV
2008): photographs are named by numbers, hundreds are groups of one scene, and the first of a group
is its query. The query is taken out of its own ranking, and the average precision is the area
under the precision-recall curve by the trapezoid rule.

Revisited Oxford and Paris (Radenovic, Iscen, Tolias, Avrithis and Chum, "Revisiting Oxford and
Paris", CVPR 2018): of each query, photographs of the database are easy, hard or junk; a setup says
which of them are sought, and which are passed over. Queries are to be cropped to their boxes.
:func:`retrieval.evaluation.ground_truth.read_revisited` reads the official files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import TableError
from retrieval.types import Flags, Integers

GROUP = 100
"""Numbers of a group of Holidays: 100400 to 100499 are one, and 100400 is its query."""

SETUPS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}
"""Of revisited Oxford and Paris: the photographs that are sought, and those passed over."""

CUTS: Final = (1, 5, 10)
"""Ranks of the mean precisions of revisited Oxford and Paris."""


@dataclass(frozen=True)
class Holidays:
    """The queries among n photographs of Holidays.

    Attributes:
        groups: (n,) int64, the group of every photograph.
        queries: (q,) int64 ascending positions of the queries: those with others in their group.
    """

    groups: Integers
    queries: Integers

    @property
    def relevant(self) -> Integers:
        """(q,) how many other photographs are in the query's group."""
        sizes = np.unique(self.groups, return_inverse=True, return_counts=True)
        counts: Integers = sizes[2][sizes[1][self.queries]] - 1
        return counts


def holidays_groups(ids: Sequence[str]) -> Holidays:
    """Queries and groups from file names without their extension, such as "100401".

    Any part of the data set will do: a query that is alone is no query, and a group whose first
    photograph is not there has none.

    Raises TableError for an id that is no number.
    """
    wrong = next((one for one in ids if not (one.isascii() and one.isdigit())), None)
    if wrong is not None:
        raise TableError(f'"{wrong}" is no number, as the ids of Holidays are: 100401, for example')
    numbers = np.array([int(one) for one in ids], dtype=np.int64)
    groups = numbers // GROUP
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return Holidays(groups, np.flatnonzero((numbers % GROUP == 0) & (sizes[inverse] > 1)))


def trapezoidal_average_precision(hits: Flags, relevant: Integers) -> NDArray[np.float64]:
    """Area under each query's precision-recall curve, by the trapezoid rule.

    A hit adds the mean of the precision just before it and at it; before the first rank that is 1.
    Holidays, INSTRE and revisited Oxford and Paris are rated so; it is a little below the sum of
    precisions at hits (:func:`retrieval.evaluation.metrics.average_precisions`).

    Args:
        hits: (q, r) whether the result at each rank is relevant.
        relevant: (q,) how many relevant results there are, found or not.

    Returns:
        (q,) of 0 to 1; 0 where nothing is relevant.
    """
    ranks = np.arange(1, hits.shape[1] + 1)
    found = np.cumsum(hits, axis=1)
    here = found / ranks
    before = np.where(ranks == 1, 1.0, (found - hits) / np.maximum(ranks - 1, 1))
    average: NDArray[np.float64] = ((here + before) / 2 * hits).sum(axis=1)
    return average / np.maximum(relevant, 1)


def holidays_average_precisions(ids: Sequence[str], rankings: Integers) -> NDArray[np.float64]:
    """(q,) average precision of the queries of :func:`holidays_groups`, in its order.

    Args:
        ids: (n,) of the photographs.
        rankings: (q, r) positions among them, best first, -1 where there is none. The query itself
            may be among them or not: it is passed over, and what follows moves up.

    Raises:
        TableError: see :func:`holidays_groups`.
        ValueError: as many rankings as queries are needed, each without repeats.
    """
    holidays = holidays_groups(ids)
    _check_rankings(rankings, len(holidays.queries))
    own = rankings == holidays.queries[:, None]
    others = np.take_along_axis(rankings, np.argsort(own, axis=1, kind="stable"), axis=1)
    group = holidays.groups[holidays.queries][:, None]
    hits = (others >= 0) & (holidays.groups[others] == group)
    hits &= others != holidays.queries[:, None]
    return trapezoidal_average_precision(hits, holidays.relevant)


def holidays_map(ids: Sequence[str], rankings: Integers) -> float:
    """Mean of :func:`holidays_average_precisions`; NaN without queries."""
    found = holidays_average_precisions(ids, rankings)
    return float(found.mean()) if len(found) else float("nan")


@dataclass(frozen=True)
class Revisited:
    """Ground truth of revisited Oxford or Paris, of q queries.

    Attributes:
        database: the photographs' names, whose places rankings speak of.
        queries: q names.
        boxes: (q, 4) left, top, right and bottom in pixels: what a query is cropped to.
        judged: "easy", "hard" and "junk": q arrays of places each.
    """

    database: Sequence[str]
    queries: Sequence[str]
    boxes: NDArray[np.float64]
    judged: Mapping[str, Sequence[Integers]]


@dataclass(frozen=True)
class RevisitedFigures:
    """What one setup came to.

    Attributes:
        average_precision: (q,) NaN for queries without positives, which no mean counts.
        precisions: (q, 3) precision at :data:`CUTS`, likewise.
    """

    average_precision: NDArray[np.float64]
    precisions: NDArray[np.float64]

    @property
    def map(self) -> float:
        """Mean average precision; NaN without queries that have positives."""
        known = ~np.isnan(self.average_precision)
        return float(self.average_precision[known].mean()) if known.any() else float("nan")

    @property
    def mean_precisions(self) -> NDArray[np.float64]:
        """(3,) mean precision at :data:`CUTS`; NaN without queries that have positives."""
        known = ~np.isnan(self.average_precision)
        if not known.any():
            return np.full(len(CUTS), np.nan)
        found: NDArray[np.float64] = self.precisions[known].mean(axis=0)
        return found


def revisited_figures(truth: Revisited, rankings: Integers) -> dict[str, RevisitedFigures]:
    """The figures of every setup, as the authors' code has them.

    What a setup passes over is taken out of the rankings first, and what follows moves up; so a
    re-ranking of the first k must take it out before it counts to k. A precision at k looks no
    further than the last positive found.

    Args:
        truth: of q queries.
        rankings: (q, r) places in the database, best first, -1 where there is none; places beyond
            it are distractors.

    Raises:
        ValueError: as many rankings as queries are needed, each without repeats.
    """
    _check_rankings(rankings, len(truth.queries))
    return {
        setup: _setup_figures(_joined(truth, sought), _joined(truth, passed), rankings)
        for setup, (sought, passed) in SETUPS.items()
    }


def _joined(truth: Revisited, kinds: Sequence[str]) -> list[Integers]:
    """Each query's places of some kinds together."""
    parts = (truth.judged[kind] for kind in kinds)
    return [np.concatenate(query) for query in zip(*parts, strict=True)]


def _setup_figures(
    sought: Sequence[Integers], passed: Sequence[Integers], rankings: Integers
) -> RevisitedFigures:
    hits: Flags = np.zeros(rankings.shape, np.bool_)
    for row, (positives, others) in enumerate(zip(sought, passed, strict=True)):
        kept = rankings[row][(rankings[row] >= 0) & ~np.isin(rankings[row], others)]
        hits[row, : len(kept)] = np.isin(kept, positives)
    relevant = np.array([len(np.unique(positives)) for positives in sought], dtype=np.int64)
    average = trapezoidal_average_precision(hits, relevant)
    found = np.cumsum(hits, axis=1)
    ranks = np.arange(1, rankings.shape[1] + 1)
    last = np.where(hits, ranks, 0).max(axis=1, initial=0)
    cuts = np.minimum(last[:, None], CUTS)
    padded = np.pad(found, ((0, 0), (1, 0)))
    precisions = np.take_along_axis(padded, cuts, axis=1) / np.maximum(cuts, 1)
    nothing = relevant == 0
    average[nothing], precisions[nothing] = np.nan, np.nan
    return RevisitedFigures(average, precisions)


def _check_rankings(rankings: Integers, queries: int) -> None:
    if len(rankings) != queries:
        raise ValueError(f"{len(rankings)} rankings for {queries} queries")
    ordered = np.sort(rankings, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a ranking has a photograph twice")
