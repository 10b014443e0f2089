"""The page of one answer: why it is what it is, in one file that may be moved and sent.

What strangers wrote is escaped, as in the report; the one script is the page's own, named to the
browser by its checksum, and nothing else is run or loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from pipelines.report.forms import styled, write_form
from pipelines.report.page import TEMPLATES, environment, pictured, thumbnail
from retrieval.explain.explanation import Explanation, sentence
from retrieval.explain.overlay import overlay
from retrieval.explain.shares import Side
from retrieval.explain.verdict import Case, Verdict

VOTERS: Final = 6
"""Neighbours of a landmark that are listed."""
VOTER_SIDE: Final = 96
PIECES: Final = 150
"""Features, lines or cells that are drawn on a photograph, those with the largest shares."""
PICTURE_DPI: Final = 130
WHOLE: Final = 9999
"""The largest share of a pair, as the page has it: whole numbers are short."""
TITLES: Final = {
    "gradient": "Saliency",
    "gradient-input": "Gradient × input",
    "integrated": "Integrated gradients",
    "smooth": "SmoothGrad",
    "occlusion": "Occlusion",
    "grad-cam": "Grad-CAM",
    "guided": "Guided backpropagation",
    "guided-grad-cam": "Guided Grad-CAM",
}
SCORES: Final = {
    "svm": "Its margin by places",
    "network": "Its logit by places",
    "centroid": "Similarity to its mean",
}
"""What a classifier splits over places, by its kind."""
SEEN: Final = 5e-4
"""Less than this is 0.000 where it is written."""


def write(explained: Explanation, system: str, out: Path) -> None:
    """Write the page, or the figure alone.

    Args:
        explained: the answer.
        system: its name.
        out: a file, .html or .png.

    Raises:
        ConfigError: another ending.
        WriteError: it cannot be written.
    """
    write_form(out, partial(render, explained, system), explained.figure, PICTURE_DPI)


def render(explained: Explanation, system: str) -> bytes:
    """The whole page as UTF-8 HTML, the same for the same explanation."""
    script = (TEMPLATES / "why.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shares, made = explained.shares, explained.attribution
    filling = environment()
    filling.filters["plain"] = _plain
    html = filling.get_template("why.html.j2").render(
        explained=explained,
        against=explained.against,
        # The name alone: where the file lies is nobody's business to whom the page is sent.
        own=Path(explained.id).name or explained.id,
        system=system,
        headline=explained.sentence,
        similarity=explained.against.similarity if shares is None else shares.similarity,
        constant=shares is not None and abs(shares.constant) > SEEN,
        pictures=[pictured(explained.photograph), pictured(explained.against.photograph)],
        attribution=made
        and {
            "title": TITLES[made.method],
            "target": made.target,
            "value": made.value,
            "note": made.note,
            "failed": made.failed,
            "picture": pictured(overlay(explained.photograph, made.map, made.signed)),
        },
        verdicts=[_verdict(explained, one) for one in explained.verdicts],
        listed=VOTERS,
        style=styled("why.css"),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        # Within a script "</script" and "<!--" would be read as HTML.
        data=Markup(json.dumps(_data(explained)).replace("<", "\\u003c")),
    )
    return html.lstrip().encode("utf-8", errors="replace")


def _plain(value: float) -> str:
    """A number; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def _verdict(explained: Explanation, verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.name,
        "sentence": sentence(verdict, explained.names),
        "confidence": verdict.confidence,
        "threshold": verdict.threshold,
        "changes": [one.replace("-", "−") for one in verdict.changes],
        "signals": verdict.signals,
        "cases": [_case(explained, verdict, one) for one in verdict.cases],
    }


def _case(explained: Explanation, verdict: Verdict, case: Case) -> dict[str, Any]:
    small = cache(thumbnail)
    score = case.score
    whole = 0.0 if score is None else float(score.values.sum() + score.constant)
    return {
        "name": explained.names[case.code],
        "value": case.value,
        "terms": case.terms,
        "fused": verdict.kind == "ensemble",
        "biased": verdict.kind != "centroid",
        "linear": SCORES.get(verdict.kind),
        "score": whole,
        # The run's own networks are less precise than those that places are told by.
        "apart": score is not None and abs(whole - case.terms[0].value) > SEEN,
        "constant": score is not None and abs(score.constant) > SEEN and score.constant,
        "picture": score and pictured(overlay(explained.photograph, score.map)),
        "voters": [
            {
                "id": explained.ids[voter.row],
                "rank": voter.rank,
                "similarity": voter.similarity - voter.bonus,
                "bonus": voter.bonus,
                "share": voter.share,
                "correction": voter.correction,
                "picture": small(explained.sources[voter.row], VOTER_SIDE)
                if place < VOTERS
                else None,
            }
            for place, voter in enumerate(case.voters)
        ],
    }


def _data(explained: Explanation) -> dict[str, Any]:
    """What the script draws."""
    shares, matched = explained.shares, explained.matches
    data: dict[str, Any] = {"modes": [], "grids": [[1, 1], [1, 1]], "maps": [[0], [0]]}
    if shares is not None:
        sides = shares.query, shares.gallery
        unit = max(float(np.abs(shares.pairs).max()), 1e-12) / WHOLE
        data |= {
            "modes": ["Places"],
            "similarity": round(shares.similarity, 5),
            "grids": [[one.grid.rows, one.grid.columns] for one in sides],
            "maps": [[round(value, 5) for value in one.values.tolist()] for one in sides],
            "pairs": np.rint(shares.pairs / unit).astype(int).ravel().tolist(),
            "unit": unit,
            "links": [_rounded(link) for link in explained.place_links()],
            "pieces": [_pieces(one) for one in sides],
        }
        kinds = [part.kind for part in shares.query.pieces if part.kind != "places"]
        if kinds:
            data["modes"].append(" and ".join(dict.fromkeys(kinds)).capitalize())
    if matched is not None and matched.inliers:
        data["modes"].append("Matches")
        pairs = zip(matched.query.tolist(), matched.gallery.tolist(), strict=True)
        data["matches"] = [_rounded(pair) for pair in pairs]
        data["matched"] = f"{matched}."
        data["frame"] = None if matched.frame is None else _rounded(matched.frame.tolist())
    return data


def _pieces(side: Side) -> list[list[float]]:
    """Whether it is a line, its two corners or ends, and its share: those with the largest."""
    rows = [
        [float(part.kind == "lines"), *mark, value]
        for part in side.pieces
        if part.kind != "places"
        for mark, value in zip(part.marks.tolist(), part.values.tolist(), strict=True)
    ]
    rows.sort(key=lambda row: -abs(row[5]))
    return [[*(round(one, 4) for one in row[:5]), round(row[5], 6)] for row in rows[:PIECES]]


def _rounded(places: Any) -> list[list[float]]:
    found = [[round(float(one), 4) for one in place] for place in places]
    return [place for place in found if all(math.isfinite(one) for one in place)]
