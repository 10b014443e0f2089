"""What an extractor is: photographs in, one unit descriptor each out, in two halves.

``features`` is the costly half, one photograph (or one dense batch) at a time, with nothing to
learn; ``aggregate`` is the cheap half, which may need something learnt from the gallery (a
codebook). The split lets a build compute the costly half once, learn from it, and go on with the
very same features. State is made by ``fit``, which returns a new extractor and never changes one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict

Photograph = NDArray[np.uint8]
Vectors = NDArray[np.float32]
Features = Any
"""What ``features`` makes of one photograph: a row of floats, or local features."""
Labels = Sequence[str | None]
"""The landmark of each photograph, missing where it shows none."""


class StrictModel(BaseModel):
    """A config's model: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _part_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w-]{0,59}", name):
        raise ValueError(
            "a name, which becomes a folder's, has at most 60 letters, digits, _ and -"
        )
    return name


def _system_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]{0,59}", name):
        raise ValueError(
            "a name, which becomes a folder's, has at most 60 letters, digits, _, - and dots, no"
            " dot first"
        )
    return name


PartName = Annotated[str, AfterValidator(_part_name)]
"""Of a classifier: a folder within the run, beside files."""
SystemName = Annotated[str, AfterValidator(_system_name)]
"""Of a system: the folder of its run."""


class FeatureMaker(Protocol):
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


@runtime_checkable
class Staged(Protocol):
    """A maker whose ``features`` comes in halves, so that a GPU and the processor overlap."""

    def prepare(self, photographs: Sequence[Photograph]) -> Any:
        """What any thread can do of a batch beforehand."""
        ...

    def start(self, prepared: Any) -> Callable[[], list[Features]]:
        """Queue a prepared batch on the device; what this gives waits for the features."""
        ...


def prepare(maker: FeatureMaker, photographs: Sequence[Photograph]) -> Any:
    """What any thread can do of describing a batch, for :func:`start`: all of it, mostly."""
    if isinstance(maker, Staged):
        return maker.prepare(photographs)
    return maker.features(photographs) if maker.threaded else photographs


def start(maker: FeatureMaker, prepared: Any) -> Callable[[], list[Features]]:
    """Begin to describe what :func:`prepare` gave; on a GPU, the calling thread's alone."""
    if isinstance(maker, Staged):
        return maker.start(prepared)
    features = prepared if maker.threaded else maker.features(prepared)
    return lambda: features


class Extractor(FeatureMaker, Protocol):
    """Photographs to unit descriptors.

    Attributes:
        dimension: numbers in a descriptor (before whitening).
        fitted: whether ``aggregate`` may be called.
    """

    @property
    def dimension(self) -> int: ...
    @property
    def fitted(self) -> bool: ...

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


class Classical:
    """What extractors share that take one photograph at a time, in any thread."""

    batched = False
    batch = 1
    threaded = True

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        return photograph.shape[0], photograph.shape[1]


class VectorExtractor:
    """The half of :class:`Extractor` shared by extractors whose features are the descriptor."""

    fitted = True

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


def unit_rows(rows: NDArray[np.floating[Any]]) -> Vectors:
    """Rows of (n, d) divided by their L2 norm; a row of zeros stays one."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Vectors = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled
