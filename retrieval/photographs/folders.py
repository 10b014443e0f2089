"""What a folder of photographs holds: those that are taken, their landmarks, and what is left out.

Two layouts are understood: ``LANDMARK/PHOTOGRAPH``, and ``train/LANDMARK/PHOTOGRAPH`` beside
``test/LANDMARK/PHOTOGRAPH``. A landmark's folder may hold further folders, whose photographs are
the landmark's too. These are looked at by their names, endings and links alone; no file is
opened. What is not taken is counted in :attr:`FolderScan.notes`.

Where folders mean nothing, :func:`photographs_below` walks in the same way.

Symbolic links are followed, to photographs and to folders; a folder that a landmark has been given
already (a link that leads back, say) is not walked again.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from retrieval.errors import TableError
from retrieval.photographs.labels import landmark_label

PHOTOGRAPH_ENDINGS: Final = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .webp .gif .bmp .tif .tiff .pbm .pgm .ppm .pnm .pfm"
    " .jp2 .j2k .avif .heic .heif .hif".split()
)
"""Endings, in lower case, of files that are taken for photographs."""
SYSTEM: Final = frozenset(
    "@eadir @recycle @recently-snapshot @tmp #recycle #snapshot $recycle.bin recycler lost+found"
    " __macosx thumbs.db ehthumbs.db desktop.ini icon\r".split(" ")
) | {"system volume information"}
"""Names, in lower case, of what systems and their programs leave in folders."""
GALLERY_SPLITS: Final = frozenset("train training index gallery database".split())
TEST_SPLITS: Final = frozenset("test testing query queries".split())
VALIDATION_SPLITS: Final = frozenset("val valid validation".split())
SPLITS: Final = GALLERY_SPLITS | TEST_SPLITS | VALIDATION_SPLITS
"""Names, in lower case, of folders that are parts of a data set and no landmarks."""
COLLECTIONS: Final = frozenset(
    "photos photographs pictures images image img imgs jpg jpeg data dataset".split()
)
"""Names, in lower case, of a folder of all photographs: no landmark where it is the only one."""
READ_BESIDE: Final = re.compile(r"(index|none|test|landmarks|.*label_to_category)\.csv")
NESTED_IDS: Final = re.compile(r"(?:.*/)?([0-9a-f])/([0-9a-f])/([0-9a-f])/\1\2\3[0-9a-f]{13}\.jpg")
"""Photographs of Google Landmarks v2: folders by the first characters of their ids."""
NAMED: Final = 5
"""How many of one kind a note names."""


@dataclass(frozen=True)
class FolderScan:
    """The photographs of a folder.

    Attributes:
        folder: that was looked at.
        paths: of the photographs below it, with ``/`` between, in the order of their parts.
        landmarks: of each, ``None`` for none.
        notes: what was left out or taken otherwise than by its name, a line each.
    """

    folder: Path
    paths: list[str]
    landmarks: list[str | None]
    notes: list[str]


def photographs_below(
    folder: Path, looks: Callable[[Path], bool], notes: list[str]
) -> Iterator[str]:
    """Every photograph below a folder, whatever its folders mean, in order.

    Args:
        folder: that is walked.
        looks: whether a file of another ending is a photograph all the same.
        notes: filled at the end: what was left out, a line each.

    Raises:
        TableError: a folder cannot be read.
    """
    walk = _Walk(folder, looks)
    for path in walk.photographs(""):
        yield os.path.join(folder, path)
    notes.extend(walk.notes())


def find_test(folder: Path) -> Path | None:
    """The folder of a data set's labelled queries, where its folders tell it plainly.

    ``None`` where they do not, or where the data set's tables tell.
    """
    if any((folder / f"index.{ending}").exists() for ending in ("csv", "parquet")):
        return None
    names = _Walk(folder).folders("")
    test = _one_of(folder, names, TEST_SPLITS) or _one_of(folder, names, VALIDATION_SPLITS)
    return None if test is None else folder / test


def scan_folder(folder: Path) -> FolderScan:
    """The photographs of a folder with a folder for each landmark.

    Raises:
        TableError: there are none; it holds parts of a data set; or a name cannot be understood.
    """
    _refuse_name(folder)
    walk = _Walk(folder)
    names = walk.folders("")
    splits = [name for name in names if name.casefold() in SPLITS]
    if splits:
        others = [name for name in names if name not in splits and not _is_bank(name)]
        if others:
            raise TableError(_between(folder, splits[0], others[0]))
        raise TableError(
            f"{folder} holds parts of a data set ({', '.join(map(escaped, splits))}): give one of"
            f" them, such as {folder / min(splits, key=lambda one: one.casefold() != 'train')}"
        )
    return _scan(walk, [(name, name) for name in names], f"{folder}: no photographs in folders"
                 " (expected LANDMARK/PHOTOGRAPH.jpg)")  # fmt: skip


def scan_bank(folder: Path) -> FolderScan:
    """Every photograph below a folder, as of no landmark, whatever its folders mean.

    Raises:
        TableError: there are none, or a name cannot be understood.
    """
    _refuse_name(folder)
    walk = _Walk(folder)
    paths = list(walk.photographs(""))
    _refuse_unreadable(folder, [path for path in paths if not _is_text(path)])
    if not paths:
        raise TableError("; ".join([f"{folder}: no photographs in this folder", *walk.notes()]))
    return FolderScan(folder, paths, [None] * len(paths), walk.notes())


def scan_data_set(folder: Path) -> tuple[FolderScan, FolderScan | None]:
    """The photographs of a data set: gallery and bank, and the test where folders tell it.

    ``train`` (or training, index, gallery, database) beside ``test`` (or testing, query, queries;
    or val, valid, validation where there is no test) are its gallery and its test; photographs of
    no landmark may lie in ``train/none``, and in ``none`` beside.

    Raises:
        TableError: there are none; it is not plain which part is which; or a name cannot be
            understood.
    """
    _refuse_name(folder)
    names = _Walk(folder).folders("")
    splits = [name for name in names if name.casefold() in SPLITS]
    if not splits:
        scan = scan_folder(folder)
        _refuse_collection(scan)
        return scan, None
    others = [name for name in names if name not in splits]
    landmarks = [name for name in others if not _is_bank(name)]
    if landmarks:
        raise TableError(_between(folder, splits[0], landmarks[0]))
    gallery = _one_of(folder, splits, GALLERY_SPLITS)
    test = _one_of(folder, splits, TEST_SPLITS)
    validation = _one_of(folder, splits, VALIDATION_SPLITS)
    if gallery is None:
        raise TableError(
            f"{folder} holds {', '.join(map(escaped, splits))} and no gallery: expected"
            " train/LANDMARK/PHOTOGRAPH.jpg (or index, gallery) beside it"
        )
    unused = validation if test is not None else None
    scan = _scan_split(folder, gallery, others)
    # What lies in the data set's own folder, beside its parts.
    beside = _Walk(folder)
    beside.folders("")
    scan.notes.extend(beside.notes())
    if unused is not None:
        scan.notes.append(f"{escaped(unused)}/ is left out: {escaped(test or '')}/ is the test")
    asked = test or validation
    return scan, None if asked is None else _scan_split(folder, asked, [])


def escaped(name: str) -> str:
    """A name of a file for a message: bytes that are not UTF-8, and what has no shape, escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or a system's own, by its name."""
    return name.startswith(".") or name.casefold() in SYSTEM


