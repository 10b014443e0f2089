"""Submissions to the Google Landmarks challenges, scored against the official solution files.

What is read, refused and rated follows the challenges' own code (the DELF library of
tensorflow/models, ``google_landmarks_dataset``), cell by cell:

- a recognition solution has the columns ``id,landmarks,Usage``, a retrieval solution
  ``id,images,Usage``; ids in a cell are separated by blanks. An empty cell or ``None`` is a
  photograph of no landmark;
- ``Usage`` is Public or Private, which are rated apart, or Ignored: such a photograph is no query,
  and what a submission says of it is not looked at;
- a submission has ``id,landmarks`` with cells of exactly "<landmark> <score>", or ``id,images``
  with ids, best first. An empty cell or ``None`` is no answer, and so is a query that is not there;
- an answer to an id that the solution does not have is refused, an empty cell for one is not.

``None`` is none in any case; what is plainly meant so (nan, null) is refused. Landmark ids are
compared as they are written, but for characters that can be composed in two ways. A retrieval
query whose solution is ``None`` is answered right by ``None`` alone, as the challenges' code has
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrieval.errors import TableError
from retrieval.evaluation.metrics import (
    Truth,
    first_occurrences,
    global_average_precision,
    mean_average_precision,
    top_k_accuracy,
)
from retrieval.photographs.delimited import listing, open_table
from retrieval.photographs.labels import label_in_row, shown
from retrieval.types import Flags, Integers

Kind = Literal["recognition", "retrieval"]

COLUMN: Final[dict[Kind, str]] = {"recognition": "landmarks", "retrieval": "images"}
USAGES: Final = ("Public", "Private")
IGNORED: Final = "Ignored"
NONE: Final = "None"
RANKED: Final = 100
"""Answers to a retrieval query that count."""


@dataclass(frozen=True)
class Solution:
    """The q queries of a solution file, Ignored ones left out.

    Attributes:
        kind: of the challenge.
        queries: (q,) ids.
        usage: (q,) one of :data:`USAGES`.
        cells: q lists of the landmarks, or of the photographs, that are right.
        ignored: ids that are no queries.
    """

    kind: Kind
    queries: pd.Index[str]
    usage: NDArray[np.object_]
    cells: Sequence[Sequence[str]]
    ignored: pd.Index[str]


@dataclass(frozen=True)
class Score:
    """The figures of a submission.

    Attributes:
        kind: of the challenge.
        figures: for Public, Private and both ("all"), those that have queries: ``queries``, and
            ``with_landmark``, ``answered``, ``gap`` and ``top1``, or ``answered`` and ``map100``;
            a figure is None where no query of that part shows a landmark.
    """

    kind: Kind
    figures: dict[str, dict[str, float | None]]


def score_submission(submission: Path, solution: Path) -> Score:
    """Rate a submission file by a solution file, both CSVs with a header.

    Raises:
        TableError: naming file and row; or no query of the solution shows a landmark.
    """
    known = read_solution(solution)
    table = _read(submission, ("id", COLUMN[known.kind]))
    answers = _answers_of_queries(table, submission, known)
    rate = _recognition if known.kind == "recognition" else _retrieval
    return Score(known.kind, rate(answers, submission, known))


def read_solution(path: Path) -> Solution:
    """Read a solution file of the challenge that its columns are of.

    Raises:
        TableError: naming file and row; or no query shows a landmark.
    """
    table = _read(path, ("id", "Usage"))
    kinds = [kind for kind, column in COLUMN.items() if column in table]
    if len(kinds) != 1:
        raise TableError(f"{path}: no solution: needs id,landmarks,Usage or id,images,Usage")
    _refuse(path, table, ~table["Usage"].isin([*USAGES, IGNORED]),
            "Usage is {Usage}: Public, Private or Ignored")  # fmt: skip
    ignored = table["Usage"] == IGNORED
    asked = table[~ignored]
    kind = kinds[0]
    cells = [[] if cell in ("", NONE) else cell.split() for cell in asked[COLUMN[kind]].str.strip()]
    if not any(cells):
        raise TableError(
            f"{path}: no Public or Private photograph shows a landmark: there is nothing to score"
        )
    if kind == "recognition":
        cells = _landmarks(path, asked["row"], cells)
    return Solution(
        kind,
        pd.Index(asked["id"]),
        asked["Usage"].to_numpy(dtype=object),
        cells,
        pd.Index(table.loc[ignored, "id"]),
    )


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """The cells of the columns, and of those of :data:`COLUMN` that there are, as they stand.

    With ``row``, the line of each. Ids are there, and unique; ``None`` is written so.
    """
    table = open_table(path, (*columns, *COLUMN.values()).__contains__)
    missing = [column for column in columns if column not in table.header]
    if missing:
        raise TableError(
            f"{path}, row {table.skipped + 1}: no column {missing[0]} among {listing(table.header)}"
        )
    wanted = [name for name in table.header if name in (*columns, *COLUMN.values())]
    # Flat, since Python's collector would look a hundred thousand lists over and over.
    flat: list[str] = []
    lines: list[int] = []
    for line, cells in table.rows([table.header.index(name) for name in wanted]):
        flat += cells
        lines.append(line)
    cells_of_rows = np.array(flat, dtype=object).reshape(len(lines), len(wanted))
    frame = pd.DataFrame(cells_of_rows, columns=wanted).assign(row=lines)
    bare = frame["id"].str.strip()
    _refuse(path, frame, bare == "", "the id is empty")
    _refuse(path, frame, bare != frame["id"],
            "a blank stands before or behind the id {id}: take it out")  # fmt: skip
    _refuse(path, frame, frame["id"].duplicated(), "id {id} stands further up already")
    for column in set(COLUMN.values()).intersection(wanted):
        none = frame[column].str.strip().str.casefold() == NONE.casefold()
        frame.loc[none, column] = NONE
    return frame


def _refuse(path: Path, table: pd.DataFrame, wrong: pd.Series[bool], why: str) -> None:
    """Raise TableError for the first wrong row, with its cells set into ``why``."""
    if wrong.any():
        first = table[wrong].iloc[0]
        more = f" ({wrong.sum()} such rows)" if wrong.sum() > 1 else ""
        raise TableError(f"{path}, row {first['row']}: {why.format_map(_shown_cells(first))}{more}")


def _landmarks(path: Path, rows: Iterable[int], cells: Iterable[Sequence[str]]) -> list[list[str]]:
    """The landmarks that cells name, composed in one way; what means none is not among them."""
    known: dict[str, str] = {}

    def landmark(row: int, text: str) -> str:
        if text not in known:
            label = label_in_row(path, row, text)
            if label is None:
                raise TableError(
                    f"{path}, row {row}: {shown(text)} says that there is no landmark, and stands"
                    " beside a score or a landmark: leave the cell empty"
                )
            known[text] = label
        return known[text]

    return [[landmark(row, text) for text in cell] for row, cell in zip(rows, cells, strict=True)]


def _shown_cells(row: pd.Series) -> dict[str, str]:
    return {str(name): shown(str(cell)) for name, cell in row.items()}


def _answers_of_queries(table: pd.DataFrame, path: Path, solution: Solution) -> pd.DataFrame:
    """The rows that answer a query: ``row``, ``id``, ``cell`` and the query's place, ``query``."""
    answers = table[["row", "id"]].assign(cell=table[COLUMN[solution.kind]])
    answers = answers[~answers["id"].isin(solution.ignored)]
    # None answers a query of no relevant photographs, but says nothing of a landmark.
    blank = {""} if solution.kind == "retrieval" else {"", NONE}
    answers = answers[~answers["cell"].str.strip().isin(blank)]
    answers = answers.assign(query=solution.queries.get_indexer(pd.Index(answers["id"])))
    _refuse(path, answers, answers["query"] < 0, "id {id} is not in the solution")
    return answers


