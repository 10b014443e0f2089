"""A list of URLs or paths in, a CSV of landmarks out, whatever its length.

Rows go through in chunks, which are the windows of one stream through the describer. While one
chunk is described, the photographs of the next few are being fetched and decoded; a chunk is then
answered in the order of its rows, whatever order they arrived in, so the same input gives the same
bytes. How far ahead that goes hangs on a budget of memory, not on the number of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Final, Protocol, TypeVar

import pandas as pd

from pipelines.lists.formats import CSV, Record, frame_records, read_records
from pipelines.lists.inputs import Input, is_photograph, limits, listed
from pipelines.lists.journal import Item, Journal, chunks
from pipelines.lists.rows import Row
from retrieval.descriptors.describer import Describer, Errors
from retrieval.descriptors.representation import Representation
from retrieval.errors import FetchError, RunError
from retrieval.photographs.decoding import MAX_PIXELS, MISSING, decode, read_photograph
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.fetching import Fetcher
from retrieval.photographs.given import Opener, Source
from retrieval.predictions import STATUS, prediction_columns
from retrieval.storage.shards import OK
from retrieval.types import Photograph

T = TypeVar("T")

ANSWERED: Final = "answered"
CHUNK_ROWS: Final = 256
MOST_AHEAD: Final = 7
MEMORY: Final = 2**30
REASONS: Final = 5
"""The commonest reasons that a summary names."""
MOST_REASONS: Final = 10_000
"""Reasons counted at a time; beyond, the rarest are dropped."""
PRIVATE: Final = "the address is not a public one"
ALLOW: Final = "--allow-private fetches from private addresses too"


class Answers(Protocol):
    """What classify asks of a system; :class:`retrieval.system.System` is one."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def query_describer(self) -> Describer: ...

    def predictions(
        self,
        ids: Sequence[str],
        descriptors: Representation,
        top: int = 0,
        near: int = 1,
        errors: Errors | None = None,
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
class Answering:
    """How rows are answered.

    Attributes:
        form: how predictions are written.
        fetch: limits of the downloads.
        many: chunks that are fetched and decoded ahead.
        max_pixels: cap on a photograph's pixels.
        urls_only: refuse rows that are paths.
    """

    form: Form
    fetch: FetchConfig
    many: int = 1
    max_pixels: int = MAX_PIXELS
    urls_only: bool = False


Elsewhere = Callable[[Iterable[list[Row]], Answering], Generator[list[Record], None, None]]
"""What answers chunks of rows on other machines, in order, as :func:`answers` does here."""


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


def classify_list(
    system: Answers,
    given: Path | Input,
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
    elsewhere: Elsewhere | None = None,
    progress: Callable[[int, int], None] = lambda done, failed: None,
) -> ClassifySummary:
    """Classify every row of a list.

    The output has one row for each of the input's, in its order, with the columns of
    :func:`retrieval.predictions.prediction_columns`. Killed at any moment and called again alike,
    it goes on and writes the same bytes.

    Args:
        system: a built run.
        given: the list in a file, or what :mod:`pipelines.lists.inputs` made of anything.
        out: the predictions; ``out.state.json`` beside it says how far they are.
        form: how they are written.
        fetch: limits of the downloads.
        urls_only: refuse rows that are paths: a stranger's list reads no files of ours.
        retry_failed: take the failed rows of finished predictions again; limits may differ then.
        restart: forget what there is of ``out``.
        chunk_rows: rows described together, and lost at most when killed.
        max_pixels: cap on a photograph's pixels.
        memory: bytes that decoded photographs may take (a soft cap: at least two chunks), on each
            machine.
        elsewhere: answers rows in place of this machine.
        progress: told of (rows done since the last call, failed ones among them).

    Raises:
        TableError: the list cannot be read.
        RunError: ``out`` belongs to another list, system or setting, or is the list itself.
    """
    given = listed(given) if isinstance(given, Path) else given
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
            many = chunks_ahead(memory, chunk_rows, system.query_describer.longest_side)
            how = Answering(form, fetch, many, max_pixels, urls_only)
            todo = chunks(journal.pending(given.rows()), chunk_rows)
            for records in _answered(todo, elsewhere or partial(answers, system), how):
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


def _answered(todo: Iterable[list[Item]], by: Elsewhere, how: Answering) -> Iterator[list[Record]]:
    """The records of each chunk, in order: new ones, and those that are kept as they are."""
    first, second = tee(todo)
    rows = ([one.row for one in chunk if one.kept is None] for chunk in first)
    with closing(by(rows, how)) as answered:
        for records, chunk in zip(answered, second, strict=True):
            fresh = iter(records)
            yield [next(fresh) if one.kept is None else one.kept for one in chunk]


def answers(
    system: Answers, todo: Iterable[Sequence[Row]], how: Answering
) -> Generator[list[Record], None, None]:
    """The records of each chunk of rows, in order."""
    first, second = tee(todo)
    with Fetcher(how.fetch) as fetcher:
        source = partial(_source, fetcher, how.max_pixels, how.urls_only)
        windows = ([source(row) for row in rows] for rows in first)
        with closing(system.query_describer.stream(windows, how.many)) as stream:
            for (described, errors), rows in zip(stream, second, strict=True):
                ids = [row.id for row in rows]
                frame = system.predictions(ids, described, how.form.top, how.form.near, errors)
                yield frame_records(frame, how.form.columns, how.form.guard)


@dataclass(frozen=True)
class _Remote:
    """A photograph behind a URL, which is fetched without a thread waiting for it."""

    url: str
    fetcher: Fetcher
    max_pixels: int

    def submit(self, pool: Executor, then: Callable[[Opener], T]) -> Future[T]:
        return self.fetcher.submit(self.url, lambda data: then(partial(self._open, data)), pool)

    def _open(self, data: bytes, longest_side: int) -> Photograph:
        return decode(data, longest_side, max_pixels=self.max_pixels)


def _source(fetcher: Fetcher, max_pixels: int, urls_only: bool, row: Row) -> Source:
    """What brings a row's photograph, or why it cannot be had."""
    if row.problem:
        return FetchError(row.problem)
    if isinstance(row.source, str):
        return _Remote(row.source, fetcher, max_pixels)
    if urls_only:
        return FetchError("a path, where only URLs are taken (--urls-only)")
    return partial(read_photograph, row.source, max_pixels=max_pixels)


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


def count(records: list[list[str]]) -> Counter[str]:
    """Records by status, and how many were given a landmark."""
    counts = Counter(record[STATUS] for record in records)
    counts[ANSWERED] = sum(1 for record in records if record[1])
    return counts
