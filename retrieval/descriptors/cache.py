"""A table's photographs, described or extracted once and kept in shards on disk.

A shard holds :data:`WINDOW` rows. A run that was cut short goes on with the first one that is
missing, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrieval.descriptors.describer import Describer, Errors, failures
from retrieval.descriptors.extraction import WINDOW, Outcome, extract
from retrieval.descriptors.representation import Representation, write_descriptors
from retrieval.descriptors.sample import Chosen
from retrieval.errors import PhotographError, failure
from retrieval.frontend import Frontend
from retrieval.photographs.given import Source
from retrieval.storage.files import Arrays, read_arrays
from retrieval.storage.shards import OK, Shard, ShardStore, with_status
from retrieval.types import Features

T = TypeVar("T")
Progress = Callable[[int, int], None]

MAPPED: Final = "mapped"

Timed = Iterator[tuple[Shard, float]]
"""Shards, and the seconds that each took."""
Elsewhere = Callable[[Iterable[Sequence[str]]], Timed]
"""What makes a shard of each window of paths, on other machines."""


def no_progress(rows: int, failed: int) -> None:
    """For callers who do not watch."""


def extract_table(
    table: pd.DataFrame,
    frontend: Frontend,
    store: ShardStore,
    progress: Progress = no_progress,
    known: Mapping[int, Outcome] | None = None,
) -> None:
    """Fill a store with the features of a table's photographs; shards that are there stay.

    Args:
        table: the photographs.
        frontend: what makes their features, and packs them.
        store: where the shards go.
        progress: told of rows done and failed.
        known: features or errors that are known already, by position.
    """

    def packed(outcomes: list[Outcome]) -> Shard:
        errors = [one if isinstance(one, PhotographError) else None for one in outcomes]
        good = [one for one in outcomes if not isinstance(one, PhotographError)]
        return Shard.of(frontend.pack(good), errors)

    sources = table["source"].array
    _fill(store, len(sources), _made_here(sources, frontend, packed, known), progress)


def describe_sources(
    sources: Sequence[Source],
    describer: Describer,
    store: ShardStore,
    progress: Progress = no_progress,
    known: Mapping[int, Outcome] | None = None,
    stored: bool = True,
    shards: Sequence[int] | None = None,
) -> None:
    """Fill a store with :class:`Representation`; shards that are there stay.

    Args:
        sources: the photographs.
        describer: fitted.
        store: where the shards go.
        progress: told of rows done and failed.
        known: features or errors that are known already, by position.
        stored: whether the local features kept for verification are.
        shards: the numbers of those to make, ascending; all where not given.
    """

    def described(outcomes: list[Outcome]) -> Shard:
        found, errors = describer.from_outcomes(outcomes)
        return Shard.of(_usable(found, errors, stored), errors)

    made = _made_here(sources, describer.frontend, described, known)
    _fill(store, len(sources), made, progress, shards)


def describe_windows(describer: Describer, windows: Iterable[Sequence[Source]]) -> Timed:
    """A shard of each window, as :func:`describe_sources` makes it where nothing is known."""
    stream = describer.stream(windows)
    return _timed(Shard.of(_usable(found, errors, True), errors) for found, errors in stream)


def describe_table(
    table: pd.DataFrame,
    describer: Describer,
    folder: Path,
    made_from: Mapping[str, Any],
    progress: Progress = no_progress,
    known: Mapping[int, Outcome] | None = None,
    timings: Path | None = None,
    stored: bool = True,
    shards: Sequence[int] | None = None,
    elsewhere: Elsewhere | None = None,
) -> ShardStore:
    """Describe a table's photographs into ``folder``, going on where a killed run was.

    Args:
        table: the photographs.
        describer: fitted.
        folder: of the shards.
        made_from: all that decides their bytes, as :func:`described_from` gives it.
        progress, known, stored, shards: as of :func:`describe_sources`.
        timings: as of :class:`ShardStore`.
        elsewhere: makes the shards that are missing, in place of this machine (all of them, with
            nothing known and all stored).

    Returns:
        the finished store.
    """
    store = ShardStore(folder, made_from, timings)
    sources = table["source"].array
    if elsewhere is None:
        describe_sources(sources, describer, store, progress, known, stored, shards)
    else:
        there = elsewhere

        def made(windows: Sequence[range]) -> Timed:
            return there([str(sources[i]) for i in window] for window in windows)

        _fill(store, len(sources), made, progress)
    return store


def whiten_table(
    describer: Describer,
    plain: ShardStore,
    folder: Path,
    made_from: Mapping[str, Any],
    progress: Progress = no_progress,
    timings: Path | None = None,
    stored: bool = True,
) -> ShardStore:
    """As :func:`describe_table`, of photographs that are described but for the whitening.

    Args:
        plain: the table's photographs by :attr:`Describer.plain`.
        describer, folder, made_from, progress, timings, stored: as of :func:`describe_table`.
    """
    store = ShardStore(folder, made_from, timings)
    store.mend()
    for number in range(len(plain)):
        if number not in store:
            begun = time.perf_counter()
            shard = plain.read(number)
            found = describer.whiten(Representation.from_arrays(shard.arrays))
            late = failures(found)  # of photographs that went well so far
            whitened = Shard.of(_usable(found, late, stored), _of_all_rows(shard, late))
            store.write(number, whitened, time.perf_counter() - begun)
        progress(*store.counts(number))
    return store


def described_from(recipe: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """All that decides the bytes of a table's descriptors; ``digest``: its :func:`table_digest`."""
    return {**recipe, "table": digest}


