"""Measure a run on a labelled table: figures, predictions, a submission and a report.

Every test row counts once. A photograph that failed is an empty answer: lost recall where it shows
a landmark, and a "none" where it shows none. A landmark that the gallery has no photograph of
cannot be named, and stays among the landmark photographs all the same, as it does in GAP.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from pipelines.formats import csv_line
from pipelines.progress import progress_bar
from pipelines.report.curves import per_landmark, per_origin
from pipelines.report.measured import (
    NO_LANDMARK,
    NOT_IN_GALLERY,
    ClassifierResult,
    Measured,
    codes_of,
    side_by_side,
)
from pipelines.report.page import METRICS, NEIGHBOURS, Reader, render
from retrieval.classifiers.base import Judgement
from retrieval.errors import RunError, TableError
from retrieval.evaluation.intervals import Difference, Outcomes, intervals
from retrieval.evaluation.metrics import (
    Truth,
    average_precisions,
    false_accepts_at,
    first_ranks,
    gallery_hits,
    precision,
    precision_at_share,
    recognition_metrics,
    reliability,
)
from retrieval.extractors.describer import describe_table, read_described
from retrieval.extractors.descriptors import Descriptors
from retrieval.index.expansion import Members, rerank_by_label
from retrieval.index.faiss_index import Neighbours
from retrieval.index.store import atomic_write, write_json
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.table import labels_of, read_origins, read_table
from retrieval.system import System, SystemConfig

log = logging.getLogger(__name__)

BATCH: Final = 4096  # queries judged at once
CANDIDATES: Final = 5  # kept of each answer
RANKED: Final = 100  # gallery photographs that mAP@100 looks at
DEEP: Final = 1000  # and those that mAP does
RECALLS: Final = (1, 10, 100)
MATRICES: Final = {"all": "PCA", "pairs": "on pairs"}  # what a whitening is learnt by
WARNED: Final = 20  # rows named one by one before the rest is counted


class Described(Protocol):
    """A test table and the descriptors of its rows that went well."""

    @property
    def table(self) -> pd.DataFrame:
        """Columns id, source, landmark, status, reason, in input order."""

    @property
    def descriptors(self) -> Descriptors:
        """Of the n_ok rows whose status is "ok", in order."""

    @property
    def seconds_per_image(self) -> float:
        """Seconds that describing one photograph took; NaN where it was not timed."""


class Searched(Protocol):
    """What is asked of a gallery's index."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(n, d) the rows that are searched in."""


class Labelled(Protocol):
    """What is asked of a gallery."""

    @property
    def codes(self) -> NDArray[np.int64]: ...
    @property
    def bank(self) -> Sized: ...
    @property
    def index(self) -> Searched: ...


class Rejects(Protocol):
    """What is asked of a rejection."""

    @property
    def threshold(self) -> float: ...
    @property
    def notes(self) -> Sequence[str]: ...
    def surprises(self, none: int, accepted: int) -> Sequence[str]: ...


class Judge(Protocol):
    """What a loaded system offers to be measured."""

    @property
    def landmarks(self) -> Sequence[str]: ...
    @property
    def names(self) -> Mapping[str, str]: ...
    @property
    def gallery(self) -> Labelled: ...
    @property
    def rows(self) -> pd.DataFrame: ...
    @property
    def classifiers(self) -> Mapping[str, Any]: ...
    @property
    def rejections(self) -> Mapping[str, Rejects]: ...
    @property
    def answer(self) -> str: ...
    def neighbours(self, descriptors: Descriptors, k: int | None = None) -> Neighbours: ...
    def judge(
        self, descriptors: Descriptors, neighbours: Neighbours | None = None
    ) -> dict[str, Judgement]: ...


