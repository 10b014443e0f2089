"""What makes features of photographs: the costly half, with nothing to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from retrieval.types import Features, Photograph


class Frontend(Protocol):
    """The costly half: photographs to features, with nothing to learn.

    Attributes:
        longest_side: photographs are to be decoded at most this large, in pixels.
        batched: whether ``features`` runs best on dense batches of one shape (a network) rather
            than on one photograph at a time (the classical ones).
        batch: photographs of a batch, at most.
        threaded: whether ``features`` may run in several threads at once (not on a GPU).
    """

    @property
    def longest_side(self) -> int: ...
    @property
    def batched(self) -> bool: ...
    @property
    def batch(self) -> int: ...
    @property
    def threaded(self) -> bool: ...

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        """The (height, width) at which the photograph is seen."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides the bytes of ``features``: config, weights' checksum, precision."""
        ...

    def features(self, photographs: Sequence[Photograph]) -> list[Features]:
        """(h, w, 3) uint8 RGB each, of one shape if ``batched``."""
        ...

    def pack(self, features: Sequence[Features]) -> dict[str, NDArray[Any]]:
        """Features as arrays, for a shard."""
        ...

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[Features]:
        """The inverse of ``pack``."""
        ...


Shared = dict[Any, Any]
"""What frontends have worked out of one batch of photographs, by what it is: another that looks at
the same batch takes it from here."""


@runtime_checkable
class Staged(Protocol):
    """A frontend whose ``features`` comes in halves, so that a GPU and the processor overlap.

    Both halves may take from ``shared`` what other frontends left there, and leave something.
    """

    def prepare(self, photographs: Sequence[Photograph], shared: Shared | None = None) -> Any:
        """What any thread can do of a batch beforehand."""
        ...

    def start(self, prepared: Any, shared: Shared | None = None) -> Callable[[], list[Features]]:
        """Queue a prepared batch on the device; what this gives waits for the features."""
        ...


def prepare(
    frontend: Frontend, photographs: Sequence[Photograph], shared: Shared | None = None
) -> Any:
    """What any thread can do of describing a batch, for :func:`start`: all of it, mostly."""
    if isinstance(frontend, Staged):
        return frontend.prepare(photographs, shared)
    return frontend.features(photographs) if frontend.threaded else photographs


def start(
    frontend: Frontend, prepared: Any, shared: Shared | None = None
) -> Callable[[], list[Features]]:
    """Begin to describe what :func:`prepare` gave; on a GPU, the calling thread's alone."""
    if isinstance(frontend, Staged):
        return frontend.start(prepared, shared)
    features = prepared if frontend.threaded else frontend.features(prepared)
    return lambda: features


class Classical:
    """What extractors share that take one photograph at a time, in any thread."""

    batched = False
    batch = 1
    threaded = True

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        return photograph.shape[0], photograph.shape[1]
