"""A list of URLs or paths in, a CSV of landmarks out, whatever its length.

Rows go through in chunks. While one chunk is described, the photographs of the next few are being
fetched and decoded; a chunk is then answered in the order of its rows, whatever order they arrived
in, so the same input gives the same bytes. How far ahead that goes hangs on a budget of memory,
not on the number of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.journal import Item, Journal, ahead, chunks
from pipelines.rows import digest
from retrieval.devices import cores
from retrieval.errors import FetchError, PhotographError, RunError
from retrieval.extractors.descriptors import Descriptors
from retrieval.index.store import OK
from retrieval.photographs.decoding import MAX_PIXELS, decode, read_photograph
from retrieval.photographs.fetching import FetchConfig, Fetcher

Photograph = NDArray[np.uint8]
COLUMNS: Final = ("id", "landmark", "name", "probability", "status", "reason")
ANSWERED: Final = "answered"
CHUNK_ROWS: Final = 256
MOST_AHEAD: Final = 7
MEMORY: Final = 2**30


class Describes(Protocol):
    """What classify asks of a describer."""

    @property
    def longest_side(self) -> int: ...

    def describe(self, photographs: Sequence[Photograph]) -> Descriptors:
        """Of RGB photographs (h, w, 3)."""
        ...


class Answers(Protocol):
    """What classify asks of a system; :class:`retrieval.system.System` is one."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def describer(self) -> Describes: ...

    def predictions(self, ids: Sequence[str], descriptors: Descriptors) -> pd.DataFrame:
        """One row a descriptor, with the columns of the output."""
        ...


@dataclass(frozen=True)
class ClassifySummary:
    """What became of a list.

    Attributes:
        out: the predictions.
        rows: in all.
        counts: of them, by status.
        answered: rows that were given a landmark; the other ``ok`` ones show none.
        resumed: rows that an earlier, interrupted run had finished.
        nothing_to_do: whether everything was there already.
    """

    out: Path
    rows: int
    counts: dict[str, int]
    answered: int
    resumed: int
    nothing_to_do: bool

    @property
    def failed(self) -> int:
        return self.rows - self.counts.get(OK, 0)

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows: {self.answered:,} show a landmark,"
            f" {self.counts.get(OK, 0) - self.answered:,} none, {self.failed:,} failed → {self.out}"
        )


def classify_csv(
    system: Answers,
    csv: Path,
    out: Path,
    *,
    fetch: FetchConfig | None = None,
    retry_failed: bool = False,
    restart: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    max_pixels: int = MAX_PIXELS,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] = lambda done, failed: None,
) -> ClassifySummary:
    """Classify every row of a list (:mod:`pipelines.rows` says which forms there are).

    The output has one row for each of the input's, in its order: ``id, landmark, name,
    probability, status, reason``; landmark and name are empty for none. Killed at any moment and
    called again alike, it goes on and writes the same bytes.

    Args:
        system: a built run.
        csv: the list.
        out: the predictions; ``out.state.json`` beside it says how far they are.
        fetch: limits of the downloads.
        retry_failed: take the failed rows of finished predictions again; limits may differ then.
        restart: forget what there is of ``out``.
        chunk_rows: rows described together, and lost at most when killed.
        max_pixels: cap on a photograph's pixels.
        memory: bytes that decoded photographs may take (a soft cap: at least two chunks).
        progress: told of (rows done since the last call, failed ones among them).

    Raises:
        TableError: the list cannot be read.
        RunError: ``out`` belongs to another list, system or setting, or is the list itself.
    """
    if csv.exists() and out.exists() and out.samefile(csv):
        raise RunError(f"{out} is the list itself: choose another --out")
    fetch = fetch or FetchConfig()
    made_from = {"input": digest(csv), "system": system.fingerprint}
    options = {"chunk_rows": chunk_rows, "max_pixels": max_pixels, **limits(fetch)}
    with Journal(
        out, COLUMNS, made_from, options, retry_failed=retry_failed, restart=restart
    ) as journal:
        resumed = journal.state.rows
        progress(resumed, resumed - (journal.state.counts or {}).get(OK, 0))
        if not journal.done_before:
            todo = chunks(journal.pending(csv), chunk_rows)
            side = system.describer.longest_side
            many = chunks_ahead(memory, chunk_rows, side)
            with ThreadPoolExecutor(cores()) as pool, Fetcher(fetch) as fetcher:
                loader = _Loader(fetcher, pool, side, max_pixels)
                try:
                    for chunk in ahead(loader.begin, todo, many):
                        records = answer(system, chunk)
                        counts = count(records)
                        journal.append(records, counts)
                        progress(len(records), len(records) - counts[OK])
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
            journal.finish()
        counts = Counter(journal.state.counts or {})
        answered = counts.pop(ANSWERED, 0)
        return ClassifySummary(
            out, journal.state.rows, dict(counts), answered, resumed, journal.done_before
        )


