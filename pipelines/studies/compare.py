"""One table of systems: every detector by every aggregation, and the global descriptors.

Everything is learnt on gallery and bank of one data set. Each system is then measured twice: by the
mean average precision over INRIA Holidays, of which nothing is learnt, and by the neighbours' vote
on the data set's test photographs. A detector's features are computed once, for all of its
aggregations, and stay in a folder: a run cut short goes on, and a second one only aggregates.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from pipelines.config import RENAMED
from pipelines.progress import Report, progress_bar
from pipelines.report.measured import codes_of
from pipelines.studies.methods import (
    Budget,
    Config,
    Method,
    WordsAlone,
    catalogue,
    methods_of,
)
from pipelines.studies.protocol import Pool, flat_searcher, holidays_rankings
from retrieval.classifiers.vote import VoteClassifier, VoteConfig
from retrieval.descriptors.cache import (
    KnownFeatures,
    extract_table,
    table_digest,
)
from retrieval.descriptors.describer import Describer, failures
from retrieval.descriptors.extraction import WINDOW, worker_pool
from retrieval.descriptors.representation import Representation
from retrieval.descriptors.sample import Sample
from retrieval.devices import machine
from retrieval.errors import ConfigError, TableError, WeightsError
from retrieval.evaluation.metrics import Truth, global_average_precision, top_k_accuracy
from retrieval.evaluation.protocols import holidays_groups, holidays_map
from retrieval.frontend import Frontend
from retrieval.index.gallery import Gallery
from retrieval.index.searcher import SearchConfig, Searcher
from retrieval.local.compression import CompressedFeatures
from retrieval.photographs.table import DataSet, labels_of, make_table
from retrieval.run import CODE
from retrieval.storage.files import atomic_write, write_json
from retrieval.storage.fingerprint import fingerprint
from retrieval.storage.shards import OK, ShardStore, with_status
from retrieval.types import Features, Integers

log = logging.getLogger(__name__)
LEARNT, TEST, HOLIDAYS = "taught", "test", "holidays"
VOTE: Final = VoteConfig()
TOGETHER: Final = 16
"""Photographs that a core describes at a time."""
HEADER: Final = (
    "features", "aggregation", "mAP", "top-1", "GAP", "bytes a photograph", "photographs/s",
)  # fmt: skip


@dataclass(frozen=True)
class MethodFigures:
    """What was measured of one system; ``skipped`` says why nothing was, where that is so."""

    features: str
    aggregation: str
    map: float | None = None
    top1: float | None = None
    gap: float | None = None
    bytes_per_photograph: float | None = None
    photographs_per_second: float | None = None
    skipped: str = ""


@dataclass(frozen=True)
class Extracted:
    """Photographs whose features are on disk: the table with what became of each row, the features
    of those that went well, and the seconds that it took."""

    table: pd.DataFrame
    features: Sequence[Features]
    seconds: float


@dataclass(frozen=True)
class Usable:
    """The usable photographs of a part: (u,) their rows in its table, and what they are described
    by; and the seconds of all the part's photographs, decoding and features among them."""

    rows: Integers
    descriptors: Representation
    seconds: float


def run_comparison(
    data: DataSet,
    holidays: Path,
    work: Path,
    out: Path,
    *,
    budget: Budget,
    configs: Sequence[str] = (),
    only: Sequence[str] = (),
    weights: Path | None = None,
    device: str = "cpu",
) -> list[MethodFigures]:
    """Measure every system, and write the table as Markdown and, beside it, as JSON.

    Args:
        data: with a test table.
        holidays: a folder with ``photos/NNNNNN.jpg`` of INRIA Holidays, or a part of it.
        work: the folder of the features.
        out: the Markdown file.
        budget: of all systems.
        configs: shipped systems that stand in the table too.
        only: names of :func:`catalogue`; without any, all of them.
        weights: of networks.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``only`` has a name that there is not.
        TableError: there is no test table, or no photograph of Holidays.
    """
    chosen = catalogue(budget, configs)
    only = [RENAMED.get(name, name) for name in only]
    unknown = [name for name in only if name not in chosen]
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: no such features; there are {', '.join(chosen)}")
    tables = _tables(data, holidays)
    conditions = _conditions(data, tables, budget)
    rows: list[MethodFigures] = []
    for name in only or chosen:
        rows += _rows(name, chosen[name], budget, weights, device, tables, work)
        # The table so far, in a run that takes hours.
        atomic_write(out, comparison_page(rows, conditions).encode())
        written = {"rows": [asdict(row) for row in rows], "conditions": conditions}
        write_json(out.with_suffix(".json"), written)
    return rows


