"""A built run's photographs: listed, chosen to be taken out, and given ids of their own to come in.

What is done to the run then is :mod:`retrieval.build`'s.
"""

from __future__ import annotations

import functools
import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import pandas as pd

from pipelines.lists.inputs import STDIN, streamed
from retrieval.additions import open_addition, present, same_rows
from retrieval.errors import RunError, TableError
from retrieval.photographs.delimited import DelimitedTable, is_parquet, lines, open_table
from retrieval.photographs.folders import counted, escaped, first_few
from retrieval.photographs.table import read_origins
from retrieval.run import FIRST, UNFINISHED, Run

log = logging.getLogger(__name__)

LISTS: Final = frozenset(".csv .tsv .txt .gz .parquet .pq".split())
"""Endings of files that list photographs."""
NEAREST: Final = 3
COMPARED: Final = 20_000
"""Ids that an unknown one is compared with, letter by letter, to find the nearest."""


@dataclass(frozen=True)
class Known:
    """The photographs of a run, with those that were taken out.

    Attributes:
        table: ``id``, ``source``, ``landmark``, and ``status``: of each photograph that came in;
            ``ok``, why it failed, or ``removed``.
        names: readable names of landmarks that have one.
    """

    table: pd.DataFrame
    names: Mapping[str, str]

    @functools.cached_property
    def present(self) -> pd.DataFrame:
        """Those that answer."""
        return self.table[self.table["status"] == "ok"]


def known_photographs(folder: Path) -> Known:
    """The photographs of a run that is built, and what became of each.

    Raises:
        RunError: there is no such run, or it is not finished.
    """
    run = Run(folder)
    record = run.read_record()
    if not record.get("finished"):
        raise RunError(f"{run} {UNFINISHED}")
    tables = []
    for one in (open_addition(run, name) for name in run.additions()):
        one.table.loc[~one.left, "status"] = "removed"
        tables.append(one.table)
    return Known(pd.concat(tables, ignore_index=True), record["names"])


def landmark_rows(known: Known) -> Iterator[list[str]]:
    """Landmark, readable name and number of photographs, a header first."""
    yield ["landmark", "name", "photographs"]
    counts = known.present["landmark"].dropna().value_counts().sort_index()
    for landmark, many in counts.items():
        yield [str(landmark), known.names.get(str(landmark), ""), str(many)]


def photograph_rows(known: Known, landmarks: Sequence[str] = ()) -> Iterator[list[str]]:
    """Id, landmark (empty for the bank) and source of each photograph, a header first.

    Raises:
        TableError: a landmark is not in the run.
    """
    table = known.present
    if landmarks:
        wanted = {label for name in landmarks for label in labels_named(known, name)}
        table = table[table["landmark"].isin(wanted)]
    yield ["id", "landmark", "source"]
    cells = zip(table["id"], table["landmark"].fillna(""), table["source"], strict=True)
    yield from (list(row) for row in cells)


def labels_named(known: Known, name: str) -> list[str]:
    """The landmarks that are called so, by their label or else by their readable name.

    Raises:
        TableError: there is none; it says which are called nearly so.
    """
    labels = [str(one) for one in known.table["landmark"].dropna().unique()]
    wanted = unicodedata.normalize("NFC", name)
    found = [one for one in labels if one == wanted]
    found = found or [one for one in labels if known.names.get(one) == wanted]
    if found:
        return found
    named = [known.names[one] for one in labels if one in known.names]
    raise TableError(
        f"no landmark '{escaped(name)}' in the run{_nearest(wanted, [*labels, *named])}"
        " (landmarks list tells all)"
    )


def chosen_ids(
    known: Known, run: Path, given: Sequence[str], landmarks: Sequence[str]
) -> list[str]:
    """The ids of photographs that are to be taken out of a run.

    Args:
        known: the run's photographs.
        run: its folder, for messages.
        given: each an id, a photograph's path, a folder of photographs, a file that lists ids or
            paths (a table with a column ``id`` or ``path``, or one a line), or ``-`` for such a
            list on standard input.
        landmarks: whose photographs are meant, all of them.

    Raises:
        TableError: one of them is not in the run; the message has the ids that are nearest.
    """
    finder = _Finder(known.table)
    found: dict[str, None] = {}
    unknown: list[str] = []
    for one in given:
        for entry in _entries(one, finder):
            ids = finder.find(entry)
            found.update(dict.fromkeys(ids))
            if not ids:
                unknown.append(entry)
    if unknown:
        first = unknown[0]
        such = f" ({len(unknown):,} such)" if len(unknown) > 1 else ""
        raise TableError(
            f"'{escaped(first)}' is neither an id nor the path of a photograph in {run}{such}"
            f"{_nearest(first, known.table['id'])} (landmarks list --photographs tells all)"
        )
    for name in landmarks:
        labelled = known.table["landmark"].isin(labels_named(known, name))
        found.update(dict.fromkeys(known.table.loc[labelled, "id"]))
    if not found:
        raise TableError("nothing is to be taken out: give ids, paths, a list, or --landmark NAME")
    return list(found)


