"""What was found out about a run's explanations, kept in the run; beside it where that cannot be.

Nothing is answered by it: the run stays the run that it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from retrieval.errors import WriteError
from retrieval.storage.files import read_sealed, write_sealed
from retrieval.storage.fingerprint import fingerprint

log = logging.getLogger(__name__)

FOLDER: Final = "explained"
CHECKS: Final = "checks.json"
CONCEPTS: Final = "concepts.json"
DESCRIBER: Final = "describer"


def keep(run: Path, name: str, describer: Any, found: Mapping[str, Any]) -> Path:
    """Write what was found, and say where.

    Args:
        run: the run's folder.
        name: of the file.
        describer: what run.json says of it: of another one nothing was found.
        found: JSON.

    Raises:
        WriteError: neither place can be written.
    """
    own, beside = _places(run, name)
    value = {**found, DESCRIBER: fingerprint(describer)}
    try:
        own.parent.mkdir(exist_ok=True)
        write_sealed(own, value)
        return own
    except (OSError, WriteError) as error:
        log.warning("%s: this is kept beside the run, in %s", error, beside)
    try:
        beside.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise WriteError(f"{beside.parent}: {error.strerror}") from None
    write_sealed(beside, value)
    return beside


def kept(run: Path, name: str, describer: Any) -> dict[str, Any] | None:
    """What was found; ``None`` where nothing was, or of another describer.

    Raises:
        RunError: the file is damaged.
    """
    for path in _places(run, name):
        if path.is_file():
            found = read_sealed(path, f"delete {path.parent}")
            if found.pop(DESCRIBER, None) == fingerprint(describer):
                return found
    return None


def _places(run: Path, name: str) -> Iterator[Path]:
    yield run / FOLDER / name
    resolved = run.resolve()
    yield resolved.with_name(f"{resolved.name}.{FOLDER}") / name
