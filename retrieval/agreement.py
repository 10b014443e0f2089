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
from retrieval.storage.fingerprint import fingerprint
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
    before, now = _running(recipe["extractor"]), _running(describer.extractor.identity())
    if before == now:
        return
    agreed = _agreed(run)
    if fingerprint(now) in agreed:
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
    _note(run, [*agreed, fingerprint(now)])


def _running(identity: Mapping[str, Any]) -> list[Any]:
    """How the networks of an extractor run, those of its parts too."""
    inner = [one for part in identity.get("several", []) for one in _running(part)]
    return [[identity.get(key) for key in RUNNING], *inner]


def _told(running: list[Any]) -> str:
    """Each network's precision and runtime."""
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