def windows_of(rows: int) -> list[range]:
    """The rows of each shard, of so many."""
    return [range(start, min(start + WINDOW, rows)) for start in range(0, rows, WINDOW)]


def _fill(
    store: ShardStore,
    rows: int,
    made: Callable[[Sequence[range]], Timed],
    progress: Progress,
    shards: Sequence[int] | None = None,
) -> None:
    """Write the shards that are missing, which are made of the rows of each."""
    store.mend()
    windows = windows_of(rows)
    wanted = range(len(windows)) if shards is None else shards
    for number in wanted:
        if number in store:
            progress(*store.counts(number))
    todo = [number for number in wanted if number not in store]
    if not todo:
        return
    each = made([windows[number] for number in todo])
    for number, (shard, seconds) in zip(todo, each, strict=True):
        store.write(number, shard, seconds)
        progress(*store.counts(number))


def _made_here(
    sources: Sequence[Source],
    frontend: Frontend,
    to_shard: Callable[[list[Outcome]], Shard],
    known: Mapping[int, Outcome] | None,
) -> Callable[[Sequence[range]], Timed]:
    """Makes the shards of one stream through one pool of threads."""
    there = known or {}

    def made(windows: Sequence[range]) -> Iterator[Shard]:
        unknown = ([sources[i] for i in window if i not in there] for window in windows)
        for window, fresh in zip(windows, extract(unknown, frontend), strict=True):
            new = iter(fresh)
            yield to_shard([there[i] if i in there else next(new) for i in window])

    return lambda windows: _timed(made(windows))


def _timed(shards: Iterable[Shard]) -> Timed:
    begun = time.perf_counter()
    for shard in shards:
        now = time.perf_counter()
        yield shard, now - begun
        begun = now


@dataclass(frozen=True)
class Described:
    """A table with what became of each row.

    Attributes:
        table: the image table, and ``status`` and ``reason`` of each row.
        descriptors: of the rows whose status is ``ok``, in order.
        seconds_per_image: the time that describing took, or 0 if none was described.
        digest: fingerprint of all of it.
    """

    table: pd.DataFrame
    descriptors: Representation
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


def read_described(table: pd.DataFrame, store: ShardStore, describer: Describer) -> Described:
    """A table with its statuses and descriptors from a finished store.

    Words and kept features of many photographs do not fit into memory: descriptors are copied into
    arrays beside the shards, and mapped.
    """

    def blocks() -> Iterator[Representation]:
        yield describer.from_features([])
        yield from (Representation.from_arrays(shard.arrays) for shard in store.shards())

    write_descriptors(store.folder / MAPPED, blocks)
    descriptors = Representation.from_arrays(read_arrays(store.folder / MAPPED))
    seconds = store.seconds / len(table) if len(table) else 0.0
    return Described(with_status(table, store), descriptors, seconds, store.digest)


class KnownFeatures(Mapping[int, Outcome]):
    """Features that lie in a store, by their position in a larger table, read shard by shard.

    Args:
        frontend: that made them.
        store: filled by :func:`extract_table` from the rows at ``positions``.
        positions: (n,) of the store's rows in the larger table, ascending.
    """

    def __init__(self, frontend: Frontend, store: ShardStore, positions: NDArray[np.int64]):
        self._frontend = frontend
        self._store = store
        self._places = {int(position): place for place, position in enumerate(positions)}
        # One shard for all threads would be read anew for each photograph, in turns.
        self._here = threading.local()

    @property
    def good_positions(self) -> list[int]:
        """The positions of the photographs that did not fail."""
        statuses, _ = self._store.verdicts()
        return [key for key, one in zip(self._places, statuses, strict=True) if one == OK]

    @property
    def good(self) -> Sequence[Features]:
        """The features of the photographs that did not fail, read when they are asked for."""
        return _Good(self, self.good_positions)

    def good_by_shard(self) -> Iterator[list[Features]]:
        """:attr:`good`, a shard at a time."""
        return (self._frontend.unpack(shard.arrays) for shard in self._store.shards())

    def _read(self, number: int) -> list[Outcome]:
        shard = self._store.read(number)
        return _of_all_rows(shard, self._frontend.unpack(shard.arrays))

    def __getitem__(self, position: int) -> Outcome:
        number, row = divmod(self._places[position], WINDOW)
        if number != getattr(self._here, "number", None):
            self._here.number, self._here.shard = number, self._read(number)
        outcome: Outcome = self._here.shard[row]
        return outcome

    def __contains__(self, position: object) -> bool:
        return position in self._places

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class _Good(Chosen):
    """All good photographs of a store; gone through, each shard is read once."""

    source: KnownFeatures

    def __iter__(self) -> Iterator[Features]:
        return chain.from_iterable(self.source.good_by_shard())


def _usable(found: Representation, errors: Errors, stored: bool) -> Arrays:
    """The arrays of photographs without an error; kept features among them if these are stored."""
    usable = np.flatnonzero([error is None for error in errors])
    return (found if stored else replace(found, kept=None))[usable].arrays()


def _of_all_rows(shard: Shard, good: Iterable[T]) -> list[T | PhotographError]:
    """What is had of a shard's good rows, an error in place of each row that failed."""
    each = iter(good)
    return [
        next(each) if status == OK else failure(status, reason)
        for status, reason in zip(shard.statuses, shard.reasons, strict=True)
    ]
