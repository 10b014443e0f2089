"""The report: what it shows, that nothing in it reaches out, and how it looks in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.measuring.evaluate import measure
from pipelines.measuring.written import as_json
from pipelines.report import curves, examples
from pipelines.report.measured import Measured, side_by_side
from pipelines.report.page import render
from retrieval.errors import RunError
from retrieval.photographs.decoding import read_photograph
from tests.pipelines import measured_example as example

Framed = Callable[[str, str, int], dict[str, str]]

SECTIONS = ("results", "curves", "confusions", "landmarks", "examples", "failed", "conditions")
GROUPS = ("all-right", "only-1", "only-2", "all-wrong", "false-accepts")
HOSTILE = '<script>alert("1")</script><img src=https://example.org/x onerror=alert(2)>\'"&\u202e'


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("photographs")
    table = example.test_table(folder)
    return measure(
        example.system(folder),
        table,
        example.described(table),
        config="made-up",
        bytes_per_image=None,
        conditions={"machine": "two cores"},
    )


@pytest.fixture(scope="module")
def html(measured: Measured) -> str:
    return render(measured).decode()


class Page(HTMLParser):
    """What a browser would find in the markup."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


def test_every_section_and_every_kind_of_example_is_there(html: str) -> None:
    ids = Page(html).values("id")
    assert set(SECTIONS) | set(GROUPS) <= set(ids)
    assert len(ids) == len(set(ids)), "an id stands twice"


