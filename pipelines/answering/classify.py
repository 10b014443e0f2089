"""A list of URLs or paths in, a CSV of landmarks out, whatever its length.

Rows go through in chunks. While one chunk is described, the photographs of the next few are being
fetched and decoded; a chunk is then answered in the order of its rows, whatever order they arrived
in, so the same input gives the same bytes. How far ahead that goes hangs on a budget of memory,
not on the number of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.lists.formats import CSV, guarded, number, read_records
from pipelines.lists.inputs import Input, is_photograph, limits, listed
from pipelines.lists.journal import Item, Journal, ahead, chunks
from retrieval.descriptors.representation import Representation
from retrieval.devices import cores
from retrieval.errors import FetchError, PhotographError, RunError
from retrieval.photographs.decoding import MAX_PIXELS, decode, read_photograph
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.fetching import Fetcher
from retrieval.predictions import STATUS, is_number, prediction_columns
from retrieval.storage.shards import OK

Photograph = NDArray[np.uint8]
ANSWERED: Final = "answered"
CHUNK_ROWS: Final = 256
MOST_AHEAD: Final = 7
MEMORY: Final = 2**30
REASONS: Final = 5
"""The commonest reasons that a summary names."""
MOST_REASONS: Final = 10_000
"""Reasons counted at a time; beyond, the rarest are dropped."""
PRIVATE: Final = "the address is not a public one"
MISSING: Final = "no such file"
ALLOW: Final = "--allow-private fetches from private addresses too"


class Describes(Protocol):
    """What classify asks of a describer."""

    @property
    def longest_side(self) -> int: ...

    def describe(self, photographs: Sequence[Photograph]) -> Representation:
        """Of RGB photographs (h, w, 3)."""
        ...


class Answers(Protocol):
    """What classify asks of a system; :class:`retrieval.system.System` is one."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def describer(self) -> Describes: ...

    def predictions(
        self, ids: Sequence[str], descriptors: Representation, top: int = 0, near: int = 1
    ) -> pd.DataFrame:
        """One row a descriptor, with :func:`retrieval.predictions.prediction_columns`."""
        ...


@dataclass(frozen=True)
class Form:
    """How predictions are written.

    Attributes:
        format: of the file, one of :data:`pipelines.lists.formats.FORMATS`.
        top: candidates that are told with their scores.
        near: gallery photographs that are told.
        guard: whether text is guarded against spreadsheets' formulas.
    """

    format: str = CSV
    top: int = 0
    near: int = 1
    guard: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return prediction_columns(self.top, self.near)

    @property
    def made_from(self) -> dict[str, object]:
        """What must not change under a file; what is not asked for is not told."""
        asked = {"top": self.top, "guard": self.guard}
        return {"columns": ",".join(prediction_columns()), "format": self.format} | {
            name: value for name, value in asked.items() if value
        }


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
        reasons: why rows failed, the commonest first, with their rows.
    """

    out: Path
    rows: int
    counts: dict[str, int]
    answered: int
    resumed: int
    nothing_to_do: bool
    reasons: tuple[tuple[str, int], ...] = ()

    @property
    def failed(self) -> int:
        return self.rows - self.counts.get(OK, 0)

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows: {self.answered:,} show a landmark,"
            f" {self.counts.get(OK, 0) - self.answered:,} none, {self.failed:,} failed → {self.out}"
        )

    def why(self) -> list[str]:
        """Why rows failed, a line a reason, and what helps where an option does."""
        told = self.reasons[:REASONS]
        lines = [f"{many:,} × {reason}" for reason, many in told]
        others = self.failed - sum(many for _, many in told)
        if others:
            lines.append(f"{others:,} × other reasons: they stand in {self.out}")
        if any(reason.startswith(PRIVATE) for reason, _ in self.reasons):
            lines.append(f"{ALLOW}; with --retry-failed these rows alone are taken again")
        if any(reason == MISSING for reason, _ in self.reasons):
            lines.append("a path that begins with no / or ~ is looked for in the list's own folder")
        return lines


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
    """:func:`classify_input` of a list in a file."""
    return classify_input(
        system, listed(csv), out, fetch=fetch, retry_failed=retry_failed, restart=restart,
        chunk_rows=chunk_rows, max_pixels=max_pixels, memory=memory, progress=progress,
    )  # fmt: skip


def classify_input(
    system: Answers,
    given: Input,
    out: Path,
    *,
    form: Form | None = None,
    fetch: FetchConfig | None = None,
    urls_only: bool = False,
    retry_failed: bool = False,
    restart: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    max_pixels: int = MAX_PIXELS,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] = lambda done, failed: None,
) -> ClassifySummary:
    """Classify every row of an input.

    The output has one row for each of the input's, in its order, with the columns of
    :func:`retrieval.predictions.prediction_columns`. Killed at any moment and called again alike,
    it goes on and writes the same bytes.

    Args:
        system: a built run.
        given: the rows.
        out: the predictions; ``out.state.json`` beside it says how far they are.
        form: how they are written.
        fetch: limits of the downloads.
        urls_only: refuse rows that are paths: a stranger's list reads no files of ours.
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
    _refuse_own(given, out)
    fetch, form = fetch or FetchConfig(), form or Form()
    made_from = {"input": given.digest, "system": system.fingerprint, **form.made_from}
    options = {"chunk_rows": chunk_rows, "max_pixels": max_pixels, **limits(fetch)}
    if urls_only:
        options["urls_only"] = True
    with Journal(
        out, form.columns, made_from, options, retry_failed=retry_failed, restart=restart,
        form=form.format,
    ) as journal:  # fmt: skip
        resumed = journal.state.rows
        progress(resumed, resumed - (journal.state.counts or {}).get(OK, 0))
        if not journal.done_before:
            todo = chunks(journal.pending(given.rows()), chunk_rows)
            many = chunks_ahead(memory, chunk_rows, system.describer.longest_side)
            for records in answers(system, todo, form, fetch, many, max_pixels, urls_only):
                counts = count(records)
                journal.append(records, counts)
                progress(len(records), len(records) - counts[OK])
            journal.finish()
        counts = Counter(journal.state.counts or {})
        answered = counts.pop(ANSWERED, 0)
        reasons = common_reasons(out) if counts[OK] < journal.state.rows else ()
        return ClassifySummary(
            out, journal.state.rows, dict(+counts), answered, resumed, journal.done_before, reasons
        )