def first_few(names: Sequence[str], many: int = NAMED) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - many:,} more" if len(names) > many else ""
    return ", ".join(map(escaped, names[:many])) + more


def counted(number: int, what: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


@dataclass
class _Walk:
    """Walks folders below a root, and counts what it does not take."""

    root: Path
    looks: Callable[[Path], bool] | None = None
    endings: Counter[str] = field(default_factory=Counter)
    litter: Counter[str] = field(default_factory=Counter)
    loose: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    links: int = 0

    def folders(self, below: str) -> list[str]:
        """The folders at one place, in order; photographs there lie in no landmark's folder."""
        found = []
        for entry in self._entries(below):
            path = _joined(below, entry.name)
            if entry.is_dir():
                found.append(entry.name)
            elif self._is_photograph(entry, path, known=not below):
                self.loose.append(path)
        return found

    def photographs(self, top: str) -> Iterator[str]:
        """Every photograph in and below a folder, in order."""
        seen = {_identity(self.root), _identity(self.root / top)}
        # A stack rather than recursion: folders may be nested deeper than Python calls.
        stack = [(top, iter(self._entries(top)))]
        while stack:
            folder, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                continue
            path = _joined(folder, entry.name)
            if entry.is_dir():
                identity = _identity(Path(entry.path))
                if identity in seen:
                    self.again.append(path)
                    continue
                seen.add(identity)
                stack.append((path, iter(self._entries(path))))
            elif self._is_photograph(entry, path):
                yield path

    def _entries(self, below: str) -> list[os.DirEntry[str]]:
        """What lies at one place, in order, without litter and broken links."""
        place = self.root / below
        try:
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda one: one.name)
        except OSError as error:
            raise TableError(
                f"{escaped(str(place))}: the folder cannot be read ({error.strerror})"
            ) from None
        return [one for one in entries if self._is_there(one, _joined(below, one.name))]

    def _is_there(self, entry: os.DirEntry[str], path: str) -> bool:
        if is_litter(entry.name):
            self.litter["._*" if entry.name.startswith("._") else entry.name] += 1
            return False
        if entry.is_symlink():
            if not os.path.exists(entry.path):
                self.broken.append(path)
                return False
            self.links += 1
        return True

    def _is_photograph(self, entry: os.DirEntry[str], path: str, known: bool = False) -> bool:
        ending = os.path.splitext(entry.name)[1].lower()
        if ending not in PHOTOGRAPH_ENDINGS and not self._looks(entry):
            if not (known and READ_BESIDE.fullmatch(entry.name)):
                self.endings[ending] += 1
            return False
        if not entry.is_file():
            self.strange.append(path)
            return False
        return True

    def _looks(self, entry: os.DirEntry[str]) -> bool:
        return self.looks is not None and entry.is_file() and self.looks(Path(entry.path))

    def notes(self) -> list[str]:
        """What was not taken, a line each."""
        notes = []
        if self.endings:
            kinds = [
                f"{escaped(ending) or 'no ending'} {many:,}"
                for ending, many in self.endings.most_common()
            ]
            left_out = counted(self.endings.total(), "file")
            notes.append(f"{left_out} left out, no photograph by the ending: {_some(kinds)}")
        if self.litter:
            kinds = [f"{escaped(name)} {many:,}" for name, many in self.litter.most_common()]
            skipped = counted(self.litter.total(), "hidden or system name")
            notes.append(f"{skipped} skipped: {_some(kinds)}")
        for paths, what, why in (
            (self.loose, "photograph", "in no landmark's folder"),
            (self.broken, "symbolic link", "leading nowhere"),
            (self.again, "folder", "walked already, to which a link leads back"),
            (self.strange, "photograph by its ending", "no regular file"),
        ):
            if paths:
                notes.append(f"{counted(len(paths), what)} left out, {why}: {first_few(paths)}")
        if self.links:
            notes.append(f"{counted(self.links, 'symbolic link')} followed")
        return notes


