"""What tests of runs and of the command line share."""

from __future__ import annotations

import io
import re
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


Framed = Callable[[str, str, int], dict[str, str]]


@pytest.fixture
def framed(tmp_path: Path, chromium: Callable[..., str]) -> Framed:
    """Opens a page with a script in its head that writes to its root's data, and gives these.

    Headless Chromium's window is never narrower than 500, so a frame has the phone's width. Its
    policy, which would forbid the script, is taken out.
    """

    def opened(html: str, script: str, width: int) -> dict[str, str]:
        inner = re.sub(r"<meta http-equiv[^>]*>", "", html).replace("</head>", script + "</head>")
        (tmp_path / "inner.html").write_text(inner, encoding="utf-8")
        outer = tmp_path / "outer.html"
        outer.write_text(
            f'<iframe src="inner.html" width="{width}" height="900" style="border:0"></iframe>'
            '<script>addEventListener("load", () => { document.body.append(JSON.stringify('
            "{...document.querySelector('iframe').contentDocument.documentElement.dataset}));"
            "});</script>"
        )
        dom = chromium(outer, "--allow-file-access-from-files", "--dump-dom")
        return dict(re.findall(r'"(\w+)":"(.*?)"', dom))

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
