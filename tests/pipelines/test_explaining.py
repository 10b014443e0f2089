"""The command that tells why, and its page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.building.index import build_run
from pipelines.report.why import render
from retrieval.config import SystemConfig
from retrieval.explain.explanation import Explanation
from retrieval.photographs.table import load_data_set
from retrieval.system import System
from tests.pipelines.runs import LOCAL

Run = Callable[..., tuple[int, str, str]]
Framed = Callable[[str, str, int], dict[str, str]]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "local"
    classifiers = {"knn": {"kind": "knn", "k": 5}, "svm": {"kind": "svm"}}
    config = SystemConfig.model_validate({**LOCAL, "classifiers": classifiers})
    build_run(config, load_data_set(data), folder, "cpu")
    return folder


@pytest.fixture(scope="module")
def explained(data: Path, run: Path) -> Explanation:
    return System.load(run, "cpu").explain(data / "photos/m3v5.jpg", method="occlusion")


def drawn(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="found">(.*?)</script>', html)
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_page_and_a_picture_are_written(
    data: Path, run: Path, tmp_path: Path, landmarks: Run
) -> None:
    page, picture = tmp_path / "why.html", tmp_path / "why.png"
    photograph, on_cpu = data / "photos/m3v5.jpg", ("--run", run, "--device", "cpu")
    code, _, err = landmarks("explain", photograph, *on_cpu, "--out", page)
    assert (code, err.strip().splitlines()[-1]) == (0, f"Landmark 3 → {page}")
    code, _, err = landmarks(
        "explain", photograph, *on_cpu, "--out", picture, "--against", "m1v0", "--method",
        "occlusion", "--target", "margin",
    )  # fmt: skip
    assert code == 0, err
    pixels = cv2.imread(str(picture))
    assert pixels is not None
    assert pixels.std() > 20
    html = page.read_text()
    assert "Landmark 3" in html
    assert drawn(html)["modes"] == ["Places", "Cells and features", "Matches"]
    code, _, err = landmarks("explain", photograph, *on_cpu, "--method", "guided")
    assert code == 2
    assert "made by no network" in err
    assert not (Path.cwd() / "why.html").exists()
    for given, told in (("absent.jpg", "no such file"), ("http://a.example/b.jpg", "a URL: save")):
        code, _, err = landmarks("explain", given, *on_cpu)
        assert code == 2
        assert f"landmarks: {given}: {told}" in err


def test_what_the_page_draws_adds_up(explained: Explanation) -> None:
    found, shares = drawn(render(explained, "local").decode()), explained.shares
    assert shares is not None
    pairs = np.array(found["pairs"]).reshape(shares.pairs.shape) * found["unit"]
    np.testing.assert_allclose(pairs, shares.pairs, atol=0.51 * found["unit"])
    for one, side in zip(found["maps"], (shares.query, shares.gallery), strict=True):
        assert sum(one) + side.constant == pytest.approx(shares.similarity, abs=1e-3)
    assert explained.matches is not None
    assert len(found["matches"]) == explained.matches.inliers
    # The lines between places are those of the largest shares, and no matches.
    (one, other), grids = found["links"][0], (shares.query.grid, shares.gallery.grid)
    places = [
        int(y * grid.rows) * grid.columns + int(x * grid.columns)
        for (x, y), grid in zip((one, other), grids, strict=True)
    ]
    assert shares.pairs[places[0], places[1]] == shares.pairs.max()


def test_the_page_names_the_file_and_not_where_it_lies(explained: Explanation) -> None:
    html = render(explained, "local").decode()
    assert "<bdi>m3v5.<wbr>jpg</bdi> is compared with" in html
    assert str(Path(explained.id).parent) not in html


def test_the_page_tells_verification_apart_from_shares(explained: Explanation) -> None:
    told = "what verification adds to it afterwards is told by the features that match"
    assert told in render(explained, "local").decode()
    assert told not in render(replace(explained, matches=None), "local").decode()


def test_a_margin_by_places_that_is_not_the_runs_own_is_marked(explained: Explanation) -> None:
    found = explained.verdicts[1]
    assert found.kind == "svm"
    html = render(explained, "local").decode()
    assert "Its margin by places: " in html
    assert "in float32" not in html
    score = found.cases[0].score
    assert score is not None
    away = replace(found.cases[0], score=replace(score, constant=score.constant + 0.01))
    moved = replace(explained, verdicts=(explained.answer, replace(found, cases=(away,))))
    assert " in float32, of which " in render(moved, "local").decode()


def test_the_script_is_the_only_one_that_a_browser_runs(explained: Explanation) -> None:
    evil = "</script><script>alert(1)</script>"
    names = dict.fromkeys(explained.names, evil)
    html = render(replace(explained, id=evil, names=names), evil).decode()
    assert evil not in html
    policy = re.search(r"script-src '(sha256-[^']+)'", html)
    assert policy
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy[1] == f"sha256-{digest}"
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)


PRESSED = """<script>addEventListener("load", () => {
  const root = document.documentElement, stage = document.querySelector(".stage");
  const press = (key) => stage.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const told = () => document.querySelector(".said").textContent;
  root.dataset.scroll = root.scrollWidth;
  root.dataset.whole = told();
  press("Enter");
  root.dataset.first = told();
  press("ArrowLeft"); press("ArrowLeft"); press("ArrowUp");
  root.dataset.moved = told();
  root.dataset.outlined = document.querySelectorAll(".threads .place").length;
  press("Escape");
  root.dataset.again = told();
  const inner = stage.getBoundingClientRect();
  stage.dispatchEvent(new MouseEvent("click", { clientX: inner.left + 3, clientY: inner.top + 3 }));
  root.dataset.clicked = told();
  document.querySelectorAll(".modes button")[2].click();
  root.dataset.matched = told();
  const within = document.querySelector(".threads svg"), whole = document.querySelector(".match");
  const gallery = document.querySelectorAll(".stage")[1].getBoundingClientRect();
  const { left, top } = whole.getBoundingClientRect();
  root.dataset.framed = getComputedStyle(within).overflow + Object.entries(
    { x: gallery.left - left, y: gallery.top - top, width: gallery.width, height: gallery.height }
  ).every(([name, value]) => Math.abs(within.getAttribute(name) - value) < 1);
  root.dataset.lines = document.querySelectorAll(".threads line").length;
});</script>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_a_place_shows_its_partner_in_a_browser(
    explained: Explanation, framed: Framed, width: int
) -> None:
    names = dict.fromkeys(explained.names, "Llanfairpwllgwyngyllgogerychwyrndrobwll" * 2)
    html = render(replace(explained, names=names), "local").decode()
    told = framed(html, PRESSED, width)
    assert int(told["scroll"]) == width
    assert told["outlined"] == "2"
    assert told["again"] == told["whole"]
    shares = explained.shares
    assert shares is not None
    grid, values = shares.query.grid, shares.query.values
    best = int(values.argmax())
    row, column = divmod(best, grid.columns)
    moved = max(row - 1, 0) * grid.columns + max(column - 2, 0)
    for key, place in (("first", best), ("moved", moved), ("clicked", 0)):
        said = re.search(r"adds ([+−][\d.]+) to", told[key])
        assert said
        assert float(said[1].replace("−", "-")) == pytest.approx(values[place], abs=1e-4), key
    assert explained.matches is not None
    assert told["matched"].startswith(f"{explained.matches.inliers} of ")
    assert int(told["lines"]) == explained.matches.inliers
    assert told["framed"] == "hiddentrue"


def test_the_page_runs_its_script_under_its_policy(
    explained: Explanation, tmp_path: Path, chromium: Callable[..., str]
) -> None:
    page = tmp_path / "why.html"
    page.write_bytes(render(explained, "local"))
    assert "The lines join the pairs of places" in chromium(page, "--dump-dom")
