"""Plots as inline SVG that takes its colours from the page, so they follow light and dark.

Matplotlib draws with placeholder colours, and each placeholder becomes a CSS variable of the page.
Text stays text: it can be selected, searched and read aloud. The bytes depend on the figures
alone, neither on the clock nor on random ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from pipelines.report import curves
from pipelines.report.measured import ClassifierResult, Measured

# Placeholder colour -> the page's variable. Only their being distinct matters.
INK: Final = "#0a0b01"
MUTED: Final = "#0a0b02"
LINE: Final = "#0a0b03"
CARD: Final = "#0a0b04"
SERIES: Final = ("#0a0b11", "#0a0b12", "#0a0b13", "#0a0b14")
VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    CARD: "--card",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)},
}
# Series differ in line and marker too: colour alone does not reach everybody.
DASHES: Final[tuple[Any, ...]] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (7, 2, 1.5, 2)))
MARKERS: Final = ("o", "s", "^", "D")

LINE_OF_LEGEND: Final = 0.22  # inches
WIDTH: Final = 4.7  # inches of 72 SVG units: near a phone's width, where text keeps its size
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.edgecolor": LINE,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "legend.handlelength": 2.2,
    "legend.labelcolor": INK,
    "lines.linewidth": 2.0,
    "figure.facecolor": "none",
}


def precision_recall_plot(measured: Measured) -> str:
    """Precision against recall over the pooled answers; GAP is what lies below."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, result in enumerate(measured.results):
            curve = curves.precision_recall(measured, result)
            axes.plot(curve.x, curve.y, **_line(number), label=_with(result, "gap"))
            if result.name == measured.answer and curve.x.size:
                axes.fill_between(curve.x, curve.y, color=_colour(number), alpha=0.09, lw=0)
        _shares(axes, "recall: landmark photographs found", "precision")
        axes.set(xlim=(0, 1.005), ylim=(0, 1.03))
        _legend(axes, "lower left")

    return _svg("precision-recall", 3.3, draw)


def rejection_plot(measured: Measured) -> str:
    """Landmark photographs named right against others accepted, with the chosen point."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        reach = 0.1
        for number, result in enumerate(measured.results):
            curve = curves.rejection(measured, result)
            axes.plot(curve.x, curve.y, **_line(number), label=result.name)
            if curve.chosen is not None:
                reach = max(reach, 2.5 * curve.chosen[0])
                axes.plot(*curve.chosen, **_marker(number), ms=9)
        _shares(axes, "photographs of no landmark accepted", "landmarks named right")
        reach = min(1.0, reach)
        axes.set(xlim=(-0.01 * reach, reach), ylim=(0, 1.03))
        _legend(axes, "lower right")

    return _svg("rejection", 3.3, draw)


def reliability_plot(measured: Measured) -> str:
    """Share right against probability promised; the diagonal is a promise kept."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (2, 3)))
        for number, result in enumerate(measured.results):
            found = curves.calibration(measured, result)
            label = f"{result.name}, off by {found.error:.3f}" if found.count.size else result.name
            axes.plot(found.promised, found.right, **_line(number), label=label, alpha=0.75)
            sizes = 18 + 110 * np.sqrt(found.count / max(1, found.count.sum()))
            axes.scatter(
                found.promised,
                found.right,
                sizes,
                color=_colour(number),
                marker=MARKERS[number % len(MARKERS)],
                edgecolors=CARD,
                linewidths=1.2,
                zorder=4,
            )
        _shares(axes, "probability given", "share of answers right")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
        _legend_below(figure, axes)

    return _svg("reliability", 3.3 + LINE_OF_LEGEND * len(measured.results), draw)


def score_plot(measured: Measured) -> str:
    """Confidences of landmark photographs and of others, with the threshold, by classifier."""
    rows = len(measured.results)

    def draw(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(rows, 1))
        for number, (result, axes) in enumerate(zip(measured.results, panels, strict=True)):
            _histogram(axes, measured, result, number)
        panels[-1].set_xlabel("confidence")

    return _svg("scores", max(3.3, 1.65 * rows), draw)


