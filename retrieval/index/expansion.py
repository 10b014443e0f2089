"""Queries and galleries enriched by their neighbours, and rankings by what a vote has said.

* Alpha query expansion: a query is replaced by the sum of itself and its nearest gallery rows,
  each weighed by its similarity to the power alpha. Radenović, Tolias and Chum, "Fine-tuning CNN
  image retrieval with no human annotation" (TPAMI 2018), section 3.4.
* Database-side augmentation: the same done once to every gallery row, with the row itself in the
  query's place. Turcot and Lowe, "Better matching with fewer features" (ICCV workshops 2009), for
  words; Gordo et al., "End-to-end learning of deep visual representations for image retrieval"
  (IJCV 2017), for vectors.
* Discriminative re-ranking: photographs of the landmark that a query was recognised as come first.
  Ozaki and Yokoo, "Large-scale landmark retrieval/recognition under a noisy and diverse dataset"
  (2019), section 3.3.

An augmented gallery knows a photograph even without its row, since its neighbours took it in.
:class:`DatabaseAugmentation` can therefore leave one out again, as if it had never been in the
gallery.

Rows are summed element by element in a settled order, so that a photograph's sum is the same to
the bit whatever the batch it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from pydantic import Field

from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.neighbours import Neighbours, VectorIndex
from retrieval.types import Flags, Integers, StrictModel, Vectors, unit_rows

NUMBERS: Final = 1 << 23
"""Numbers worked on at a time: about 200 MB with the copies."""
QUERIES: Final = 1024
"""Queries whose rankings are made anew at a time."""
GAP: Final = 2.0**-6
"""Between photographs of the predicted landmark and others that had to be put below them."""


class ExpansionConfig(StrictModel):
    """How many neighbours enrich queries and gallery, and how they are weighed.

    Attributes:
        queries: a query takes in its first this many neighbours; 0 for none.
        gallery: a gallery row takes in its first this many neighbours; 0 for none. At most 2,046,
            since two more are sought, to leave out the row itself and one other.
        alpha: the power of a similarity that is its weight; 0 weighs all the same. 3 as Radenović
            et al. chose.
    """

    queries: int = Field(default=0, ge=0, le=2048)
    gallery: int = Field(default=0, ge=0, le=2046)
    alpha: float = Field(default=3.0, ge=0.0, le=20.0)


def expand(
    queries: Vectors, neighbours: Neighbours, descriptors: Vectors, config: ExpansionConfig
) -> Vectors:
    """Queries that have taken in their nearest neighbours.

    Args:
        queries: (q, d) unit rows.
        neighbours: theirs, of which the first ``config.queries`` are used, or all where there are
            fewer; rows of -1 and similarities below 0 weigh nothing. Their similarities are the
            weights: a bonus added in verification makes a neighbour weigh more.
        descriptors: (n, d) unit rows of the gallery that was searched, possibly memory-mapped.

    Returns:
        (q, d) float32 unit rows; the queries as they are with ``config.queries`` 0.
    """

    def rows_of(_: Integers, rows: Integers) -> Vectors:
        return np.asarray(descriptors[rows])

    return _expanded(queries, _first(neighbours, config.queries), config.alpha, rows_of)


def without_self(found: Neighbours, own: Integers) -> Neighbours:
    """Take each query's own row out of its (q, k + 1) neighbours, which leaves k.

    The own row need not come first, since a copy of the photograph is as similar, nor be there at
    all, with more copies than neighbours or an approximate index; then the last column goes.
    """
    keep = found.rows != own[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (len(own), found.rows.shape[1] - 1)
    return Neighbours(found.rows[keep].reshape(shape), found.similarities[keep].reshape(shape))


@dataclass(frozen=True)
class DatabaseAugmentation:
    """What every gallery row takes in.

    Attributes:
        config: with ``gallery`` the neighbours taken in, c.
        descriptors: (n, d) float32 unit rows as described, possibly memory-mapped.
        nearest: (n, c + 1) each row's nearest others. The last one is only taken in where another
            is left out.
    """

    config: ExpansionConfig
    descriptors: Vectors
    nearest: Neighbours

    @classmethod
    def of(cls, descriptors: Vectors, index: VectorIndex, config: ExpansionConfig) -> Self:
        """Search for every row's neighbours in an index of these very rows."""
        shape = (len(descriptors), config.gallery + 1)
        rows = np.full(shape, -1, dtype=np.int64)
        similarities = np.full(shape, -np.inf, dtype=np.float32)
        blocks = _blocks(len(descriptors), descriptors.shape[1] + shape[1])
        for here in blocks if config.gallery else ():
            found = index.search(np.asarray(descriptors[here]), shape[1] + 1)
            found = without_self(found, np.arange(here.start, here.stop))
            rows[here], similarities[here] = found.rows, found.similarities
        return cls(config, descriptors, Neighbours(rows, similarities))

    def __len__(self) -> int:
        return len(self.descriptors)

    def blocks(self) -> Iterator[Vectors]:
        """The augmented rows, (any, d) float32 unit rows at a time, to be written or indexed."""
        for here in _blocks(len(self), self.descriptors.shape[1]):
            near = _first(_at(self.nearest, here), self.config.gallery)
            yield self._rows(np.arange(here.start, here.stop), near)

    def rows(self) -> Vectors:
        """(n, d) float32, all augmented rows."""
        rows = np.empty(self.descriptors.shape, dtype=np.float32)
        start = 0
        for block in self.blocks():
            rows[start : start + len(block)] = block
            start += len(block)
        return rows

    def rows_without(self, chosen: Integers, left_out: Integers) -> Vectors:
        """The augmented rows that some photographs would have if another were not there.

        Args:
            chosen: (p,) gallery rows.
            left_out: (p,) for each, the gallery row that is left out, another one.

        Returns:
            (p, d) float32 unit rows, as from a gallery without the row that is left out: where it
            had been taken in, the next nearest is instead.
        """
        return self._rows(chosen, without_self(_at(self.nearest, chosen), left_out))

    def search_without(
        self, index: VectorIndex, queries: Vectors, own: Integers, k: int
    ) -> Neighbours:
        """The k nearest augmented rows of each query in a gallery without one photograph.

        Exact with an exact index: only rows that took the photograph in depend on it. They are
        left out of what the index finds, computed anew and compared.

        Args:
            index: of the augmented rows.
            queries: (q, d) unit rows.
            own: (q,) for each, the gallery row that is left out.
            k: at most as many as the index can find; on a GPU, where that is 2,048, a photograph
                that nearly as many others took in may have farther rows in nearer ones' place.

        Returns:
            (q, k) as of :meth:`FaissIndex.search`.
        """
        rows = np.empty((len(queries), k), dtype=np.int64)
        similarities = np.empty((len(queries), k), dtype=np.float32)
        for start in range(0, len(queries), QUERIES):
            here = slice(start, start + QUERIES)
            found = self._search_without(index, np.asarray(queries[here]), own[here], k)
            rows[here], similarities[here] = found.rows, found.similarities
        return Neighbours(rows, similarities)

    def expand_without(self, queries: Vectors, own: Integers, neighbours: Neighbours) -> Vectors:
        """:func:`expand` in a gallery without one photograph.

        Args:
            queries: (q, d) unit rows.
            own: (q,) for each, the gallery row that is left out.
            neighbours: theirs by :meth:`search_without`.

        Returns:
            (q, d) float32 unit rows.
        """

        def rows_of(which: Integers, rows: Integers) -> Vectors:
            return self.rows_without(rows, own[which])

        near = _first(neighbours, self.config.queries)
        return _expanded(queries, near, self.config.alpha, rows_of)

    def similarities_without(self, queries: Vectors, own: Integers, rows: Integers) -> Vectors:
        """Similarities of queries to some augmented rows in a gallery without one photograph.

        Args:
            queries: (q, d) unit rows.
            own: (q,) for each, the gallery row that is left out.
            rows: (q, c) others; -1 for none.

        Returns:
            (q, c) float32; -inf for rows of -1.
        """
        similarities = np.full(rows.shape, -np.inf, dtype=np.float32)
        query, column = np.nonzero(rows >= 0)
        for here in _blocks(len(query), queries.shape[1]):
            one, place = query[here], column[here]
            others = self.rows_without(rows[one, place], own[one])
            similarities[one, place] = np.einsum("pd,pd->p", queries[one], others)
        return similarities

    def _rows(self, chosen: Integers, near: Neighbours) -> Vectors:
        def rows_of(_: Integers, rows: Integers) -> Vectors:
            return np.asarray(self.descriptors[rows])

        return _expanded(np.asarray(self.descriptors[chosen]), near, self.config.alpha, rows_of)

    def _search_without(
        self, index: VectorIndex, queries: Vectors, own: Integers, k: int
    ) -> Neighbours:
        takers = self._takers(own)
        wanted = min(k + 1 + takers.shape[1], index.most_neighbours)
        found = index.search(queries, wanted)
        # A row is looked at where it first stands: takers as computed anew, then the others.
        rows = np.concatenate((own[:, None], takers, found.rows), axis=1)
        similarities = np.concatenate(
            (
                np.full((len(own), 1), -np.inf, dtype=np.float32),
                self.similarities_without(queries, own, takers),
                found.similarities,
            ),
            axis=1,
        )
        gone = _repeated(rows)
        gone[:, 0] = True
        rows[gone], similarities[gone] = -1, -np.inf
        return _ranked(rows, similarities, k)

    def _takers(self, own: Integers) -> Integers:
        """(q, most) the rows that took each of some photographs in, ascending; -1 pads."""
        photographs, which = np.unique(own, return_inverse=True)
        taken, takers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for here in _blocks(len(self), self.config.gallery + 1):
            near = self.nearest.rows[here, : self.config.gallery]
            row, column = np.nonzero(np.isin(near, photographs))
            taken.append(np.searchsorted(photographs, near[row, column]))
            takers.append(row + here.start)
        photograph, taker = np.concatenate(taken), np.concatenate(takers)
        order = np.argsort(photograph, kind="stable")
        photograph = photograph[order]
        place = np.arange(len(order)) - np.searchsorted(photograph, photograph)
        table = np.full((len(photographs), place.max(initial=-1) + 1), -1, dtype=np.int64)
        table[photograph, place] = taker[order]
        return table[which]


