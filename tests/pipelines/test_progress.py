"""Progress where nobody watches: lines in the log; and on a terminal: a bar."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from pipelines import progress
from pipelines.progress import progress_bar


class Clock:
    """A clock that is wound by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    wound = Clock()
    monkeypatch.setattr(progress, "time", wound)
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=False))
    return wound


def test_a_line_every_ten_seconds_and_one_at_the_end(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with progress_bar("describing", 4000) as report:
        for _ in range(30):
            clock.now += 1
            report(100, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "describing: 1,100 of 4,000, 11 failed, 100.0 /s, 11 s, 29 s left",
        "describing: 2,200 of 4,000, 22 failed, 100.0 /s, 22 s, 18 s left",
        "describing: 3,000 of 4,000, 30 failed, 100.0 /s, 30 s, 10 s left",
    ]


def test_a_total_that_is_not_known_and_nothing_that_failed(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with progress_bar("fetching", None) as report:
        clock.now += 2
        report(5, 0)
    assert caplog.messages == ["fetching: 5, 2.5 /s, 2 s"]


def test_what_is_finished_has_no_time_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with progress_bar("describing", 5) as report:
        clock.now += 1
        report(5, 0)
    with progress_bar("describing", 0):
        pass
    assert caplog.messages[0] == "describing: 5 of 5, 5.0 /s, 1 s"
    assert caplog.messages[1].startswith("describing: 0 of 0, 0.0 /s")


def test_on_a_terminal_there_is_a_bar_and_no_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=120))
    with progress_bar("describing", 8) as report:
        report(3, 1)
        report(5, 1)
    shown = screen.getvalue()
    assert "describing" in shown
    assert "8/8" in shown
    assert "2 failed" in shown
    assert not caplog.records