def _recognition(
    answers: pd.DataFrame, path: Path, solution: Solution
) -> dict[str, dict[str, float | None]]:
    # One blank may stand at the end.
    split = [cell.removesuffix(" ").partition(" ") for cell in answers["cell"]]
    wrong = [not name or not score or " " in score for name, _, score in split]
    _refuse(path, answers, pd.Series(wrong, answers.index, dtype=bool),
            "{cell} is not an answer: exactly '<landmark> <score>', or empty (a landmark with a"
            " space in its id cannot be submitted)")  # fmt: skip
    scores = np.array([_number(score) for *_, score in split], dtype=np.float64)
    finite = pd.Series(np.isfinite(scores), answers.index, dtype=bool)
    _refuse(path, answers, ~finite, "the score of {cell} is not a finite number")
    named = _landmarks(path, answers["row"], ([name] for name, *_ in split))
    codes, truth = _coded([name for (name,) in named], solution.cells)
    predicted = np.full(truth.count, -1, np.int64)
    confidence = np.full(truth.count, -np.inf)
    predicted[answers["query"]] = codes
    confidence[answers["query"]] = scores

    def figures(rows: Flags) -> dict[str, float | None]:
        part = _part(truth, rows)
        ids = solution.queries[rows].tolist()
        shown = int(part.has_landmark.sum())
        gap = global_average_precision(ids, predicted[rows], confidence[rows], part)
        return {
            "queries": part.count,
            "with_landmark": shown,
            "answered": int((predicted[rows] >= 0).sum()),
            "gap": gap if shown else None,
            "top1": top_k_accuracy(predicted[rows, None], part, 1) if shown else None,
        }

    return _by_usage(solution, figures)