def _rows(
    name: str,
    config: Config,
    budget: Budget,
    weights: Path | None,
    device: str,
    tables: Mapping[str, pd.DataFrame],
    work: Path,
) -> list[MethodFigures]:
    """Everything measured of one kind of features, or why nothing was."""
    try:
        methods = methods_of(name, config, budget, weights, device)
    except (ConfigError, WeightsError) as error:
        return [MethodFigures(name, "–", skipped=str(error))]
    parts = _extracted(name, methods[0].frontend, tables, work)
    return [row for method in methods for row in _measured(method, parts)]


def comparison_page(rows: Sequence[MethodFigures], conditions: str) -> str:
    """The table, and a line of what the figures have to be quoted with."""
    lines = [HEADER, ("---",) * len(HEADER)]
    for row in rows:
        figures = [_cell(value, 3) for value in (row.map, row.top1, row.gap)]
        rates = _cell(row.bytes_per_photograph, 0), _cell(row.photographs_per_second, 1)
        note = f"{row.aggregation}: skipped: {row.skipped}" if row.skipped else row.aggregation
        lines.append((row.features, note.replace("|", "\\|"), *figures, *rates))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# Features and aggregations compared\n\n{table}\n\n{conditions}\n"


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _tables(data: DataSet, holidays: Path) -> dict[str, pd.DataFrame]:
    """The photographs of each part."""
    if data.test is None:
        raise TableError(f"{data.folder} has no test.csv: there is nothing to measure")
    paths = sorted((holidays / "photos").glob("*.jpg"))
    if not paths:
        raise TableError(f"{holidays}: no photographs photos/NNNNNN.jpg there (--holidays)")
    names = [path.stem for path in paths]
    holidays_groups(names)  # refuses what is no Holidays
    return {
        LEARNT: data.photographs,
        TEST: data.test,
        HOLIDAYS: make_table(names, map(str, paths), [None] * len(paths)),
    }


def _extracted(
    name: str, frontend: Frontend, tables: Mapping[str, pd.DataFrame], work: Path
) -> dict[str, Extracted]:
    """Every part's features, from disk where they are there already."""
    identity = {"code": CODE, "extractor": frontend.identity()}
    folder = work / fingerprint(identity)
    parts = {}
    for part, table in tables.items():
        made_from = {**identity, "table": table_digest(table)}
        store = ShardStore(folder / part, made_from, folder / "timings.json")
        with progress_bar(f"extracting {name}, {part}", len(table)) as progress:
            extract_table(table, frontend, store, progress)
        known = KnownFeatures(frontend, store, np.arange(len(table)))
        parts[part] = Extracted(with_status(table, store), known.good, store.seconds)
    return parts


def _measured(method: Method, parts: Mapping[str, Extracted]) -> list[MethodFigures]:
    name = f"{method.features}, {next(iter(method.searches))}"
    log.info("learning %s", name)
    learnt = parts[LEARNT]
    photographs = learnt.table[learnt.table["status"] == OK]
    try:
        # Nothing is held out here, so that all labels are learnt from.
        describer = method.learn(Sample(learnt.features, labels_of(photographs)))
    except ConfigError as error:  # too few photographs for so many words
        return [
            MethodFigures(method.features, label, skipped=str(error)) for label in method.searches
        ]
    count = sum(len(part.table) for part in parts.values())
    with progress_bar(f"describing {name}", count) as progress:
        known = {part: _known(parts[part], describer, progress) for part in parts}
    rate = count / sum(one.seconds for one in known.values())
    rows = []
    for label, search in method.searches.items():
        gallery = _gallery(parts[LEARNT].table, known[LEARNT], describer, search)
        top1, gap = _recognition(gallery, parts[TEST].table, known[TEST])
        precision = _holidays(parts[HOLIDAYS].table, known[HOLIDAYS], describer, search)
        size = _bytes_per_row(gallery.searcher, describer)
        rows.append(MethodFigures(method.features, label, precision, top1, gap, size, rate))
        log.info("%s, %s: mAP %.3f, top-1 %.3f, GAP %.3f", method.features, label, precision,
                 top1, gap)  # fmt: skip
    return rows


