"""One progress bar with rate, failures and time left; quiet when not on a terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

log = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""Takes the rows done since the last call, and how many of those failed."""

SECONDS_BETWEEN_LINES: Final = 10.0

# Without markup: a folder may be named [old].
console = Console(stderr=True, markup=False)


def say(*lines: str, style: str | None = None) -> None:
    """Print lines, which a terminal breaks where it ends."""
    for line in lines:
        console.print(line, style=style, highlight=False, soft_wrap=True)


class RateColumn(ProgressColumn):
    """Rows a second, and how many failed."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        text = Text("– /s" if not rate else f"{rate:,.1f} /s", style="cyan")
        failed = int(task.fields.get("failed", 0))
        return text.append(f"  {failed:,} failed", style="red") if failed else text


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Report]:
    """A bar on a terminal; elsewhere a log line every ten seconds and one at the end.

    Args:
        what: is done, as a participle ("describing").
        total: rows, or ``None`` where it is not known.

    Yields:
        the callback that takes (rows done since the last call, of those failed).
    """
    if console.is_terminal:
        with _bar(what, total) as report:
            yield report
    else:
        with _lines(what, total) as report:
            yield report


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    failures = 0
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task(what, total=total, failed=0)

        def report(done: int, failed: int) -> None:
            nonlocal failures
            failures += failed
            progress.update(task, advance=done, failed=failures)

        yield report


@contextmanager
def _lines(what: str, total: int | None) -> Iterator[Report]:
    begun = last = time.monotonic()
    rows = failures = 0
    said = -1

    def line() -> str:
        seconds = max(time.monotonic() - begun, 1e-9)
        rate = rows / seconds
        of = f" of {total:,}" if total is not None else ""
        left = f", {(total - rows) / rate:,.0f} s left" if total and rate and rows < total else ""
        failed = f", {failures:,} failed" if failures else ""
        return f"{what}: {rows:,}{of}{failed}, {rate:,.1f} /s, {seconds:,.0f} s{left}"

    def report(done: int, failed: int) -> None:
        nonlocal rows, failures, last, said
        rows += done
        failures += failed
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last, said = time.monotonic(), rows
            log.info(line())

    yield report
    if said != rows:
        log.info(line())
