"""Measure a run on published retrieval protocols: revisited Oxford and Paris, and INRIA Holidays.

Nothing of them is learnt: the run's describer describes the photographs, shard by shard into a
folder that a killed command goes on from. They are ranked by the exact inner product of their
descriptors and, where the run searches by more than that (words, expansion, verification), by such
a search of them too.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from pipelines.measuring.evaluate import conditions_of, describe_into
from retrieval.descriptors.describer import failures
from retrieval.descriptors.local_branch import LocalBranch
from retrieval.descriptors.representation import Representation
from retrieval.errors import PhotographError, TableError
from retrieval.evaluation.ground_truth import read_revisited
from retrieval.evaluation.protocols import CUTS, holidays_groups, holidays_map, revisited_figures
from retrieval.index.expansion import augmented_index
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.inverted_file import InvertedFile
from retrieval.index.searcher import PLAIN, SearchConfig, Searcher
from retrieval.photographs.decoding import read_photograph, shrink
from retrieval.photographs.table import make_table
from retrieval.storage.files import write_json
from retrieval.storage.shards import OK
from retrieval.system import System
from retrieval.types import Integers, Photograph

log = logging.getLogger(__name__)

FLAT: Final = IndexConfig(factory="Flat")
EXACT: Final = "by descriptors"
AS_RUN: Final = "as the run searches"

Figures = dict[str, dict[str, dict[str, float]]]
"""By search, by setup, by the figure's name."""


@dataclass(frozen=True)
class Pool:
    """Photographs that rankings speak of, described.

    Attributes:
        count: of all of them.
        places: (n,) of those that could be described, ascending.
        descriptors: of these.
    """

    count: int
    places: Integers
    descriptors: Representation

    def rankings(
        self, searcher: Searcher, queries: Representation, own: Integers | None = None
    ) -> Integers:
        """(q, r) places by falling similarity; -1 where there are no more.

        Args:
            searcher: of the descriptors.
            queries: q photographs.
            own: (q,) rows of the descriptors that are the queries themselves, and are not found.
        """
        wanted = len(self.places) - (own is not None)
        rows = searcher.search(queries, wanted, own).rows
        return np.where(rows >= 0, self.places[rows], -1)


def flat_searcher(
    known: Representation, local_branch: LocalBranch | None, search: SearchConfig
) -> Searcher:
    """Search photographs exactly, and by words, where they have any.

    Args:
        known: the photographs.
        local_branch: that made their words, if they have any.
        search: how.
    """
    build = functools.partial(FaissIndex.build, config=FLAT)
    index, rows, augmentation = augmented_index(known.vectors, search.expansion, build)
    inverted = None
    if known.words is not None and local_branch is not None and local_branch.words is not None:
        inverted = InvertedFile.build(known.words, local_branch.words.config, local_branch.bits)
    return Searcher(index, rows, inverted, known.kept, search, augmentation)


def holidays_rankings(ids: Sequence[str], pool: Pool, searcher: Searcher) -> Integers:
    """(q, r) rankings of the queries of Holidays, each without itself; a query that failed finds
    nothing."""
    queries = holidays_groups(ids).queries
    there = np.isin(queries, pool.places)
    own = np.searchsorted(pool.places, queries[there])
    found = pool.rankings(searcher, pool.descriptors[own], own)
    rankings = np.full((len(queries), found.shape[1]), -1)
    rankings[there] = found
    return rankings


def measure_holidays(system: System, photos: Path, out: Path) -> dict[str, Any]:
    """Mean average precision over INRIA Holidays, or a part of it.

    Args:
        system: a loaded run.
        photos: a folder of ``NNNNNN.jpg``.
        out: the folder of ``figures.json`` and the descriptors.

    Returns:
        what ``figures.json`` holds.

    Raises:
        TableError: a photograph has another name, none is a query, or none can be read.
    """
    paths = sorted(photos.glob("*.jpg"))
    ids = [path.stem for path in paths]
    queries = holidays_groups(ids).queries
    if not len(queries):
        raise TableError(
            f"{photos}: no query of Holidays (100000.jpg, with others of its group) lies there"
        )
    pool = _described(system, make_table(ids, map(str, paths), [None] * len(ids)), out)
    figures: Figures = {}
    for name, searcher in _searchers(system, pool.descriptors).items():
        rankings = holidays_rankings(ids, pool, searcher)
        figures[name] = {"all": {"map": holidays_map(ids, rankings)}}
    return _written(system, out, "INRIA Holidays", figures, pool, len(queries))


