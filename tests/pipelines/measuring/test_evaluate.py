"""Measuring: figures worked out by hand, and what lies in the folder afterwards."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.measuring.evaluate import measure
from pipelines.measuring.written import write_evaluation
from retrieval.descriptors.representation import Representation
from retrieval.errors import RunError, TableError
from retrieval.photographs.table import read_origins
from tests.pipelines import measured_example as example

FILES = ("metrics.json", "per_landmark.csv", "predictions.csv", "report.html", "submission.csv")


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the report takes a second, and most tests here look at the figures."""
    monkeypatch.setattr("pipelines.measuring.written.render", lambda _: b"")


def run(folder: Path, out: str = "out", **changes: Any) -> dict[str, Any]:
    table = changes.pop("table", None)
    table = example.test_table(folder) if table is None else table
    store = changes.pop("store", None) or example.described(table)
    system = changes.pop("system", None) or example.system(folder)
    options = {"config": "made-up", "bytes_per_image": None, "conditions": {}} | changes
    return write_evaluation(measure(system, table, store, **options), folder / out)


@pytest.mark.usefixtures("no_report")
def test_figures_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    found = run(tmp_path, bytes_per_image=16)

    # kNN, ranked: a right (1/1), c of no landmark, b right (2/3), d wrong; f failed: M = 4.
    assert found["knn"]["gap"] == pytest.approx((1 + 2 / 3) / 4)
    assert found["knn"]["top1"] == 2 / 4
    assert found["knn"]["top5"] == 3 / 4
    # Landmark confidences .9 .7 .6 and none at all for f; others .8 and none at all (e).
    # Pairs won: a over both, b and d over e, f draws with e.
    assert found["knn"]["rejection_auc"] == pytest.approx((2 + 1 + 1 + 0.5) / 8)
    assert found["knn"]["false_accept_rate"] == 1 / 2

    # SVM, ranked: a, b, d all right; c and e below them harm nothing.
    assert found["svm"]["gap"] == pytest.approx(3 / 4)
    assert found["svm"]["top1"] == found["svm"]["top5"] == 3 / 4
    assert found["svm"]["false_accept_rate"] == 0

    # a, b and d find both photographs of their landmark first; f finds nothing.
    assert found["knn"]["map100"] == found["svm"]["map100"] == pytest.approx(3 / 4)
    # The kNN's wrong answer to d is not accepted, and moves nothing.
    assert (
        found["knn"]["map100_by_label"] == found["svm"]["map100_by_label"] == found["knn"]["map100"]
    )


@pytest.mark.usefixtures("no_report")
def test_the_ranking_follows_the_label_that_a_classifier_names(tmp_path: Path) -> None:
    system = example.system(tmp_path)
    # d no longer finds its landmark's photographs, rows 2 and 3: all are alike to it.
    system.gallery.searcher.vectors[2:4] = np.eye(example.DIMENSION)[7]
    # The kNN names l4 for it, rows 4 and 5, and means it; the SVM names l3, and is right.
    system.answers["knn"] = [
        *example.KNN[:3],
        (["l4", "l3"], [0.6, 0.5], 0.7, True),
        example.KNN[4],
    ]
    found = run(tmp_path, system=system)
    plain = (1 / 3 + 2 / 4) / 2  # rows 0, 1, 2, 3
    wrong = (1 / 5 + 2 / 6) / 2  # rows 4, 5, 0, 1, 2, 3
    assert found["knn"]["map100"] == found["svm"]["map100"] == pytest.approx((2 + plain) / 4)
    assert found["knn"]["map100_by_label"] == pytest.approx((2 + wrong) / 4)
    assert found["svm"]["map100_by_label"] == pytest.approx(3 / 4)


@pytest.mark.usefixtures("no_report")
def test_metrics_json_holds_one_object_a_classifier_and_the_costs(tmp_path: Path) -> None:
    found = run(tmp_path, bytes_per_image=16, conditions={"machine": "two cores"})
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written == found
    figures = {
        *("gap", "top1", "top5", "map100", "map100_by_label"),
        *("rejection_auc", "false_accept_rate", "precision", "precision_at_full_coverage"),
        *("false_accepts_at_90", "calibration_error", "map", "recall1", "recall10", "recall100"),
        *("gap_interval", "top1_interval", "rejection_auc_interval", "false_accept_rate_interval"),
    }
    assert set(found["knn"]) == set(found["svm"]) == figures
    assert found["seconds_per_image"] == 0.02
    assert found["bytes_per_image"] == 16
    assert found["answer"] == "svm"
    conditions = found["conditions"]
    assert conditions["queries"] == 6
    assert conditions["queries_with_landmark"] == 4
    assert conditions["queries_without_landmark"] == 2
    assert conditions["queries_failed"] == 1
    assert conditions["gallery"] == 10
    assert conditions["landmarks"] == 5
    assert conditions["config"] == "made-up"
    assert conditions["machine"] == "two cores"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)


