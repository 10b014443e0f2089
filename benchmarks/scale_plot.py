"""Draw how the stages of a large run grow, from what scale.py and scale_run.py measured.

    python benchmarks/scale_plot.py

Writes results/scale-growth.svg: seconds by rows, both logarithmic; a grey line shows n log n.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrieval.changes import SMALL

RESULTS = Path(__file__).parent / "results"
ONCE = {
    "build_seconds": "index built",
    "search_seconds": "1,000 queries, nprobe 64",
    "vote_seconds": "1,000 votes",
}
WHOLE = {
    "rows collected from shards": "rows collected",
    "index trained": "index built",
    "centroid fitted": "centroid",
    "knn fitted": "vote fitted",
    "svm fitted": "SVM fitted",
    "svm: held-out scores": "SVM held out",
    "117,577 queries judged": "117,577 queries judged",
    "1,000 photographs of": "1,000 added",
    "1,000 photographs removed": "1,000 removed",
}
Lines = Mapping[str, Sequence[tuple[int, float]]]


def main() -> None:
    files = [RESULTS / name for name in ("scale.json", "scale-run.json")]
    once, whole = (json.loads(one.read_text())["lines"] for one in files)
    with rc_context({"svg.hashsalt": "scale", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 3.8), facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2)
        drawn(left, by_column(once), "Index, search, vote")
        drawn(right, by_stage(whole), "Stages of a whole run")
        figure.savefig(RESULTS / "scale-growth.svg", metadata={"Date": None})


def by_column(lines: Sequence[Mapping[str, Any]]) -> Lines:
    """Of the undivided inverted files, searched with nprobe 64."""
    found = defaultdict(list)
    for line in lines:
        if line["nprobe"] == 64 and line.get("shard") is None:
            for name, told in ONCE.items():
                found[told].append((line["rows"], line[name]))
    return found


def by_stage(lines: Sequence[Mapping[str, Any]]) -> Lines:
    found = defaultdict(list)
    for line in lines:
        if line["part"] in ("add", "remove") and line["rows"] <= SMALL:  # all is fitted anew
            continue
        for begun, told in WHOLE.items():
            if line["stage"].startswith(begun):
                found[told].append((line["rows"], line["seconds"]))
    return found


def drawn(axes: Axes, lines: Lines, title: str) -> None:
    markers = "os^Dvp<>*"
    for marker, (told, points) in zip(markers, lines.items(), strict=False):
        axes.plot(*zip(*sorted(points), strict=True), marker=marker, markersize=4, label=told)
    sizes = [rows for points in lines.values() for rows, _ in points]
    rows = np.geomspace(min(sizes), max(sizes), 50)
    least = min(seconds for points in lines.values() for _, seconds in points)
    guide = rows * np.log(rows)
    axes.plot(rows, guide / guide[0] * least, color="0.6", linestyle=":", label="n log n")
    axes.set(xscale="log", yscale="log", title=title, xlabel="gallery rows", ylabel="seconds")
    axes.grid(color="0.9")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


if __name__ == "__main__":
    main()
