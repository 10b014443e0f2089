"""What restarts: one process at a time writes it, and goes on with what an earlier one began.

Shards, the stages of a run and trainings note the recipe that they were made by, and are made anew
where it differs (:func:`reusable`). A list of predictions has its own rules
(:mod:`pipelines.lists.journal`): it is a user's file, so what differs is refused and nothing goes.
Downloaded archives have the publisher's sums in place of a recipe. What all of them share is that
files come whole (:mod:`retrieval.storage.files`), the lock, and litter of killed processes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from retrieval.errors import RunError, WriteError, without_remedy
from retrieval.storage.files import writing
from retrieval.storage.fingerprint import first_difference

log = logging.getLogger(__name__)

T = TypeVar("T")


def as_json(value: Any) -> Any:
    """A value as it is read back once it is written as JSON."""
    return json.loads(json.dumps(value))


def reusable(
    where: object,
    path: Path,
    recipe: Mapping[str, Any],
    read: Callable[[], tuple[Mapping[str, Any], T]],
) -> T | None:
    """What an earlier process made, if it is whole and of the same recipe; the log says why not.

    Args:
        where: what is made, for the log.
        path: of the note on it.
        recipe: all that decides its bytes, as JSON has it.
        read: gives the recipe that it was made by, and it.
    """
    if not path.exists():
        return None
    try:
        before, found = read()
    except RunError as error:
        log.warning("%s: made anew", without_remedy(error))
        return None
    changed = first_difference(before, recipe)
    if changed is None:
        return found
    log.info("%s: %s changed, so it is made anew", where, changed)
    return None


def lock(file: IO[Any], what: object, wait: bool = False) -> None:
    """Keep other processes from writing what an open file stands for, until it is closed.

    The lock goes with the process, however that ends.

    Args:
        file: open for writing.
        what: it stands for, for messages.
        wait: for another process to be done, rather than refuse.

    Raises:
        RunError: another process has it.
        WriteError: the disk has no locks, as some that are shared have not.
    """
    from filelock import lock_descriptor  # which leaves the file as it is, and no other beside it

    try:
        taken = lock_descriptor(file.fileno(), blocking=False)
        if not taken and wait:
            log.info("%s is being written by another command: waiting for it", what)
            taken = lock_descriptor(file.fileno(), blocking=True)
    except OSError as error:
        raise WriteError(
            f"{what} cannot be locked ({error.strerror}): write to a disk of this machine, and"
            " copy it from there"
        ) from None
    if not taken:
        raise RunError(f"{what} is being written by another command: wait for it")


def remove_litter(folder: Path, name: str = "", apart: Path | None = None) -> None:
    """Remove what a killed process was writing, below a folder (but not below the one ``apart``)
    or of one file in it."""
    with writing(folder):
        for path in folder.glob(f".{name}.*.tmp") if name else folder.rglob(".*.tmp"):
            if apart not in path.parents:
                path.unlink(missing_ok=True)