@dataclass(frozen=True)
class Members:
    """The photographs of every landmark.

    Attributes:
        codes: (n,) int64 each gallery row's landmark, negative for a row without one.
        order: (n,) int64 rows by landmark, ascending within one.
        starts: (landmarks + 1,) int64 where in ``order`` each landmark begins.
    """

    codes: Integers
    order: Integers
    starts: Integers

    @classmethod
    def of(cls, codes: Integers) -> Self:
        order = np.argsort(codes, kind="stable")
        landmarks = np.arange(codes.max(initial=-1) + 2)
        return cls(codes, order, np.searchsorted(codes, landmarks, sorter=order))

    def rows(self, landmark: int) -> Integers:
        """(m,) the rows of a landmark, ascending; none for one that the gallery does not have."""
        if not 0 <= landmark < len(self.starts) - 1:
            return self.order[:0]
        return self.order[self.starts[landmark] : self.starts[landmark + 1]]


def augmented_index(
    rows: Vectors, config: ExpansionConfig, build: Callable[[Vectors], FaissIndex]
) -> tuple[FaissIndex, Vectors, DatabaseAugmentation | None]:
    """An index of rows that fit into memory, augmented where the config says so.

    Args:
        rows: (n, d) unit rows.
        config: what rows take in; nothing where ``gallery`` is 0.
        build: makes an index of such rows.

    Returns:
        the index, the rows that it holds, and what they took in, or ``None`` if nothing.
    """
    index = build(rows)
    if not config.gallery:
        return index, rows, None
    augmentation = DatabaseAugmentation.of(rows, index, config)
    rows = augmentation.rows()
    return build(rows), rows, augmentation


