"""A build's photographs described in parts, by any number of processes and machines.

Part k of n describes the shards whose number leaves k - 1 when it is divided by n. A shard is what
batches are made within, so that its bytes are those of an undivided build. Each part lies in a
folder of its own, with a lock, shards and times as a run has them; the build takes all of them.

Codebook and whitening are learnt once, by whichever part comes first; the others wait for it where
they share the folder, and are given a copy of it where they do not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

import pandas as pd

from retrieval.describing import Bar
from retrieval.descriptors.cache import describe_table, windows_of
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.extraction import Outcome
from retrieval.errors import ConfigError, RunError
from retrieval.run import FIRST, Run
from retrieval.storage.files import read_sealed, remove_folder, write_sealed
from retrieval.storage.fingerprint import first_difference
from retrieval.storage.journal import as_json
from retrieval.storage.shards import ShardStore, is_store

log = logging.getLogger(__name__)

MOST_PARTS: Final = 10_000
NOTE: Final = "data.json"
"""Beside the parts, which photographs they are of."""
OTHERS: Final = (
    "is of other photographs than these (ids, sizes or times of change differ): give every machine"
    " the same data, times too (cp -a, rsync -a), or delete it and begin anew"
)


@dataclass(frozen=True, order=True)
class BuildPart:
    """One of ``of`` parts, from 1."""

    of: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """A part as it is written, such as 3/16 (or 3-of-16, as its folder is called).

        Raises:
            ConfigError: it is no such part.
        """
        found = re.fullmatch(r"(\d{1,5})(?:/|-of-)(\d{1,5})", text.strip())
        number, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= of <= MOST_PARTS:
            raise ConfigError(f"--part {text}: give a part of how many, such as 3/16")
        return cls(of, number)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def folder(self) -> str:
        return f"{self.number}-of-{self.of}"

    def within(self, run: Run) -> Run:
        """Where it lies in a run."""
        return Run(run.parts / self.folder)

    def shards(self, rows: int) -> range:
        """The numbers of its shards, of a table of so many rows."""
        return range(self.number - 1, len(windows_of(rows)), self.of)


def has_parts(run: Run) -> bool:
    """Whether parts of a run are described, or being described."""
    return run.parts.is_dir() and any(one.is_dir() for one in run.parts.iterdir())


def parts_of(run: Run) -> int:
    """How many parts a run that has some is divided into.

    Raises:
        RunError: they are of two divisions.
    """
    divisions = sorted({one.of for one in _begun(run)})
    if len(divisions) > 1:
        told = " and ".join(f"of {of}" for of in divisions)
        raise RunError(f"{run.parts} holds parts {told}: delete those of all but one division")
    return divisions[0]


def require_same_data(run: Run, digest: str) -> None:
    """Refuse photographs that are not those of a run's parts; note them where there is none yet.

    Args:
        digest: of gallery and bank (:func:`retrieval.descriptors.cache.table_digest`).

    Raises:
        RunError: they are others.
    """
    path = run.parts / NOTE
    told = {"table": digest}
    if not has_parts(run):
        write_sealed(path, told)
    elif read_sealed(path, f"delete {run.parts} and begin anew") != told:
        raise RunError(f"{run.parts} {OTHERS}")


def describe_part(
    run: Run,
    part: BuildPart,
    table: pd.DataFrame,
    describer: Describer,
    made_from: Mapping[str, Any],
    bar: Bar,
    known: Mapping[int, Outcome],
) -> ShardStore:
    """Describe a part of a run's photographs, going on where that was cut short.

    Args:
        run: that has learnt codebook and whitening.
        part: which.
        table: gallery and bank.
        describer, known: as :func:`retrieval.describing.describer_stage` gives them.
        made_from: as :func:`retrieval.descriptors.cache.described_from` gives it.
        bar: told of photographs that are described.

    Returns:
        its shards.

    Raises:
        RunError: another process describes this part.
    """
    own = part.within(run)
    stored = made_from.get("local", {}).get("stored", True)
    shards = part.shards(len(table))
    windows = windows_of(len(table))
    with own.locked(), bar("describing", sum(len(windows[one]) for one in shards)) as progress:
        return describe_table(
            table, describer, own.descriptors / FIRST, made_from, progress, known, own.timings,
            stored, shards,
        )  # fmt: skip


def take_parts(run: Run, rows: int, made_from: Mapping[str, Any]) -> None:
    """Make the parts of a run its shards, and take the parts away; nothing where there are none.

    Args:
        rows: how many photographs all of them are of.
        made_from: as of :func:`describe_part`.

    Raises:
        RunError: one is missing, unfinished, damaged or another system's; all of them stay.
    """
    if not run.parts.is_dir():
        return
    made_from = as_json(made_from)
    if has_parts(run) and ShardStore.whole(run.descriptors / FIRST, made_from, rows) is None:
        parts = _all_parts(run)
        with ExitStack() as locks:
            stores = []
            for part in parts:
                own = part.within(run)
                locks.enter_context(own.locked())
                stores.append(_whole(own, part, part.shards(rows), made_from))
            ShardStore(run.descriptors / FIRST, made_from, run.timings).adopt(stores)
        log.info("%s: its %d parts are taken", run, len(parts))
    remove_folder(run.parts)


def _all_parts(run: Run) -> Sequence[BuildPart]:
    """The parts of a run.

    Raises:
        RunError: some are missing, or they are of two divisions.
    """
    of, found = parts_of(run), _begun(run)
    missing = [
        one for one in (BuildPart(of, number + 1) for number in range(of)) if one not in found
    ]
    if missing:
        told = ", ".join(map(str, missing[:10])) + (" and more" if len(missing) > 10 else "")
        first = missing[0]
        raise RunError(
            f"{run.parts} lacks part {told}: landmarks describe DATA --part {first} --run {run},"
            f" or copy {first.folder} here from the machine that described it"
        )
    return found


def _begun(run: Run) -> list[BuildPart]:
    names = [one.name for one in run.parts.iterdir() if one.is_dir()]
    try:
        return sorted(map(BuildPart.parse, names))
    except ConfigError:
        raise RunError(f"{run.parts} holds a folder that is no part: take it away") from None


def _whole(
    own: Run, part: BuildPart, shards: Sequence[int], made_from: Mapping[str, Any]
) -> ShardStore:
    """A part's shards.

    Raises:
        RunError: it is not whole, or of another system or other photographs.
    """
    folder = own.descriptors / FIRST
    again = f"landmarks describe DATA --part {part} again goes on with it"
    if not is_store(folder):
        raise RunError(f"{own} is not finished: {again}")
    store = ShardStore.open(folder, own.timings)
    changed = first_difference(store.made_from, made_from)
    if changed is not None:
        raise RunError(
            f"{own} was described by another system ({changed} differs): index by the config that"
            f" the parts were described by, or delete {own} and describe it again by this one"
            if changed != "table"
            else f"{own} {OTHERS}"
        )
    if list(shards) != store.numbers:
        raise RunError(f"{own} is not finished: {again}")
    damaged = store.damaged()
    if damaged:
        raise RunError(f"{folder / damaged[0]} is missing or damaged: {again}")
    return store
