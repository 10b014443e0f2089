"""Several frontends looking at the same photographs: each photograph is decoded once.

A joint extractor, or a system that needs a global descriptor and local features too. Frontends of
one identity give the same features, so those are computed, and stored, once. Others share what they
can of the way there (:data:`retrieval.frontend.Shared`): photographs of one size, a network's
passes, keypoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.frontend import Frontend, Shared, prepare, start
from retrieval.photographs.decoding import shrink_further, shrunk_size
from retrieval.types import Features, Photograph


@dataclass(frozen=True)
class FeatureColumn(Sequence[Features]):
    """One frontend's features out of several frontends' tuples, read only when asked for.

    Attributes:
        rows: a tuple a photograph; features that lie on disk may be behind it.
        place: of the frontend.
    """

    rows: Sequence[Features]
    place: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, photograph: Any) -> Any:
        if isinstance(photograph, slice):
            return FeatureColumn(self.rows[photograph], self.place)
        return self.rows[photograph][self.place]

    def __iter__(self) -> Iterator[Features]:
        return (row[self.place] for row in self.rows)


@dataclass(frozen=True)
class JointFrontend:
    """Frontends side by side: a photograph's features are a tuple, an entry for each.

    Photographs come at the largest size that any frontend wants, and each gets them shrunk to its
    own. Networks among them are fed in dense batches, and the others along with them.

    Attributes:
        frontends: at least one.
    """

    frontends: tuple[Frontend, ...]

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """For each frontend, the place of the first that has its identity: itself, mostly."""
        identities = [frontend.identity() for frontend in self.frontends]
        return tuple(identities.index(identity) for identity in identities)

    @property
    def longest_side(self) -> int:
        return max(frontend.longest_side for frontend in self.frontends)

    @property
    def batched(self) -> bool:
        return any(frontend.batched for frontend in self.frontends)

    @property
    def batch(self) -> int:
        return min((frontend.batch for frontend in self.frontends if frontend.batched), default=1)

    @property
    def threaded(self) -> bool:
        return all(frontend.threaded for frontend in self.frontends)

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        """The (height, width) by which photographs share a batch.

        That of the batched frontend where there is one; several may each see photographs in shapes
        of their own, which all agree where the photographs' own size does.
        """
        size = photograph.shape[0], photograph.shape[1]
        networks = [frontend for place, frontend in self._distinct() if frontend.batched]
        if len(networks) != 1:
            return size
        # Only the size is asked for: no pixel needs to be resized for it.
        shrunk = shrunk_size(*size, networks[0].longest_side)
        return networks[0].shape(np.broadcast_to(np.uint8(0), (*shrunk, 3)))

    def identity(self) -> dict[str, Any]:
        return {"several": [frontend.identity() for frontend in self.frontends]}

    def features(self, photographs: Sequence[Photograph]) -> list[Features]:
        """A tuple for each photograph."""
        return self.start(self.prepare(photographs))()

    def prepare(
        self, photographs: Sequence[Photograph], shared: Shared | None = None
    ) -> tuple[dict[int, Any], Shared]:
        """By distinct frontend; and what they share."""
        shared = {} if shared is None else shared
        given = tuple(one.shape for one in photographs)
        prepared = {}
        for place, frontend in self._distinct():
            size = given, frontend.longest_side
            if size not in shared:
                shared[size] = [shrink_further(one, frontend.longest_side) for one in photographs]
            prepared[place] = prepare(frontend, shared[size], shared)
        return prepared, shared

    def start(
        self, prepared: tuple[Mapping[int, Any], Shared], shared: Shared | None = None
    ) -> Callable[[], list[Features]]:
        """Networks on a GPU queue one behind the other."""
        each, shared = prepared
        running = {
            place: start(frontend, each[place], shared) for place, frontend in self._distinct()
        }
        return lambda: self._rows({place: wait() for place, wait in running.items()})

    def pack(self, features: Sequence[Features]) -> dict[str, NDArray[Any]]:
        """The frontends' arrays, each name prefixed with its frontend's place."""
        return {
            f"{place}.{name}": array
            for place, frontend in self._distinct()
            for name, array in frontend.pack([row[place] for row in features]).items()
        }

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[Features]:
        columns = {}
        for place, frontend in self._distinct():
            start = f"{place}."
            own = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
            columns[place] = frontend.unpack(own)
        return self._rows(columns)

    def _distinct(self) -> list[tuple[int, Frontend]]:
        """The frontends whose features are computed, with their places."""
        return [(place, self.frontends[place]) for place in sorted(set(self.firsts))]

    def _rows(self, columns: Mapping[int, Sequence[Features]]) -> list[Features]:
        """Features by distinct frontend to a tuple a photograph."""
        return list(zip(*(columns[first] for first in self.firsts), strict=True))
