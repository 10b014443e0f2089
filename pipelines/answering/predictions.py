"""Finished predictions of a list: several runs' made one by a vote, frequent answers banned, and
the same answers at another operating point.

A file's answer votes for its landmark with its probability p, and "none" for none with 1 − p. The
landmark with the largest sum is the answer where that is larger than none's sum (of equal ones,
the landmark that an earlier file names). Its probability is the sum over the number of files that
had an answer or none; where none wins, it is the mean of those files' probabilities. A banned
answer's none counts fully. So the vote of one file is that file. A row that failed in some files is
decided by the others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Final

import numpy as np

from pipelines.answering.classify import ANSWERED, ClassifySummary, common_reasons, count
from pipelines.lists.formats import Record, Records, format_of, read_records, write_records
from pipelines.lists.journal import State, state_path
from retrieval.errors import ConfigError, RunError, TableError
from retrieval.predictions import ANSWER, CANDIDATE, REASON, SCORE, STATUS, prediction_columns
from retrieval.storage.files import atomic_write, read_json, read_table
from retrieval.storage.fingerprint import checksum
from retrieval.storage.shards import OK

log = logging.getLogger(__name__)

PROBABILITY: Final = ANSWER.index("probability")
Accepts = Callable[[str, str], bool]
"""Whether a candidate of this probability and confidence, cells both, is the answer."""


def read_predictions(path: Path) -> tuple[list[str], Records]:
    """The columns of finished predictions in any format, and their rows' numbers and records, one
    at a time. Those of earlier versions have the first six columns alone.

    Raises:
        TableError: it is no such file, or a row of it is damaged.
    """
    columns, records = read_records(path)
    further = [one for one in columns[len(ANSWER) :] if not _numbered(one)]
    if tuple(columns[: len(ANSWER)]) != ANSWER or tuple(further) not in (
        (),
        prediction_columns()[len(ANSWER) :],
    ):
        raise TableError(
            f"{path}, row 1: no predictions: the columns must begin with {','.join(ANSWER)}"
        )

    def checked() -> Records:
        for row, record in records:
            if len(record) != len(columns) or not _probable(record):
                raise TableError(
                    f"{path}, row {row}: not {len(columns)} cells with a probability from 0 to 1"
                )
            yield row, record

    return columns, checked()


def _numbered(column: str) -> bool:
    """Whether it is one of several candidates' or neighbours'."""
    name, _, place = column.rpartition("_")
    return bool(SCORE.fullmatch(column)) or (name in ("candidate", "nearest") and place.isdigit())


def vote_csvs(csvs: Sequence[Path], out: Path) -> ClassifySummary:
    """Merge predictions that :mod:`pipelines.answering.classify` wrote of one list.

    Args:
        csvs: at least one; all are read at once, a row at a time.
        out: the merged predictions, of which there are the first six columns: candidates and
            neighbours are each system's own. Written whole or not at all.

    Raises:
        TableError: one is not such a file, or not of the same list.
        RunError: ``out`` is one of them, or is there and holds something else.
    """
    counts: Counter[str] = Counter()

    def merged() -> Iterator[Record]:
        for records in _abreast(csvs):
            record = _merged(records)
            counts.update(count([record]))
            yield record

    _write(out, csvs, ANSWER, merged())
    return _summary(out, counts)


def ban_frequent(predictions: Path, out: Path, most: int) -> int:
    """Write predictions anew, with the landmarks that are answered too often made none.

    Where few photographs show a landmark, an answer that keeps coming back is likelier something
    that resembles everything. Memory grows with the landmarks, not with the rows.

    Args:
        predictions: read twice.
        out: where to; written whole or not at all. A banned answer's reason says what it was, and
            its probability stays.
        most: rows that a landmark may be answered for.

    Returns:
        how many answers were banned.

    Raises:
        TableError: the predictions cannot be read.
        RunError: ``out`` is there and holds something else.
    """
    columns, records = read_predictions(predictions)
    counts = Counter(record[1] for _, record in records if record[1])
    banned = {landmark: rows for landmark, rows in counts.items() if rows > most}

    def kept(record: Record) -> Record:
        name, landmark, _, probability, status, *_ = record
        if landmark not in banned:
            return record
        reason = f"{landmark} is answered for {banned[landmark]} rows"
        return [name, "", "", probability, status, reason, *record[len(ANSWER) :]]

    _, again = read_predictions(predictions)
    _write(out, [predictions], columns, (kept(record) for _, record in again))
    return sum(banned.values())


def rethreshold(
    predictions: Path,
    out: Path,
    run: Path,
    *,
    min_probability: float | None = None,
    target_precision: float | None = None,
    max_false_accepts: float | None = None,
    device: str = "auto",
    weights: Path | None = None,
) -> ClassifySummary:
    """Answer stored predictions anew at another operating point; no photograph is looked at.

    What failed stays as it is, and so does what ``--frequency-ban`` made none.

    Args:
        predictions: with candidates, as :mod:`pipelines.answering.classify` writes them.
        out: where to; written whole or not at all.
        run: that made them.
        min_probability: of a candidate that is answered.
        target_precision: the share of answers to be right. The threshold is the one that
            ``landmarks index`` would choose, so the classifier is fitted anew to parts of the
            gallery.
        max_false_accepts: likewise, the share of photographs without a landmark to be answered.
        device: on which the run is loaded, where a threshold has to be chosen.
        weights: likewise.

    Raises:
        ConfigError: not one of the three, or out of its bounds.
        TableError: no predictions, or ones without candidates.
        RunError: they are of another run.
    """
    asked = {
        "min_probability": min_probability,
        "target_precision": target_precision,
        "max_false_accepts": max_false_accepts,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) != 1:
        raise ConfigError(
            "give one of --min-probability, --target-precision and --max-false-accepts"
        )
    ((name, value),) = given.items()
    if not 0.0 <= value <= 1.0 or (name != "min_probability" and value == 1.0):
        raise ConfigError(f"--{name.replace('_', '-')} {value:g}: give a share from 0 to 1")
    columns, _ = read_predictions(predictions)
    if CANDIDATE[0] not in columns:
        raise TableError(
            f"{predictions}, row 1: no column {CANDIDATE[0]}: classify again, without which nothing"
            " can be answered anew"
        )
    landmarks = _landmarks_of(run, predictions)
    if min_probability is not None:
        accepts = _probable_enough(min_probability)
    else:
        accepts = _confident_enough(run, device, weights, name, value)
    counts: Counter[str] = Counter()

    def answered() -> Iterator[Record]:
        for row, record in read_predictions(predictions)[1]:
            try:
                again = _answered_anew(record, landmarks, accepts)
            except ValueError as error:
                raise TableError(f"{predictions}, row {row}: {error}") from None
            counts.update(count([again]))
            yield again

    _write(out, [predictions], columns, answered())
    return _summary(out, counts)


def _answered_anew(record: Record, landmarks: set[str], accepts: Accepts) -> Record:
    candidate, name, confidence = record[len(ANSWER) : len(ANSWER) + len(CANDIDATE)]
    if record[STATUS] != OK or record[REASON]:
        return record
    if candidate and not landmarks & {candidate, candidate.removeprefix("'")}:
        raise ValueError(f"{candidate!r} is no landmark of the run: give the run that answered")
    right = bool(candidate) and accepts(record[PROBABILITY], confidence)
    answer = [candidate, name] if right else ["", ""]
    return [record[0], *answer, *record[PROBABILITY:]]


def _probable_enough(least: float) -> Accepts:
    def accepts(probability: str, confidence: str) -> bool:
        if not probability:
            raise ValueError(
                "no probability, since the gallery was too small for one: choose by"
                " --target-precision or --max-false-accepts"
            )
        return float(probability) >= least

    return accepts


def _confident_enough(
    run: Path, device: str, weights: Path | None, name: str, value: float
) -> Accepts:
    """By the threshold that an index with such an operating point would have."""
    from retrieval.classifiers.registry import held_out_scores
    from retrieval.classifiers.rejection import RejectionConfig, fit_rejection
    from retrieval.system import System

    system = System.load(run, device, weights)
    config = system.config
    point = {"target_precision": None, "max_false_accepts": None, name: value}
    rejection = RejectionConfig.model_validate({**config.rejection.model_dump(), **point})
    galleries = system.calibration_galleries()
    held = held_out_scores(config.classifiers[system.answer], galleries, config.seed)
    fitted, _ = fit_rejection(held, galleries, rejection, config.calibration, config.seed)
    if fitted.unkept:
        log.warning("promise not kept: %s", fitted.unkept)
    threshold = float(fitted.threshold)
    return lambda probability, confidence: bool(np.float32(confidence) >= threshold)


def _landmarks_of(run: Path, predictions: Path) -> set[str]:
    """The run's landmarks, once nothing says that another run made the predictions.

    Raises:
        RunError: something does.
    """
    from retrieval.run import Run

    files = Run(run)
    record, _ = files.read_finished()
    files.check(record)
    path = state_path(predictions)
    if path.exists():
        try:
            state = State(**read_json(path))
        except (RunError, TypeError):
            raise RunError(f"{path} is damaged: take it away to answer all the same") from None
        if state.made_from.get("system") != record["fingerprint"]:
            raise RunError(
                f"{predictions} was made by another system than {run} is now: give --run of that"
                " one, or classify again"
            )
        if state.complete and checksum(predictions) != state.sha256:
            raise RunError(
                f"{predictions} was changed since it was written: classify again, or take"
                f" {path.name} away to answer all the same"
            )
    return set(read_table(files.rows, ("landmark",))["landmark"])


def _summary(out: Path, counts: Counter[str]) -> ClassifySummary:
    answered = counts.pop(ANSWERED, 0)
    rows = counts.total()
    reasons = common_reasons(out) if counts[OK] < rows else ()
    return ClassifySummary(out, rows, dict(+counts), answered, 0, False, reasons)


def _write(
    out: Path, sources: Sequence[Path], columns: Sequence[str], records: Iterable[Record]
) -> None:
    """Write predictions whole, to a file that is not there or holds predictions already."""
    if any(out.exists() and one.exists() and out.samefile(one) for one in sources):
        raise RunError(f"{out} is one of the files that are read: choose another --out")
    if state_path(out).exists():
        raise RunError(f"{out} belongs to landmarks classify: choose another --out")
    if out.exists():
        try:
            next(read_predictions(out)[1], None)
        except TableError:
            raise RunError(
                f"{out} is there, and holds no predictions: choose another --out"
            ) from None
    form = format_of(out)
    atomic_write(out, lambda file: write_records(file, form, columns, records))


def _probable(record: Record) -> bool:
    """Whether the probability is one, or empty: a row that failed has none, nor one of a run that
    could not tell probabilities."""
    try:
        cell = record[PROBABILITY]
        return record[STATUS] != OK or not cell or 0.0 <= float(cell) <= 1.0
    except (ValueError, IndexError):
        return False


def _abreast(csvs: Sequence[Path]) -> Iterator[list[Record]]:
    """The files' records of one row after another."""
    for found in zip_longest(*(read_predictions(one)[1] for one in csvs)):
        longest, line, id_ = next(
            (path, one[0], one[1][0]) for path, one in zip(csvs, found, strict=True) if one
        )
        records = []
        for path, one in zip(csvs, found, strict=True):
            if one is None:
                raise TableError(f"{path}: ends before {longest}, row {line}")
            if one[1][0] != id_:
                raise TableError(
                    f"{path}, row {one[0]}: id {one[1][0]!r} where {longest} has {id_!r};"
                    " predictions of one list can vote"
                )
            if one[1][STATUS] == OK and not one[1][PROBABILITY]:
                raise TableError(f"{path}, row {one[0]}: no probability, which a vote needs")
            records.append(one[1])
        yield records


def _merged(records: Sequence[Record]) -> Record:
    decided = [record[: len(ANSWER)] for record in records if record[STATUS] == OK]
    if not decided:
        return records[0][: len(ANSWER)]
    # Decimals, in which 1 - 0.9 is 0.1: the two are a tie.
    votes = {"": Decimal(0)}
    names = {"": ""}
    total = Decimal(0)
    for _, landmark, name, cell, _, reason in decided:
        probability = Decimal(cell)
        total += probability
        # A banned answer is none for certain, however sure it was.
        own = probability if landmark else Decimal(1) if reason else 1 - probability
        votes[landmark] = votes.get(landmark, Decimal(0)) + own
        names.setdefault(landmark, name)
    best = max(votes, key=votes.__getitem__)  # of equal ones the first, and none is the first
    mean = (votes[best] if best else total) / len(decided)
    reasons = [] if best else [record[REASON] for record in decided if record[REASON]]
    return [records[0][0], best, names[best], f"{float(mean):.6g}", OK, next(iter(reasons), "")]
