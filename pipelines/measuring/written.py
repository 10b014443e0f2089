"""What an evaluation writes: figures as JSON, answers and a submission as CSV, and the report."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from pipelines.lists.formats import csv_line
from pipelines.report.curves import per_landmark
from pipelines.report.measured import (
    ClassifierResult,
    Measured,
)
from pipelines.report.page import METRICS, render
from retrieval.evaluation.intervals import Difference
from retrieval.storage.files import atomic_write, write_json

log = logging.getLogger(__name__)


def write_evaluation(measured: Measured, out: Path) -> dict[str, Any]:
    """Write what was measured, and return the figures.

    Args:
        measured: what was measured.
        out: the folder for ``metrics.json``, ``predictions.csv``, ``per_landmark.csv``,
            ``submission.csv`` and ``report.html``, each written whole or not at all.

    Returns:
        the content of ``metrics.json``: for each classifier its figures, with their intervals
        where there are any, and beside them ``seconds_per_image``, ``bytes_per_image``,
        ``answer``, ``conditions``, ``per_source`` and ``paired``; ``None`` where a figure is
        undefined, as a false-accept rate is without photographs of no landmark.
    """
    figures = as_json(measured)
    write_json(out / "metrics.json", figures)
    atomic_write(out / "predictions.csv", predictions_csv(measured))
    atomic_write(out / "per_landmark.csv", _csv(per_landmark(measured)))
    if not (out / "submission.csv").exists():  # said once, and not at each evaluation
        _warn_of_spaces(measured.landmarks)
    atomic_write(out / "submission.csv", submission_csv(measured))
    atomic_write(out / "report.html", render(measured))
    return figures


def as_json(measured: Measured) -> dict[str, Any]:
    """The content of ``metrics.json``: NaN and infinities become ``None``."""
    caveats = {one.name: list(one.caveats) for one in measured.results if one.caveats}
    return {
        **{result.name: figures_json(result) for result in measured.results},
        "seconds_per_image": _finite(measured.seconds_per_image),
        "bytes_per_image": _finite(measured.bytes_per_image),
        "answer": measured.answer,
        **({"caveats": caveats} if caveats else {}),
        "conditions": dict(measured.conditions),
        **({"per_source": _per_source(measured)} if len(measured.origins) else {}),
        "paired": {
            name: {key: difference_json(one) for key, one in found.items()}
            for name, found in measured.paired.items()
        },
    }


def _per_source(measured: Measured) -> dict[str, dict[str, Any]]:
    return {
        one.origin: {
            "queries": one.queries,
            "with_landmark": one.with_landmark,
            **{
                name: {key: _finite(value) for key, value in figures.items()}
                for name, figures in one.figures.items()
            },
        }
        for one in measured.per_origin
    }


def figures_json(result: ClassifierResult) -> dict[str, Any]:
    """A classifier's figures, costs and intervals; ``None`` where one is undefined."""
    costs = {} if result.cost is None else asdict(result.cost)
    intervals = {f"{key}_interval": _ends(one) for key, one in result.intervals.items()}
    return {key: _finite(one) for key, one in {**result.metrics, **costs}.items()} | intervals


def difference_json(found: Difference) -> dict[str, Any]:
    """A paired difference with its interval and chance."""
    return {
        "difference": _finite(found.value), "interval": _ends(found.interval), "p": found.p,
    }  # fmt: skip


def _ends(interval: tuple[float, float]) -> list[float] | None:
    return None if math.isnan(interval[0]) else list(interval)


def predictions_csv(measured: Measured) -> bytes:
    """One line a test row: id, truth, status, reason, and four columns for each classifier.

    ``<classifier>_answer`` is its best candidate, ``_probability`` that the candidate is right,
    ``_accepted`` whether it is named rather than "none", and ``_right`` whether that final answer
    is right. All four are empty where the photograph failed.
    """
    columns: dict[str, Any] = {
        "id": measured.ids,
        "truth": measured.truth,
        "status": measured.statuses,
        "reason": measured.reasons,
    }
    landmarks = np.array([*measured.landmarks, None], dtype=object)  # code -1 is the last
    for result in measured.results:
        described = measured.ok
        columns[f"{result.name}_answer"] = landmarks[result.best]
        columns[f"{result.name}_probability"] = [_number(one) for one in result.probability]
        columns[f"{result.name}_accepted"] = _booleans(result.accepted, described)
        columns[f"{result.name}_right"] = _booleans(measured.answered_right(result), described)
    return _csv(columns)


def submission_csv(measured: Measured) -> bytes:
    """The challenge's form, ``id,landmarks``: "<landmark> <confidence>", or empty without answer.

    The best candidates of the answering classifier, accepted or not: GAP sets no threshold, and
    takes the confidence for the ranking alone.
    """
    result = measured.answering
    cells = [
        f"{measured.landmarks[code]} {_number(confidence)}"
        if code >= 0 and _number(confidence)
        else ""
        for code, confidence in zip(result.best.tolist(), result.confidence, strict=True)
    ]
    return _csv({"id": measured.ids, "landmarks": cells})


def _warn_of_spaces(landmarks: Sequence[str]) -> None:
    spaced = next((one for one in landmarks if len(one.split()) != 1), None)
    if spaced is not None:
        log.warning(
            "landmark id %r holds a space: readers of submission.csv that expect exactly"
            " '<landmark> <score>' will refuse its rows",
            spaced,
        )


def figures_table(figures: Mapping[str, Any]) -> Table:
    """The figures of ``metrics.json`` for a terminal."""
    table = Table(title=f"{figures['conditions']['config']}: {_conditions_line(figures)}")
    table.add_column("classifier")
    for metric in METRICS:
        table.add_column(metric.title, justify="right")
    for name, values in figures.items():
        if isinstance(values, Mapping) and "gap" in values:
            cells = ["–" if values[m.key] is None else f"{values[m.key]:.3f}" for m in METRICS]
            table.add_row(f"{name} *" if name == figures["answer"] else name, *cells)
    seconds = figures["seconds_per_image"]
    share = figures["conditions"].get("share_of_landmark_photographs")
    at_share = figures[figures["answer"]].get("precision_at_share")
    table.caption = (
        f"* answers; {figures['bytes_per_image']:,.0f} bytes a photograph"
        + (f", {1000 * seconds:.1f} ms each to describe" if seconds else "")
        + ("" if at_share is None else
           f"; its precision were {share:.2%} landmark photographs: {at_share:.3f}")
        + "".join(f"\n{one}" for one in figures.get("caveats", {}).get(figures["answer"], ()))
    )  # fmt: skip
    return table


def _conditions_line(figures: Mapping[str, Any]) -> str:
    conditions = figures["conditions"]
    return (
        f"{conditions['queries_with_landmark']:,} landmark queries,"
        f" {conditions['queries_without_landmark']:,} of none"
    )


def _csv(columns: Mapping[str, Any] | pd.DataFrame) -> bytes:
    frame = pd.DataFrame(columns).astype(object)
    filled = frame.where(frame.notna(), "")
    rows = filled.itertuples(index=False, name=None)
    return b"".join([csv_line(frame.columns), *(csv_line(row) for row in rows)])


def _number(value: np.float32) -> str:
    """The shortest text that reads back as the same float32; empty where there is no number."""
    return str(value) if np.isfinite(value) else ""


def _booleans(values: NDArray[np.bool_], where: NDArray[np.bool_]) -> list[str]:
    return [
        str(bool(value)).lower() if there else ""
        for value, there in zip(values, where, strict=True)
    ]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
