"""What tests of runs look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLOCKS = (".lock", "timings.json")
"""Files that tell of the time of day."""


def contents(run: Path) -> dict[str, Any]:
    """Every file of a run by its path, but for what tells of the time of day."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.name not in CLOCKS:
            found[str(path.relative_to(run))] = path.read_bytes()
    record = json.loads(found.pop("run.json"))
    del record["timings"]
    return {**found, "run.json": record}
