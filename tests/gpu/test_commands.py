"""The commands with ``--device cuda`` beside ``--device cpu``, on rendered photographs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipelines.demo.rendering.data_set import render_data_set
from pipelines.main import main

# Float32 everywhere, so that what differs is the device alone.
SYSTEMS = {
    "resnet50-gem": ["extractor.weights=none", "extractor.precision=float32",
                     "extractor.size=224", "whitening.dimension=32"],
    "hog": ["whitening.dimension=32"],
}  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    render_data_set(folder, landmarks=6, gallery_views=7, query_views=3, none=40)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, root_logger: None) -> Callable[..., int]:
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["landmarks", *map(str, arguments)])
        try:
            main()
        except SystemExit as leaving:
            return int(leaving.code or 0)
        return 0

    return run


@pytest.mark.parametrize("system", SYSTEMS)
def test_answers_are_the_processors(
    system: str, photographs: Path, tmp_path: Path, command: Callable[..., int]
) -> None:
    table = pd.read_csv(photographs / "test.csv", dtype=str, keep_default_na=False)
    urls = tmp_path / "urls.csv"
    table.assign(url=[str(photographs / path) for path in table["path"]])[["id", "url"]].to_csv(
        urls, index=False
    )
    changes = [f"--set={change}" for change in SYSTEMS[system]]
    answers, figures = {}, {}
    for device in ("cpu", "cuda"):
        run, out = tmp_path / device, tmp_path / f"{device}.csv"
        on = ("--device", device)
        built = command("index", "--config", system, "--data", photographs, "--run", run,
                        *on, *changes)  # fmt: skip
        assert built == 0
        assert command("evaluate", "--run", run, "--data", photographs, *on) == 0
        assert command("classify", urls, "--out", out, "--run", run, *on) == 0
        answers[device] = pd.read_csv(out, dtype=str, keep_default_na=False)
        told = json.loads((run / "evaluation" / "metrics.json").read_text())
        figures[device] = told["classifiers"]["knn"]["gap"]
    cpu, cuda = answers["cpu"], answers["cuda"]
    assert list(cpu["id"]) == list(cuda["id"])
    assert set(cuda["status"]) == {"ok"}
    # A tie, or a photograph at the threshold, may fall the other way.
    assert (cpu["landmark"] == cuda["landmark"]).mean() >= 0.97
    assert figures["cuda"] == pytest.approx(figures["cpu"], abs=0.01)


def test_too_little_memory_is_one_line(
    photographs: Path,
    tmp_path: Path,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 40e6) / total)
    try:
        code = command(
            *("index", "--config", "resnet50-gem", "--data", photographs),
            *("--run", tmp_path / "run", "--device", "cuda", "--set", "extractor.weights=none"),
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "GPU's memory" in line]
    assert len(told) == 1
    assert told[0].startswith("landmarks: the GPU's memory ran out")
