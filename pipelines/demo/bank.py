"""Photographs of no landmark for those who have none: scenes that are rendered from nothing.

Cuts of one's own photographs are not among them. That a cut shows nothing of the landmark could
only be told where other photographs of the same landmark, laid over this one, show something else
in its place. That is hardly ever so: of 216 photographs of 30 landmarks one had such a part, which
showed the landmark all the same (what lay alike was the picture agency's mark).
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipelines.demo.rendering.data_set import render_plain
from retrieval.classifiers.promise import RENDERED
from retrieval.errors import ConfigError
from retrieval.photographs.delimited import open_table
from retrieval.photographs.table import BANK
from retrieval.storage.files import atomic_write

Progress = Callable[[int, int], None]

FOLDER: Final = "none"
"""A folder of this name is the bank where folders are landmarks."""
COLUMNS: Final = ("id", "path", "landmark_id", "source")


@dataclass(frozen=True)
class BankSummary:
    """What was written.

    Attributes:
        table: the CSV.
        photographs: in it.
    """

    table: Path
    photographs: int

    def __str__(self) -> str:
        return f"{self.photographs:,} photographs of no landmark, rendered → {self.table}"


def make_bank(
    out: Path,
    *,
    count: int = 80,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = lambda done, failed: None,
) -> BankSummary:
    """Render photographs of no landmark to ``out/none``, and list them in ``out/none.csv``.

    The same arguments give the same bytes. Killed and called again, it goes on; the table is
    written last. Photographs of an earlier call that this one does not make are taken away.

    Args:
        out: a folder; a data folder that lacks photographs of no landmark may be given.
        count: photographs.
        seed: of the scenes, none of which is one of the demo's.
        workers: processes that render; one a core unless given.
        progress: told of (photographs made since the last call, 0).

    Raises:
        ConfigError: ``out`` lists photographs of no landmark of its own already.
    """
    table = out / BANK
    _refuse_others(table)
    names = [f"{RENDERED}-{_digest(seed, number)}.jpg" for number in range(count)]
    folder = out / FOLDER
    for old in folder.glob(f"{RENDERED}-*.jpg"):
        if old.name not in names:
            old.unlink()
    render_plain(folder, names, seed=seed, workers=workers, progress=progress)
    atomic_write(table, _csv(names))
    return BankSummary(table, count)


def _refuse_others(table: Path) -> None:
    if not table.exists():
        return
    known = open_table(table, {*COLUMNS}.__contains__)
    own = known.header == list(COLUMNS) and all(
        source == RENDERED for _, (source,) in known.rows([COLUMNS.index("source")])
    )
    if not own:
        raise ConfigError(
            f"{table} lists other photographs of no landmark: give another folder (--out), and add"
            " its photographs to a run: landmarks add FOLDER/none.csv --bank"
        )


def _digest(seed: int, number: int) -> str:
    return hashlib.sha256(f"{seed}/bank/{number}".encode()).hexdigest()[:16]


def _csv(names: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([Path(name).stem, f"{FOLDER}/{name}", "", RENDERED] for name in names)
    return text.getvalue().encode()