def under_own_ids(table: pd.DataFrame, folder: Path, run: Run) -> pd.DataFrame:
    """A folder's photographs under ids that the run does not hold.

    Two folders may well hold ``Tower/1.jpg``: the folder's own name goes before the ids then, with
    as many of the folders above it as it takes. What was added before keeps the ids of that time.

    Args:
        table: the folder's photographs.
        folder: that they lie in.
        run: that they are added to.
    """
    known = {name: run.read_rows(name) for name in run.additions()}
    there = present(run, known)
    added = [rows for name, rows in known.items() if name != FIRST]
    names = Path(os.path.abspath(folder)).parts[1:]
    prefixes = ["".join(f"{name}/" for name in names[at:]) for at in range(len(names), -1, -1)]
    for prefix in prefixes:
        renamed = table.assign(id=prefix + table["id"])
        if any(same_rows(rows, renamed) for rows in added):
            return renamed
    clash = there[there["id"].isin(table["id"])]
    places = set(map(os.path.abspath, clash["source"]))
    if any(os.path.abspath(source) in places for source in table["source"]):
        return table  # the very photographs are there: no other ids make that right
    taken = set(there["id"])
    for prefix in prefixes:
        renamed = table.assign(id=prefix + table["id"])
        if taken.isdisjoint(renamed["id"]):
            if prefix:
                log.info(
                    "%d of the ids are in the run already, for other photographs: the ids of these"
                    " begin with %s", len(clash), prefix,
                )  # fmt: skip
            return renamed
    return table


class _Finder:
    """Finds photographs of a run by ids and paths."""

    def __init__(self, table: pd.DataFrame):
        self.table = table
        self.ids = set(table["id"])

    def find(self, entry: str) -> list[str]:
        """The ids that one word means; none where it means nothing."""
        if entry in self.ids:
            return [entry]
        return self._composed.get(unicodedata.normalize("NFC", entry), []) or self._at(entry)

    def _at(self, entry: str) -> list[str]:
        path = os.path.abspath(os.path.expanduser(entry))
        if os.path.isdir(path):
            below = os.path.join(path, "")
            return [one for place, ids in self._places.items() if place.startswith(below)
                    for one in ids]  # fmt: skip
        return self._places.get(path, []) or self._places.get(os.path.realpath(path), [])

    @functools.cached_property
    def _composed(self) -> dict[str, list[str]]:
        """Ids as they are composed otherwise: what looks the same is meant the same."""
        found: dict[str, list[str]] = {}
        for one in self.ids:
            if not one.isascii():
                found.setdefault(unicodedata.normalize("NFC", one), []).append(one)
        return found

    @functools.cached_property
    def _places(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, source in zip(self.table["id"], self.table["source"], strict=True):
            found.setdefault(os.path.abspath(source), []).append(name)
        return found


def _entries(given: str, finder: _Finder) -> Iterator[str]:
    """The words that one argument stands for: itself, or those of a list."""
    if given == STDIN:
        with streamed(given, "a list of ids or paths") as spool:
            yield from _listed(spool, Path())
        return
    path = Path(given).expanduser()
    if given in finder.ids or path.suffix.lower() not in LISTS or not path.is_file():
        yield given
        return
    yield from _listed(path, path.parent)


def _listed(path: Path, folder: Path) -> Iterator[str]:
    """The ids of a list, or its paths, which are relative to a folder; or its lines."""
    header = open_table(path, lambda name: name.lower() in ("id", "path"))
    lower = [name.lower() for name in header.header]
    place = next((lower.index(name) for name in ("id", "path") if name in lower), None)
    if place is not None:
        yield from _cells(header, place, folder)
    elif is_parquet(path) or len(header.header) > 1:
        raise TableError(
            f"{path}: no column id or path among {first_few(header.header)}: name one of them so"
        )
    else:
        yield from (bare for line in lines(path) if (bare := line.strip()))


def _cells(table: DelimitedTable, place: int, folder: Path) -> Iterator[str]:
    relative = table.header[place].lower() == "path"
    for row, (cell,) in table.rows([place]):
        if not cell.strip():
            raise TableError(f"{table.path}, row {row}: the {table.header[place]} is empty")
        yield str(folder / Path(cell).expanduser()) if relative else cell


def _nearest(word: str, among: Iterable[str]) -> str:
    """A hint at what may have been meant."""
    names = list(dict.fromkeys(map(str, among)))
    folded = word.casefold()
    base = os.path.basename(word.rstrip("/")).casefold() or folded
    near = [one for one in names if base in one.casefold()][:NEAREST]
    # Letter by letter takes its time: of many, those that begin and end alike.
    if len(names) > COMPARED:
        names = [one for one in names if one[:2].casefold() == folded[:2]
                 or one[-4:].casefold() == folded[-4:]][:COMPARED]  # fmt: skip
    close = get_close_matches(word, names, NEAREST, cutoff=0.5)
    found = list(dict.fromkeys([*close, *near]))[:NEAREST]
    return f"; nearest: {', '.join(map(escaped, found))}" if found else ""


def known_origins(known: Known, tables: Iterable[Path]) -> list[str]:
    """Where each photograph of the bank comes from, empty where that is not known.

    Args:
        known: the run's photographs.
        tables: CSVs that may say so, in a column ``source``, by id or path.
    """
    bank = known.present[known.present["landmark"].isna()]
    told = []
    for table in filter(Path.is_file, tables):
        places = [os.path.relpath(one, table.parent) for one in bank["source"]]
        told += [read_origins(table, bank["id"]), read_origins(table, places, "path")]
    return [next(filter(None, one), "") for one in zip(*filter(None, told), strict=True)]


def summary(known: Known) -> str:
    """How many there are, in a line."""
    labelled = known.present["landmark"].dropna()
    bank = len(known.present) - len(labelled)
    status = known.table["status"]
    removed = int((status == "removed").sum())
    failed = len(status) - len(known.present) - removed
    more = "".join(
        f", {many:,} {what}" for many, what in ((failed, "failed"), (removed, "taken out")) if many
    )
    return (
        f"{counted(len(labelled), 'photograph')} of {counted(labelled.nunique(), 'landmark')},"
        f" {bank:,} of none{more}"
    )
