"""What a plan is asked for as it is written: 16GB, 2h; and its config as `index` takes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pipelines.building.planning import Plan, size
from pipelines.building.proposal import spoken
from pipelines.config import dump_config
from retrieval.errors import ConfigError
from retrieval.storage.files import atomic_write

BYTES: Final = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def bytes_of(option: str, text: str | None) -> float | None:
    """A size such as 16GB.

    Raises:
        ConfigError: it is none.
    """
    return _number(option, text, BYTES, "16GB")


def seconds_of(option: str, text: str | None) -> float | None:
    """A time such as 90s, 30m or 2h.

    Raises:
        ConfigError: it is none.
    """
    return _number(option, text, SECONDS, "90s, 30m, 2h or 1d")


def _number(option: str, text: str | None, units: dict[str, float], such: str) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if found is None or found[2] not in units or not float(found[1]):
        raise ConfigError(f"--{option} {text}: give a number and its unit, such as {such}")
    return float(found[1]) * units[found[2]]


def require_writable(path: Path | None) -> None:
    """Refuse a config's file before anything is planned.

    Raises:
        ConfigError: it is of another kind, or there already.
    """
    if path is None:
        return
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--write {path}: name a file that ends in .yaml")
    if path.exists():
        raise ConfigError(f"--write {path}: is there already: name another file")


def write_config(plan: Plan, path: Path) -> None:
    """Write a plan's system as YAML, headed by what was planned.

    Raises:
        WriteError: it cannot be written.
    """
    work = plan.option.work
    lines = [
        f"planned for {work.gallery:,} photographs of {work.landmarks:,} landmarks and"
        f" {work.bank:,} of none:",
        f"{spoken(plan.seconds)}, {size(plan.memory)} of memory, {size(plan.disk)} of disk",
        *(f"given up: {line}" for line in plan.given_up),
    ]
    head = "".join(f"# {line}\n" for line in lines)
    atomic_write(path, (head + dump_config(plan.option.config)).encode())