def cost_plot(measured: Measured) -> str:
    """GAP against what a photograph takes: bytes in the index, milliseconds to describe."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for number, result in enumerate(measured.results):
            if result.cost is None:
                continue
            gap = result.metrics["gap"]
            low, high = result.intervals.get("gap", (gap, gap))
            across = result.cost.bytes_per_image, 1000 * result.cost.seconds_per_image
            for axes, x in zip(panels, across, strict=True):
                if np.isfinite(x) and x > 0:
                    axes.vlines(x, low, high, color=_colour(number), lw=1.4, alpha=0.6)
                    axes.plot(x, gap, **_marker(number), ms=9, label=result.name)
        for axes, title in zip(panels, ("bytes", "milliseconds"), strict=True):
            axes.set_xscale("log")
            axes.set_xlabel(f"{title} a photograph")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.margins(x=0.25)
        panels[0].set_title("GAP", loc="left", fontsize=10, color=MUTED)
        _legend_below(figure, panels[0])

    return _svg("cost", 2.6 + LINE_OF_LEGEND * len(measured.results), draw)


def _histogram(axes: Axes, measured: Measured, result: ClassifierResult, number: int) -> None:
    landmark, none = curves.answered_confidences(measured, result)
    together = np.concatenate((landmark, none)).astype(np.float64)
    if together.size:
        # A few far outliers must not squeeze everything else into one bar.
        low, high = np.quantile(together, (0.002, 0.998))
        edges = np.linspace(low, high if high > low else low + 1.0, 36)
        kinds = ((none, MUTED, 0.45, "no landmark"), (landmark, _colour(number), 0.6, "landmark"))
        for values, colour, alpha, label in kinds:
            weights = np.full(values.size, 1.0 / max(1, values.size))
            shown = np.clip(values, low, edges[-1])
            axes.hist(
                shown, edges.tolist(), weights=weights, lw=0, color=colour, alpha=alpha, label=label
            )
    top = axes.get_ylim()[1]
    if result.threshold is not None and np.isfinite(result.threshold):
        axes.axvline(result.threshold, color=INK, lw=1.2, ls=(0, (4, 2)))
        axes.annotate(
            "threshold",
            (result.threshold, top),
            xytext=(4, -1),
            textcoords="offset points",
            va="top",
            fontsize=9.5,
            color=INK,
        )
    axes.set_ylim(0, top)
    axes.set_title(result.name, loc="left", fontsize=10.5, color=INK, fontweight="bold")
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(visible=False, axis="x")
    if together.size:
        # Above the panel, where no bar can lie under it.
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 0.98),
            borderaxespad=0.2,
            ncols=2,
            handlelength=1.2,
            handletextpad=0.5,
            fontsize=9.5,
        )


def _shares(axes: Axes, across: str, up: str) -> None:
    """Both axes are shares: percent signs, few ticks."""
    axes.set_xlabel(across)
    axes.set_title(up, loc="left", fontsize=10, color=MUTED)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))


def _line(number: int) -> dict[str, Any]:
    return {"color": _colour(number), "ls": DASHES[number % len(DASHES)]}


def _marker(number: int) -> dict[str, Any]:
    return {
        "marker": MARKERS[number % len(MARKERS)],
        "mfc": _colour(number),
        "mec": CARD,
        "mew": 1.5,
        "ls": "none",
        "zorder": 4,
    }


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _with(result: ClassifierResult, metric: str) -> str:
    return f"{result.name}, {metric.upper()} {result.metrics[metric]:.3f}"


def _legend(axes: Axes, place: Literal["lower left", "lower right"]) -> None:
    axes.legend(loc=place, handletextpad=0.6, borderaxespad=0.2, labelspacing=0.3)


def _legend_below(figure: Figure, axes: Axes) -> None:
    """For plots whose curves may run anywhere."""
    names = axes.get_legend_handles_labels()
    figure.legend(*names, loc="outside lower left", handletextpad=0.4, labelspacing=0.3)


def _svg(name: str, height: float, draw: Callable[[Figure], None]) -> str:
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    return _for_a_page(file.getvalue())


_CUTS: Final[Sequence[tuple[str, str]]] = (
    (r"\A.*?(?=<svg)", ""),  # XML declaration and document type
    (r"<metadata>.*?</metadata>", ""),
    (r"<style[^>]*>.*?</style>", ""),  # it would apply to the whole page; page.css has it
    (r'<g id="[^"]*"', "<g"),  # figure_1, axes_1 …: the next plot has the same
    (r' xmlns(:xlink)?="[^"]*"', ""),
    (r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true" focusable="false">'),
    (r"<!--.*?-->", ""),
    (r"\n\s*", "\n"),
)


def _for_a_page(svg: str) -> str:
    """Strip what belongs to a file of its own, and bind the colours to the page's variables."""
    for pattern, replacement in _CUTS:
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.strip()