def limits(fetch: FetchConfig) -> dict[str, int | bool]:
    """The part of a fetch config that decides what can be had, and not how fast."""
    return fetch.model_dump(include={"max_bytes", "max_redirects", "allow_private"})


def chunks_ahead(memory: int, chunk_rows: int, longest_side: int) -> int:
    """How many chunks to fetch and decode ahead: a slow host holds its chunk up, so many."""
    largest = chunk_rows * longest_side**2 * 3
    return min(max(memory // largest - 1, 1), MOST_AHEAD)


@dataclass(frozen=True)
class _Loading:
    """A row whose photograph is on its way, or (``outcome`` is a record) was there before."""

    item: Item
    outcome: Future[Photograph] | PhotographError | list[str]


@dataclass(frozen=True)
class _Loader:
    """Fetches and decodes, in the background."""

    fetcher: Fetcher
    pool: ThreadPoolExecutor
    longest_side: int
    max_pixels: int

    def begin(self, chunk: list[Item]) -> list[_Loading]:
        return [_Loading(item, self._outcome(item)) for item in chunk]

    def _outcome(self, item: Item) -> Future[Photograph] | PhotographError | list[str]:
        if item.kept is not None:
            return item.kept
        if item.row.problem:
            return FetchError(item.row.problem)
        if isinstance(item.row.source, str):
            return self.fetcher.submit(item.row.source, self._decode, self.pool)
        return self.pool.submit(self._read, item.row.source)

    def _decode(self, data: bytes) -> Photograph:
        return decode(data, self.longest_side, max_pixels=self.max_pixels)

    def _read(self, path: Path) -> Photograph:
        return read_photograph(path, self.longest_side, max_pixels=self.max_pixels)


def answer(system: Answers, chunk: list[_Loading]) -> list[list[str]]:
    """The records of a chunk, once its photographs are there."""
    records: list[list[str]] = [[]] * len(chunk)
    places: list[int] = []
    photographs: list[Photograph] = []
    for i, loading in enumerate(chunk):
        outcome = _settled(loading.outcome)
        if isinstance(outcome, PhotographError):
            records[i] = [loading.item.row.id, "", "", "", outcome.status, str(outcome)]
        elif isinstance(outcome, list):
            records[i] = outcome
        else:
            places.append(i)
            photographs.append(outcome)
    if photographs:
        descriptors = system.describer.describe(photographs)
        frame = system.predictions([chunk[i].item.row.id for i in places], descriptors)
        for i, record in zip(places, _records(frame), strict=True):
            records[i] = record
    return records


def count(records: list[list[str]]) -> Counter[str]:
    """Records by status, and how many were given a landmark."""
    counts = Counter(record[-2] for record in records)
    counts[ANSWERED] = sum(1 for record in records if record[1])
    return counts


def _settled(
    outcome: Future[Photograph] | PhotographError | list[str],
) -> Photograph | PhotographError | list[str]:
    if not isinstance(outcome, Future):
        return outcome
    try:
        return outcome.result()
    except PhotographError as error:
        return error


def _records(frame: pd.DataFrame) -> list[list[str]]:
    columns = [
        ["" if pd.isna(p) else f"{p:.9g}" for p in frame[name]]
        if name == "probability"
        else ["" if pd.isna(cell) else str(cell) for cell in frame[name]]
        for name in COLUMNS
    ]
    return [list(cells) for cells in zip(*columns, strict=True)]
