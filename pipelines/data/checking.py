"""A data set looked over before any work: what is in it, what is broken, and what lies in it twice.

Every photograph is opened, several at a time, and kept as two short codes: one of its bytes, one
of what it shows (in which direction brightness changes, on a grid of eight by eight: "difference
hash"). Photographs whose bytes agree are the same; those whose other codes differ in few bits
show nearly the same: enlarged, brightened or saved anew.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrieval.classifiers.promise import promise_of
from retrieval.devices import cores
from retrieval.errors import PhotographError
from retrieval.index.near_codes import groups_within
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.folders import counted, escaped, first_few
from retrieval.photographs.table import (
    bank_origins,
    is_url,
    labels_of,
    load_data_set,
    photographs_each,
    read_table,
    unknown_landmarks,
)

Progress = Callable[[int, int], None]

GRID: Final = 8
SIDE: Final = 96
"""Pixels at which a photograph is looked at: large JPEGs are decoded at that scale."""
NEAR: Final = 6
"""Bits of the 128 in which photographs may differ that show nearly the same."""
AT_A_TIME: Final = 512
LINES: Final = 20
"""How many findings of a kind are told, unless all are asked for."""


@dataclass(frozen=True)
class FolderCheck:
    """What was found.

    Attributes:
        lines: of the report.
        usable: whether anything could be built of it.
    """

    lines: list[str]
    usable: bool


@dataclass(frozen=True)
class _Opened:
    """What became of the photographs.

    Attributes:
        reasons: (n,) why one could not be opened, empty where it could.
        contents: (n, 16) a code of each file's bytes.
        shows: (n, 16) a code of what each shows.
    """

    reasons: list[str]
    contents: NDArray[np.uint8]
    shows: NDArray[np.uint8]


def check_data_set(
    path: Path,
    *,
    quick: bool = False,
    tell_all: bool = False,
    progress: Callable[[int], Progress] = lambda total: lambda done, failed: None,
) -> FolderCheck:
    """Look over a data folder, or a single table.

    Args:
        path: of the folder or table.
        quick: open no photograph.
        tell_all: tell every finding, however many there are.
        progress: called with the number of photographs, gives what is told of each block's
            (photographs opened, failed ones among them).

    Raises:
        TableError: naming the first row that is wrong.
    """
    notes: list[str] = []
    promise: list[str] = []
    if path.is_file():
        parts = {path.name: read_table(path, bank=True, say=notes.append)}
    else:
        data = load_data_set(path, say=notes.append)
        parts = {"gallery": data.gallery, "bank": data.bank}
        if data.test is not None:
            parts["test"] = data.test
        promise = [promise_of(len(data.bank), bank_origins(data), photographs_each(data.gallery))]
    most = None if tell_all else LINES
    lines = [_describe(name, table) for name, table in parts.items()]
    lines += promise
    lines += notes
    lines += _cut(_look_alikes(parts), most)
    if "test" in parts:
        lines += _cut(_unanswerable(parts["gallery"], parts["test"]), most)
    if quick:
        return FolderCheck(lines, True)
    rows = pd.concat([table.assign(part=name) for name, table in parts.items()], ignore_index=True)
    remote = is_url(rows["source"])
    if remote.any():
        lines.append(f"{counted(int(remote.sum()), 'URL')} not opened")
        rows = rows[~remote].reset_index(drop=True)
    opened = _open(rows["source"], progress(len(rows)))
    good = np.array([not reason for reason in opened.reasons], dtype=bool)
    lines.append(f"opened: {good.sum():,} of {len(rows):,} photographs")
    lines += _cut(_broken(rows, opened.reasons), most)
    lines += _cut(_without_photographs(rows, good), most)
    lines += _repeated(rows, opened, good, most)
    first = rows["part"] == next(iter(parts))
    return FolderCheck(lines, bool(good[first].any()) or bool(remote.any()))


def _describe(name: str, table: pd.DataFrame) -> str:
    labelled = table["landmark"].dropna()
    counts = labelled.value_counts()
    spread = f", {counts.min():,} to {counts.max():,} photographs each" if len(counts) else ""
    return (
        f"{name}: {len(table):,} photographs, {len(labelled):,} of {len(counts):,}"
        f" landmarks{spread}, {len(table) - len(labelled):,} of none"
    )


def _unanswerable(gallery: pd.DataFrame, test: pd.DataFrame) -> Iterator[str]:
    for _, row in unknown_landmarks(test, set(gallery["landmark"].dropna())).iterrows():
        yield (
            f"test, row {row['row']}: the gallery has no photograph of {row['landmark']!r}, so"
            f" {row['id']!r} cannot be answered right"
        )


def _look_alikes(parts: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Landmarks whose labels differ so little that one may have been meant."""
    written = defaultdict(set)
    for table in parts.values():
        for label in table["landmark"].dropna().unique():
            bare = " ".join(label.replace("_", " ").replace("-", " ").split()).casefold()
            written[bare].add(label)
    for labels in written.values():
        if len(labels) > 1:
            yield (
                f"{len(labels)} landmarks whose labels differ only in case, blanks, _ or -:"
                f" {first_few(sorted(labels))}"
            )