def _retrieval(
    answers: pd.DataFrame, path: Path, solution: Solution
) -> dict[str, dict[str, float | None]]:
    ranked = [cell.split()[:RANKED] for cell in answers["cell"]]
    sizes = np.array([len(row) for row in ranked], dtype=np.int64)
    flat = [one for row in ranked for one in row]
    codes, truth = _coded(flat, [cell or [NONE] for cell in solution.cells])
    results = np.full((truth.count, RANKED), -1, np.int64)
    places = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    results[np.repeat(answers["query"].to_numpy(), sizes), places] = codes
    hits = truth.holds(results) & first_occurrences(results)
    relevant = np.bincount(truth.photographs, minlength=truth.count)
    answered = results[:, 0] >= 0

    def figures(rows: Flags) -> dict[str, float | None]:
        return {
            "queries": int(rows.sum()),
            "answered": int(answered[rows].sum()),
            "map100": mean_average_precision(hits[rows], relevant[rows], RANKED),
        }

    return _by_usage(solution, figures)


def _by_usage(
    solution: Solution, figures: Callable[[Flags], dict[str, float | None]]
) -> dict[str, dict[str, float | None]]:
    """The figures of Public and of Private queries where there are any, and of all."""
    parts = {usage: solution.usage == usage for usage in USAGES}
    parts["all"] = np.ones(len(solution.usage), np.bool_)
    return {name: figures(rows) for name, rows in parts.items() if rows.any()}


def _coded(answers: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[Integers, Truth]:
    """Integers for the ids of answers, and the truth in the same integers."""
    sizes = [len(cell) for cell in cells]
    flat = [*answers, *(one for cell in cells for one in cell)]
    codes = pd.factorize(np.array(flat, dtype=object))[0].astype(np.int64)
    photographs = np.repeat(np.arange(len(cells)), sizes)
    return codes[: len(answers)], Truth(len(cells), photographs, codes[len(answers) :])


def _part(truth: Truth, rows: Flags) -> Truth:
    """The truth of some photographs, numbered anew."""
    kept = rows[truth.photographs]
    places = np.cumsum(rows) - 1
    return Truth(int(rows.sum()), places[truth.photographs[kept]], truth.landmarks[kept])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
