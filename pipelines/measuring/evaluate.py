"""Measure a run on a labelled table: figures, predictions, a submission and a report.

Every test row counts once. A photograph that failed is an empty answer: lost recall where it shows
a landmark, and a "none" where it shows none. A landmark that the gallery has no photograph of
cannot be named, and stays among the landmark photographs all the same, as it does in GAP.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.measuring.answers import judge_rows, result_of
from pipelines.measuring.explained import explain_examples, rows_to_explain
from pipelines.measuring.written import write_evaluation
from pipelines.progress import progress_bar
from pipelines.report.measured import (
    NO_LANDMARK,
    NOT_IN_GALLERY,
    Measured,
    codes_of,
    side_by_side,
)
from retrieval.config import SystemConfig
from retrieval.descriptors.cache import (
    Described,
    Timed,
    describe_table,
    describe_windows,
    described_from,
    read_described,
    table_digest,
)
from retrieval.descriptors.representation import Representation
from retrieval.errors import RunError, TableError
from retrieval.evaluation.metrics import (
    Truth,
)
from retrieval.photographs.table import labels_of, read_origins, read_table
from retrieval.ray_systems import require_shared, through_workers
from retrieval.storage.shards import OK
from retrieval.system import System

log = logging.getLogger(__name__)
MATRICES: Final = {"all": "PCA", "pairs": "on pairs"}  # what a whitening is learnt by
WARNED: Final = 20  # rows named one by one before the rest is counted


def measure(
    system: System,
    test: pd.DataFrame,
    store: Described,
    *,
    config: str,
    bytes_per_image: float | None,
    conditions: Mapping[str, str | int | float],
    origins: Sequence[str] = (),
    share: float | None = None,
) -> Measured:
    """Measure every classifier of a system; nothing is written.

    Args:
        system: the loaded run.
        test: the image table that was asked for: id, source, landmark, row.
        store: the same rows described.
        config: the name of the system's config.
        bytes_per_image: what the index holds of a photograph; ``None``: float32 descriptors.
        conditions: more lines for the report's footer and ``metrics.json``: whitening, precision,
            machine and so on.
        origins: where each row comes from, for figures by origin.
        share: of landmark photographs, 0 to 1, for which precision is given too.

    Raises:
        TableError: the test table has no rows.
        RunError: the described rows are not those of the test table.
    """
    table, truth = store.table, labels_of(store.table)
    _check(test, table, store.descriptors)
    truth_codes = codes_of(truth, system.landmarks)
    ids = [str(one) for one in table["id"]]
    gallery_ids = [str(one) for one in system.rows["id"]]
    notes = [*_unknown(test, truth, truth_codes), *_seen(ids, gallery_ids)]
    ok = (table["status"] == OK).to_numpy(dtype=bool)
    ranking, answers = judge_rows(system, store.descriptors, np.flatnonzero(ok), truth_codes)
    shown = truth_codes != NO_LANDMARK
    shared = ranking.figures(shown)
    dimension = int(store.descriptors.vectors.shape[1])
    return Measured(
        config=config,
        answer=system.answer,
        ids=ids,
        sources=[str(source) for source in table["source"]],
        truth=truth,
        truth_codes=truth_codes,
        statuses=[str(status) for status in table["status"]],
        reasons=["" if pd.isna(reason) else str(reason) for reason in table["reason"]],
        landmarks=system.landmarks,
        names=system.names,
        gallery_ids=gallery_ids,
        gallery_sources=[str(one) for one in system.rows["source"]],
        gallery_codes=np.asarray(system.gallery.codes),
        near_rows=ranking.near.rows,
        near_similarities=ranking.near.similarities,
        results=[
            result_of(name, one, system.rejections[name], ids, Truth.of_codes(truth_codes), shared,
                      share)
            for name, one in answers.items()
        ],
        seconds_per_image=float(store.seconds_per_image),
        bytes_per_image=4.0 * dimension if bytes_per_image is None else float(bytes_per_image),
        conditions={
            "config": config,
            "queries": len(ids),
            "queries_with_landmark": int(shown.sum()),
            "queries_without_landmark": int((~shown).sum()),
            "queries_failed": int((~ok).sum()),
            "queries_of_landmarks_not_in_gallery": int((truth_codes == NOT_IN_GALLERY).sum()),
            "gallery": len(gallery_ids),
            "landmarks": len(system.landmarks),
            "bank": len(system.gallery.bank),
            "dimension": dimension,
            **({} if share is None else {"share_of_landmark_photographs": share}),
            **conditions,
        },
        notes=notes,
        origins=origins,
    )  # fmt: skip


def evaluate_run(
    system: System,
    csv: Path,
    out: Path,
    share: float | None = None,
    workers: str | None = None,
) -> dict[str, Any]:
    """Describe a labelled CSV's photographs with a run, and evaluate it.

    The descriptors stay in ``out/descriptors``: a killed evaluation goes on, and one of the same
    photographs describes nothing again.

    Args:
        system: the loaded run.
        csv: the labelled photographs.
        out: the folder of the figures.
        share: of landmark photographs, for which precision is given too.
        workers: address of a Ray cluster that describes (:mod:`retrieval.ray_systems`).

    Raises:
        TableError: the CSV is bad.
        RunError: of the workers.
    """
    measured = measure_run(system, csv, out, share, workers)
    return write_evaluation(_with_explained(system, measured), out)


def evaluate_runs(
    systems: Mapping[str, System],
    csv: Path,
    out: Path,
    share: float | None = None,
    workers: str | None = None,
) -> dict[str, Any]:
    """Evaluate several runs on the same photographs: each by itself, then their answers together.

    Args:
        systems: loaded runs, by the name that each goes by and whose folder in ``out`` it gets.
        csv: the labelled photographs.
        out: the folder of all.
        share, workers: as of :func:`evaluate_run`.

    Returns:
        the figures of the answers side by side.

    Raises:
        TableError: the CSV is bad.
    """
    measured = {
        name: measure_run(system, csv, out / name, share, workers)
        for name, system in systems.items()
    }
    for name, one in measured.items():
        write_evaluation(_with_explained(systems[name], one), out / name)
    return write_evaluation(side_by_side(measured), out)


def _with_explained(system: System, measured: Measured) -> Measured:
    """With what the report says of why."""
    rows = {row for some in rows_to_explain(measured) for row in some}
    with progress_bar("explaining", len(rows)) as progress:
        return replace(measured, explained=explain_examples(system, measured, progress))


def measure_run(
    system: System,
    csv: Path,
    out: Path,
    share: float | None = None,
    workers: str | None = None,
) -> Measured:
    """Describe a labelled CSV's photographs below ``out/descriptors``, and measure the run on them;
    arguments as of :func:`evaluate_run`.

    Raises:
        TableError: the CSV is bad.
    """
    table = read_table(csv, bank=True)
    if table["landmark"].isna().all():
        log.warning("%s: no photograph shows a landmark (nothing in a column landmark_id): what is"
                    " measured is false accepts alone", csv)  # fmt: skip
    return measure(
        system,
        table,
        describe_into(system, table, out, workers),
        config=system.config.name,
        bytes_per_image=system.record["index"]["bytes_per_image"],
        conditions=conditions_of(system),
        origins=read_origins(csv, table["id"]),
        share=share,
    )


def describe_into(
    system: System, table: pd.DataFrame, out: Path, workers: str | None = None
) -> Described:
    """A table's photographs, described below ``out/descriptors``; a killed call goes on, whether by
    ``workers`` (the address of a Ray cluster) or not.

    Each table has a folder there, so that asking for one and then another describes each once.
    """
    digest = table_digest(table)
    made_from = described_from({"describer": system.record["describer"]}, digest)
    with progress_bar("describing", len(table)) as progress:
        store = describe_table(
            table, system.describer, out / "descriptors" / digest, made_from, progress,
            timings=out / "timings.json",
            elsewhere=None if workers is None else partial(_described_by, workers, system),
        )  # fmt: skip
    return read_described(table, store, system.describer)


def _described_by(workers: str, system: System, windows: Iterable[Sequence[str]]) -> Timed:
    """Shards of windows of paths, made by a Ray cluster."""
    first, second = tee([os.path.abspath(path) for path in window] for window in windows)
    made = through_workers(workers, system, _describe_windows, first)
    for (shard, seconds), paths in zip(made, second, strict=True):
        require_shared(paths, shard.reasons)
        yield shard, seconds


def _describe_windows(system: System, windows: Iterable[Sequence[str]], _: int) -> Timed:
    return describe_windows(system.describer, windows)


def conditions_of(system: System) -> dict[str, str | int | float]:
    """What a figure has to be quoted with."""
    record = system.record
    config = system.config
    whitening = config.whitening
    learnt = min(record["gallery"] + record["bank"], config.fit_photographs)
    return {
        "test_size": f"longest side {system.describer.longest_side} pixels at the largest scale",
        "precision": str(record["describer"]["extractor"].get("precision", "float32")),
        "whitening": "none"
        if whitening is None
        else f"{MATRICES[whitening.learnt_on]} to {record['dimension']}, eigenvalues to the power"
        f" {whitening.power:g},"
        f" learnt on {learnt:,} photographs of gallery and bank"
        + _views_of(record["describer"]["whitening"], learnt),
        "index": record["index"]["factory"],
        "search": _searched_by(config),
        "machine": f"{record['machine']['processor']}, {record['machine']['cores']} cores,"
        f" {record['device']}",
    }


def _views_of(whitening: Mapping[str, Any], learnt: int) -> str:
    """Of a describer's recipe; runs from before views had a limit have views of all, or none."""
    if not whitening.get("views"):
        return ""
    viewed = min(learnt, whitening.get("viewed", learnt))
    these = "each" if viewed == learnt else f"{viewed:,} of them"
    return f" and {whitening['views']} views of {these}"


