"""What is kept of a run's explanations, and what its report says of why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipelines.building.index import build_run
from pipelines.measuring.evaluate import evaluate_run, measure_run
from pipelines.measuring.explained import MAP_SIDE, explain_examples, rows_to_explain
from pipelines.report.explained import Evidence, Explained
from retrieval.classifiers.network import NetworkClassifier, NetworkClassifierConfig
from retrieval.classifiers.svm import SvmClassifier
from retrieval.config import SystemConfig
from retrieval.explain.kept import CHECKS, CONCEPTS, keep, kept
from retrieval.explain.overlay import overlay
from retrieval.explain.shares import shares
from retrieval.explain.splitting import split
from retrieval.explain.verdict import head_split, margin_split
from retrieval.networks.heads import ArcFaceConfig, Head
from retrieval.photographs.decoding import read_photograph, shrink
from retrieval.photographs.table import load_data_set
from retrieval.system import System
from tests.photographs import picture, write_photograph

Run = Callable[..., tuple[int, str, str]]
NETWORK = {
    "name": "tiny",
    "extractor": {
        "kind": "cnn", "trunk": "mobilenet_v3_small", "weights": "none", "size": 96,
        "layers": [{"layer": "features.3"}],
    },
    "whitening": {"dimension": 8},
    "classifiers": {"knn": {"kind": "knn", "k": 5}, "svm": {"kind": "svm"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tiny"
    build_run(SystemConfig.model_validate(NETWORK), load_data_set(data), folder, "cpu")
    return folder


def test_concepts_are_found_kept_and_told_in_the_report(
    data: Path, run: Path, tmp_path: Path, landmarks: Run
) -> None:
    for number in range(10):
        marked = picture(number).copy()
        marked[20:70, 20:90] = (240, 10, 10)
        write_photograph(tmp_path / "concepts" / "red" / f"{number}.png", marked)
    for number in range(30):
        shown = picture(500 + number)
        write_photograph(tmp_path / "concepts" / "random" / f"{number}.png", shown)
    options = ("--run", run, "--device", "cpu", "--concepts", tmp_path / "concepts")
    system = System.load(run, "cpu")
    code, out, err = landmarks("concepts", *options, "--landmark", system.landmarks[0])
    assert code == 0, err
    assert "red" in out + err
    code, _, err = landmarks("concepts", *options, "--landmark", "nowhere")
    assert (code, "has no landmark of this id" in err) == (2, True)
    found = kept(run, CONCEPTS, system.record["describer"])
    assert found is not None
    assert [one["name"] for one in found["concepts"]] == ["red"]
    evaluate_run(system, data / "test.csv", tmp_path / "evaluation")
    html = (tmp_path / "evaluation" / "report.html").read_text()
    assert html.count('<ul class="maps"') > 0
    assert "margin by svm" in html


def test_examples_have_the_maps_of_their_own_photographs(
    data: Path, run: Path, tmp_path: Path
) -> None:
    system = System.load(run, "cpu")
    measured = measure_run(system, data / "test.csv", tmp_path / "evaluation")
    found = explain_examples(system, measured)
    shown, false, right = rows_to_explain(measured)
    assert list(found.maps) == shown
    assert len(shown) > 3
    assert (len(found.false), len(found.right)) == (len(false), len(right))
    by = system.explainer.in_float32
    for row, one in found.maps.items():
        near = measured.near_rows[row, 0]
        query, gallery = (
            read_photograph(source, by.longest_side)
            for source in (measured.sources[row], measured.gallery_sources[near])
        )
        both = shares(split(by, query), split(by, gallery))
        assert one.similarity == pytest.approx(both.similarity, abs=1e-5)
        for title, photograph, side in (
            ("match", query, both.query), ("nearest", gallery, both.gallery)
        ):  # fmt: skip
            drawn = overlay(shrink(photograph, MAP_SIDE), side.map)
            np.testing.assert_allclose(one.pictures[title], drawn, atol=1)


def test_examples_show_what_speaks_for_the_answer_of_a_linear_classifier(
    data: Path, run: Path, tmp_path: Path
) -> None:
    system = System.load(run, "cpu")
    measured = measure_run(system, data / "test.csv", tmp_path / "evaluation")
    (svm,) = (one for one in measured.results if one.name == "svm")
    head = Head(ArcFaceConfig(), 8, len(system.landmarks), False, 0)
    codes = np.arange(len(system.landmarks))
    network = NetworkClassifier(NetworkClassifierConfig(), head, codes)
    by, margins = system.explainer.in_float32, system.classifiers["svm"]
    assert isinstance(margins, SvmClassifier)
    for title, classifier, split_of in (
        ("margin by svm", margins, partial(margin_split, margins)),
        ("logit by svm", network, partial(head_split, network)),
    ):
        found = explain_examples(replace(system, classifiers={"svm": classifier}), measured)
        row, one = next(iter(found.maps.items()))
        query = read_photograph(measured.sources[row], by.longest_side)
        side = split_of(split(by, query), int(svm.best[row]))
        assert side is not None
        drawn = overlay(shrink(query, MAP_SIDE), side.map)
        np.testing.assert_allclose(one.pictures[title], drawn, atol=1)


def test_methods_are_checked_and_those_that_fail_are_marked(
    data: Path, run: Path, tmp_path: Path, landmarks: Run
) -> None:
    code, _, err = landmarks("explain", "--run", run, "--device", "cpu")
    assert (code, "give a photograph" in err) == (2, True)
    system = System.load(run, "cpu")
    failed = {"methods": {"gradient": {"fails": True, "likeness": 0.7}}}
    path = keep(run, CHECKS, system.record["describer"], failed)
    assert path == run / "explained" / "checks.json"
    page, photograph = tmp_path / "why.html", data / "photos/m3v5.jpg"
    options = (photograph, "--run", run, "--device", "cpu", "--out", page)
    for method, marked in (("gradient", True), ("smooth", False)):
        code, _, err = landmarks("explain", *options, "--method", method)
        assert code == 0, err
        assert ("fails the check" in page.read_text()) == marked
    assert kept(run, CHECKS, {"another": "describer"}) is None


def test_what_cannot_be_kept_in_the_run_is_kept_beside_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "explained").touch()  # no folder can be made there
    with caplog.at_level(logging.WARNING):
        path = keep(tmp_path / "run", CHECKS, {}, {"a": 1})
    assert path == tmp_path / "run.explained" / "checks.json"
    assert "beside the run" in caplog.text
    assert kept(tmp_path / "run", CHECKS, {}) == {"a": 1}


def test_what_fools_it_is_what_differs_from_right_answers() -> None:
    random = np.random.default_rng(0)

    def evidence(sky: float) -> Evidence:
        thirds = np.array([0.2 + sky / 10, 0.6 - sky / 10, 0.2]) + random.normal(0, 0.01, 3)
        return Evidence(thirds, np.array([0.0, sky]) + random.normal(0, 0.2, 2))

    found = Explained(
        {}, ("bricks", "sky"), [evidence(2.0) for _ in range(8)], [evidence(0) for _ in range(8)]
    )
    sky, bricks = found.by_concept
    assert (sky.name, bricks.name) == ("sky", "bricks")
    assert sky.p < 0.001
    assert sky.false - sky.right == pytest.approx(2.0, abs=0.3)
    assert bricks.p > 0.05
    assert found.places[0].name == "upper third"
    assert not replace(found, false=found.false[:1]).places
