"""What classify is given: photographs, folders, a list, or a list on standard input.

What a thing is, is decided here, by its content: a JPEG is a photograph whatever it is called. Only
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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final

from pipelines.rows import URL_START, Row, read_rows
from retrieval.errors import ConfigError, TableError
from retrieval.index.store import checksum, fingerprint, naming
from retrieval.photographs.table import PHOTOGRAPH_SUFFIXES

log = logging.getLogger(__name__)

STDIN: Final = "-"
STREAMS: Final = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/self/fd/\d+")
HEAD: Final = 512
SYSTEM_FOLDERS: Final = frozenset(
    ("@eadir", "$recycle.bin", "lost+found", "system volume information", "__macosx")
)
MAGIC: Final = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0",
    b"MM\0+", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL ", b"8BPS\0\1",
)  # fmt: skip
BRANDS: Final = frozenset("heic heix hevc hevx heim heis mif1 msf1 avif avis miaf".split())
"""Of the ISO media files that hold photographs; films are of others."""
NETPBM: Final = re.compile(rb"P([1-6]|[Ff])\s+(#[^\n]*\n\s*)*\d+\s+\d+\s")


@dataclass(frozen=True)
class Input:
    """What to classify.

    Attributes:
        rows: its rows, from the first, each time it is called.
        digest: tells it from another input.
        named: whether it is photographs that were named one by one.
        path: of a list's own file; OUT must be another.
        told: what is to be said of it before the work: what was left out.
    """

    rows: Callable[[], Iterator[Row]]
    digest: str
    named: bool = False
    path: Path | None = None
    told: tuple[str, ...] = ()


@dataclass
class LeftOut:
    """What of a folder is not classified."""

    hidden: int = 0
    system: int = 0
    linked: int = 0
    irregular: int = 0
    unread: int = 0
    endings: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        if self.endings:
            kinds = [f"{one} {many:,}" for one, many in self.endings.most_common(8)]
            more = ", …" if len(self.endings) > 8 else ""
            yield f"{self.endings.total():,} no photographs ({', '.join(kinds)}{more})"
        for many, what in (
            (self.hidden, "hidden"),
            (self.system, "system folders"),
            (self.linked, "links to folders"),
            (self.irregular, "no regular files"),
            (self.unread, "unreadable folders"),
        ):
            if many:
                yield f"{many:,} {what}"

    def __str__(self) -> str:
        return ", ".join(self.lines())


def listed(path: Path, url_column: str | None = None, id_column: str | None = None) -> Input:
    """A list in a file (:mod:`pipelines.rows` says which forms there are).

    Raises:
        TableError: it cannot be read, or is no list.
    """
    named = _columns(url_column, id_column)
    next(read_rows(path, **named), None)
    known = checksum(path)[:16]
    if named:
        known = fingerprint(known, named)
    return Input(lambda: read_rows(path, **named), known, path=path)


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
        with _temporary("stream") as spool:
            yield _streamed(given[0], spool, url_column, id_column)
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
    return _begins_as_photograph(_head(path)) or path.suffix.lower() in PHOTOGRAPH_SUFFIXES


def _begins_as_photograph(head: bytes) -> bool:
    if head.startswith(MAGIC) or NETPBM.match(head):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12].decode("latin-1") in BRANDS
    # A list may begin with BM too, but not with the zeros and the header's size behind it.
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    return bitmap and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; none of one that says it is empty, which kernels have
    that never end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(HEAD) if os.fstat(file.fileno()).st_size else b""


def _columns(url_column: str | None, id_column: str | None) -> dict[str, str]:
    given = {"url_column": url_column, "id_column": id_column}
    return {name: column for name, column in given.items() if column is not None}


@contextmanager
def _temporary(name: str) -> Iterator[Path]:
    """A file in a folder of its own, so that nothing in a list can lie beside it."""
    with tempfile.TemporaryDirectory(prefix="landmarks-") as folder:
        yield Path(folder) / name


def _streamed(given: str, spool: Path, url_column: str | None, id_column: str | None) -> Input:
    """What a stream brings: a list whose paths start from here, or one photograph."""
    what = "standard input" if given in (STDIN, "/dev/stdin") else given
    with naming(spool), spool.open("wb") as file, _stream(given) as stream:
        shutil.copyfileobj(stream, file)
    if not spool.stat().st_size:
        raise TableError(f"{what}: nothing came; give a list of URLs or paths, or a photograph")
    if _begins_as_photograph(_head(spool)):
        row = Row(1, STDIN, spool)
        return Input(lambda: iter([row]), checksum(spool)[:16], named=True)

    def rows() -> Iterator[Row]:
        with _told_of(spool, what):
            for row in source.rows():
                yield replace(row, source=_from_here(row.source, spool.parent))

    with _told_of(spool, what):
        source = listed(spool, url_column, id_column)
    return Input(rows, source.digest)


@contextmanager
def _stream(given: str) -> Iterator[BinaryIO]:
    if given in (STDIN, "/dev/stdin"):
        yield sys.stdin.buffer
    else:
        try:
            with open(given, "rb") as file:
                yield file
        except OSError as error:
            raise TableError(f"{given}: cannot be read ({error.strerror})") from None


@contextmanager
def _told_of(spool: Path, what: str) -> Iterator[None]:
    """Mistakes in a stream are not told of its temporary file."""
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
    with naming(spool), spool.open("wb") as file:
        for one, kind in zip(given, kinds, strict=True):
            if kind == "folder":
                left_out = LeftOut()
                many = _write(file, photographs_below(Path(one), left_out))
                if not many:
                    why = f" (left out: {left_out})" if str(left_out) else ""
                    raise TableError(f"{one}: no photographs in this folder{why}")
                if str(left_out):
                    told.append(f"{one}: {many:,} photographs; left out: {left_out}")
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


def photographs_below(folder: Path, left_out: LeftOut) -> Iterator[str]:
    """The photographs below a folder, by name, a folder's files before its folders."""
    todo = [os.fspath(folder)]
    while todo:
        here = todo.pop()
        try:
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            log.warning("%s: cannot be read (%s)", here, error.strerror)
            left_out.unread += 1
            continue
        folders = []
        for entry in entries:
            if _is_folder(entry):
                folders.append(entry.path)
            elif _is_row(entry, left_out):
                yield entry.path
        todo.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether to go into it; what is not gone into is counted by :func:`_is_row`."""
    return (
        entry.is_dir(follow_symlinks=False)  # a link may lead back here
        and not entry.name.startswith(".")
        and entry.name.lower() not in SYSTEM_FOLDERS
    )


def _is_row(entry: os.DirEntry[str], left_out: LeftOut) -> bool:
    """Whether it is a photograph; if not, why not is counted."""
    if entry.name.startswith("."):
        left_out.hidden += 1
    elif entry.is_dir():
        left_out.linked += entry.is_symlink()
        left_out.system += not entry.is_symlink()
    elif not entry.is_file():
        left_out.irregular += 1
    elif _may_be_photograph(Path(entry.path)):
        return True
    else:
        left_out.endings[Path(entry.name).suffix.lower() or "no ending"] += 1
    return False


def _may_be_photograph(path: Path) -> bool:
    """Whether a file is to be a row; one that cannot be read says so there."""
    try:
        return is_photograph(path)
    except OSError:
        return True