def _known(part: Extracted, describer: Describer | WordsAlone, progress: Report) -> Usable:
    """Describe a part on all cores, a shard's worth of features in memory at a time."""
    blocks, seconds = [describer.from_features([])], part.seconds
    with worker_pool() as pool:
        for start in range(0, len(part.features), WINDOW):
            features = list(part.features[start : start + WINDOW])
            begun = time.perf_counter()
            blocks += pool.map(
                describer.from_features,
                [features[i : i + TOGETHER] for i in range(0, len(features), TOGETHER)],
            )
            seconds += time.perf_counter() - begun
            progress(len(features), 0)
    failed = len(part.table) - len(part.features)
    progress(failed, failed)
    found = Representation.joined(blocks)
    usable = np.array([error is None for error in failures(found)], dtype=bool)
    rows = np.flatnonzero(part.table["status"] == OK)[usable]
    return Usable(rows, found[np.flatnonzero(usable)], seconds)


def _gallery(
    table: pd.DataFrame,
    usable: Usable,
    describer: Describer | WordsAlone,
    search: SearchConfig,
) -> Gallery:
    labels = table["landmark"].iloc[usable.rows]
    shown = labels.notna().to_numpy(dtype=bool)
    known, bank = (usable.descriptors[np.flatnonzero(mask)] for mask in (shown, ~shown))
    if not len(known):
        raise TableError("no gallery photograph could be described")
    landmarks = sorted(labels[shown].unique())
    codes = pd.Categorical(labels[shown], categories=landmarks).codes.astype(np.int64)
    alone = SearchConfig(share=search.share)
    bank_searcher = flat_searcher(bank, describer.local_branch, alone) if len(bank) else None
    index = flat_searcher(known, describer.local_branch, search)
    return Gallery(known, codes, landmarks, bank, index, bank_searcher)


def _recognition(gallery: Gallery, table: pd.DataFrame, test: Usable) -> tuple[float, float]:
    """Top-1 and GAP of the vote; a photograph that failed has no answer."""
    vote = VoteClassifier.fit(VOTE, gallery)
    scores = vote.scores(test.descriptors, gallery.searcher.search(test.descriptors, VOTE.k))
    best = np.full(len(table), -1)
    best[test.rows] = scores.best
    confidence = np.full(len(table), -np.inf)
    confidence[test.rows] = scores.confidence
    truth = Truth.of_codes(codes_of(labels_of(table), gallery.landmarks))
    gap = global_average_precision(list(table["id"]), best, confidence, truth)
    return top_k_accuracy(best[:, None], truth, 1), gap


def _holidays(
    table: pd.DataFrame,
    known: Usable,
    describer: Describer | WordsAlone,
    search: SearchConfig,
) -> float:
    """Mean average precision; a photograph that failed is never found, nor finds anything."""
    ids, pool = list(table["id"]), Pool(len(table), known.rows, known.descriptors)
    searcher = flat_searcher(known.descriptors, describer.local_branch, search)
    return holidays_map(ids, holidays_rankings(ids, pool, searcher))


def _bytes_per_row(index: Searcher, describer: Describer | WordsAlone) -> float:
    """What a gallery photograph takes in the index: vector, postings and kept features."""
    total = 0.0 if isinstance(describer, WordsAlone) else float(index.index.bytes_per_row)
    if index.inverted is not None:
        total += index.inverted.bytes_per_row
    verified = index.config.verification is not None and index.config.stored
    if isinstance(index.kept, CompressedFeatures) and verified:
        total += index.kept.bytes_per_row
    return total


def _conditions(data: DataSet, tables: Mapping[str, pd.DataFrame], budget: Budget) -> str:
    """What the figures have to be quoted with, in a line."""
    there = machine()
    queries = len(holidays_groups(list(tables[HOLIDAYS]["id"])).queries)
    whitening = budget.whitening
    return (
        f"Conditions: top-1 and GAP on {data.folder.name}, {len(data.gallery):,} gallery,"
        f" {len(data.bank):,} bank and {len(tables[TEST]):,} test photographs, by the vote of"
        f" {VOTE.k} neighbours; mAP on {len(tables[HOLIDAYS]):,} photographs of Holidays,"
        f" {queries:,} queries. Detectors: longest side {budget.size:,} pixels, at most"
        f" {budget.keypoints:,} keypoints; VLAD and Fisher vectors of {budget.words:,} words, bags"
        f" of words and ASMK* of {budget.visual_words:,}. Codebooks and whitening are learnt on"
        f" gallery and bank, words' document frequencies counted in what is searched. Descriptors"
        f" are whitened to {whitening.dimension:,} numbers, eigenvalues to the power"
        f" {whitening.power:g}, float32, flat index; shipped configs as they are, but for"
        f" the index. A photograph's time is that of decoding, features and description one after"
        f" the other, on {there['processor']}, {there['cores']} cores."
    )
