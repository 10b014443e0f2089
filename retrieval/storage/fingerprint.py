"""What bytes and configs are told by: checksums, and the field in which two differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def seal(value: Any) -> str:
    """The SHA-256 of a JSON value, however it is indented."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(paths: Sequence[Path]) -> list[str | None]:
    """The :func:`checksum` of each file, several at a time; ``None`` for one that is not there."""

    def one(path: Path) -> str | None:
        try:
            return checksum(path)
        except OSError:
            return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, paths))


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The dotted path of the first field in which two JSON values differ, or ``None``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{path}.{key}" if path else str(key)
            if key not in old or key not in new:
                return inner
            found = first_difference(old[key], new[key], inner)
            if found is not None:
                return found
        return None
    return None if old == new else (path or "value")
