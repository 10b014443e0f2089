"""What tests of runs look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.faults import SYSTEM
from benchmarks.faults import contents as contents
from retrieval.run import Run

LOCAL: dict[str, Any] = {
    **SYSTEM,
    "name": "local",
    "search": {"verification": {"top": 5}},
    "classifiers": {"knn": {"kind": "knn", "k": 5}},
}
"""A small system that searches by words too, and verifies."""


def sealed_anew(run: Path, **changes: Any) -> None:
    """Write run.json as a build would that left the run's files as they are now."""
    record = json.loads((run / "run.json").read_text())
    for key in ("files", "sha256"):
        record.pop(key, None)
    Run(run).write_record({**record, **changes})