def evaluate(
    system: Judge,
    test: pd.DataFrame,
    store: Described,
    out: Path,
    *,
    config: str,
    bytes_per_image: float | None = None,
    conditions: Mapping[str, str | int | float] | None = None,
    origins: Sequence[str] = (),
    share: float | None = None,
    read: Reader = read_photograph,
    shown: int = 6,
) -> dict[str, Any]:
    """Measure every classifier of a system, and write what was found.

    Args:
        system: the loaded run.
        test: the image table that was asked for: id, source, landmark, row.
        store: the same rows described.
        out: the folder for ``metrics.json``, ``predictions.csv``, ``per_landmark.csv``,
            ``submission.csv`` and ``report.html``, each written whole or not at all.
        config: the name of the system's config.
        bytes_per_image: what the index holds of a photograph; float32 descriptors unless said.
        conditions: more lines for the report's footer and ``metrics.json``: whitening, precision,
            machine and so on.
        origins: where each row comes from, for figures by origin.
        share: of landmark photographs, 0 to 1, for which precision is told too.
        read: how the report reads a photograph for its thumbnail.
        shown: examples of each kind in the report, at most.

    Returns:
        What ``metrics.json`` holds: for each classifier its figures, with their intervals where
        there are any, and beside them ``seconds_per_image``, ``bytes_per_image``, ``answer``,
        ``conditions``, ``per_source`` and ``paired``; ``None`` where a figure is undefined, as a
        false-accept rate is without photographs of no landmark.

    Raises:
        TableError: the test table has no rows.
        RunError: the described rows are not those of the test table.
    """
    measured = measure(
        system,
        test,
        store,
        config=config,
        bytes_per_image=bytes_per_image,
        conditions=conditions or {},
        origins=origins,
        share=share,
    )
    return write_evaluation(measured, out, read, shown)


def write_evaluation(
    measured: Measured, out: Path, read: Reader = read_photograph, shown: int = 6
) -> dict[str, Any]:
    """Write what was measured as :func:`evaluate` says, and return the figures."""
    figures = as_json(measured)
    write_json(out / "metrics.json", figures)
    atomic_write(out / "predictions.csv", predictions_csv(measured))
    atomic_write(out / "per_landmark.csv", _csv(per_landmark(measured)))
    if not (out / "submission.csv").exists():  # said once, and not at each evaluation
        _warn_of_spaces(measured.landmarks)
    atomic_write(out / "submission.csv", submission_csv(measured))
    atomic_write(out / "report.html", render(measured, read, shown=shown))
    return figures


def measure(
    system: Judge,
    test: pd.DataFrame,
    store: Described,
    *,
    config: str,
    bytes_per_image: float | None,
    conditions: Mapping[str, str | int | float],
    origins: Sequence[str] = (),
    share: float | None = None,
) -> Measured:
    """The evaluation itself; :func:`evaluate` says what goes in. Nothing is written."""
    table = store.table
    _check(test, table, store.descriptors)
    truth = labels_of(table)
    truth_codes = codes_of(truth, system.landmarks)
    ids = [str(one) for one in table["id"]]
    ok = (table["status"] == "ok").to_numpy(dtype=bool)
    gallery_ids = [str(one) for one in system.rows["id"]]
    notes = [*_unknown(test, truth, truth_codes), *_seen(ids, gallery_ids)]
    answers = _answers(system, store.descriptors, truth_codes[ok])
    rows = np.flatnonzero(ok)
    shown = truth_codes != NO_LANDMARK
    ranking = _ranking_figures(answers, rows, shown)
    results = [
        _result(name, system.rejections[name], _everywhere(judged, rows, len(ids)), ids,
                truth_codes, ranking, share)
        for name, judged in answers.judged.items()
    ]  # fmt: skip
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
        near_rows=_spread(answers.near.rows, rows, len(ids), -1),
        near_similarities=_spread(answers.near.similarities, rows, len(ids), -np.inf),
        results=results,
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
    )


def as_json(measured: Measured) -> dict[str, Any]:
    """The content of ``metrics.json``: NaN and infinities become ``None``."""
    caveats = {one.name: list(one.caveats) for one in measured.results if one.caveats}
    return {
        **{result.name: figures_json(result) for result in measured.results},
        "seconds_per_image": _finite(measured.seconds_per_image),
        "bytes_per_image": _finite(measured.bytes_per_image),
        "answer": measured.answer,
        **({"caveats": caveats} if caveats else {}),
        "conditions": dict(measured.conditions),
        **({"per_source": _per_source(measured)} if len(measured.origins) else {}),
        "paired": {
            name: {key: difference_json(one) for key, one in found.items()}
            for name, found in measured.paired.items()
        },
    }