@pytest.mark.usefixtures("no_report")
def test_what_is_answered_is_rated_for_another_share_of_landmarks_too(tmp_path: Path) -> None:
    found = run(tmp_path, share=0.02)
    # kNN names a and b right and c of no landmark; d, wrong, is the fourth candidate.
    assert found["knn"]["precision"] == pytest.approx(2 / 3)
    assert found["knn"]["precision_at_full_coverage"] == 2 / 4
    # Half of the landmark photographs and half of the others are accepted, the former right.
    assert found["knn"]["precision_at_share"] == pytest.approx(0.02)
    assert found["svm"]["precision_at_share"] == 1.0
    assert found["conditions"]["share_of_landmark_photographs"] == 0.02
    assert found["knn"]["calibration_error"] == pytest.approx((0.05 + 0.25 + 0.85 + 0.40) / 4)


@pytest.mark.usefixtures("no_report")
def test_the_ranking_is_rated_to_its_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = example.system(tmp_path)
    # d finds one of its photographs, row 2, third: rows 0 and 1 are alike to it and come first.
    system.gallery.searcher.vectors[0:4] = np.eye(example.DIMENSION)[[7, 7, 7, 3]]
    system.gallery.searcher.vectors[[0, 1], 0] = 1
    found = run(tmp_path, system=system)["svm"]
    assert found["recall1"] == 3 / 4  # f failed
    assert found["map"] == found["map100"] == pytest.approx((2 + (1 + 2 / 4) / 2) / 4)
    monkeypatch.setattr("pipelines.measuring.answers.DEEP", 1)
    assert run(tmp_path, system=system)["svm"]["map"] == pytest.approx(3 / 2 / 4)


@pytest.mark.usefixtures("no_report")
def test_figures_have_intervals_and_classifiers_paired_tests(tmp_path: Path) -> None:
    found = run(tmp_path)
    for figure in ("gap", "top1"):
        low, high = found["knn"][f"{figure}_interval"]
        assert 0 <= low < found["knn"][figure] < high <= 1
    assert list(found["paired"]) == ["knn"]
    gap = found["paired"]["knn"]["gap"]
    assert gap["difference"] == pytest.approx(found["knn"]["gap"] - found["svm"]["gap"])
    assert gap["interval"][0] <= gap["difference"] <= gap["interval"][1]
    assert 0 < gap["p"] <= 1


@pytest.mark.usefixtures("no_report")
def test_every_origin_and_every_landmark_is_rated(tmp_path: Path) -> None:
    found = run(tmp_path, origins=["x", "x", "y", "x", "y", "y"])
    assert list(found["per_source"]) == ["x", "y"]
    x, y = found["per_source"]["x"], found["per_source"]["y"]
    assert (x["queries"], x["with_landmark"], y["queries"], y["with_landmark"]) == (3, 3, 3, 1)
    assert x["knn"]["top1"] == pytest.approx(2 / 3)
    assert x["knn"]["gap"] == pytest.approx(2 / 3)  # without c in between
    assert x["knn"]["false_accept_rate"] is None
    assert y["knn"]["false_accept_rate"] == 1 / 2
    assert y["svm"]["gap"] == 0
    table = pd.read_csv(tmp_path / "out" / "per_landmark.csv").set_index("landmark")
    assert list(table.index) == example.LANDMARKS
    assert table.loc["l1", "name"] == "The First Tower"
    assert table["gallery"].tolist() == [2] * 5
    assert table["queries"].tolist() == [1, 1, 1, 0, 1]
    assert table["knn_top1"].tolist() == table["knn_named"].tolist() == [1, 0, 0, 0, 1]
    assert table["svm_named"].tolist() == [1, 1, 0, 0, 1]
    assert table["knn_false_accepts"].tolist() == [0, 0, 0, 1, 0]


def test_origins_are_read_beside_the_table(tmp_path: Path) -> None:
    csv = tmp_path / "test.csv"
    csv.write_text("\ufeffid,path,landmark_id, source\na,a.jpg,,x\nb,b.jpg,l1,y z\n")
    assert read_origins(csv, ["b", "a"]) == ["y z", "x"]
    csv.write_text("id,path\na,a.jpg\n")
    assert read_origins(csv, ["a"]) == []
    assert read_origins(tmp_path, ["a"]) == []


@pytest.mark.usefixtures("no_report")
def test_bytes_are_those_of_float32_descriptors_unless_said(tmp_path: Path) -> None:
    assert run(tmp_path)["bytes_per_image"] == 4 * example.DIMENSION


def test_undefined_figures_are_null(tmp_path: Path) -> None:
    table = example.test_table(tmp_path)
    table["landmark"] = table["landmark"].fillna("l1")
    store = replace(example.described(table), seconds_per_image=float("nan"))
    run(tmp_path, table=table, store=store)
    text = (tmp_path / "out" / "metrics.json").read_text()
    assert "NaN" not in text
    written = json.loads(text)
    assert written["knn"]["rejection_auc"] is None
    assert written["knn"]["false_accept_rate"] is None
    assert written["seconds_per_image"] is None


