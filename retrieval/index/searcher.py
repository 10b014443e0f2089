"""A gallery to be searched: by descriptors, by visual words or by both; expanded, and verified.

The steps of a search, each of which is there only if its part is:

1. the nearest rows by descriptors (FAISS);
2. the query takes in its first few neighbours, and the nearest rows are looked for again;
3. the rows that are most similar by visual words join them, and a row's similarity becomes
   ``(1 − share) * by descriptors + share * by words``;
4. the first few are verified: inliers of the local features raise a row's similarity. A query
   whose answer is plain without is left as it is, where that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
from pydantic import Field

from retrieval.descriptors.representation import Representation
from retrieval.index.early_exit import PLENTY, EarlyExit
from retrieval.index.expansion import DatabaseAugmentation, ExpansionConfig, expand, without_self
from retrieval.index.inverted_file import InvertedFile
from retrieval.index.neighbours import Neighbours, VectorIndex
from retrieval.index.verification import VerificationConfig, count_inliers, rerank
from retrieval.local.features import LocalFeatures
from retrieval.threads import in_threads
from retrieval.types import Integers, StrictModel, Vectors

BLOCK: Final = 256
"""Queries searched for at a time, where more than FAISS is asked …"""
SIMILARITIES: Final = 1 << 24
"""… or fewer, lest they have more similarities by words than this: 64 MB, and twice that sorted."""
CANDIDATES: Final = 100
"""Rows that descriptors and words each propose at least, where both are asked."""
RECENT: Final = 4096
"""Photographs whose local features stay in memory once they are described again."""


class SearchConfig(StrictModel):
    """How a gallery is searched, besides by the vectors' index.

    Attributes:
        share: of the similarity by visual words, where there are any; the descriptors' is the rest.
        verification: how the first few neighbours are verified, or ``None``.
        stored: whether the gallery's kept features are stored; otherwise its photographs are read
            and described again when they are to be verified.
        expansion: how queries and gallery take in neighbours.
    """

    share: float = Field(0.5, ge=0.0, le=1.0)
    verification: VerificationConfig | None = None
    stored: bool = True
    expansion: ExpansionConfig = ExpansionConfig()


PLAIN: Final = SearchConfig()


class KeptSource(Protocol):
    """Where the gallery's local features come from."""

    def one(self, row: int) -> LocalFeatures: ...