def rerank_by_label(
    neighbours: Neighbours,
    members: Members,
    predicted: Integers,
    accepted: Flags,
    queries: Vectors,
    descriptors: Vectors,
) -> Neighbours:
    """Rankings with the photographs of the predicted landmark first.

    Those among the neighbours come first, in their order; then the landmark's other photographs,
    by similarity to the query; then the other neighbours, in their order. The ranking stays as
    long as it was, so that the last ones may drop out. A query that is not accepted, or whose
    landmark has no photograph here, keeps its ranking.

    Similarities stay descending: where one of these three groups does not lie below the group
    before it, all of its similarities are lowered by one number, so that it begins :data:`GAP`
    below. Neighbours of the landmark thus keep theirs. Lowered ones only say the order; take any
    vote before.

    Args:
        neighbours: (q, k) of q queries.
        members: the gallery's landmarks.
        predicted: (q,) the landmark's code, -1 for none.
        accepted: (q,) whether the prediction is trusted.
        queries: (q, d) unit rows, as searched with.
        descriptors: (n, d) unit rows, as searched in, possibly memory-mapped. Only those of
            predicted landmarks are read, one landmark at a time.

    Returns:
        (q, k), ties by row.
    """
    rows, similarities = neighbours.rows.copy(), neighbours.similarities.copy()
    trusted = np.flatnonzero(accepted & (predicted >= 0))
    for landmark in np.unique(predicted[trusted]):
        own = members.rows(int(landmark))
        if not len(own) or not rows.shape[1]:
            continue
        index = FaissIndex.build(np.asarray(descriptors[own]), IndexConfig())
        asking = trusted[predicted[trusted] == landmark]
        for start in range(0, len(asking), QUERIES):
            here = asking[start : start + QUERIES]
            # The k nearest are enough: as many of them are new as the ranking has room for.
            near = index.search(np.asarray(queries[here]), rows.shape[1])
            near = Neighbours(np.where(near.rows < 0, -1, own[near.rows]), near.similarities)
            shown = members.codes[rows[here]] == landmark  # rows of -1 drop out later
            ranked = _landmark_first(_at(neighbours, here), shown, near)
            rows[here], similarities[here] = ranked.rows, ranked.similarities
    return Neighbours(rows, similarities)


