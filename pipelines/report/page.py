"""The report: one HTML file with its style, plots and thumbnails inside.

Ids, names, paths and reasons come from strangers. The template escapes every one of them; the only
markup taken as it is are our own style sheet and plots. A content security policy in the page
forbids scripts and every outside resource besides.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipelines.report import curves, examples, plots
from pipelines.report.measured import NOT_IN_GALLERY, ClassifierResult, Measured
from retrieval.errors import PhotographError
from retrieval.photographs.decoding import read_photograph
from retrieval.types import Photograph

TEMPLATES: Final = Path(__file__).parent / "templates"
NEIGHBOURS: Final = 5
SHOWN: Final = 6  # examples of each kind, at most
CONFUSIONS: Final = 12
WORST: Final = 12
LISTED: Final = 50  # failed photographs
ORIGINS: Final = 20  # the largest
BY_ORIGIN: Final = ("gap", "top1", "false_accept_rate")
QUERY_SIDE: Final = 288
NEIGHBOUR_SIDE: Final = 144
JPEG_QUALITY: Final = 78
MAP_BUDGET: Final = 1_500_000
"""Bytes that match maps take in the page; examples beyond that have none."""


@dataclass(frozen=True)
class Metric:
    """A column of the table of classifiers."""

    key: str
    title: str
    meaning: str
    higher_is_better: bool = True


METRICS: Final = (
    Metric(
        "gap",
        "GAP",
        "Global average precision, the challenge's own score. All answers stand in one list, the"
        " most confident first; each right one earns the share of right answers so far, and the sum"
        " is divided by the number of landmark photographs. It rewards being right, and knowing"
        " when.",
    ),
    Metric(
        "top1",
        "Top-1",
        "Share of landmark photographs whose best candidate is their landmark, whether or not it"
        " passes the threshold.",
    ),
    Metric("top5", "Top-5", "The same, with the landmark anywhere among the best five candidates."),
    Metric(
        "map100",
        "mAP@100",
        "Quality of the plain ranking: average precision of the 100 gallery photographs most"
        " similar to each landmark photograph. It belongs to the descriptors, so classifiers share"
        " it.",
    ),
    Metric(
        "map100_by_label",
        "mAP@100 by label",
        "The same once photographs of the landmark that the classifier names, where it names one,"
        " are put first: those among the 100, then the gallery's others.",
    ),
    Metric(
        "rejection_auc",
        "Rejection AUC",
        "How well confidence tells landmark photographs from others: the chance that one of a"
        " landmark gets more than one of none. A coin has 0.5.",
    ),
    Metric(
        "false_accept_rate",
        "False accepts",
        "Share of photographs of no landmark that a landmark is named for, at the threshold that"
        " the run chose on held-out gallery photographs. Lower is better.",
        higher_is_better=False,
    ),
)

MORE: Final = (
    Metric(
        "false_accepts_at_90",
        "False accepts at 90 %",
        "False accepts at the threshold that names 90 % of landmark photographs right; n/a where"
        " none does. Lower is better.",
        higher_is_better=False,
    ),
    Metric(
        "precision",
        "Precision",
        "Share right of the landmarks named at the chosen threshold, on this mixture of landmark"
        " photographs and others.",
    ),
    Metric(
        "precision_at_share",
        "Precision at the share",
        "The same, were landmark photographs as rare as was asked for (see the conditions).",
    ),
    Metric(
        "precision_at_full_coverage",
        "All answered",
        "Share right if the best candidate were named for every photograph, none rejected.",
    ),
    Metric(
        "calibration_error",
        "Calibration error",
        "How far probabilities are from the share right, on average. Lower is better.",
        higher_is_better=False,
    ),
    Metric(
        "map",
        "mAP",
        "As mAP@100, but every gallery photograph of the landmark is to be found among the first"
        " 1,000.",
    ),
    *(
        Metric(
            f"recall{k}",
            f"Recall@{k}",
            f"Share of landmark photographs with one of their landmark among the first {k}."
            if k > 1
            else "Share of landmark photographs whose nearest gallery photograph is of their"
            " landmark.",
        )
        for k in (1, 10, 100)
    ),
)


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG inside the page."""

    uri: str
    width: int
    height: int


Thumbnailer = Callable[[str, int], Thumbnail | None]


def thumbnail(source: str, side: int) -> Thumbnail | None:
    """Of a local photograph; ``None`` for one that cannot be read."""
    if "://" in source:
        return None  # a report never fetches
    try:
        photograph = read_photograph(source, side)
    except PhotographError:
        return None
    return pictured(photograph)


