"""A fitted extractor with its whitening: photographs to the descriptors that the index holds."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrieval.errors import DescribeError, PhotographError, failure
from retrieval.extractors.base import Extractor, Features, Photograph, Vectors
from retrieval.extractors.extraction import WINDOW, Outcome, extract
from retrieval.extractors.whitening import Whitening, WhiteningConfig
from retrieval.index.store import OK, Shard, ShardStore
from retrieval.photographs.table import STRING

Progress = Callable[[int, int], None]
ToArrays = Callable[[list[Features]], tuple[Mapping[str, Any], list[str]]]

NO_FEATURES: Final = "nothing to describe (no keypoint, or a blank photograph)"


def no_progress(rows: int, failed: int) -> None:
    """For callers who do not watch."""


@dataclass(frozen=True)
class Describer:
    """Photographs to unit descriptors.

    Attributes:
        extractor: fitted.
        whitening: or ``None``, and descriptors stay as the extractor makes them.
    """

    extractor: Extractor
    whitening: Whitening | None

    @property
    def dimension(self) -> int:
        return self.extractor.dimension if self.whitening is None else self.whitening.dimension

    @property
    def longest_side(self) -> int:
        return self.extractor.longest_side

    @classmethod
    def fit(
        cls,
        extractor: Extractor,
        features: Sequence[Features],
        whitening: WhiteningConfig | None,
        seed: int,
    ) -> Describer:
        """Learn the extractor's own state, then the whitening, from the same features."""
        fitted = extractor.fit(features, seed)
        if whitening is None:
            return cls(fitted, None)
        rows = fitted.aggregate(features)
        seen = rows[np.linalg.norm(rows, axis=1) > 0]
        return cls(fitted, Whitening.fit(seen, whitening, seed))

    def describe(self, photographs: Sequence[Photograph]) -> Vectors:
        """Describe RGB photographs (h, w, 3) of any sizes.

        Returns:
            (n, dimension) float32 unit rows; zeros for a photograph without any feature.
        """
        (outcomes,) = extract([photographs], self.extractor)
        return self.finish_outcomes(outcomes)

    def finish_outcomes(self, outcomes: Sequence[Outcome]) -> Vectors:
        """:meth:`finish`, with zeros in place of the photographs that failed."""
        good = [i for i, one in enumerate(outcomes) if not isinstance(one, PhotographError)]
        described = np.zeros((len(outcomes), self.dimension), dtype=np.float32)
        if good:
            described[good] = self.finish([outcomes[i] for i in good])
        return described

    def finish(self, features: Sequence[Features]) -> Vectors:
        """The cheap half: features to (n, dimension) descriptors."""
        rows = self.extractor.aggregate(features)
        if self.whitening is None:
            return rows
        # A photograph without features must not become the whitened mean's mirror image.
        there = np.linalg.norm(rows, axis=1, keepdims=True) > 0
        described: Vectors = self.whitening.apply(rows) * there
        return described

    def save(self, folder: Path) -> None:
        """Write what was learnt, below ``extractor`` and ``whitening``."""
        self.extractor.save(folder / "extractor")
        if self.whitening is not None:
            self.whitening.save(folder / "whitening")

    @classmethod
    def load(cls, folder: Path, extractor: Extractor, whitened: bool) -> Describer:
        """The inverse of ``save``, for an extractor built from the run's config."""
        whitening = Whitening.load(folder / "whitening") if whitened else None
        return cls(extractor.restored(folder / "extractor"), whitening)


@dataclass(frozen=True)
class Described:
    """A table with what became of each row.

    Attributes:
        table: the image table, and ``status`` and ``reason`` of each row.
        descriptors: (ok, d) float32 of the rows whose status is ``ok``, in order.
        seconds_per_image: the time that describing took, or 0 if none was described.
        digest: fingerprint of all of it.
    """

    table: pd.DataFrame
    descriptors: Vectors
    seconds_per_image: float
    digest: str

    @property
    def ok(self) -> pd.DataFrame:
        """The rows that went well, as many as there are descriptors."""
        return self.table[self.table["status"] == OK].reset_index(drop=True)


def table_digest(table: pd.DataFrame) -> str:
    """A fingerprint of a table's photographs: ids, and their files' sizes and times."""
    digest = hashlib.sha256()
    for name, source in zip(table["id"], table["source"], strict=True):
        path = Path(source)
        stat = path.stat() if path.is_file() else None
        facts = [name, stat.st_size, stat.st_mtime_ns] if stat else [name]
        digest.update(json.dumps(facts).encode() + b"\n")
    return digest.hexdigest()[:16]