def _landmark_first(found: Neighbours, shown: Flags, near: Neighbours) -> Neighbours:
    """(u, k) neighbours, which of them show the landmark, and its (u, k) nearest photographs."""
    rows = np.concatenate((found.rows, near.rows), axis=1)
    similarities = np.concatenate((found.similarities, near.similarities), axis=1)
    group = np.concatenate((np.where(shown, 0, 2), np.ones_like(near.rows)), axis=1)
    gone = _repeated(rows)
    rows[gone], similarities[gone], group[gone] = -1, -np.inf, -1
    floor = np.full(len(rows), np.inf)
    for one in range(3):
        inside = group == one
        top = np.where(inside, similarities, -np.inf).max(axis=1)
        lowered = np.where(top >= floor, floor - GAP - top, 0.0).astype(np.float32)
        similarities = np.where(inside, similarities + lowered[:, None], similarities)
        floor = np.minimum(floor, np.where(inside, similarities, np.inf).min(axis=1))
    return _ranked(rows, similarities, found.rows.shape[1])


def _expanded(
    queries: Vectors,
    near: Neighbours,
    alpha: float,
    rows_of: Callable[[Integers, Integers], Vectors],
) -> Vectors:
    """Unit sums of queries and all their neighbours.

    ``rows_of`` is given (p,) positions of queries and (p,) rows, one for each, to be had as
    (p, d) vectors.
    """
    if not near.rows.shape[1]:
        return np.array(queries, dtype=np.float32)
    expanded = np.empty(queries.shape, dtype=np.float32)
    for here in _blocks(len(queries), queries.shape[1]):
        rows, similarities = near.rows[here], near.similarities[here]
        weights = np.maximum(similarities, 0.0).astype(np.float64) ** alpha
        weights[(rows < 0) | ~(similarities > 0)] = 0.0
        total = np.asarray(queries[here]).astype(np.float64)
        for weight, row in zip(weights.T, rows.T, strict=True):
            kept = np.flatnonzero(weight)
            total[kept] += weight[kept, None] * rows_of(kept + here.start, row[kept])
        expanded[here] = unit_rows(total)
    return expanded


def _repeated(rows: Integers) -> Flags:
    """(q, c) whether a row is -1 or stands further left in the same line as well."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    again = ordered < 0
    again[:, 1:] |= ordered[:, 1:] == ordered[:, :-1]
    repeated = np.empty_like(again)
    np.put_along_axis(repeated, order, again, axis=1)
    return repeated


def _ranked(rows: Integers, similarities: Vectors, k: int) -> Neighbours:
    """The first k by falling similarity, ties by row, rows of -1 last."""
    order = np.lexsort((rows, -similarities, rows < 0), axis=1)[:, :k]
    return Neighbours(
        np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarities, order, axis=1)
    )


def _first(neighbours: Neighbours, columns: int) -> Neighbours:
    return Neighbours(neighbours.rows[:, :columns], neighbours.similarities[:, :columns])


def _at(neighbours: Neighbours, queries: Integers | slice) -> Neighbours:
    return Neighbours(neighbours.rows[queries], neighbours.similarities[queries])


def _blocks(count: int, numbers: int) -> Iterator[slice]:
    """Slices over rows of so many numbers each, of :data:`NUMBERS` at a time."""
    step = max(1, NUMBERS // max(numbers, 1))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
