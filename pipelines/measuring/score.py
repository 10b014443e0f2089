"""The figures of a submission for a terminal."""

from __future__ import annotations

from rich.table import Table

from retrieval.evaluation.submissions import Score

TITLES = {
    "queries": "queries",
    "with_landmark": "of a landmark",
    "answered": "answered",
    "gap": "GAP",
    "top1": "top-1",
    "map100": "mAP@100",
}


def score_table(score: Score) -> Table:
    """A row for each part of the solution; counts as they are, figures with five decimals."""
    table = Table(title=f"Google Landmarks {score.kind}")
    table.add_column("usage")
    for key in score.figures["all"]:
        table.add_column(TITLES[key], justify="right")
    for usage, figures in score.figures.items():
        table.add_row(usage, *map(_cell, figures.values()))
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.5f}"
