"""What tests of runs look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.run import Run

CLOCKS = (".lock", "timings.json")
"""Files that tell of the time of day."""
LOCAL: dict[str, Any] = {
    "name": "local",
    "extractor": {"kind": "hog", "side": 64, "cells": [16]},
    "whitening": {"dimension": 16},
    "local": {
        "detector": {"kind": "sift", "size": 128, "keypoints": 60},
        "words": {"kind": "asmk", "words": 16, "assignments": 2},
        "kept": {"features": 40, "dimension": 16},
    },
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


def contents(run: Path) -> dict[str, Any]:
    """Every file of a run by its path, but for what tells of the time of day."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.name not in CLOCKS:
            found[str(path.relative_to(run))] = path.read_bytes()
    record = json.loads(found.pop("run.json"))
    for key in ("timings", "sha256"):
        del record[key]
    return {**found, "run.json": record}