def _per_source(measured: Measured) -> dict[str, dict[str, Any]]:
    return {
        one.origin: {
            "queries": one.queries,
            "with_landmark": one.with_landmark,
            **{
                name: {key: _finite(value) for key, value in figures.items()}
                for name, figures in one.figures.items()
            },
        }
        for one in per_origin(measured)
    }


def figures_json(result: ClassifierResult) -> dict[str, Any]:
    """A classifier's figures, costs and intervals; ``None`` where one is undefined."""
    costs = {} if result.cost is None else asdict(result.cost)
    intervals = {f"{key}_interval": _ends(one) for key, one in result.intervals.items()}
    return {key: _finite(one) for key, one in {**result.metrics, **costs}.items()} | intervals


def difference_json(found: Difference) -> dict[str, Any]:
    """A paired difference with its interval and chance."""
    return {
        "difference": _finite(found.value), "interval": _ends(found.interval), "p": found.p,
    }  # fmt: skip


def _ends(interval: tuple[float, float]) -> list[float] | None:
    return None if math.isnan(interval[0]) else list(interval)


def predictions_csv(measured: Measured) -> bytes:
    """One line a test row: id, truth, status, reason, and four columns for each classifier.

    ``<classifier>_answer`` is its best candidate, ``_probability`` that the candidate is right,
    ``_accepted`` whether it is named rather than "none", and ``_right`` whether that final answer
    is right. All four are empty where the photograph failed.
    """
    columns: dict[str, Any] = {
        "id": measured.ids,
        "truth": measured.truth,
        "status": measured.statuses,
        "reason": measured.reasons,
    }
    landmarks = np.array([*measured.landmarks, None], dtype=object)  # code -1 is the last
    for result in measured.results:
        described = measured.ok
        columns[f"{result.name}_answer"] = landmarks[result.best]
        columns[f"{result.name}_probability"] = [_number(one) for one in result.probability]
        columns[f"{result.name}_accepted"] = _booleans(result.accepted, described)
        columns[f"{result.name}_right"] = _booleans(measured.answered_right(result), described)
    return _csv(columns)


def submission_csv(measured: Measured) -> bytes:
    """The challenge's form, ``id,landmarks``: "<landmark> <confidence>", or empty without answer.

    The best candidates of the answering classifier, accepted or not: GAP sets no threshold, and
    takes the confidence for the ranking alone.
    """
    result = measured.answering
    cells = [
        f"{measured.landmarks[code]} {_number(confidence)}"
        if code >= 0 and _number(confidence)
        else ""
        for code, confidence in zip(result.best.tolist(), result.confidence, strict=True)
    ]
    return _csv({"id": measured.ids, "landmarks": cells})


def _warn_of_spaces(landmarks: Sequence[str]) -> None:
    spaced = next((one for one in landmarks if len(one.split()) != 1), None)
    if spaced is not None:
        log.warning(
            "landmark id %r holds a space: readers of submission.csv that expect exactly"
            " '<landmark> <score>' will refuse its rows",
            spaced,
        )


def evaluate_run(
    system: System, csv: Path, out: Path, share: float | None = None
) -> dict[str, Any]:
    """Describe a labelled CSV's photographs with a run, and :func:`evaluate` it.

    The descriptors stay in ``out/descriptors``: a killed evaluation goes on, and one of the same
    photographs describes nothing again.

    Raises:
        TableError: the CSV is bad.
    """
    return write_evaluation(measure_run(system, csv, out, share), out)


def evaluate_runs(
    systems: Mapping[str, System], csv: Path, out: Path, share: float | None = None
) -> dict[str, Any]:
    """Evaluate several runs on the same photographs: each by itself, then their answers together.

    Args:
        systems: loaded runs, by the name that each goes by and whose folder in ``out`` it gets.
        csv: the labelled photographs.
        out: the folder of all.
        share: of landmark photographs, for which precision is told too.

    Returns:
        the figures of the answers side by side.

    Raises:
        TableError: the CSV is bad.
    """
    measured = {
        name: measure_run(system, csv, out / name, share) for name, system in systems.items()
    }
    for name, one in measured.items():
        write_evaluation(one, out / name)
    return write_evaluation(side_by_side(measured), out)