@dataclass(frozen=True)
class Searcher:
    """n photographs to be found.

    Attributes:
        index: of their vectors.
        vectors: (n, d) float32 the rows that the index holds, possibly memory-mapped.
        inverted: of their visual words, or ``None``.
        kept: their local features, or ``None``.
        config: of the steps.
        augmentation: what the rows of the index took in, where they did and photographs are left
            out again (held-out scoring); ``None`` elsewhere.
        early_exit: which queries are not verified; ``None``: all are.
    """

    index: VectorIndex
    vectors: Vectors
    inverted: InvertedFile | None = None
    kept: KeptSource | None = None
    config: SearchConfig = PLAIN
    augmentation: DatabaseAugmentation | None = None
    early_exit: EarlyExit | None = None

    @classmethod
    def of(cls, index: Searcher | VectorIndex, vectors: Vectors) -> Searcher:
        """A bare index of vectors as a searcher; a searcher as it is."""
        return index if isinstance(index, Searcher) else cls(index, vectors)

    def __len__(self) -> int:
        return len(self.index)

    def search(
        self,
        queries: Representation | Vectors,
        k: int,
        own: Integers | None = None,
        bank_own: Integers | None = None,
    ) -> Neighbours:
        """The k most similar rows of each query.

        Args:
            queries: q photographs; bare vectors where nothing else is searched by.
            k: rows wanted.
            own: (q,) the row of each query itself, which is not to be found; ``None`` where
                queries are no rows.
            bank_own: (q,) the row of each query itself in the bank, likewise: of the bank, the
                early exit alone takes notice.

        Returns:
            (q, k) neighbours, or as many columns as there are rows to find.
        """
        asked = Representation.of(queries)
        config = self.config
        if self.inverted is None and config.verification is None and not config.expansion.queries:
            return self._by_vectors(asked.vectors, k, own)
        step = BLOCK if self.inverted is None else min(BLOCK, SIMILARITIES // len(self) + 1)
        rows = own, bank_own
        found = [
            self._search(asked[here], k, *(None if one is None else one[here] for one in rows))
            for here in (slice(i, i + step) for i in range(0, max(len(asked), 1), step))
        ]
        bonuses = [one.bonus for one in found if one.bonus is not None]
        return Neighbours(
            np.concatenate([one.rows for one in found]),
            np.concatenate([one.similarities for one in found]),
            np.concatenate(bonuses) if bonuses else None,
        )

    def _search(
        self, queries: Representation, k: int, own: Integers | None, bank_own: Integers | None
    ) -> Neighbours:
        verification = self.config.verification
        wanted = k if verification is None else max(k, verification.top)
        expanded = queries
        if self.config.expansion.queries:
            expanded = replace(queries, vectors=self._expanded(queries.vectors, own))
        if self.inverted is None:
            found = self._by_vectors(expanded.vectors, wanted, own)
        else:
            found = self._by_both(expanded, wanted, own)
        if verification is not None:
            found = self._verified(queries, found, own, bank_own, verification)
        return found.first(k)

    def _expanded(self, vectors: Vectors, own: Integers | None) -> Vectors:
        near = self._by_vectors(vectors, self.config.expansion.queries, own)
        if own is not None and self.augmentation is not None:
            return self.augmentation.expand_without(vectors, own, near)
        return expand(vectors, near, self.vectors, self.config.expansion)

    def _by_vectors(self, vectors: Vectors, k: int, own: Integers | None) -> Neighbours:
        if own is None:
            return self.index.search(vectors, k)
        if self.augmentation is not None:
            return self.augmentation.search_without(self.index, vectors, own, k)
        return without_self(self.index.search(vectors, k + 1), own)

    def _by_both(self, queries: Representation, k: int, own: Integers | None) -> Neighbours:
        """Of the first by vectors and the first by words, the most similar by both."""
        assert self.inverted is not None
        if queries.words is None:
            raise ValueError("this gallery is searched by words: describe queries by its describer")
        by_words = self.inverted.similarities(queries.words)
        many = min(max(k, CANDIDATES) + 1, len(self))
        proposed = np.argpartition(-by_words, many - 1, axis=1)[:, :many].astype(np.int64)
        if self.config.share < 1.0:
            others = many if own is None else many - 1
            near = self._by_vectors(queries.vectors, others, own).rows
            proposed = np.concatenate([proposed, near], axis=1)
        proposed.sort(axis=1)
        usable = proposed >= 0
        usable[:, 1:] &= proposed[:, 1:] != proposed[:, :-1]
        if own is not None:
            usable &= proposed != own[:, None]
        proposed = np.where(usable, proposed, -1)
        scores = self.config.share * np.take_along_axis(by_words, np.maximum(proposed, 0), axis=1)
        if self.config.share < 1.0:
            scores += (1.0 - self.config.share) * self._similarities(queries.vectors, proposed, own)
        scores[proposed < 0] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ranked = np.take_along_axis(scores, order, axis=1).astype(np.float32)
        rows = np.take_along_axis(proposed, order, axis=1)
        return Neighbours(np.where(np.isfinite(ranked), rows, -1), ranked)

    def _similarities(self, vectors: Vectors, rows: Integers, own: Integers | None) -> Vectors:
        """(q, c) by descriptors, of queries to (q, c) rows; of no meaning for rows of -1."""
        if own is not None and self.augmentation is not None:
            return self.augmentation.similarities_without(vectors, own, rows)
        pairs = zip(vectors, rows, strict=True)
        found = [np.asarray(self.vectors[theirs]) @ query for query, theirs in pairs]
        return np.array(found, dtype=np.float32).reshape(rows.shape)

    def _verified(
        self,
        queries: Representation,
        found: Neighbours,
        own: Integers | None,
        bank_own: Integers | None,
        config: VerificationConfig,
    ) -> Neighbours:
        if self.kept is None or (queries.kept is None and own is None):
            raise ValueError("this gallery is verified: describe queries by its describer")
        near, kept, source = found.rows[:, : config.top], queries.kept, self.kept
        plain = np.zeros(len(found), dtype=np.bool_)
        if self.early_exit is not None:
            first = found.first(config.top)
            plain = self.early_exit.plain(queries.vectors, first, bank_own)

        def features(query: int) -> LocalFeatures:
            # Of gallery photographs nothing is kept beside their vectors where it is not stored.
            if kept is not None:
                return kept.one(query)
            assert own is not None
            return source.one(int(own[query]))

        def inliers(query: int) -> Integers:
            counts = np.zeros(near.shape[1], np.int64)
            if plain[query]:
                counts[0] = PLENTY
                return counts
            there = np.flatnonzero(near[query] >= 0)
            others = [source.one(int(row)) for row in near[query][there]]
            counts[there] = count_inliers(features(query), others, config)
            return counts

        counted = list(in_threads(inliers, range(len(found))))
        return rerank(found, np.array(counted, dtype=np.int64).reshape(near.shape), config)


class Recomputed:
    """Local features of gallery photographs that are not stored, described when they are needed.

    Args:
        sources: of the photographs, by row.
        keep: a photograph's kept features from its source; none where it cannot be read any more.
    """

    def __init__(self, sources: Sequence[str], keep: Callable[[str], LocalFeatures]):
        self._recent = lru_cache(maxsize=RECENT)(lambda row: keep(sources[row]))

    def one(self, row: int) -> LocalFeatures:
        return self._recent(row)
