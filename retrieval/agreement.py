"""Whether networks are those of the build, and still describe alike where they run otherwise.

Another runtime or precision than the gallery was described by moves descriptors a little. A run is
answered by it where it agrees on some of the run's own photographs; that is tried once, where the
run is loaded so for the first time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
WEIGHTS: Final = ("weights", "attention")
"""The checksums in an identity."""


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
    running = _of_each(now, RUNNING)
    if _of_each(before, RUNNING) == running:
        return
    agreed, mark = _agreed(run), fingerprint(running)
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


def require_same_weights(run: Run, recipe: Mapping[str, Any], describer: Describer) -> None:
    """Refuse to answer with other networks than the run was built with."""
    if any(_of_each(a, WEIGHTS) != _of_each(b, WEIGHTS) for a, b in _compared(recipe, describer)):
        raise RunError(
            f"{run} was built with other weights: give those (--weights), or build the run"
            " anew with these"
        )


def require_same_extractor(run: Run, recipe: Mapping[str, Any], describer: Describer) -> None:
    """Refuse to add to a run what another extractor or detector describes."""
    for (then, now), where in zip(_compared(recipe, describer), ("", "detector"), strict=False):
        before, here = ({key: one.get(key) for key in {*now, *RUNNING}} for one in (then, now))
        changed = first_difference(before, here, where)
        if changed is None:
            continue
        if _told(then) != _told(now):
            raise RunError(
                f"{run} was built with {_told(then)}, and networks run with {_told(now)} here: add"
                " to it where it was built, or build it anew here"
            )
        raise RunError(f"{run} was built with another {changed}: give the same, or build it anew")


def _compared(
    recipe: Mapping[str, Any], describer: Describer
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """What extractor and detector were at the build, and are."""
    pairs = [(recipe["extractor"], as_json(describer.extractor.identity()))]
    if describer.local_branch is not None:
        detector = as_json(describer.local_branch.detector.identity())
        pairs.append((recipe["local"]["detector"], detector))
    return pairs


def _of_each(identity: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
    """Fields of an extractor's identity, and of its parts'."""
    inner = [one for part in identity.get("several", []) for one in _of_each(part, keys)]
    return [[identity.get(key) for key in keys], *inner]


def _told(identity: Mapping[str, Any]) -> str:
    """Each network's precision and runtime."""
    named = [f"{one[0]} by {one[1] or 'torch'}" for one in _of_each(identity, RUNNING) if one[0]]
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