def measure_run(system: System, csv: Path, out: Path, share: float | None = None) -> Measured:
    """Describe a labelled CSV's photographs into ``out/descriptors``, and measure the run on them.

    Raises:
        TableError: the CSV is bad.
    """
    table = read_table(csv, bank=True)
    if table["landmark"].isna().all():
        log.warning("%s: no photograph shows a landmark (nothing in a column landmark_id): what is"
                    " measured is false accepts alone", csv)  # fmt: skip
    made_from = {"describer": system.record["describer"]}
    with progress_bar("describing", len(table)) as progress:
        store = describe_table(
            table, system.describer, out / "descriptors", made_from, progress,
            clock=out / "timings.json",
        )  # fmt: skip
    return measure(
        system,
        table,
        read_described(table, store, system.describer),
        config=system.config.name,
        bytes_per_image=system.record["index"]["bytes_per_image"],
        conditions=conditions_of(system),
        origins=read_origins(csv, table["id"]),
        share=share,
    )


def conditions_of(system: System) -> dict[str, str | int | float]:
    """What a figure has to be quoted with."""
    record = system.record
    config = system.config
    whitening = config.whitening
    return {
        "test_size": f"longest side {system.describer.longest_side} pixels at the largest scale",
        "precision": str(record["describer"]["extractor"].get("precision", "float32")),
        "whitening": "none"
        if whitening is None
        else f"{MATRICES[whitening.learnt_on]} to {record['dimension']}, eigenvalues to the power"
        f" {whitening.power:g},"
        f" learnt on {min(record['gallery'] + record['bank'], config.fit_photographs):,}"
        " photographs of gallery and bank"
        + (f" and {whitening.views} views of each" if whitening.views else ""),
        "index": record["index"]["factory"],
        "search": _searched_by(config),
        "machine": f"{record['machine']['processor']}, {record['machine']['cores']} cores,"
        f" {record['device']}",
    }


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


def figures_table(figures: Mapping[str, Any]) -> Table:
    """The figures of ``metrics.json`` for a terminal."""
    table = Table(title=f"{figures['conditions']['config']}: {_conditions_line(figures)}")
    table.add_column("classifier")
    for metric in METRICS:
        table.add_column(metric.title, justify="right")
    for name, values in figures.items():
        if isinstance(values, Mapping) and "gap" in values:
            cells = ["–" if values[m.key] is None else f"{values[m.key]:.3f}" for m in METRICS]
            table.add_row(f"{name} *" if name == figures["answer"] else name, *cells)
    seconds = figures["seconds_per_image"]
    share = figures["conditions"].get("share_of_landmark_photographs")
    at_share = figures[figures["answer"]].get("precision_at_share")
    table.caption = (
        f"* answers; {figures['bytes_per_image']:,.0f} bytes a photograph"
        + (f", {1000 * seconds:.1f} ms each to describe" if seconds else "")
        + ("" if at_share is None else
           f"; its precision were {share:.2%} landmark photographs: {at_share:.3f}")
        + "".join(f"\n{one}" for one in figures.get("caveats", {}).get(figures["answer"], ()))
    )  # fmt: skip
    return table


def _conditions_line(figures: Mapping[str, Any]) -> str:
    conditions = figures["conditions"]
    return (
        f"{conditions['queries_with_landmark']:,} landmark queries,"
        f" {conditions['queries_without_landmark']:,} of none"
    )


@dataclass(frozen=True)
class _Judged:
    """One classifier's answers to the described rows, and how good the ranking is by them."""

    candidates: NDArray[np.int64]
    confidence: NDArray[np.float32]
    probability: NDArray[np.float32]
    accepted: NDArray[np.bool_]
    average_precision: NDArray[np.float64]