def _scan_split(folder: Path, split: str, beside: Sequence[str]) -> FolderScan:
    """One part of a data set, and folders (of no landmark) beside the parts."""
    walk = _Walk(folder)
    classes = [(_joined(split, name), name) for name in walk.folders(split)]
    within = [place for place, name in classes if name.casefold() in SPLITS]
    if within:
        raise TableError(
            f"{folder / within[0]} is named as a part of a data set, within another part:"
            f" expected {split}/LANDMARK/PHOTOGRAPH.jpg"
        )
    return _scan(walk, [*((name, name) for name in beside), *classes],
                 f"{folder / split}: no photographs in folders (expected"
                 f" {split}/LANDMARK/PHOTOGRAPH.jpg)")  # fmt: skip


def _scan(walk: _Walk, classes: Sequence[tuple[str, str]], nothing: str) -> FolderScan:
    """The photographs in classes' folders, each given by its path and its name."""
    paths: list[str] = []
    landmarks: list[str | None] = []
    empty: list[str] = []
    unreadable: list[str] = []
    written: dict[str, list[str]] = defaultdict(list)
    for place, name in classes:
        found = list(walk.photographs(place))
        if not found:
            empty.append(place)
            continue
        wrong = [path for path in found if not _is_text(path)]
        unreadable += wrong
        if wrong:
            continue
        _refuse_inner_split(walk.root, place, found)
        label = _label(walk.root / place, name)
        if label is not None:
            written[label].append(place)
        paths += found
        landmarks += [label] * len(found)
    _refuse_unreadable(walk.root, unreadable)
    notes = walk.notes()
    if not paths:
        raise TableError("; ".join([nothing, *notes]))
    _refuse_nested_ids(walk.root, paths)
    if empty:
        notes.append(
            f"{counted(len(empty), 'folder')} without a photograph, left out: {first_few(empty)}"
        )
    notes += _inner(paths, [place for place, _ in classes])
    notes += [
        f"{' and '.join(map(escaped, places))} are one landmark, {label}: the same letters,"
        " composed differently"
        for label, places in written.items()
        if len(places) > 1
    ]
    return FolderScan(walk.root, paths, landmarks, notes)