def _searched_by(config: SystemConfig) -> str:
    """What a search looks at, in words."""
    search, words = config.search, config.local.words if config.local is not None else None
    parts = ["descriptors"]
    if words is not None:
        parts.append(f"{words.words:,} words ({words.kind}) with a share of {search.share:g}")
    if search.expansion.queries or search.expansion.gallery:
        taken = search.expansion
        parts.append(f"queries expanded by {taken.queries}, gallery rows by {taken.gallery}")
    if search.verification is not None:
        parts.append(f"the first {search.verification.top} verified")
    return ", ".join(parts)


def _check(test: pd.DataFrame, table: pd.DataFrame, descriptors: Representation) -> None:
    """The described rows are the ones that were asked for.

    Raises:
        TableError: there are none.
        RunError: they differ.
    """
    if not len(test):
        raise TableError("the test table has no rows: there is nothing to measure")
    if list(test["id"]) != list(table["id"]):
        raise RunError(
            "the described test photographs are not those of the test table: delete the"
            " evaluation's folder and run landmarks evaluate again"
        )
    described = int((table["status"] == "ok").sum())
    if described != len(descriptors):
        raise RunError(
            f"{described} test photographs went well but {len(descriptors)} have descriptors:"
            " delete the evaluation's folder and run landmarks evaluate again"
        )