@dataclass(frozen=True)
class _Answers:
    """Everybody's answers, the nearest gallery photographs, and how good their ranking is."""

    judged: dict[str, _Judged]
    near: Neighbours
    average_precision: NDArray[np.float64]
    whole_precision: NDArray[np.float64]
    first_rank: NDArray[np.int64]


def _answers(system: Judge, descriptors: Descriptors, truth_codes: NDArray[np.int64]) -> _Answers:
    """Judge the described rows in batches, so that memory holds a few figures a row."""
    gallery_codes = np.asarray(system.gallery.codes)
    members = Members.of(gallery_codes)
    wanted = max(classifier.neighbours for classifier in system.classifiers.values())
    parts: dict[str, list[_Judged]] = {name: [_nobody()] for name in system.classifiers}
    rows = [np.empty((0, NEIGHBOURS), np.int64)]
    similarities = [np.empty((0, NEIGHBOURS), np.float32)]
    precisions, whole = [np.empty(0)], [np.empty(0)]
    first_rank = [np.empty(0, np.int64)]
    for start in range(0, len(descriptors), BATCH):
        block = descriptors[start : start + BATCH]
        near = system.neighbours(block, max(RANKED, wanted))
        ranking = near.first(RANKED)
        truth = Truth.of_codes(truth_codes[start : start + BATCH])
        # One search serves both; the classifiers see what they would have asked for.
        for name, judgement in system.judge(block, near.first(wanted)).items():
            best, accepted = judgement.scores.best, judgement.accepted
            by_label = rerank_by_label(
                ranking, members, best, accepted, block.vectors, system.gallery.index.vectors
            )
            parts[name].append(_kept(judgement, _precisions(by_label, gallery_codes, truth)))
        rows.append(near.rows[:, :NEIGHBOURS])
        similarities.append(near.similarities[:, :NEIGHBOURS])
        hits, relevant = gallery_hits(ranking.rows, gallery_codes, truth)
        precisions.append(average_precisions(hits, relevant, RANKED))
        first_rank.append(first_ranks(hits))
        whole.append(_whole_precisions(system, block, truth))
    return _Answers(
        {name: _joined(judged) for name, judged in parts.items()},
        Neighbours(np.concatenate(rows), np.concatenate(similarities)),
        np.concatenate(precisions),
        np.concatenate(whole),
        np.concatenate(first_rank),
    )


def _precisions(
    ranking: Neighbours, gallery_codes: NDArray[np.int64], truth: Truth
) -> NDArray[np.float64]:
    """(q,) average precision of each query's ranking."""
    hits, relevant = gallery_hits(ranking.rows, gallery_codes, truth)
    return average_precisions(hits, relevant, RANKED)


def _whole_precisions(system: Judge, block: Descriptors, truth: Truth) -> NDArray[np.float64]:
    """(q,) average precision over :data:`DEEP` ranks, of the queries that show a landmark.

    A search of its own: where words propose neighbours too, a deeper search has others to choose
    from, and classifiers would not see what they see in use.
    """
    precisions = np.zeros(truth.count)
    shown = truth.photographs
    if shown.size:
        codes = np.asarray(system.gallery.codes)
        rows = system.neighbours(block[shown], DEEP).rows
        hits, relevant = gallery_hits(rows, codes, Truth.of_codes(truth.landmarks))
        precisions[shown] = average_precisions(hits, relevant, len(codes))
    return precisions


def _ranking_figures(
    answers: _Answers, rows: NDArray[np.int64], shown: NDArray[np.bool_]
) -> dict[str, float]:
    """How good the ranking is, which all classifiers share; failed rows found nothing."""
    n = len(shown)
    first = _spread(answers.first_rank, rows, n, 0)[shown]
    return {
        "map100": _mean(_spread(answers.average_precision, rows, n, 0.0)[shown]),
        "map": _mean(_spread(answers.whole_precision, rows, n, 0.0)[shown]),
        **{f"recall{k}": _mean((first > 0) & (first <= k)) for k in RECALLS},
    }


def _nobody() -> _Judged:
    return _Judged(
        np.empty((0, CANDIDATES), np.int64),
        np.empty(0, np.float32),
        np.empty(0, np.float32),
        np.empty(0, np.bool_),
        np.empty(0),
    )