def test_every_link_leads_somewhere_in_the_page(html: str) -> None:
    page = Page(html)
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert len(links) > len(SECTIONS)
    assert {link.removeprefix("#") for link in links} <= set(page.values("id"))


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    page = Page(html)
    assert not re.search(r"https?:|url\((?!#)|@import", html)
    for attribute in ("src", "href", "xlink:href", "srcset", "data", "action"):
        for value in page.values(attribute):
            assert value.startswith(("#", "data:")), value
    assert "script" not in {tag for tag, _ in page.tags}
    (policy,) = (attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_pictures_are_small_and_say_what_they_show(html: str) -> None:
    pictures = [attrs for tag, attrs in Page(html).tags if tag == "img"]
    assert pictures
    assert all((attrs["src"] or "").startswith("data:image/jpeg;base64,") for attrs in pictures)
    assert all(
        max(int(attrs["width"] or 0), int(attrs["height"] or 0)) <= 288 for attrs in pictures
    )
    texts = {attrs["alt"] for attrs in pictures}
    assert "Query photograph a" in texts
    assert "Neighbour 1: The First Tower, the same landmark" in texts


def test_figures_names_and_reasons_are_shown(measured: Measured, html: str) -> None:
    text = " ".join(Page(html).text.split())
    assert "made-up" in text
    assert "Names 75.0 % of landmark photographs right" in text
    assert "takes 0.0 % of the others for a landmark" in text
    assert "The First Tower" in text
    assert "not a photograph of a known format" in text
    assert "two cores" in text
    low, high = measured.results[0].intervals["gap"]
    for figure in ("0.417", "0.750", "0.500", "20 ms", "32 B", f"{low:.3f}–{high:.3f}"):
        assert figure in text, figure


@pytest.mark.slow
def test_figures_stand_by_source_where_there_are_sources(measured: Measured, html: str) -> None:
    assert "By source" not in Page(html).text
    few = Page(render(replace(measured, origins=list("xxyxyx"))).decode())
    text = " ".join(few.text.partition("By source")[2].partition("Each source")[0].split())
    # GAP, top-1 and false accepts of kNN and SVM; the larger first. All of x shows a landmark and
    # none of y, of which the kNN names one of two.
    assert text.endswith(
        "Photographs x 0.500 0.750 0.500 0.750 n/a n/a 4 y n/a n/a n/a n/a 0.500 0.000 2"
    )
    assert "False accepts knn False accepts svm" in text
    alone = replace(measured, origins=["x"] * 6, results=measured.results[1:])
    text = " ".join(Page(render(alone).decode()).text.split())
    assert "By source Source GAP Top-1 False accepts Photographs x" in text


def test_the_same_evaluation_gives_the_same_bytes(measured: Measured, html: str) -> None:
    assert render(measured).decode() == html


def test_what_strangers_wrote_is_never_markup(measured: Measured) -> None:
    hostile = replace(
        measured,
        config=HOSTILE,
        ids=[HOSTILE + one for one in measured.ids],
        truth=[None if one is None else HOSTILE for one in measured.truth],
        reasons=[HOSTILE] * len(measured.ids),
        statuses=[one if one == "ok" else HOSTILE for one in measured.statuses],
        landmarks=[HOSTILE] * len(measured.landmarks),
        names={HOSTILE: HOSTILE},
        gallery_ids=[HOSTILE] * len(measured.gallery_ids),
        conditions={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        origins=[HOSTILE] * len(measured.ids),
    )
    page = Page(render(hostile).decode())
    assert "script" not in {tag for tag, _ in page.tags}
    assert not page.values("onerror")
    assert all(value.startswith("data:") for value in page.values("src"))
    assert page.text.count('<script>alert("1")</script>') > 20


def test_lone_surrogates_do_not_stop_the_report(measured: Measured) -> None:
    odd = replace(measured, ids=[one + "\udcff" for one in measured.ids])
    render(odd).decode()


def test_urls_and_unreadable_photographs_become_placeholders(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def read(source: str, side: int) -> NDArray[np.uint8]:
        asked.append(source)
        return read_photograph(source, side)

    sources = ["https://example.org/a.jpg", measured.sources[0] + ".gone", *measured.sources[2:]]
    monkeypatch.setattr("pipelines.report.page.read_photograph", read)
    html = render(replace(measured, sources=sources)).decode()
    assert sources[0] not in asked
    assert sources[1] in asked
    labels = Page(html).values("aria-label")
    assert "Query photograph a (no picture)" in labels
    assert "Query photograph b (no picture)" in labels
    assert "example.org" not in html


def test_examples_are_grouped_by_who_was_right(measured: Measured) -> None:
    shown = {group.key: (group.total, list(group.rows)) for group in examples.groups(measured, 6)}
    assert shown["all-right"] == (2, [0, 1])
    assert shown["only-1"] == (0, [])
    assert shown["only-2"] == (1, [3])  # kNN named l4 and rejected it
    assert shown["all-wrong"] == (0, [])  # f is listed among the failed
    assert shown["false-accepts"] == (0, [])
    by_knn = {group.key: list(group.rows) for group in examples.groups(_answering(measured), 6)}
    assert by_knn["false-accepts"] == [2]


def test_examples_are_bounded(measured: Measured) -> None:
    (group, *_) = examples.groups(measured, 1)
    assert group.total == 2
    assert len(group.rows) == 1


def test_confusions_are_counted_for_each_classifier(measured: Measured) -> None:
    (confusion,) = curves.confused_landmarks(measured, 10)
    assert confusion == curves.Confusion("l3", "l4", (1, 0), 1)
    (accepted,) = curves.false_accepts(measured, 10)
    assert accepted == curves.Confusion(None, "l5", (1, 0), 2)


def test_the_area_below_the_curve_is_gap(measured: Measured) -> None:
    for result in measured.results:
        curve = curves.precision_recall(measured, result)
        steps = np.diff(curve.x, prepend=0.0)
        assert (steps * curve.y).sum() == pytest.approx(result.metrics["gap"])


def test_the_chosen_point_is_what_was_accepted(measured: Measured) -> None:
    knn, svm = measured.results
    assert curves.rejection(measured, knn).chosen == (0.5, 0.5)
    assert curves.rejection(measured, svm).chosen == (0.0, 0.75)
    # a, then c of no landmark, then b, then d wrong; e has no candidate and f no answer.
    curve = curves.rejection(measured, knn)
    assert curve.x.tolist() == [0, 0, 0.5, 0.5, 0.5]
    assert curve.y.tolist() == [0, 0.25, 0.25, 0.5, 0.5]


def test_calibration_error_is_the_mean_gap(measured: Measured) -> None:
    # kNN: .95 right, .75 right, .85 wrong, .40 wrong, each alone in its bin.
    found = curves.calibration(measured, measured.results[0])
    assert found.error == pytest.approx((0.05 + 0.25 + 0.85 + 0.40) / 4)
    assert found.count.sum() == 4


def test_the_hardest_landmarks_are_those_least_often_named(measured: Measured) -> None:
    # Of the SVM, f failed; of the kNN, d was rejected too.
    assert [row["name"] for row in curves.worst_landmarks(measured, 9)] == ["l4"]
    found = curves.worst_landmarks(_answering(measured), 9)
    assert found == [
        {"name": "l3", "gallery": 2, "queries": 1, "named": [0, 1]},
        {"name": "l4", "gallery": 2, "queries": 1, "named": [0, 0]},
    ]
    assert curves.worst_landmarks(_answering(measured), 1) == found[:1]


def test_curves_of_a_hundred_thousand_answers_stay_small(measured: Measured) -> None:
    rng = np.random.default_rng(0)
    n = 100_000
    knn = measured.results[0]
    many = replace(
        measured,
        ids=[str(number) for number in range(n)],
        truth_codes=rng.integers(-1, 5, n),
        results=[
            replace(
                knn,
                candidates=rng.integers(0, 5, (n, 5)),
                confidence=rng.random(n, dtype=np.float32),
                accepted=rng.random(n) < 0.5,
            )
        ],
    )
    for curve in (curves.precision_recall, curves.rejection):
        found = curve(many, many.results[0])
        assert found.x.size <= curves.MAX_POINTS
        assert np.all(np.diff(found.x) >= 0)


def _answering(measured: Measured) -> Measured:
    return replace(measured, answer="knn")


WIDEST = """<script>addEventListener("load", () => {
  const root = document.documentElement;
  root.dataset.scroll = root.scrollWidth;
  root.dataset.client = root.clientWidth;
  root.dataset.plots = [...document.querySelectorAll(".plot svg")]
    .filter((svg) => svg.getBoundingClientRect().height > 100).length;
  root.dataset.loaded = [...document.images].filter((image) => image.naturalWidth > 0).length;
  root.dataset.images = document.images.length;
});</script>"""


@pytest.mark.parametrize(("width", "systems"), [(390, 1), (390, 4), (1280, 1)])
def test_a_browser_lays_it_out_without_overflow(
    measured: Measured, framed: Framed, width: int, systems: int
) -> None:
    # Long unbroken names are what bursts a layout.
    names = dict.fromkeys(measured.landmarks, "Llanfairpwllgwyngyllgogerychwyrndrobwll" * 2)
    origins = ["a-source-with-quite-a-long-name" * 3, *"xxyyy"]
    long = replace(measured, names=names, origins=origins)
    if systems > 1:
        long = side_by_side({f"resnet50-landmarks-{one}": long for one in range(systems)})
    html = render(long).decode()
    found = {key: int(value) for key, value in framed(html, WIDEST, width).items()}
    assert found["client"] == width
    assert found["scroll"] == width
    assert found["plots"] == (4 if systems == 1 else 5)
    assert found["loaded"] == found["images"] > 10


def test_a_browser_shows_the_sections_and_draws_the_page(
    html: str, tmp_path: Path, chromium: Callable[..., str]
) -> None:
    page = tmp_path / "report.html"
    page.write_text(html, encoding="utf-8")
    picture = tmp_path / "report.png"
    dom = chromium(page, "--dump-dom")
    for section in (*SECTIONS, *GROUPS):
        assert f'id="{section}"' in dom
    chromium(page, f"--screenshot={picture}", "--window-size=1280,2400")
    pixels = cv2.imread(str(picture))
    assert pixels is not None
    assert pixels.shape == (2400, 1280, 3)
    # A blank page has one colour; rows of text and plots vary all the way down.
    assert (pixels.std(axis=(1, 2)) > 5).mean() > 0.4


@pytest.mark.slow
def test_systems_side_by_side_keep_their_answers(measured: Measured) -> None:
    # The other system knows a landmark more, the first in order, so that all its codes differ.
    moved = [
        replace(one, candidates=np.where(one.candidates >= 0, one.candidates + 1, -1))
        for one in measured.results
    ]
    other = replace(
        measured,
        answer="knn",
        landmarks=["l0", *measured.landmarks],
        truth_codes=np.where(measured.truth_codes >= 0, measured.truth_codes + 1, -1),
        gallery_codes=measured.gallery_codes + 1,
        results=moved,
        bytes_per_image=7.0,
    )
    both = side_by_side({"first": measured, "second": other})
    assert [one.name for one in both.results] == ["first: svm", "second: knn"]
    assert both.answer == "first: svm"
    for shown, own in ((both.results[0], measured.results[1]), (both.results[1], moved[0])):
        alone = measured if shown is both.results[0] else other
        np.testing.assert_array_equal(both.named_right(shown), alone.named_right(own))
    assert [both.landmarks[code] for code in both.gallery_codes] == [
        measured.landmarks[code] for code in measured.gallery_codes
    ]
    assert "7 bytes" in str(both.conditions["second"])
    assert "7 bytes" not in str(both.conditions["first"])
    html = render(both).decode()
    assert "Only second: knn right" in html
    # Their costs and their difference are shown: the kNN's GAP is 0.417, the SVM's 0.750.
    page = Page(html)
    assert "Cost and accuracy" in page.text
    assert "−0.333" in page.text
    assert "7 B" in page.text
    assert "7 B" not in Page(render(measured).decode()).text
    assert as_json(both)["second: knn"]["bytes_per_image"] == 7.0
    assert list(as_json(both)["paired"]) == ["second: knn"]
    assert "Cost and accuracy" not in render(measured).decode()


def test_systems_measured_on_different_photographs_are_not_compared(measured: Measured) -> None:
    other = replace(measured, ids=[*measured.ids[:-1], "another"])
    with pytest.raises(RunError, match="second was not measured on the same photographs"):
        side_by_side({"first": measured, "second": other})


def test_promises_not_kept_and_probabilities_not_given_are_told(measured: Measured) -> None:
    knn, svm = measured.results
    nothing = np.full_like(svm.probability, np.nan)
    few = "no probabilities: too few"
    results = [
        replace(knn, caveats=[few]),
        replace(svm, probability=nothing, caveats=["promise not kept: 0.5 is the most", few]),
    ]
    told = replace(measured, results=results)
    page = Page(render(told).decode())
    assert f"{svm.name}: promise not kept: 0.5 is the most" in page.text
    assert page.text.count(few) == 1, "said once for both"
    assert f"{knn.name}, {svm.name}: {few}" in page.text
    shown = page.values("class").count("probability")
    assert 0 < shown < Page(render(measured).decode()).values("class").count("probability")
    assert as_json(told)["caveats"] == {one.name: one.caveats for one in results}
    assert "caveats" not in as_json(measured)