def _open(sources: pd.Series[str], progress: Progress) -> _Opened:
    """Open photographs, so many at a time; what is kept of each is 32 bytes and the reason."""
    reasons: list[str] = []
    contents = np.zeros((len(sources), 16), dtype=np.uint8)
    shows = np.zeros((len(sources), 2 * GRID * GRID // 8), dtype=np.uint8)
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(sources), AT_A_TIME):
            block = list(pool.map(_look_at, sources.iloc[start : start + AT_A_TIME]))
            for place, (reason, content, show) in enumerate(block, start):
                reasons.append(reason)
                contents[place], shows[place] = content, show
            progress(len(block), sum(bool(reason) for reason, _, _ in block))
    return _Opened(reasons, contents, shows)


def _look_at(source: str) -> tuple[str, NDArray[np.uint8], NDArray[np.uint8]]:
    """Why a photograph cannot be opened (empty if it can), and its codes."""
    nothing = np.zeros(16, dtype=np.uint8)
    try:
        photograph = read_photograph(source, SIDE)
        with Path(source).open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    except PhotographError as error:
        return str(error), nothing, nothing
    except OSError as error:
        return f"cannot be read ({error.strerror})", nothing, nothing
    return "", np.frombuffer(digest.digest(), dtype=np.uint8), difference_hash(photograph)


def difference_hash(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(16,) bits of whether brightness grows to the right and downwards, of (h, w, 3) pixels."""
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (GRID + 1, GRID + 1), interpolation=cv2.INTER_AREA).astype(np.int16)
    right = small[:GRID, 1:] > small[:GRID, :-1]
    down = small[1:, :GRID] > small[:-1, :GRID]
    return np.packbits(np.stack([right, down]))


def _broken(rows: pd.DataFrame, reasons: Sequence[str]) -> Iterator[str]:
    for place in (place for place, reason in enumerate(reasons) if reason):
        row = rows.iloc[place]
        where = f"{row['part']}, row {row['row']}" if row["row"] else row["part"]
        yield f"broken: {where}, {escaped(row['source'])}: {reasons[place]}"


def _without_photographs(rows: pd.DataFrame, good: NDArray[np.bool_]) -> Iterator[str]:
    labelled = rows["landmark"].notna().to_numpy(dtype=bool)
    for part in rows["part"].unique():
        of = labelled & (rows["part"] == part).to_numpy(dtype=bool)
        lost = set(rows.loc[of, "landmark"]) - set(rows.loc[of & good, "landmark"])
        for landmark in sorted(lost):
            yield f"{part}: none of the photographs of landmark {landmark!r} can be opened"


def _repeated(
    rows: pd.DataFrame, opened: _Opened, good: NDArray[np.bool_], most: int | None
) -> list[str]:
    """Photographs that are there more than once: a number of each kind, and which they are."""
    places = np.flatnonzero(good)
    if not len(places):
        return []
    shows = groups_within(opened.shows[places], NEAR)
    _, same = np.unique(opened.contents[places], axis=0, return_inverse=True)
    same = same.reshape(-1)
    exact = [places[group] for group in _groups(same)]
    # Of what is the same besides, one stands for all.
    first = np.unique(same, return_index=True)[1]
    near = [places[first[group]] for group in _groups(shows[first])]
    lines = [
        f"repeated: {counted(len(exact), 'group')} of the same photographs,"
        f" {len(near):,} of nearly the same"
    ]
    shown_as = [
        f"{name} ({part}, row {row})" if row else name
        for name, part, row in zip(rows["id"], rows["part"], rows["row"], strict=True)
    ]
    meant = list(zip(rows["part"], labels_of(rows), strict=True))
    for what, groups in (("the same", exact), ("nearly the same", near)):
        told = [(_conflict([meant[place] for place in group]), group) for group in groups]
        told.sort(key=lambda one: not one[0])  # those that contradict each other first
        lines += _cut(
            (
                f"{what}{conflict}: " + first_few([shown_as[place] for place in group])
                for conflict, group in told
            ),
            most,
        )
    return lines


def _groups(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The places of equal numbers, of those that are there more than once."""
    order = np.argsort(numbers, kind="stable")
    ends = np.flatnonzero(np.diff(numbers[order])) + 1
    groups = [group for group in np.split(order, ends) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def _conflict(meant: Sequence[tuple[str, str | None]]) -> str:
    """What speaks against one photograph's being in these parts, under these landmarks."""
    landmarks = sorted({landmark for _, landmark in meant if landmark is not None})
    parts = list(dict.fromkeys(part for part, _ in meant))
    said = ""
    if len(landmarks) > 1:
        said += f", under {len(landmarks)} landmarks ({first_few(landmarks)})"
    if landmarks and any(landmark is None for _, landmark in meant):
        said += ", of a landmark and of none"
    if len(parts) > 1:
        said += f", in {' and '.join(parts)}"
    return said


def _cut(lines: Iterable[str], most: int | None) -> list[str]:
    """The first of some lines, and how many there are beyond."""
    found = list(lines)
    if most is None or len(found) <= most:
        return found
    return [*found[:most], f"… and {len(found) - most:,} more of these (--all tells all)"]