@pytest.mark.usefixtures("no_report")
def test_predictions_have_every_row_once_in_order(tmp_path: Path) -> None:
    run(tmp_path)
    found = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str, keep_default_na=False)
    assert list(found["id"]) == list("abcdef")
    assert list(found["truth"]) == ["l1", "l7", "", "l3", "", "l4"]
    assert list(found["status"]) == ["ok"] * 5 + ["decode_failed"]
    assert found["reason"].iloc[-1] == "not a photograph of a known format"
    assert list(found["knn_answer"]) == ["l1", "l7", "l5", "l4", "", ""]
    assert list(found["knn_probability"]) == ["0.95", "0.75", "0.85", "0.4", "0.01", ""]
    assert list(found["knn_accepted"]) == ["true", "true", "true", "false", "false", ""]
    assert list(found["knn_right"]) == ["true", "true", "false", "false", "true", ""]
    assert list(found["svm_right"]) == ["true"] * 5 + [""]


@pytest.mark.usefixtures("no_report")
def test_submission_has_the_challenge_form(tmp_path: Path) -> None:
    run(tmp_path, system=replace(example.system(tmp_path), answer="knn"))
    lines = (tmp_path / "out" / "submission.csv").read_text().splitlines()
    assert lines == ["id,landmarks", "a,l1 0.9", "b,l7 0.7", "c,l5 0.8", "d,l4 0.6", "e,", "f,"]


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    run(tmp_path, "first")
    run(tmp_path, "second")
    for name in FILES:
        first, second = (tmp_path / out / name for out in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.usefixtures("no_report")
def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path, "whole")
    monkeypatch.setattr("pipelines.measuring.answers.BATCH", 2)
    assert run(tmp_path, "parts") == whole
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.usefixtures("no_report")
def test_a_label_that_the_gallery_lacks_is_named_and_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = example.test_table(tmp_path)
    table.loc[0, "landmark"] = "atlantis"
    with caplog.at_level(logging.WARNING):
        found = run(tmp_path, table=table)
    (warning,) = caplog.messages
    assert "row 2" in warning
    assert "id a" in warning
    assert "'atlantis'" in warning
    # a's answer is wrong now, and ranks above all: b is right at the second place, d at the third.
    assert found["svm"]["gap"] == pytest.approx((1 / 2 + 2 / 3) / 4)
    assert found["svm"]["top1"] == 2 / 4
    assert found["conditions"]["queries_with_landmark"] == 4
    assert found["conditions"]["queries_of_landmarks_not_in_gallery"] == 1


def test_test_photographs_in_the_gallery_are_remarked_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    system = example.system(tmp_path)
    system.rows.loc[4, "id"] = "b"
    with caplog.at_level(logging.WARNING):
        run(tmp_path, system=system)
    assert "1 test ids are ids of gallery photographs too (the first is b)" in caplog.text
    assert "figures flatter" in (tmp_path / "out" / "report.html").read_text()


def test_a_test_set_that_failed_whole_is_measured(tmp_path: Path) -> None:
    table = example.test_table(tmp_path)
    store = example.described(table)
    store = replace(
        store,
        table=store.table.assign(status="decode_failed", reason="truncated"),
        descriptors=Representation(np.empty((0, example.DIMENSION), np.float32)),
    )
    found = run(tmp_path, table=table, store=store)
    assert found["svm"]["gap"] == found["svm"]["top5"] == found["svm"]["map100"] == 0
    assert found["svm"]["false_accept_rate"] == 0
    assert found["conditions"]["queries_failed"] == 6


@pytest.mark.usefixtures("no_report")
def test_rows_that_were_not_asked_for_are_refused(tmp_path: Path) -> None:
    table = example.test_table(tmp_path)
    store = example.described(table)
    with pytest.raises(RunError, match="not those of the test table"):
        run(tmp_path, table=table.iloc[::-1], store=store)
    with pytest.raises(RunError, match="5 test photographs went well but 4 have descriptors"):
        run(tmp_path, table=table, store=replace(store, descriptors=store.descriptors[:4]))
    with pytest.raises(TableError, match="no rows"):
        run(tmp_path, table=table.iloc[:0], store=store)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_report")
def test_landmark_ids_with_spaces_are_remarked_on_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {"svm": [(["Big Ben"], [0.5], 0.5, True)] * 5}
    landmarks = ["Big Ben", *example.LANDMARKS[1:]]
    system = replace(example.system(tmp_path), landmarks=landmarks, answers=answers)
    with caplog.at_level(logging.WARNING):
        run(tmp_path, system=system)
        assert "landmark id 'Big Ben' holds a space" in caplog.text
        caplog.clear()
        run(tmp_path, system=system)
    assert "holds a space" not in caplog.text
