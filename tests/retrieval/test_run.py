"""A run's stages: made once, and again where recipe or files are others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from retrieval.run import CLASSIFIERS, Run
from retrieval.storage.files import write_json


def test_a_stage_is_made_again_where_its_recipe_or_its_files_are_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run, made = Run(tmp_path), [0]
    file = run.classifiers / "one.json"

    def make() -> Mapping[str, Any]:
        made[0] += 1
        write_json(file, made)
        return {"answer": made[0]}

    def stage(rule: int) -> Any:
        caplog.clear()
        return run.stage(CLASSIFIERS, {"k": 3, "vote": {"rules": (1, rule)}}, make)["answer"]

    assert stage(2) == 1
    assert stage(2) == 1
    assert caplog.messages == ["classifiers: nothing changed"]
    assert stage(5) == 2
    assert caplog.messages == ["classifiers: vote.rules changed, so it is made anew"]
    file.write_text("{}")
    assert stage(5) == 3
    assert caplog.messages == [f"{file} is missing or damaged: made anew"]
    note = run.stages / "classifiers.json"
    note.write_text(note.read_text().replace("3", "4"))
    assert stage(5) == 4
    assert "classifiers.json is missing or damaged" in caplog.text


def test_a_stage_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def cut_short() -> Mapping[str, Any]:
        raise KeyboardInterrupt

    assert run.stage(CLASSIFIERS, {"k": 3}, lambda: {"answer": "one"}) == {"answer": "one"}
    with pytest.raises(KeyboardInterrupt):
        run.stage(CLASSIFIERS, {"k": 4}, cut_short)
    assert run.stage(CLASSIFIERS, {"k": 3}, lambda: {"answer": "two"}) == {"answer": "two"}


def test_what_is_described_within_a_stage_counts_as_describing_alone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_json(run.timings, {"features": {"seconds": 20.0}})

    def make() -> Mapping[str, Any]:
        write_json(run.timings, {"features": {"seconds": 20.0}, "views": {"seconds": 300.0}})
        return {}

    run.stage(CLASSIFIERS, {}, make)
    assert run.seconds_of_stages() == {CLASSIFIERS: 0.0}
    assert run.seconds_describing() == 320.0
