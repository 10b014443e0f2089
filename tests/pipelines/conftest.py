"""What tests of runs and of the command line share."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli
from pipelines.progress import console
from tests.photographs import write_data_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 gallery photographs of six landmarks, eight of none; each module's own."""
    return write_data_set(tmp_path_factory.mktemp("data"))


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., str]:
    if CHROMIUM is None:
        pytest.skip("chromium is not on PATH: the page was not opened in a browser")

    def opened(page: Path, *options: str) -> str:
        command = [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"),
            *options,
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        return done.stdout.decode()

    return opened


class Terminal(io.TextIOWrapper):
    """Where somebody sits."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def landmarks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `landmarks ARGUMENTS`, with some standard input: exit code, output, errors."""

    def run(*arguments: object, stdin: str = "", terminal: bool = False) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["landmarks", *map(str, arguments)])
        kind = Terminal if terminal else io.TextIOWrapper
        monkeypatch.setattr(sys, "stdin", kind(io.BytesIO(stdin.encode())))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(console, "width", 400)
        capsys.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        out, err = capsys.readouterr()
        return int(code), out, err

    return run
