"""The benchmarks that need what is seldom at hand, run small so that they cannot rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PARTS = ("extraction", "training", "search")


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": "/tmp"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_gpus_benchmark_runs_on_a_processor(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    done = benchmark("--device", "cpu", "--small", "--out", str(out), "--parts", *PARTS)
    assert done.returncode == 0, done.stderr
    told = out.read_text()
    assert "no GPU: a dry run" in told
    for row in ("| resnet18 | ", "| Flat | ", "| SQfp16 | ", "| IVF16,SQ8 | ", "s for an epoch on"):
        assert row in told
    # What is told is told as it comes, and stays.
    for line in told.splitlines():
        assert line in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_what_there_would_be(tmp_path: Path) -> None:
    done = benchmark("--out", str(tmp_path / "gpu.md"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("no GPU to measure (torch finds none); with one, this runs tests")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "gpu.md").exists()
