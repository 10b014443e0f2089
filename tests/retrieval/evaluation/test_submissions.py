"""Submission and solution files: the worked examples by hand, odd cells, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import TableError
from retrieval.evaluation.submissions import score_submission
from tests.oracles import metrics as slow

RECOGNITION = "a,1,Public b,2_7,Public c,,Public d,3,Public e,None,Public".split()
ANSWERS = "a,1_.9 c,5_.8 b,7_.7 d,4_.6 e,".split()


def write(path: Path, column: str, rows: list[str], usage: bool = False) -> Path:
    """Rows with underscores for blanks, below a header."""
    header = f"id,{column}{',Usage' if usage else ''}"
    path.write_text("\n".join([header, *(row.replace("_", " ") for row in rows), ""]))
    return path


def score(
    folder: Path, answers: list[str], solution: list[str], column: str = "landmarks"
) -> dict[str, dict[str, float | None]]:
    submission = write(folder / "submission.csv", column, answers)
    return score_submission(
        submission, write(folder / "solution.csv", column, solution, usage=True)
    ).figures


def test_the_worked_example(tmp_path: Path) -> None:
    found = score(tmp_path, ANSWERS, RECOGNITION)["all"]
    assert found["gap"] == pytest.approx((1 + 2 / 3) / 3)
    assert found["top1"] == pytest.approx(2 / 3)
    assert (found["queries"], found["with_landmark"], found["answered"]) == (5, 3, 4)
    without_c = [row for row in ANSWERS if row[0] != "c"]
    assert score(tmp_path, without_c, RECOGNITION)["all"]["gap"] == pytest.approx(2 / 3)
    without_d = [row for row in ANSWERS if row[0] != "d"]
    assert score(tmp_path, without_d, RECOGNITION)["all"]["gap"] == found["gap"]


def test_every_odd_cell_of_a_submission(tmp_path: Path) -> None:
    # A trailing blank, an exponent, None, rows left out, an unknown id without an answer, a
    # malformed answer to an Ignored photograph, a blank line.
    answers = ["a,1_9e-1_", "b,7_.7", "", "c,None", "d,_", "zzz,", "i,nonsense"]
    found = score(tmp_path, answers, [*RECOGNITION, "i,9,Ignored"])["all"]
    assert found["gap"] == pytest.approx(2 / 3)
    assert (found["queries"], found["answered"]) == (5, 2)


def test_public_and_private_are_rated_apart(tmp_path: Path) -> None:
    solution = ["a,1,Public", "b,2,Private", "c,3,Private", "d,,Public", "e,5,Ignored"]
    found = score(tmp_path, ["a,1_.5", "b,9_.9", "c,3_.4", "d,1_.6", "e,5_1"], solution)
    assert list(found) == ["Public", "Private", "all"]
    assert found["Public"]["gap"] == pytest.approx(1 / 2)  # d first
    assert found["Private"]["gap"] == pytest.approx((1 / 2) / 2)  # b first
    assert found["all"]["gap"] == pytest.approx((1 / 3 + 2 / 4) / 3)  # b, d, a, c
    assert found["Private"]["top1"] == 1 / 2
    assert found["all"]["top1"] == pytest.approx(2 / 3)


def test_a_part_without_landmarks_has_no_figures(tmp_path: Path) -> None:
    found = score(tmp_path, ["b,1_1"], ["a,,Public", "b,1,Private"])
    assert found["Public"]["gap"] is found["Public"]["top1"] is None
    assert found["all"]["gap"] == found["Private"]["top1"] == 1.0


def test_equal_scores_go_by_id(tmp_path: Path) -> None:
    found = score(tmp_path, ["b,2_1", "a,9_1"], ["a,1,Public", "b,2,Public"])["all"]
    assert found["gap"] == pytest.approx((1 / 2) / 2)


def test_retrieval_by_hand(tmp_path: Path) -> None:
    solution = [
        "q,x_y_z,Public",  # repeats and strangers keep their rank: x at 1, y at 4
        "r,w,Private",  # not answered
        "s,None,Private",  # answered right by None alone
        "t,x,Ignored",
    ]
    found = score(tmp_path, ["q,x_x_no_y", "s,None", "t,y_y"], solution, "images")
    assert found["Public"]["map100"] == pytest.approx((1 + 2 / 4) / 3)
    assert found["Private"]["map100"] == pytest.approx((0 + 1) / 2)
    assert found["all"] == {"queries": 3, "answered": 2,
                            "map100": pytest.approx(((1 + 2 / 4) / 3 + 0 + 1) / 3)}  # fmt: skip
    assert score(tmp_path, ["q,"], solution, "images")["all"]["map100"] == 0.0


def test_retrieval_looks_at_a_hundred_answers(tmp_path: Path) -> None:
    relevant = [f"x{number}" for number in range(150)]
    solution = [f"q,{'_'.join(relevant)},Public"]
    everything = [f"q,{'_'.join(relevant)}"]
    assert score(tmp_path, everything, solution, "images")["all"]["map100"] == 1.0
    late = [f"q,{'_'.join(['no'] * 100 + relevant)}"]
    assert score(tmp_path, late, solution, "images")["all"]["map100"] == 0.0


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["a,1_.9", "b,2_.5", "a,1_.8"], r"submission.csv, row 4: id 'a' stands further up"),
        (["a,1"], r"row 2: '1' is not an answer: exactly '<landmark> <score>', or empty"),
        (["b,2_.5", "a,1__.9"], "row 3: '1  .9' is not an answer"),
        (["a,_1_.9"], "row 2: ' 1 .9' is not an answer"),
        (["a,1_.9_2_.8", "b,1"], r"row 2: .* is not an answer: .*\(2 such rows\)"),
        (["a,1_nan"], "row 2: the score of '1 nan' is not a finite number"),
        (["a,1_inf"], "not a finite number"),
        (["a,1_high"], "the score of '1 high' is not a finite number"),
        (["a,1_.9", "zzz,1_.5"], "row 3: id 'zzz' is not in the solution"),
        (["a,1_.9,Public"], "row 2: 3 cells where the header has 2"),
        (["a"], "row 2: 1 cells where the header has 2"),
        ([",1_.9"], "row 2: the id is empty"),
        (['"a', "b,2_.5"], "submission.csv, row 2: a quote opens here that nothing closes"),
        (["b,2_.5", 'a,"1_.9'], "submission.csv, row 3: a quote opens here that nothing closes"),
        (["a_,1_.9"], "row 2: a blank stands before or behind the id 'a '"),
        (["a,None_.9"], "row 2: 'None' says that there is no landmark"),
        (["b,2_.5", "a,nan_.9"], "row 3: the landmark 'nan' seems to say that there is none"),
        (["a,Big_Ben_.9"], "a landmark with a space in its id cannot be submitted"),
    ],
)
def test_a_malformed_submission_is_refused(
    tmp_path: Path, answers: list[str], message: str
) -> None:
    with pytest.raises(TableError, match=message):
        score(tmp_path, answers, RECOGNITION)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    solution = write(tmp_path / "solution.csv", "landmarks", RECOGNITION, usage=True)
    retrieval = write(tmp_path / "submission.csv", "images", ["a,x"])
    with pytest.raises(TableError, match="row 1: no column landmarks among id,images"):
        score_submission(retrieval, solution)
    with pytest.raises(TableError, match="no column Usage among id,images"):
        score_submission(retrieval, retrieval)
    neither = write(tmp_path / "neither.csv", "labels", RECOGNITION, usage=True)
    with pytest.raises(TableError, match="no solution: needs id,landmarks,Usage"):
        score_submission(retrieval, neither)
    (tmp_path / "latin.csv").write_bytes(b"id,landmarks,Usage\n\xe9,1,Public\n")
    with pytest.raises(TableError, match=r"latin\.csv, row 2: not in UTF-8"):
        score_submission(retrieval, tmp_path / "latin.csv")


@pytest.mark.parametrize("solution", [["a,,Public", "b,None,Private", "c,1,Ignored"], []])
def test_a_solution_without_landmarks_is_refused(tmp_path: Path, solution: list[str]) -> None:
    for column in ("landmarks", "images"):
        with pytest.raises(TableError, match="there is nothing to score"):
            score(tmp_path, [], solution, column)


def test_a_wrong_usage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"solution.csv, row 3: Usage is 'public'"):
        score(tmp_path, [], ["a,1,Public", "b,1,public"])


@pytest.mark.slow
def test_a_file_of_official_size_against_the_definition(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    count, ids = 117_577, []
    truth: dict[str, str] = {}
    with (tmp_path / "solution.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "landmarks", "Usage"])
        kinds = random.choice(4, count, p=[0.9, 0.06, 0.02, 0.02])
        usages = random.choice(["Public", "Private", "Ignored"], count)
        for number, (kind, usage) in enumerate(zip(kinds.tolist(), usages, strict=True)):
            ids.append(f"{number * 2654435761 % 2**32:016x}")
            truth[ids[-1]] = ["", f"{number % 900}", f"{number % 900} 7", "None"][kind]
            rows.writerow([ids[-1], truth[ids[-1]], usage])
    answers = {
        one: f"{number % 450} {number * 48271 % 1009 / 1009:.3f}{' ' * (number % 2)}"
        for number, one in enumerate(ids)
        if number % 3
    }

    def scored(cells: dict[str, str]) -> float | None:
        with (tmp_path / "submission.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "landmarks"), *cells.items()])
        names = tmp_path / "submission.csv", tmp_path / "solution.csv"
        return score_submission(*names).figures["all"]["gap"]

    known = {one: cell for one, cell in truth.items() if cell not in ("", "None")}
    assert scored({one: f"{cell.split()[-1]} 1" for one, cell in known.items()}) == 1.0
    assert scored(dict.fromkeys(ids, "")) == scored({}) == 0.0
    asked = [one for one, usage in zip(ids, usages, strict=True) if usage != "Ignored"]
    split = [answers[one].split() if one in answers else None for one in asked]
    wanted = slow.global_average_precision(
        asked,
        [int(cell[0]) if cell else None for cell in split],
        [float(cell[1]) if cell else 0.0 for cell in split],
        [set(map(int, known[one].split())) if one in known else set() for one in asked],
    )
    assert scored(answers) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("column", ["landmarks", "images"])
def test_a_column_that_stands_twice_is_refused(tmp_path: Path, column: str) -> None:
    solution = write(tmp_path / "solution.csv", column, RECOGNITION, usage=True)
    twice = tmp_path / "submission.csv"
    twice.write_text(f"id,{column},{column}\na,1,1\n")
    with pytest.raises(TableError, match=f"submission.csv, row 1: the column {column} stands twi"):
        score_submission(twice, solution)
    twice.write_text(f"id,id,{column},Usage\na,a,1,Public\n")
    with pytest.raises(TableError, match="row 1: the column id stands twice"):
        score_submission(solution, twice)


@pytest.mark.parametrize("none", ["none", "NONE", "None", "_None_", ""])
def test_none_in_any_case(tmp_path: Path, none: str) -> None:
    found = score(tmp_path, [f"a,{none}", "b,1_.5"], [f"a,{none},Public", "b,1,Public"])["all"]
    assert (found["with_landmark"], found["answered"]) == (1, 1)
    found = score(tmp_path, ["a,none"], [f"a,{none},Public", "b,x,Public"], "images")["all"]
    assert found["map100"] == 0.5


def test_what_is_meant_as_none_in_a_solution_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"solution\.csv, row 3: the landmark 'NaN' seems to say"):
        score(tmp_path, [], ["a,1,Public", "b,NaN,Public"])


def test_landmarks_composed_in_two_ways_are_the_same(tmp_path: Path) -> None:
    found = score(tmp_path, ["a,Cafe\u0301_.9"], ["a,Caf\u00e9,Public"])["all"]
    assert found["top1"] == 1.0


def test_files_are_read_as_tables_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        "Landmarks;id\n".lower().encode("utf-16") + "1 .5;a\n".encode("utf-16-le")
    )
    (tmp_path / "b.csv").write_text("Usage\tlandmarks\trow\tid\nPublic\t1 2\tx\ta\n")
    assert score_submission(tmp_path / "a.csv", tmp_path / "b.csv").figures["all"]["top1"] == 1.0