def answers(
    system: Answers,
    todo: Iterable[list[Item]],
    form: Form,
    fetch: FetchConfig,
    many: int = 1,
    max_pixels: int = MAX_PIXELS,
    urls_only: bool = False,
) -> Iterator[list[list[str]]]:
    """The records of each chunk, in order; ``many`` chunks are fetched and decoded ahead."""
    with ThreadPoolExecutor(cores()) as pool, Fetcher(fetch) as fetcher:
        loader = _Loader(fetcher, pool, system.describer.longest_side, max_pixels, urls_only)
        try:
            for chunk in ahead(loader.begin, todo, many):
                yield answer(system, chunk, form)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def common_reasons(out: Path) -> tuple[tuple[str, int], ...]:
    """Why rows of finished predictions failed, the commonest first."""
    columns, records = read_records(out)
    reason, status = columns.index("reason"), columns.index("status")
    counts: Counter[str] = Counter()
    for _, record in records:
        if record[status] != OK:
            counts[record[reason]] += 1
            if len(counts) > MOST_REASONS:
                counts = Counter(dict(counts.most_common(MOST_REASONS // 2)))
    return tuple(counts.most_common())


def _refuse_own(given: Input, out: Path) -> None:
    """Refuse to write over what is classified.

    Raises:
        RunError: OUT is the list, or a photograph.
    """
    if not out.is_file():
        return
    if given.path is not None and given.path.exists() and out.samefile(given.path):
        raise RunError(f"{out} is the list itself: choose another --out")
    if is_photograph(out):
        raise RunError(f"{out} is a photograph: choose another --out")


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
    urls_only: bool

    def begin(self, chunk: list[Item]) -> list[_Loading]:
        return [_Loading(item, self._outcome(item)) for item in chunk]

    def _outcome(self, item: Item) -> Future[Photograph] | PhotographError | list[str]:
        if item.kept is not None:
            return item.kept
        if item.row.problem:
            return FetchError(item.row.problem)
        if isinstance(item.row.source, str):
            return self.fetcher.submit(item.row.source, self._decode, self.pool)
        if self.urls_only:
            return FetchError("a path, where only URLs are taken (--urls-only)")
        return self.pool.submit(self._read, item.row.source)

    def _decode(self, data: bytes) -> Photograph:
        return decode(data, self.longest_side, max_pixels=self.max_pixels)

    def _read(self, path: Path) -> Photograph:
        return read_photograph(path, self.longest_side, max_pixels=self.max_pixels)


def answer(system: Answers, chunk: list[_Loading], form: Form) -> list[list[str]]:
    """The records of a chunk, once its photographs are there."""
    records: list[list[str]] = [[]] * len(chunk)
    places: list[int] = []
    photographs: list[Photograph] = []
    for i, loading in enumerate(chunk):
        outcome = _settled(loading.outcome)
        if isinstance(outcome, PhotographError):
            records[i] = _failed(loading.item.row.id, outcome, form)
        elif isinstance(outcome, list):
            records[i] = outcome
        else:
            places.append(i)
            photographs.append(outcome)
    if photographs:
        descriptors = system.describer.describe(photographs)
        ids = [chunk[i].item.row.id for i in places]
        frame = system.predictions(ids, descriptors, form.top, form.near)
        for i, record in zip(places, _records(frame, form), strict=True):
            records[i] = record
    return records


def _failed(id_: str, error: PhotographError, form: Form) -> list[str]:
    cells = {"id": id_, "status": error.status, "reason": str(error)}
    record = [cells.get(name, "") for name in form.columns]
    return guarded(form.columns, record) if form.guard else record


def count(records: list[list[str]]) -> Counter[str]:
    """Records by status, and how many were given a landmark."""
    counts = Counter(record[STATUS] for record in records)
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


def _records(frame: pd.DataFrame, form: Form) -> list[list[str]]:
    columns = [
        ["" if pd.isna(value) else number(name, value) for value in frame[name]]
        if is_number(name)
        else ["" if pd.isna(cell) else str(cell) for cell in frame[name]]
        for name in form.columns
    ]
    records = [list(cells) for cells in zip(*columns, strict=True)]
    return [guarded(form.columns, one) for one in records] if form.guard else records
