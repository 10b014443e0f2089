"""What classify is given: photographs, folders, a list, or a list on standard input.

What a thing is, is decided here, by its content: a JPEG is a photograph under any name. Only
a file that begins like nothing known is taken by its name. Whatever comes as a stream, and the
photographs below folders, are written down first, in a temporary file: so they can be counted, told
from another input when a killed run goes on, and gone through again, in bounded memory.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from pipelines.lists.rows import URL_START, Row, read_rows
from retrieval.errors import ConfigError, TableError
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.file_kinds import HEAD, photograph_kind
from retrieval.photographs.folders import PHOTOGRAPH_ENDINGS, photographs_below
from retrieval.storage.files import writing
from retrieval.storage.fingerprint import checksum, fingerprint

log = logging.getLogger(__name__)

STDIN: Final = "-"
STREAMS: Final = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/self/fd/\d+")


@dataclass(frozen=True)
class Input:
    """What to classify.

    Attributes:
        rows: its rows, from the first, each time it is called.
        digest: identifies the input.
        named: whether it is photographs that were named one by one.
        path: of a list's own file; OUT must be another.
        told: what is to be said of it before the work: what was left out.
    """

    rows: Callable[[], Iterator[Row]]
    digest: str
    named: bool = False
    path: Path | None = None
    told: tuple[str, ...] = ()


def listed(
    path: Path,
    url_column: str | None = None,
    id_column: str | None = None,
    fetched: bool = False,
) -> Input:
    """A list in a file, all of it checked; :mod:`pipelines.lists.rows` says which forms it has.

    Raises:
        TableError: it cannot be read, or is no list.
    """

    def rows() -> Iterator[Row]:
        return read_rows(path, url_column, id_column, fetched)

    deque(rows(), maxlen=0)  # what is wrong far below is refused before any work
    known = checksum(path)[:16]
    if url_column or id_column:
        known = fingerprint(known, {"url_column": url_column, "id_column": id_column})
    return Input(rows, known, path=path)


@contextmanager
def opened(
    given: Sequence[str], url_column: str | None = None, id_column: str | None = None
) -> Iterator[Input]:
    """What the command line names.

    Args:
        given: photographs (files, URLs) and folders of them, in any mixture; or one list; or ``-``.
        url_column: of a list, the column of URLs or paths.
        id_column: likewise of ids.

    Raises:
        TableError: something is not there, or is not what can be classified.
        ConfigError: lists among other things, or columns of what has none.
    """
    given = [os.path.expanduser(one) for one in given]
    kinds = [kind_of(one) for one in given]
    lists = [one for one, kind in zip(given, kinds, strict=True) if kind in ("list", "stream")]
    if lists and len(given) > 1:
        other = next(one for one in given if one is not lists[0])
        raise ConfigError(
            f"{lists[0]} is a list, and {other} is given too: give one list alone, or photographs"
        )
    if not lists and (url_column or id_column):
        option = "--url-column" if url_column else "--id-column"
        raise ConfigError(f"{option}: {given[0]} is no list, and has no columns")
    if kinds == ["list"]:
        yield listed(Path(given[0]), url_column, id_column)
    elif kinds == ["stream"]:
        with streamed(given[0], "a list, or a photograph to classify") as spool:
            yield _photograph_or_list(spool, url_column, id_column)
    else:
        with _temporary("photographs") as spool:
            yield _photographs(given, kinds, spool)


def kind_of(given: str) -> str:
    """``url``, ``photograph``, ``folder``, ``list`` or ``stream``.

    Raises:
        TableError: it is not there, cannot be read, or is a device.
    """
    if given == STDIN or STREAMS.fullmatch(given):
        return "stream"
    if URL_START.match(given):
        return "url"
    try:
        found = os.stat(given)
        mode = found.st_mode
        if stat.S_ISDIR(mode):
            return "folder"
        if stat.S_ISFIFO(mode):
            return "stream"
        if not stat.S_ISREG(mode):
            raise TableError(f"{given} is no regular file: give photographs, a folder or a list")
        if is_photograph(Path(given)):
            return "photograph"
        if not found.st_size:
            raise TableError(f"{given} is empty: give photographs, a folder or a list")
        return "list"
    except ValueError:  # a zero byte
        raise TableError(f"{given!r}: no such file") from None
    except OSError as error:
        raise TableError(f"{given}: cannot be read ({error.strerror})") from None


def is_photograph(path: Path) -> bool:
    """Whether a file's content is a photograph's, or, where that says nothing, its name.

    Raises:
        OSError: it cannot be read.
    """
    kind = photograph_kind(_head(path))
    return kind is not None or path.suffix.lower() in PHOTOGRAPH_ENDINGS


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; none of one that says it is empty, which kernels have
    that never end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(HEAD) if os.fstat(file.fileno()).st_size else b""


@contextmanager
def _temporary(name: str) -> Iterator[Path]:
    """A file in a folder of its own, so that nothing in a list can lie beside it."""
    with tempfile.TemporaryDirectory(prefix="landmarks-") as folder:
        yield Path(folder) / name


@contextmanager
def streamed(given: str, wanted: str) -> Iterator[Path]:
    """What a stream brings, in a file; mistakes in it are told of the stream.

    Raises:
        TableError: nothing came, or it cannot be read.
    """
    what = "standard input" if given in (STDIN, "/dev/stdin") else given
    with _temporary("stream") as spool, _told_of(spool, what):
        with _stream(given) as stream, writing(spool), spool.open("wb") as file:
            shutil.copyfileobj(stream, file)
        if not spool.stat().st_size:
            raise TableError(f"{what}: nothing came; give {wanted}")
        yield spool


def _photograph_or_list(spool: Path, url_column: str | None, id_column: str | None) -> Input:
    """One photograph, or a list whose paths start from here."""
    if photograph_kind(_head(spool)) is not None:
        row = Row(1, STDIN, spool)
        return Input(lambda: iter([row]), checksum(spool)[:16], named=True)

    def rows() -> Iterator[Row]:
        for row in source.rows():
            yield replace(row, source=_from_here(row.source, spool.parent))

    source = listed(spool, url_column, id_column)
    return Input(rows, source.digest)


@contextmanager
def _stream(given: str) -> Iterator[BinaryIO]:
    if given in (STDIN, "/dev/stdin"):
        yield sys.stdin.buffer
        return
    try:
        file = open(given, "rb")  # noqa: SIM115  # what is done with it has errors of its own
    except OSError as error:
        raise TableError(f"{given}: cannot be read ({error.strerror})") from None
    with file:
        yield file


@contextmanager
def _told_of(spool: Path, what: str) -> Iterator[None]:
    """Messages of mistakes in a stream do not name its temporary file."""
    try:
        yield
    except TableError as error:
        raise TableError(str(error).replace(str(spool), what)) from None


def _from_here(source: str | Path, folder: Path) -> str | Path:
    """A path that was read as one relative to a folder, relative to where the command runs."""
    if isinstance(source, Path) and source.is_relative_to(folder):
        return source.relative_to(folder)
    return source


def _photographs(given: Sequence[str], kinds: Sequence[str], spool: Path) -> Input:
    """Photographs by name and below folders, written down one after another."""
    told = []
    with writing(spool), spool.open("wb") as file:
        for one, kind in zip(given, kinds, strict=True):
            if kind == "folder":
                notes: list[str] = []
                many = _write(file, photographs_below(Path(one), _may_be_photograph, notes))
                if not many:
                    raise TableError("; ".join([f"{one}: no photographs in this folder", *notes]))
                told += [f"{one}: {note}" for note in notes]
            else:
                _write(file, [one])
    return Input(
        lambda: _written(spool), checksum(spool)[:16], named="folder" not in kinds, told=tuple(told)
    )


def _write(file: BinaryIO, names: Iterable[str]) -> int:
    """Names as the system has them, a zero byte behind each."""
    many = 0
    for name in names:
        file.write(os.fsencode(name) + b"\0")
        many += 1
    return many


def _written(spool: Path) -> Iterator[Row]:
    with spool.open("rb") as file:
        for line, name in enumerate(_split(file), start=1):
            text, source = name.decode("utf-8", "backslashreplace"), os.fsdecode(name)
            yield Row(line, text, source if URL_START.match(source) else Path(source))


def _split(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while block := file.read(1 << 16):
        *names, rest = (rest + block).split(b"\0")
        yield from names


def _may_be_photograph(path: Path) -> bool:
    """Whether a file is to be a row; one that cannot be read says so there."""
    try:
        return is_photograph(path)
    except OSError:
        return True


def limits(fetch: FetchConfig) -> dict[str, int | bool]:
    """The part of a fetch config that decides what can be had, and not how fast."""
    return fetch.model_dump(include={"max_bytes", "max_redirects", "allow_private"})