def _kept(judgement: Judgement, average_precision: NDArray[np.float64]) -> _Judged:
    """The first few candidates, padded with -1 where a classifier gives fewer."""
    candidates = judgement.scores.candidates[:, :CANDIDATES]
    padding = ((0, 0), (0, CANDIDATES - candidates.shape[1]))
    return _Judged(
        np.pad(candidates, padding, constant_values=-1),
        judgement.scores.confidence,
        judgement.probability,
        judgement.accepted,
        average_precision,
    )


def _joined(parts: Sequence[_Judged]) -> _Judged:
    return _Judged(
        np.concatenate([part.candidates for part in parts]),
        np.concatenate([part.confidence for part in parts]),
        np.concatenate([part.probability for part in parts]),
        np.concatenate([part.accepted for part in parts]),
        np.concatenate([part.average_precision for part in parts]),
    )


def _everywhere(judged: _Judged, rows: NDArray[np.int64], n: int) -> _Judged:
    """Answers to the described rows set among all ``n``: failed ones have no answer."""
    return _Judged(
        _spread(judged.candidates, rows, n, -1),
        _spread(judged.confidence, rows, n, -np.inf),
        _spread(judged.probability, rows, n, np.nan),
        _spread(judged.accepted, rows, n, False),
        _spread(judged.average_precision, rows, n, 0.0),
    )


def _result(
    name: str,
    rejection: Rejects,
    judged: _Judged,
    ids: Sequence[str],
    truth_codes: NDArray[np.int64],
    ranking: Mapping[str, float],
    share: float | None,
) -> ClassifierResult:
    truth = Truth.of_codes(truth_codes)
    best = judged.candidates[:, 0]
    shown, right, answered = truth.has_landmark, truth.holds(best), best >= 0
    told = answered & np.isfinite(judged.probability)
    figures = {
        **recognition_metrics(ids, judged.candidates, judged.confidence, judged.accepted, truth),
        **ranking,
        "map100_by_label": _mean(judged.average_precision[shown]),
        "false_accepts_at_90": false_accepts_at(judged.confidence, right, shown),
        "precision": precision(right, judged.accepted),
        "precision_at_full_coverage": precision(right, answered),
        "calibration_error": reliability(judged.probability[told], right[told]).error,
    }
    if share is not None:
        figures["precision_at_share"] = precision_at_share(right, judged.accepted, shown, share)
    outcomes = Outcomes.of(ids, best, judged.confidence, judged.accepted, truth)
    surprises = rejection.surprises(int((~shown).sum()), int(judged.accepted[~shown].sum()))
    return ClassifierResult(
        name,
        judged.candidates,
        judged.confidence,
        judged.probability,
        judged.accepted,
        float(rejection.threshold),
        figures,
        intervals(outcomes),
        caveats=[*rejection.notes, *surprises],
    )


def _mean(precisions: NDArray[Any]) -> float:
    return float(precisions.mean()) if precisions.size else math.nan


def _spread(values: NDArray[Any], rows: NDArray[np.int64], n: int, empty: Any) -> NDArray[Any]:
    """Values of the described rows set among all ``n`` rows; ``empty`` for the failed ones."""
    every = np.full((n, *values.shape[1:]), empty, dtype=values.dtype)
    every[rows] = values
    return every


def _check(test: pd.DataFrame, table: pd.DataFrame, descriptors: Descriptors) -> None:
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


def _csv(columns: Mapping[str, Any] | pd.DataFrame) -> bytes:
    frame = pd.DataFrame(columns).astype(object)
    filled = frame.where(frame.notna(), "")
    rows = filled.itertuples(index=False, name=None)
    return b"".join([csv_line(frame.columns), *(csv_line(row) for row in rows)])


def _number(value: np.float32) -> str:
    """The shortest text that reads back as the same float32; empty where there is no number."""
    return str(value) if np.isfinite(value) else ""


def _booleans(values: NDArray[np.bool_], where: NDArray[np.bool_]) -> list[str]:
    return [
        str(bool(value)).lower() if there else ""
        for value, there in zip(values, where, strict=True)
    ]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
