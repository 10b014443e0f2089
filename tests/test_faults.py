"""The faults that are measured: a few of each, all as they should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_few_faults_of_each_kind_do_no_harm(tmp_path: Path) -> None:
    out = tmp_path / "faults.md"
    done = subprocess.run(
        [sys.executable, "benchmarks/faults.py", "--small", "--out", str(out)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    page = out.read_text()
    for kind in ("`remove` killed", "on a full disk", "read-only folder", "files of a run damaged",
                 "photographs of 7 formats mutated", "configs mutated"):  # fmt: skip
        assert kind in page
    assert "Traceback" not in done.stderr