def _inner(paths: Iterable[str], places: Sequence[str]) -> list[str]:
    """A note on photographs that lie deeper than in a landmark's own folder."""
    own = set(places)
    within = Counter(parent for path in paths if (parent := path.rpartition("/")[0]) not in own)
    if not within:
        return []
    lie = "lies in a folder" if within.total() == 1 else "lie in folders"
    return [
        f"{counted(within.total(), 'photograph')} that {lie} within a landmark's folder:"
        f" taken as that landmark's: {first_few(list(within))}"
    ]


def _label(place: Path, name: str) -> str | None:
    try:
        return landmark_label(name)
    except TableError as error:
        raise TableError(f"{place}: {error}") from None


def _is_bank(name: str) -> bool:
    """Whether a folder is of photographs of no landmark."""
    try:
        return _is_text(name) and landmark_label(name) is None
    except TableError:
        return False


def _one_of(folder: Path, splits: Sequence[str], names: frozenset[str]) -> str | None:
    """The one part of a kind that there is, or ``None``."""
    found = [name for name in splits if name.casefold() in names]
    if len(found) > 1:
        raise TableError(
            f"{folder} holds both {escaped(found[0])} and {escaped(found[1])}: it is not plain"
            " which is meant; leave one of them in, or list them in index.csv and test.csv"
        )
    return found[0] if found else None


def _between(folder: Path, split: str, landmark: str) -> str:
    return (
        f"{folder / escaped(split)} is named as a part of a data set, but stands beside landmarks'"
        f" folders ({escaped(landmark)}): put those into {folder / 'train'}, or rename it"
    )


def _refuse_inner_split(root: Path, place: str, paths: Iterable[str]) -> None:
    """``LANDMARK/test`` would put test photographs into the gallery."""
    below = place.count("/") + 1
    for name in {path.split("/")[below] for path in paths if path.count("/") > below}:
        if name.casefold() in SPLITS:
            landmark = place.rpartition("/")[2]
            raise TableError(
                f"{root / place / name} is named as a part of a data set, within a landmark's"
                f" folder: put its photographs into {name}/{landmark}, or rename it"
            )


def _refuse_collection(scan: FolderScan) -> None:
    """Refuse a folder whose only landmark is rather the folder of all of them."""
    tops = {path.partition("/")[0] for path in scan.paths if not _is_bank(path.partition("/")[0])}
    if len(tops) != 1:
        return
    top = next(iter(tops))
    below = [path.split("/")[1:] for path in scan.paths if path.startswith(f"{top}/")]
    deeper = {parts[0] for parts in below if len(parts) > 1}
    if len(deeper) > 1 and all(len(parts) > 1 for parts in below):
        raise TableError(
            f"{scan.folder} holds one folder alone, {escaped(top)}, and in it folders"
            f" ({first_few(sorted(deeper), 2)}): if those are the landmarks, give"
            f" {scan.folder / top}"
        )
    if top.casefold() in COLLECTIONS:
        raise TableError(
            f"{scan.folder} holds one folder alone, {escaped(top)}, which is no landmark's name:"
            " expected index.csv beside it (or --gallery), or a folder for each landmark"
        )


def _refuse_nested_ids(root: Path, paths: Iterable[str]) -> None:
    nested = next((path for path in paths if NESTED_IDS.fullmatch(path)), None)
    if nested is not None:
        raise TableError(
            f"{root / nested} lies by its id, and not in a landmark's folder: give the table that"
            " says what it shows (index.csv, or --gallery)"
        )


def _refuse_name(folder: Path) -> None:
    if not _is_text(str(folder)):
        raise TableError(f"{escaped(str(folder))}: the name is not UTF-8: rename it")


def _refuse_unreadable(root: Path, paths: Sequence[str]) -> None:
    if paths:
        raise TableError(
            f"{escaped(str(root / paths[0]))}: the name is not UTF-8"
            f" ({counted(len(paths), 'photograph')} with such names): rename it (convmv does many)"
        )


def _is_text(name: str) -> bool:
    # Python keeps bytes that are not UTF-8 as halves of surrogate pairs.
    return not any("\ud800" <= one <= "\udfff" for one in name) if not name.isascii() else True


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _some(kinds: Sequence[str]) -> str:
    more = f" and {len(kinds) - NAMED:,} kinds more" if len(kinds) > NAMED else ""
    return ", ".join(kinds[:NAMED]) + more
