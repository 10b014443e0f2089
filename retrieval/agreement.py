"""Whether networks that run otherwise than at the build still describe photographs alike.

Another runtime or precision than the gallery was described by moves descriptors a little. A run is
answered by it where it agrees on some of the run's own photographs; that is tried once, where the
run is loaded so for the first time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from retrieval.descriptors.describer import Describer
from retrieval.errors import LandmarksError, RunError, WriteError
from retrieval.run import Run
from retrieval.storage.files import read_sealed, write_sealed
from retrieval.storage.fingerprint import fingerprint, first_difference
from retrieval.storage.journal import as_json
from retrieval.types import Vectors

log = logging.getLogger(__name__)

TRIED: Final = 16
"""Photographs of the gallery that are described again."""
ALIKE: Final = 0.99
"""Mean cosine of theirs to the gallery's descriptors that is enough."""
RUNNING: Final = ("precision", "runtime", "quantised")
"""What an identity tells of how a network runs."""


def require_agreement(
    run: Run, recipe: Mapping[str, Any], describer: Describer, rows: pd.DataFrame, known: Vectors
) -> None:
    """Refuse networks that run otherwise than at the build and describe otherwise.

    Args:
        run: that was built.
        recipe: of its describer.
        describer: as it is loaded here.
        rows: of the gallery.
        known: (n, d) the gallery's descriptors.

    Raises:
        RunError: they do; it says how the run was built.
    """
    before, now = recipe["extractor"], describer.extractor.identity()
    if _running(before) == _running(now):
        return
    agreed, mark = _agreed(run), fingerprint(_running(now))
    if mark in agreed:
        return
    chosen = np.random.default_rng(0).permutation(len(rows))
    # No more files are looked for than are needed: a gallery may have millions.
    here = list(islice((i for i in chosen if Path(rows["source"].iloc[i]).is_file()), TRIED))
    if not here:
        log.warning(
            "%s was built with %s, and runs with %s here: whether both agree cannot be tried, as"
            " no gallery photograph is there any more", run, _told(before), _told(now),
        )  # fmt: skip
        return
    ((described, _),) = describer.stream([[rows["source"].iloc[i] for i in here]])
    cosines = (described.vectors * known[here]).sum(axis=1)
    if float(cosines.mean()) < ALIKE:
        raise RunError(
            f"{run} was built with {_told(before)}, and {_told(now)} here describes its"
            f" photographs otherwise (mean cosine {cosines.mean():.3f} of {len(here)}): build it"
            " anew here, or answer by it where it was built"
        )
    _note(run, [*agreed, mark])


def require_same_extractor(run: Run, recipe: Mapping[str, Any], describer: Describer) -> None:
    """Refuse to add to a run what another extractor or detector describes."""
    now = as_json(describer.extractor.identity())
    before = {key: recipe["extractor"].get(key) for key in now}
    then, here = [recipe["extractor"]], [now]
    if describer.local_branch is not None:
        here.append(as_json(describer.local_branch.detector.identity()))
        then.append(recipe["local"]["detector"])
        now, before = {**now, "detector": here[1]}, {**before, "detector": then[1]}
    changed = first_difference(before, now)
    if changed is None:
        return
    if _told(*then) != _told(*here):
        raise RunError(
            f"{run} was built with {_told(*then)}, and networks run with"
            f" {_told(*here)} here: add to it where it was built, or build it anew here"
        )
    raise RunError(f"{run} was built with another {changed}: give the same, or build it anew")


def _running(identity: Mapping[str, Any]) -> list[Any]:
    """How the networks of an extractor run, those of its parts too."""
    inner = [one for part in identity.get("several", []) for one in _running(part)]
    return [[identity.get(key) for key in RUNNING], *inner]


def _told(*identities: Mapping[str, Any]) -> str:
    """Each network's precision and runtime."""
    running = [one for identity in identities for one in _running(identity)]
    named = [f"{one[0]} by {one[1] or 'torch'}" for one in running if one[0]]
    return ", ".join(dict.fromkeys(named)) or "no network"


def _agreed(run: Run) -> list[str]:
    """What agreed before; nothing where the note is damaged, which costs one more try."""
    try:
        return list(read_sealed(run.agreed)["networks"]) if run.agreed.exists() else []
    except (LandmarksError, KeyError, TypeError):
        return []


def _note(run: Run, agreed: list[str]) -> None:
    try:
        write_sealed(run.agreed, {"networks": agreed})
    except WriteError as error:  # a run that may only be read is tried each time
        log.debug("%s", error)