class KnownFeatures(Mapping[int, Outcome]):
    """Features that lie in a store, by their position in a larger table, read shard by shard.

    Args:
        extractor: that made them.
        store: filled by :func:`extract_table` from the rows at ``positions``.
        positions: (n,) of the store's rows in the larger table, ascending.
    """

    def __init__(self, extractor: Extractor, store: ShardStore, positions: NDArray[np.int64]):
        self._extractor = extractor
        self._store = store
        self._places = {int(position): place for place, position in enumerate(positions)}
        self._shard: tuple[int, list[Outcome]] = (-1, [])

    def __getitem__(self, position: int) -> Outcome:
        number, row = divmod(self._places[position], WINDOW)
        if number != self._shard[0]:
            self._shard = (number, _outcomes(self._extractor, self._store.read(number)))
        return self._shard[1][row]

    def __contains__(self, position: object) -> bool:
        return position in self._places

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _outcomes(extractor: Extractor, shard: Shard) -> list[Outcome]:
    """A shard's features, an error in place of each row that failed."""
    good = iter(extractor.unpack(shard.arrays))
    return [
        next(good) if status == OK else failure(status, reason)
        for status, reason in zip(shard.statuses, shard.reasons, strict=True)
    ]


def extract_table(
    table: pd.DataFrame,
    extractor: Extractor,
    store: ShardStore,
    to_arrays: ToArrays,
    progress: Progress = no_progress,
    known: Mapping[int, Outcome] | None = None,
) -> None:
    """Fill a store with a shard for each :data:`WINDOW` rows; shards that are there stay.

    Args:
        table: the photographs, paths as sources.
        extractor: the costly half.
        store: where the shards go.
        to_arrays: features of the rows that went well to a shard's arrays, with a reason for each
            of those rows that is useless after all (empty where it is fine).
        progress: told of rows done and failed.
        known: what is known already of some rows, by their position in the table.
    """
    known = known or {}
    todo = []
    for number in range(math.ceil(len(table) / WINDOW)):
        if number in store:
            progress(*store.counts(number))
        else:
            todo.append(number)

    def unknown(number: int) -> list[str]:
        places = _places(number, table)
        sources = table["source"].iloc[places.start : places.stop].tolist()
        return [one for place, one in zip(places, sources, strict=True) if place not in known]

    begun = time.perf_counter()
    outcomes = extract(map(unknown, todo), extractor)
    for number, fresh in zip(todo, outcomes, strict=True):
        new = iter(fresh)
        merged = [known[i] if i in known else next(new) for i in _places(number, table)]
        shard = _shard(merged, to_arrays)
        now = time.perf_counter()
        store.write(number, shard, now - begun)
        begun = now
        progress(*store.counts(number))


def _places(number: int, table: pd.DataFrame) -> range:
    """The positions of a shard's rows in its table."""
    return range(number * WINDOW, min((number + 1) * WINDOW, len(table)))


def _shard(
    outcomes: list[Outcome],
    to_arrays: ToArrays,
) -> Shard:
    good = [one for one in outcomes if not isinstance(one, PhotographError)]
    arrays, complaints = to_arrays(good)
    verdicts = iter(complaints)
    statuses, reasons = [], []
    for one in outcomes:
        if isinstance(one, PhotographError):
            statuses.append(one.status)
            reasons.append(str(one))
        else:
            reason = next(verdicts)
            statuses.append(DescribeError.status if reason else OK)
            reasons.append(reason)
    return Shard(arrays, statuses, reasons)


def descriptor_arrays(descriptors: Vectors) -> tuple[Mapping[str, Any], list[str]]:
    """A shard's arrays of descriptors: the usable rows, and the reason for each that is not."""
    norms = np.linalg.norm(descriptors, axis=1)
    usable = np.isfinite(norms) & (norms > 0.5)
    return {"descriptors": descriptors[usable]}, ["" if ok else NO_FEATURES for ok in usable]


def describe_table(
    table: pd.DataFrame,
    describer: Describer,
    folder: Path,
    made_from: Mapping[str, Any],
    progress: Progress = no_progress,
    known: Mapping[int, Outcome] | None = None,
    clock: Path | None = None,
) -> ShardStore:
    """Describe a table's photographs into ``folder``, going on where a killed run was.

    Args:
        table: the photographs.
        describer: fitted.
        folder: of the shards.
        made_from: the config and inputs that the describer was made from.
        progress: told of rows done and failed.
        known: features or errors that are known already, by position in the table.
        clock: as in :class:`ShardStore`.

    Returns:
        the finished store, whose shards hold ``descriptors``.
    """
    store = ShardStore(folder, {**made_from, "table": table_digest(table)}, clock)
    extract_table(
        table,
        describer.extractor,
        store,
        lambda features: descriptor_arrays(_finished(describer, features)),
        progress,
        known,
    )
    return store


def _finished(describer: Describer, features: list[Features]) -> Vectors:
    if not features:
        return np.zeros((0, describer.dimension), dtype=np.float32)
    return describer.finish(features)


def read_described(table: pd.DataFrame, store: ShardStore, dimension: int) -> Described:
    """A table with its statuses and descriptors, read into memory from a finished store."""
    blocks = [np.zeros((0, dimension), dtype=np.float32)]
    blocks += [shard.arrays["descriptors"] for shard in store.shards()]
    seconds = store.seconds / len(table) if len(table) else 0.0
    return Described(with_status(table, store), np.concatenate(blocks), seconds, store.digest)


def with_status(table: pd.DataFrame, store: ShardStore) -> pd.DataFrame:
    """The table with the ``status`` and ``reason`` that the store has for each row."""
    full = table.reset_index(drop=True).copy()
    full["status"], full["reason"] = (pd.array(v, dtype=STRING) for v in store.verdicts())
    return full
