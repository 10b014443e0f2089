"""Finished predictions of a list: several runs' made one by a vote, and frequent answers banned.

A file's answer votes for its landmark with its probability p, and "none" for none with 1 − p. The
landmark with the largest sum is the answer where that is larger than none's sum (of equal ones,
the landmark that an earlier file names). Its probability is the sum over the number of files that
had an answer or none; where none wins, it is the mean of those files' probabilities. A banned
answer's none counts fully. So the vote of one file is that file. A row that failed in some files is
decided by the others.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from pipelines.classify import ANSWERED, COLUMNS, ClassifySummary, count
from pipelines.journal import csv_line, state_path
from retrieval.errors import RunError, TableError
from retrieval.index.store import OK, atomic_write

Record = list[str]


def read_predictions(path: Path) -> Iterator[tuple[int, Record]]:
    """The line numbers and records of finished predictions, one at a time.

    Raises:
        TableError: it is no such file, or a row of it is damaged.
    """
    try:
        file = path.open(encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        reader = csv.reader(file)
        try:
            if next(reader, None) != list(COLUMNS):
                raise TableError(f"{path}, row 1: the columns must be {','.join(COLUMNS)}")
            for record in reader:
                if len(record) != len(COLUMNS) or not _probable(record):
                    raise TableError(
                        f"{path}, row {reader.line_num}: not {len(COLUMNS)} cells with a"
                        " probability from 0 to 1"
                    )
                yield reader.line_num, record
        except csv.Error as error:
            raise TableError(f"{path}, row {reader.line_num}: {error}") from None


def vote_csvs(csvs: Sequence[Path], out: Path) -> ClassifySummary:
    """Merge predictions that :func:`pipelines.classify.classify_csv` wrote of one list.

    Args:
        csvs: at least one; all are read at once, a row at a time.
        out: the merged predictions, in the same form; written whole or not at all.

    Raises:
        TableError: one is not such a file, or not of the same list.
        RunError: ``out`` is one of them, or is there and holds something else.
    """
    if any(out.exists() and one.exists() and out.samefile(one) for one in csvs):
        raise RunError(f"{out} is one of the files that vote: choose another --out")
    if state_path(out).exists():
        raise RunError(f"{out} belongs to landmarks classify: choose another --out")
    counts: Counter[str] = Counter()

    def merged() -> Iterator[Record]:
        for records in _abreast(csvs):
            record = _merged(records)
            counts.update(count([record]))
            yield record

    _write(out, merged())
    answered = counts.pop(ANSWERED, 0)
    return ClassifySummary(out, counts.total(), dict(counts), answered, 0, False)


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
    counts = Counter(record[1] for _, record in read_predictions(predictions) if record[1])
    banned = {landmark: rows for landmark, rows in counts.items() if rows > most}

    def kept(record: Record) -> Record:
        name, landmark, _, probability, status, _ = record
        if landmark not in banned:
            return record
        reason = f"{landmark} is answered for {banned[landmark]} rows"
        return [name, "", "", probability, status, reason]

    _write(out, (kept(record) for _, record in read_predictions(predictions)))
    return sum(banned.values())


def _write(out: Path, records: Iterable[Record]) -> None:
    if out.exists():
        try:
            next(read_predictions(out), None)
        except TableError:
            raise RunError(
                f"{out} is there, and holds no predictions: choose another --out"
            ) from None

    def write(file: BinaryIO) -> None:
        file.write(csv_line(COLUMNS))
        file.writelines(csv_line(record) for record in records)

    atomic_write(out, write)


def _probable(record: Record) -> bool:
    """Whether the probability is one; a row that failed needs none."""
    try:
        return record[-2] != OK or 0.0 <= float(record[-3]) <= 1.0
    except ValueError:
        return False


def _abreast(csvs: Sequence[Path]) -> Iterator[list[Record]]:
    """The files' records of one row after another."""
    for found in zip_longest(*(read_predictions(one) for one in csvs)):
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
            records.append(one[1])
        yield records


def _merged(records: Sequence[Record]) -> Record:
    decided = [record for record in records if record[-2] == OK]
    if not decided:
        return records[0]
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
    reasons = [] if best else [record[-1] for record in decided if record[-1]]
    return [records[0][0], best, names[best], f"{float(mean):.9g}", OK, next(iter(reasons), "")]
