"""``landmarks score``: its table, its JSON, its mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipelines import cli

pytestmark = pytest.mark.usefixtures("root_logger")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    answers, solution = tmp_path / "answers.csv", tmp_path / "solution.csv"
    answers.write_text("id,landmarks\na,1 .5\nb,1 .25\n")
    solution.write_text("id,landmarks,Usage\na,,Public\nb,1,Public\nc,2 1,Private\n")
    return [str(answers), str(solution)]


def test_it_prints_the_parts(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["landmarks", "score", *files])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    table = capsys.readouterr().err
    assert "Google Landmarks recognition" in table
    lines = {line.split()[1]: line.split() for line in table.splitlines() if "│" in line}
    assert [lines[one][9] for one in ("Public", "Private", "all")] == [
        "0.50000",
        "0.00000",
        "0.25000",
    ]
    monkeypatch.setattr(sys, "argv", ["landmarks", "score", "--json", *files])
    with pytest.raises(SystemExit):
        cli.main()
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "recognition"
    assert found["all"] == {"queries": 3, "with_landmark": 2, "answered": 2,
                            "gap": 0.25, "top1": 0.5}  # fmt: skip


def test_a_mistake_is_one_line(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["landmarks", "score", *reversed(files)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith("no column Usage among id,landmarks\n")