def measure_revisited(system: System, truth: Path, photos: Path, out: Path) -> dict[str, Any]:
    """Revisited Oxford or Paris: mean average precision, and precision at 1, 5 and 10.

    Queries are cropped to their boxes, in pixels of the whole photograph, before they are
    described.

    Args:
        system: a loaded run.
        truth: as :func:`read_revisited` takes it.
        photos: a folder of ``NAME.jpg``, in folders of their own or not.
        out: the folder of ``figures.json`` and the descriptors.

    Returns:
        what ``figures.json`` holds.

    Raises:
        TableError: the truth cannot be read, a photograph of it is not there, a query cannot be
            read, or nothing of the database can.
    """
    protocol = read_revisited(truth)
    paths: dict[str, Path] = {}
    for path in sorted(photos.rglob("*.jpg")):
        if paths.setdefault(path.stem, path) is not path:
            raise TableError(f"{path}: {paths[path.stem]} has the same name: leave one of them")
    missing = [name for name in (*protocol.queries, *protocol.database) if name not in paths]
    if missing:
        raise TableError(
            f"{photos / missing[0]}.jpg: no such file, which {truth.name} asks for"
            f" ({len(missing)} such)"
        )
    crops = [_cropped(paths[name], box, system.describer.longest_side)
             for name, box in zip(protocol.queries, protocol.boxes, strict=True)]  # fmt: skip
    queries = system.describer.describe(crops)
    blank = np.array([error is not None for error in failures(queries)], np.bool_)
    if blank.any():
        log.warning("%d queries have nothing to describe in their boxes, and find nothing",
                    blank.sum())  # fmt: skip
    sources = [str(paths[name]) for name in protocol.database]
    table = make_table(protocol.database, sources, [None] * len(sources))
    pool = _described(system, table, out)
    figures: Figures = {}
    for name, searcher in _searchers(system, pool.descriptors).items():
        rankings = pool.rankings(searcher, queries)
        rankings[blank] = -1
        found = revisited_figures(protocol, rankings)
        figures[name] = {
            setup: {"map": one.map}
            | {f"mp{k}": mean for k, mean in zip(CUTS, one.mean_precisions.tolist(), strict=True)}
            for setup, one in found.items()
        }
    return _written(system, out, truth.stem, figures, pool, len(queries))


def _cropped(path: Path, box: NDArray[np.float64], longest_side: int) -> Photograph:
    """A photograph's part within left, top, right and bottom, shrunk as the describer takes it."""
    left, top, right, bottom = np.maximum(np.rint(box), 0).astype(int).tolist()
    try:
        # Shrunk only once it is cropped: a box of a small part keeps the pixels that it has.
        return shrink(read_photograph(path)[top:bottom, left:right], longest_side)
    except PhotographError as error:
        raise TableError(f"{path}: a query whose box {box.tolist()} fails: {error}") from None


def _described(system: System, table: pd.DataFrame, out: Path) -> Pool:
    described = describe_into(system, table, out)
    places = np.flatnonzero(described.table["status"] == OK)
    if not len(places):
        first = described.table.iloc[0]
        raise TableError(f"{first['source']}: {first['reason']}; nor can any other be described")
    return Pool(len(table), places, described.descriptors)


def _searchers(system: System, known: Representation) -> dict[str, Searcher]:
    """How the photographs are searched, by what to call it."""
    found = {EXACT: flat_searcher(Representation(known.vectors), None, PLAIN)}
    search, local_branch = system.config.search, system.describer.local_branch
    if local_branch is not None or search.expansion != PLAIN.expansion:
        found[AS_RUN] = flat_searcher(known, local_branch, search)
    return found


def _written(
    system: System, out: Path, protocol: str, figures: Figures, pool: Pool, queries: int
) -> dict[str, Any]:
    written = {
        "protocol": protocol,
        "photographs": pool.count,
        "photographs_failed": pool.count - len(pool.places),
        "queries": queries,
        "figures": {
            name: {
                setup: {key: None if math.isnan(one) else one for key, one in each.items()}
                for setup, each in setups.items()
            }
            for name, setups in figures.items()
        },
        "conditions": {
            "config": system.config.name,
            "run": system.fingerprint,
            "dimension": system.describer.dimension,
            **conditions_of(system),
            "index": "Flat",
        },
    }
    write_json(out / "figures.json", written)
    return written


def protocol_table(found: Mapping[str, Any]) -> Table:
    """The figures for a terminal."""
    failed = f", {found['photographs_failed']:,} failed" if found["photographs_failed"] else ""
    title = (
        f"{found['protocol']}: {found['queries']:,} queries, {found['photographs']:,} photographs"
    )
    table = Table(title=f"{title}{failed}")
    rows = [
        (name, setup, each) for name, setups in found["figures"].items()
        for setup, each in setups.items()
    ]  # fmt: skip
    table.add_column("ranked")
    table.add_column("setup")
    for key in rows[0][2]:
        table.add_column("mAP" if key == "map" else f"mP@{key[2:]}", justify="right")
    for name, setup, each in rows:
        table.add_row(name, setup, *("–" if one is None else f"{one:.3f}" for one in each.values()))
    return table
