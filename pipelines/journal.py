"""A CSV that is written chunk by chunk, and that ``kill -9`` at any moment cannot spoil.

Beside ``OUT`` lie ``OUT.part``, what is written so far, and ``OUT.state.json``, how much of that
counts and what it was made from. A chunk is appended and fsynced before the state names it; on the
next start whatever the state does not name is cut off, so the finished file's bytes are the same
as an uninterrupted run's. A finished file is moved to ``OUT`` whole. A retry pass reads ``OUT`` and
writes the next ``OUT`` in the same way, so that ``OUT`` is there all the time.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, TypeVar

from pipelines.rows import Row, read_rows
from retrieval.errors import RunError
from retrieval.index.store import OK, checksum, first_difference, read_json, write_json

T = TypeVar("T")
LONGEST_CHUNK: Final = 16
"""A chunk of a retry pass holds at most this many times the rows that are taken again."""


@dataclass(frozen=True)
class State:
    """What ``OUT.state.json`` says.

    Attributes:
        made_from: what must never change under a file: the input, the system.
        options: what may change between passes, not within one.
        number: of the pass, from 0; a retry is another pass.
        complete: whether the pass is finished.
        rows: finished rows of this pass.
        size: bytes of the part that they take, header included.
        counts: of those rows, by status and whatever else the stage counts.
        sha256: of the finished file, or of the one that a retry pass reads.
    """

    made_from: Mapping[str, Any]
    options: Mapping[str, Any]
    number: int = 0
    complete: bool = False
    rows: int = 0
    size: int = 0
    counts: Mapping[str, int] | None = None
    sha256: str = ""


def state_path(out: Path) -> Path:
    """Where the state of what is written to ``out`` lies."""
    return out.with_name(out.name + ".state.json")


class Journal:
    """Writes one such CSV; a context manager.

    Args:
        out: where the finished CSV goes.
        columns: its header. The second to last column is the status.
        made_from: what must never change under one file.
        options: what may change when failed rows are taken again.
        retry_failed: take the failed rows of a finished file again.
        restart: forget what there is.

    Raises:
        RunError: the file belongs to something else, was changed by hand, or is being written.
    """

    def __init__(
        self,
        out: Path,
        columns: Iterable[str],
        made_from: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        retry_failed: bool = False,
        restart: bool = False,
    ) -> None:
        self.out = out
        self.part = out.with_name(out.name + ".part")
        self.state_path = state_path(out)
        self._header = csv_line(columns)
        self._fresh = State(dict(made_from), dict(options))
        self._retry_failed = retry_failed
        self._restart = restart
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self.state = self._fresh
        self.done_before = False
        """Whether the file was finished already, so that there is nothing to do."""

    def __enter__(self) -> Journal:
        if self.out.is_dir():
            raise RunError(f"{self.out} is a folder: --out names a file")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.part.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise RunError(f"{self.out} is being written by another process") from None
        try:
            self._take_up()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def append(self, records: Iterable[Iterable[str]], counts: Mapping[str, int]) -> None:
        """Add the records of one chunk; they count once this returns."""
        lines = [csv_line(record) for record in records]
        data = b"".join(lines)
        self._write(data)
        self.state = replace(
            self.state,
            rows=self.state.rows + len(lines),
            size=self.state.size + len(data),
            counts=dict(Counter(self.state.counts or {}) + Counter(counts)),
        )
        self._save()

    def finish(self) -> None:
        """Say that every row is there, and put the file in its place."""
        self.state = replace(self.state, complete=True, sha256=self._digest.hexdigest())
        self._save()
        os.replace(self.part, self.out)

    def pending(self, rows: Path) -> Iterator[Item]:
        """The rows of the input that this pass has not finished, in order."""
        fresh = read_rows(rows)
        before = self._records_before() if self.state.number else iter(())
        for position, row in enumerate(fresh):
            record = next(before, None)
            if position >= self.state.rows:
                kept = record is not None and record[-2] == OK
                yield Item(row, record if kept else None)

    def _records_before(self) -> Iterator[list[str]]:
        with self.out.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            next(reader)
            yield from reader

    def _take_up(self) -> None:
        self._remove_leftovers()
        if self._restart or not self.state_path.exists():
            return self._begin_anew()
        self.state = self._read_state()
        self._compare("made_from")
        if not (self.state.complete and self._retry_failed):
            self._compare("options")
        if not self.state.complete:
            return self._go_on()
        if checksum(self.part) == self.state.sha256:
            os.replace(self.part, self.out)  # killed just before this
            self.done_before = True
            return None
        if not self.out.exists():
            return self._begin_anew()
        self._check_out()
        if self._retry_failed and self._failed():
            return self._begin(replace(self._fresh, number=self.state.number + 1,
                                       sha256=self.state.sha256))  # fmt: skip
        self.done_before = True

    def _begin_anew(self) -> None:
        known = self._restart or self.state_path.exists()
        if self.out.exists() and not known:
            raise RunError(
                f"{self.out} is there and was not written by this command: choose another --out,"
                " or --restart to replace it"
            )
        self._begin(self._fresh)

    def _begin(self, state: State) -> None:
        # The state goes first: a part without it would be taken for an unfinished one.
        self.state = replace(state, size=0)
        self._save()
        self._cut(0)
        self._write(self._header)
        self.state = replace(self.state, size=len(self._header))
        self._save()

    def _go_on(self) -> None:
        if self.state.number:
            self._check_out()
        if self.state.size == 0:
            return self._begin(self.state)
        if self.part.stat().st_size < self.state.size:
            raise RunError(f"{self.part} is damaged: give --restart to begin anew")
        self._cut(self.state.size)
        with self.part.open("rb") as file:
            while block := file.read(1 << 20):
                self._digest.update(block)

    def _compare(self, what: str) -> None:
        then, now = getattr(self.state, what), getattr(self._fresh, what)
        changed = first_difference(then, now)
        if changed is None:
            return
        name = changed.replace("_", " ")
        raise RunError(
            f"{self.out} was begun with another {name} ({then.get(changed)} then,"
            f" {now.get(changed)} now): choose another --out, or --restart to begin anew"
        )

    def _check_out(self) -> None:
        if not self.out.exists() or checksum(self.out) != self.state.sha256:
            raise RunError(
                f"{self.out} was changed since it was written: choose another --out, or --restart"
                " to begin anew"
            )

    def _failed(self) -> bool:
        return (self.state.counts or {}).get(OK, 0) < self.state.rows

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise RuntimeError("use the journal in a with statement")
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._digest.update(data)

    def _cut(self, size: int) -> None:
        os.truncate(self.part, size)

    def _read_state(self) -> State:
        try:
            return State(**read_json(self.state_path))
        except (RunError, TypeError):
            raise RunError(f"{self.state_path} is damaged: give --restart to begin anew") from None

    def _save(self) -> None:
        write_json(self.state_path, vars(self.state))

    def _remove_leftovers(self) -> None:
        """Temporary files of a process that was killed while it wrote the state."""
        for path in self.out.parent.glob(f".{self.state_path.name}.*.tmp"):
            path.unlink(missing_ok=True)

    def _leave(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.part.exists() and (self.done_before or not self.part.stat().st_size):
            self.part.unlink()


@dataclass(frozen=True, slots=True)
class Item:
    """A row to do, or, in a retry pass, one whose record ``kept`` goes over as it is."""

    row: Row
    kept: list[str] | None


def chunks(items: Iterable[Item], rows: int) -> Iterator[list[Item]]:
    """Items in lists of ``rows`` that are to be done (and not too many that are kept).

    Which rows share a chunk hangs on the items alone, so it is the same after a restart.
    """
    chunk: list[Item] = []
    fresh = 0
    for item in items:
        chunk.append(item)
        fresh += item.kept is None
        if fresh == rows or len(chunk) == rows * LONGEST_CHUNK:
            yield chunk
            chunk, fresh = [], 0
    if chunk:
        yield chunk


def ahead(begin: Callable[[list[Item]], T], todo: Iterable[list[Item]], many: int) -> Iterator[T]:
    """Begin each chunk ``many`` chunks before it is handed over."""
    begun: deque[T] = deque()
    for chunk in todo:
        begun.append(begin(chunk))
        if len(begun) > many:
            yield begun.popleft()
    yield from begun


def csv_line(cells: Iterable[object]) -> bytes:
    """One line of a CSV, as every output of ours is written."""
    text = io.StringIO()
    # The writer puts quotes around no line breaks but those of its own line's end.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n").encode("utf-8", errors="replace") + b"\n"
