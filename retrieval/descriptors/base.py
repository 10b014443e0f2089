"""What an extractor is: photographs in, one unit descriptor each out, in two halves.

``features`` is the costly half, one photograph (or one dense batch) at a time, with nothing to
learn; ``aggregate`` is the cheap half, which may need something learnt from the gallery (a
codebook). The split lets a build compute the costly half once, learn from it, and go on with the
very same features. State is made by ``fit``, which returns a new extractor and never changes one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.frontend import Frontend
from retrieval.types import Features, Labels, Vectors, unit_rows


class Extractor(Frontend, Protocol):
    """Photographs to unit descriptors.

    Attributes:
        dimension: numbers in a descriptor (before whitening).
        fitted: whether ``aggregate`` may be called.
        whitened: whether ``fit`` learns a whitening, which can tell the photographs that it was
            learnt from.
    """

    @property
    def dimension(self) -> int: ...
    @property
    def fitted(self) -> bool: ...
    @property
    def whitened(self) -> bool: ...

    def fit(self, features: Sequence[Features], seed: int, labels: Labels | None = None) -> Self:
        """A new extractor that has learnt what ``aggregate`` needs, from labels too if given."""
        ...

    def aggregate(self, features: Sequence[Features]) -> Vectors:
        """(n, dimension) float32 unit rows; a photograph without any feature gives zeros."""
        ...

    def save(self, folder: Path) -> None:
        """Write what ``fit`` learnt (nothing, for an extractor that learns nothing)."""
        ...

    def restored(self, folder: Path) -> Self:
        """A new extractor with what ``save`` wrote; RunError where that is missing or damaged."""
        ...


class VectorExtractor:
    """The half of :class:`Extractor` shared by extractors whose features are the descriptor."""

    fitted = True
    whitened = False

    def fit(self, features: Sequence[Vectors], seed: int, labels: Labels | None = None) -> Self:
        return self

    def aggregate(self, features: Sequence[Vectors]) -> Vectors:
        return unit_rows(np.stack(features).astype(np.float32))

    def pack(self, features: Sequence[Vectors]) -> dict[str, NDArray[Any]]:
        return {"vectors": np.stack(features).astype(np.float32)} if len(features) else {}

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[Vectors]:
        return list(arrays["vectors"]) if arrays else []

    def save(self, folder: Path) -> None:
        return None

    def restored(self, folder: Path) -> Self:
        return self


def parts_of(config: Any) -> tuple[Any, ...]:
    """The configs of the extractors that a config joins; of any other, itself alone."""
    parts = getattr(config, "parts", None)
    return (config,) if parts is None else tuple(part.extractor for part in parts)


def with_parts(config: Any, change: Callable[[Any], Any]) -> Any:
    """A config with each of :func:`parts_of` changed."""
    parts = getattr(config, "parts", None)
    if parts is None:
        return change(config)
    changed = [part.model_copy(update={"extractor": change(part.extractor)}) for part in parts]
    return config.model_copy(update={"parts": tuple(changed)})