def pictured(photograph: Photograph) -> Thumbnail:
    """An (h, w, 3) photograph as it is."""
    height, width = photograph.shape[:2]
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    encoded = cv2.imencode(".jpg", photograph[:, :, ::-1], quality)[1]
    text = base64.b64encode(encoded.tobytes()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{text}", width, height)


def render(measured: Measured) -> bytes:
    """The whole page as UTF-8 HTML, the same for the same evaluation.

    A photograph that cannot be read, and one that is a URL, is shown as a placeholder.
    """
    html = (
        environment()
        .get_template("page.html.j2")
        .render(
            measured=measured,
            style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            headline=_headline(measured),
            metrics=list(METRICS),
            more=[metric for metric in MORE if metric.key in measured.answering.metrics],
            origins=sorted(measured.per_origin, key=lambda one: -one.queries)[:ORIGINS],
            sources=len(set(measured.origins)),
            by_origin=[metric for metric in METRICS if metric.key in BY_ORIGIN],
            best={metric.key: _best(measured, metric) for metric in (*METRICS, *MORE)},
            plots=_plots(measured),
            confused=curves.confused_landmarks(measured, CONFUSIONS),
            mistaken=curves.false_accepts(measured, CONFUSIONS),
            worst=curves.worst_landmarks(measured, WORST),
            groups=_galleries(measured, cache(thumbnail)),
            explained=measured.explained,
            failed=_failed(measured),
            listed=LISTED,
        )
    )
    # A lone surrogate (a file name of odd bytes) has no UTF-8; it is shown as a question mark.
    return html.lstrip().encode("utf-8", errors="replace")


def environment() -> Environment:
    """What fills templates; the filters are this module's functions."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        share=share,
        fraction=fraction,
        percent=percent,
        count=count,
        label=label,
        seconds=seconds,
        bytes=size,
        chance=chance,
        signed=signed,
    )
    return made


def _headline(measured: Measured) -> dict[str, Any]:
    result = measured.answering
    shown = measured.with_landmark
    named = measured.named_right(result)[shown]
    return {
        "named": float(named.mean()) if named.size else math.nan,
        "false_accepts": result.metrics["false_accept_rate"],
        "photographs": len(measured.ids),
        "landmark": int(shown.sum()),
        "none": int((~shown).sum()),
        "failed": int((~measured.ok).sum()),
        "gallery": len(measured.gallery_ids),
        "landmarks": len(measured.landmarks),
    }


def _best(measured: Measured, metric: Metric) -> float:
    """The winning value of a column, as it is printed; NaN where there is nothing to win."""
    values = [round(one.metrics.get(metric.key, math.nan), 3) for one in measured.results]
    known = [value for value in values if not math.isnan(value)]
    if len(set(known)) < 2:
        return math.nan
    return max(known) if metric.higher_is_better else min(known)


def _plots(measured: Measured) -> list[dict[str, Any]]:
    answering = measured.answering
    names = " and ".join(result.name for result in measured.results)
    chosen = curves.rejection(measured, answering).chosen
    at = (
        f" The chosen threshold of {answering.name} names {percent(chosen[1])} of the landmark"
        f" photographs right and accepts {percent(chosen[0])} of the others."
        if chosen
        else ""
    )
    gaps = ", ".join(f"{one.name} {fraction(one.metrics['gap'])}" for one in measured.results)
    costs = "; ".join(
        f"{one.name} {size(one.cost.bytes_per_image)}, {seconds(one.cost.seconds_per_image)}"
        for one in measured.results
        if one.cost is not None
    )
    cost = {
        "title": "Cost and accuracy",
        "svg": Markup(plots.cost_plot(measured)),
        "alt": f"GAP against bytes and time a photograph. {costs}. GAP: {gaps}.",
        "text": "What a gallery photograph takes in the index, and a query to describe, against"
        " GAP with its 95 % interval. Up and to the left is better.",
    }
    return [
        *([cost] if costs else []),
        {
            "title": "Precision and recall",
            "svg": Markup(plots.precision_recall_plot(measured)),
            "alt": f"Precision against recall for {names}. GAP: {gaps}.",
            "text": "Answers of all test photographs in one list, the most confident first."
            " GAP is the area that right answers fill.",
        },
        {
            "title": "Rejection",
            "svg": Markup(plots.rejection_plot(measured)),
            "alt": f"Landmarks named right against false accepts for {names}.{at}",
            "text": "What lowering the threshold buys and costs. The marks are the thresholds that"
            " the run chose before it saw these photographs." + at,
        },
        {
            "title": "Confidence",
            "svg": Markup(plots.score_plot(measured)),
            "alt": f"Histograms of the confidence of landmark photographs and others for {names}.",
            "text": "Confidence of the best candidate, as a share of each kind of photograph."
            " The less the two hills overlap, the better “none” can be told.",
        },
        {
            "title": "Reliability",
            "svg": Markup(plots.reliability_plot(measured)),
            "alt": f"Share of answers right against the probability given, for {names}.",
            "text": "On the dotted line a probability keeps its promise; below, it promises too"
            " much. Larger marks hold more answers. “Off by” is the expected calibration error.",
        },
    ]


def _galleries(
    measured: Measured, thumbnails: Thumbnailer
) -> list[tuple[examples.Group, list[dict[str, Any]]]]:
    left = MAP_BUDGET
    found = []
    for group in examples.groups(measured, SHOWN):
        shown = []
        for row in group.rows:
            one = measured.explained.maps.get(row)
            maps = {} if one is None else {t: pictured(p) for t, p in one.pictures.items()}
            left -= sum(len(map_.uri) for map_ in maps.values())
            example = _example(measured, row, thumbnails)
            shown.append({**example, "maps": maps if left >= 0 else {}})
        found.append((group, shown))
    return found


def _example(measured: Measured, row: int, thumbnails: Thumbnailer) -> dict[str, Any]:
    truth = measured.truth[row]
    return {
        "id": measured.ids[row],
        "truth": None if truth is None else measured.display(truth),
        "unknown": bool(measured.truth_codes[row] == NOT_IN_GALLERY),
        "picture": thumbnails(measured.sources[row], QUERY_SIDE),
        "answers": [_answer(measured, result, row) for result in measured.results],
        "neighbours": [
            {
                "id": measured.gallery_ids[near],
                "landmark": measured.display_code(int(measured.gallery_codes[near])),
                "similarity": float(measured.near_similarities[row, place]),
                "same": bool(measured.gallery_codes[near] == measured.truth_codes[row]),
                "picture": thumbnails(measured.gallery_sources[near], NEIGHBOUR_SIDE),
            }
            for place, near in enumerate(measured.near_rows[row, :NEIGHBOURS].tolist())
            if near >= 0
        ],
    }


def _answer(measured: Measured, result: ClassifierResult, row: int) -> dict[str, Any]:
    best = int(result.best[row])
    probability = float(result.probability[row])
    return {
        "classifier": result.name,
        "candidate": measured.display_code(best) if best >= 0 else None,
        "accepted": bool(result.accepted[row]),
        "probability": None if math.isnan(probability) else probability,
        "verdict": examples.verdict(measured, result, row),
    }


def _failed(measured: Measured) -> list[dict[str, Any]]:
    return [
        {
            "id": measured.ids[row],
            "truth": measured.truth[row],
            "status": measured.statuses[row],
            "reason": measured.reasons[row],
        }
        for row in np.flatnonzero(~measured.ok)[:LISTED].tolist()
    ]


def share(value: float) -> str:
    """A probability as a whole number of percent; never 0 or 100, which would promise too much."""
    if math.isnan(value):
        return "n/a"
    if value >= 0.995:
        return "> 99 %"
    return "< 1 %" if value < 0.005 else f"{100 * value:.0f} %"


def percent(value: float) -> str:
    """A share with one decimal of a percent."""
    return "n/a" if math.isnan(value) else f"{100 * value:.1f} %"


def fraction(value: float) -> str:
    """Three decimals, as the field quotes its figures."""
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def count(value: int | float | str) -> str:
    """A whole number with thousands set apart; anything else as it is."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def label(text: str, length: int = 60) -> Markup:
    """A stranger's text, escaped and kept apart from ours.

    Cut to a length with an ellipsis, since an id may be a whole book; free to break after an
    underscore and the like; and isolated, so that marks for right-to-left writing in it do not
    turn the words around it.
    """
    cut = text if len(text) <= length else text[: length - 1] + "…"
    breaks = Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_/.,\-])", cut))
    return Markup("<bdi>{}</bdi>").format(breaks)


def signed(value: float) -> str:
    """A difference with its sign, and three decimals."""
    return "n/a" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def chance(value: float) -> str:
    """A chance of a test; as far as a thousand resamples can tell."""
    return "< 0.005" if value < 0.005 else f"{value:.2f}"


def size(value: float) -> str:
    """Bytes."""
    return f"{value:,.0f} B"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if math.isnan(value):
        return "n/a"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"
