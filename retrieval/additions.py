"""Photographs that came into a run together: those of the build, or of one addition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from retrieval.errors import RunError
from retrieval.run import Run
from retrieval.storage.shards import OK, ShardStore, is_store, with_status


@dataclass(frozen=True)
class Addition:
    """Photographs that came into a run together: those of the build, or of one ``add``.

    Attributes:
        name: ``000`` for the build, then ``001`` and so on.
        table: the photographs, with ``status`` and ``reason``; a missing landmark marks one of the
            bank.
        store: their descriptors.
        left: (n,) which of them were not taken out.
    """

    name: str
    table: pd.DataFrame
    store: ShardStore
    left: pd.Series

    @classmethod
    def of(cls, run: Run, name: str, rows: pd.DataFrame, store: ShardStore) -> Addition:
        left = ~rows["id"].isin(run.removed().get(name, []))
        return cls(name, with_status(rows, store), store, left)

    @property
    def gallery(self) -> pd.Series:
        """Which rows are the gallery's."""
        return self.left & (self.table["status"] == OK) & self.table["landmark"].notna()

    @property
    def bank(self) -> pd.Series:
        """Which rows are the bank's."""
        return self.left & (self.table["status"] == OK) & self.table["landmark"].isna()


def open_addition(run: Run, name: str) -> Addition:
    """Photographs that are described already.

    Raises:
        RunError: adding them was cut short.
    """
    rows = run.read_rows(name)
    return Addition.of(run, name, rows, described_store(run, name, len(rows)))


def described_store(run: Run, name: str, rows: int) -> ShardStore:
    """Where the descriptors of an addition of so many rows are, all of them.

    Raises:
        RunError: adding them was cut short.
    """
    folder = run.descriptors / name
    if is_store(folder):
        store = ShardStore.open(folder, run.timings)
        if store.rows == rows:
            return store
    raise RunError(
        f"{run}: an earlier landmarks add was cut short: give that command again, or run landmarks"
        " index again, and then this one"
    )


def present(run: Run, rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of additions that were not taken out, and the ``addition`` of each."""
    removed = run.removed()
    tables = [
        one[~one["id"].isin(removed.get(name, []))].assign(addition=name)
        for name, one in rows.items()
    ]
    return pd.concat(tables) if tables else pd.DataFrame({"id": [], "addition": []})


def same_rows(known: pd.DataFrame, table: pd.DataFrame) -> bool:
    """Whether two tables list the same photographs, with the same landmarks, in one order."""
    columns = ["id", "source", "landmark"]
    return known[columns].equals(table[columns].reset_index(drop=True))