def _unknown(
    test: pd.DataFrame, truth: Sequence[str | None], codes: NDArray[np.int64]
) -> list[str]:
    """Warn of labels that the gallery lacks, row by row, and note them for the report."""
    rows = np.flatnonzero(codes == NOT_IN_GALLERY)
    if not rows.size:
        return []
    for at in rows[:WARNED].tolist():
        log.warning(
            "test row %s (id %s): the gallery has no photograph of landmark %r, so it cannot be"
            " answered right; it counts as a landmark photograph",
            test["row"].iloc[at],
            test["id"].iloc[at],
            truth[at],
        )
    if rows.size > WARNED:
        log.warning("and %d more test rows of landmarks not in the gallery", rows.size - WARNED)
    return [
        f"{rows.size:,} test photographs show a landmark that the gallery has no photograph of."
        " They cannot be answered right, and count as landmark photographs in every figure."
    ]


def _seen(ids: Sequence[str], gallery_ids: Sequence[str]) -> list[str]:
    """Warn of test photographs that lie in the gallery: they find themselves."""
    shared = set(gallery_ids).intersection(ids)
    if not shared:
        return []
    note = (
        f"{len(shared):,} test ids are ids of gallery photographs too (the first is"
        f" {min(shared)}): where they are the same photographs, the figures flatter."
    )
    log.warning("%s", note)
    return [note]
