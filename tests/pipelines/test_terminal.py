"""Answers on the terminal, of a system that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.lists.inputs import opened
from pipelines.terminal import show
from tests.pipelines.fakes import QUICK, FakeSystem, photographs

PHOTOGRAPHS = photographs(4)


def shown(capsys: pytest.CaptureFixture[str], *given: Path, top: int = 3) -> tuple[int, list[str]]:
    with opened([str(one) for one in given]) as found:
        failed = show(FakeSystem(), found, QUICK, top, False, name="the {} one".format)
    return failed, capsys.readouterr().out.splitlines()


def test_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(PHOTOGRAPHS["3.jpg"])
    failed, lines = shown(capsys, tmp_path / "a.jpg", top=2)
    assert failed == 0
    assert lines[0] == str(tmp_path / "a.jpg")
    assert [line.split(maxsplit=1)[0] for line in lines[1:4]] == [
        "answer", "probability", "candidates"
    ]  # fmt: skip
    answer = lines[1].split(maxsplit=1)[1]
    assert answer in ("r, the channel (r)", "g, the channel (g)", "b, the channel (b)")
    assert lines[3].split(maxsplit=1)[1].startswith(f"the {answer[0]} one ({answer[0]})  ")
    assert lines[5:] == [
        "  nearest          g1  1.000", "                   g2  0.500",
        "                   g3  0.333",
    ]  # fmt: skip


def test_none_tells_its_best_candidate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dark.jpg").write_bytes(PHOTOGRAPHS["0.jpg"])
    _, lines = shown(capsys, tmp_path / "dark.jpg", top=1)
    assert lines[1] == "  answer           none"
    assert lines[2].endswith(", of the best candidate")
    assert lines[3].startswith("  candidates       the ")


def test_names_do_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a\x1b[2J\n.jpg").write_bytes(b"nothing")
    failed, lines = shown(capsys, tmp_path / "a\x1b[2J\n.jpg")
    assert failed == 1
    assert lines[0] == rf"{tmp_path}/a\x1b[2J\n.jpg"
    assert lines[1].startswith("  decode failed    not a photograph")
