"""A table that is written chunk by chunk, and that ``kill -9`` at any moment cannot spoil.

Beside ``OUT`` lie ``OUT.part``, what is written so far, and ``OUT.state.json``, how much of that
counts and what it was made from. A chunk is appended and fsynced before the state names it; on the
next start whatever the state does not name is cut off, so the finished file's bytes are the same
as an uninterrupted run's. A finished file is moved to ``OUT`` whole. A retry pass reads ``OUT`` and
writes the next ``OUT`` in the same way, so that ``OUT`` is there all the time.

The part is a CSV whatever ``OUT`` is: Parquet and JSON lines are made of the whole of it at the
end, as ``OUT.converted``, which is then moved.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from pipelines.lists.formats import CSV, convert, csv_line, read_records
from pipelines.lists.rows import Row
from retrieval.errors import LandmarksError, RunError, TableError
from retrieval.storage.files import read_json, write_json, writing
from retrieval.storage.fingerprint import checksum, first_difference
from retrieval.storage.journal import lock, remove_litter
from retrieval.storage.shards import OK

STATUS: Final = "status"
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
    """Writes one such table; a context manager.

    Args:
        out: where the finished table goes.
        columns: its header; one of them is ``status``.
        made_from: what must never change under one file.
        options: what may change when failed rows are taken again.
        retry_failed: take the failed rows of a finished file again.
        restart: forget what there is.
        form: the format of ``out``, one of :data:`pipelines.lists.formats.FORMATS`.

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
        form: str = CSV,
    ) -> None:
        self.out = out
        self.part = out.with_name(out.name + ".part")
        self.state_path = state_path(out)
        self.columns = tuple(columns)
        self.form = form
        self._ready = self.part if form == CSV else out.with_name(out.name + ".converted")
        self._header = csv_line(self.columns)
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
        if self.out.exists() and not self.out.is_file():
            raise RunError(f"{self.out} is no regular file, to which predictions could be added")
        with writing(self.part):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_own(self.part, os.O_APPEND)
        try:
            lock(self._file, self.out)
        except LandmarksError:
            self._file.close()
            raise
        try:
            self._resume()
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
        sha256 = self._digest.hexdigest() if self.form == CSV else self._convert()
        self.state = replace(self.state, complete=True, sha256=sha256)
        self._save()
        with writing(self.out):
            os.replace(self._ready, self.out)

    def pending(self, rows: Iterable[Row]) -> Iterator[Item]:
        """The rows of the input that this pass has not finished, in order."""
        before = self._records_before() if self.state.number else iter(())
        status = self.columns.index(STATUS)
        for position, row in enumerate(rows):
            record = next(before, None)
            if position >= self.state.rows:
                kept = record is not None and record[status] == OK
                yield Item(row, record if kept else None)

    def _records_before(self) -> Iterator[list[str]]:
        try:
            columns, records = read_records(self.out)
            if tuple(columns) != self.columns:
                raise TableError(f"{self.out}: other columns than {','.join(self.columns)}")
            for _, record in records:
                yield record
        except TableError as error:
            raise RunError(f"{error}: give --restart to begin anew") from None

    def _convert(self) -> str:
        """Make the finished file of the part; its checksum."""
        with writing(self._ready), _open_own(self._ready, os.O_TRUNC) as file:
            convert(self.part, self.form, file)
            file.flush()
            os.fsync(file.fileno())
        return checksum(self._ready)

    def _resume(self) -> None:
        remove_litter(self.out.parent, self.state_path.name)
        if self._restart or not self.state_path.exists():
            return self._begin_anew()
        self.state = self._read_state()
        self._compare("made_from")
        if not (self.state.complete and self._retry_failed):
            self._compare("options")
        if not self.state.complete:
            return self._go_on()
        if self._ready.exists() and checksum(self._ready) == self.state.sha256:
            os.replace(self._ready, self.out)  # killed just before this
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
        with writing(self.part):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        self._digest.update(data)

    def _cut(self, size: int) -> None:
        with writing(self.part):
            os.truncate(self.part, size)

    def _read_state(self) -> State:
        try:
            return State(**read_json(self.state_path))
        except (RunError, TypeError):
            raise RunError(f"{self.state_path} is damaged: give --restart to begin anew") from None

    def _save(self) -> None:
        write_json(self.state_path, vars(self.state))

    def _leave(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what could not be written is not written here either
                self._file.close()
            self._file = None
        finished = self.done_before or self.state.complete
        if self.part.exists() and (finished or not self.part.stat().st_size):
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


def _open_own(path: Path, flags: int) -> BinaryIO:
    """Open a file of ours for writing; what somebody else put in its place is not followed.

    Raises:
        RunError: it is a link, a pipe or anything else that is not a file of its own.
    """
    try:
        wanted = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags
        handle = os.open(path, wanted & ~os.O_TRUNC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
    else:
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            if flags & os.O_TRUNC:
                os.ftruncate(handle, 0)
            return os.fdopen(handle, "ab" if flags & os.O_APPEND else "wb")
        os.close(handle)
    raise RunError(f"{path} is a link, or no regular file: take it away, or choose another --out")
