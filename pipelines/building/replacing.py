"""What a run was asked to be, so that another system or other photographs do not take its place.

``asked.json`` in the run says it from the first moment of a build on. A run is another's where the
system has another name or extractor, or the photographs come from another folder or table; what
else differs (a whitening, a classifier, photographs that came into the folder) is mended by the
build itself, which says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from pydantic import ValidationError

from pipelines.config import RENAMED
from retrieval.config import SystemConfig
from retrieval.errors import RunError
from retrieval.index.registry import check_limits
from retrieval.networks.runtime import cannot_run_eight_bits
from retrieval.photographs.table import DataSet
from retrieval.run import FIRST, Run
from retrieval.storage.files import read_sealed, write_sealed, writing
from retrieval.storage.fingerprint import first_difference
from retrieval.storage.journal import as_json

log = logging.getLogger(__name__)

MADE: Final = (
    "features", "views", "aggregated", "changed", "descriptors", "extractor", "whitening",
    "calibration",
    "local", "index", "classifiers", "stages", "training", "evaluation", "protocols", "quantised",
    "timings.json", "agreed.json", "parts",
    "rehearsal",  # of earlier versions
)  # fmt: skip
"""What builds, trainings and measurements write into a run."""
DESCRIBING: Final = ("seed", "training", "whitening", "local", "fit_photographs")
"""Fields of a config that decide descriptors, beside the extractor."""
SHARED: Final = 0.5
"""The least share of a run's photographs that a table of the same place has to hold."""


def begin_build(
    run: Path,
    config: SystemConfig,
    data: DataSet,
    gallery: Path | None,
    device: str,
    replace: bool,
    agreed: Callable[[str], bool],
    part: bool = False,
) -> None:
    """Make sure that a run is this system's of these photographs, and note what it is to be.

    Args:
        run: the run's folder.
        config: the system.
        data: its photographs.
        gallery: the table that was given in place of the data folder's own.
        device: ``cpu`` or ``cuda``.
        replace: whether another run may be taken away.
        agreed: asked otherwise, with what the run holds.
        part: whether but a part of it is described now: a run that answers stops where that is
            described otherwise, and another part's command is waited for rather than refused.

    Raises:
        RunError: the run holds something else, or stops, and nobody agreed to that.
        ConfigError: the system asks for what the device cannot do.
    """
    files = Run(run)
    if run.is_dir() and run.resolve() == data.folder.resolve():
        raise RunError(f"{run} is the data's own folder: give the run another (--run)")
    check_limits(config.index, config.neighbours, device)
    files.create()
    asked = _asked(config, data, gallery)
    held = _held(files)
    difference = None if held is None else _difference(held, asked, files, data)
    difference = difference or _eight_bits_lost(files, config, device)
    told = f"{run} holds {difference}" if difference else part and _stops(files, config, data)
    if told and not replace and not agreed(told):
        raise RunError(
            f"{told}: build into another folder (--run), or say that it may be replaced: --replace"
        )
    with files.locked(wait=part):
        if difference is not None:
            _take_away(files)
        write_sealed(files.asked, asked)


def held_config(run: Path) -> dict[str, Any] | None:
    """The config of a run that is there, begun or built; ``None`` where there is none.

    Raises:
        RunError: only parts of it are known: a version before noted no weights.
    """
    files = Run(run)
    held = _held(files)
    if held is None:
        return None
    if _is_whole(held["config"]):
        return dict(held["config"])
    with contextlib.suppress(RunError):
        return dict(files.read()[0]["config"])
    raise RunError(
        f"{run} holds {held['system']}, begun by another version, and not all of its config: name"
        f" it (--config {held['system']})"
    )


def _is_whole(config: Any) -> bool:
    """Whether nothing of a config is left to defaults."""
    try:
        return bool(SystemConfig.model_validate(config).model_dump(mode="json") == config)
    except ValidationError:
        return False


def _asked(config: SystemConfig, data: DataSet, gallery: Path | None) -> dict[str, Any]:
    asked = {
        "system": config.name,
        "config": config.model_dump(mode="json"),
        "data": os.path.abspath(data.folder),
        "gallery": None if gallery is None else _place(gallery, data.folder),
    }
    return dict(as_json(asked))


def _place(gallery: Path, folder: Path) -> str:
    """Where a table lies that is looked for as given, then in the data folder."""
    return os.path.abspath(gallery if gallery.exists() else folder / gallery)


def _held(run: Run) -> dict[str, Any] | None:
    """What a run was asked to be; ``None`` where there is none, or nothing tells."""
    if run.asked.exists():
        try:
            return read_sealed(run.asked)
        except RunError:
            log.warning("%s is damaged: run.json is gone by", run.asked)
    # A run of the version that did not note it yet.
    try:
        record = run.read_record()
        return {
            "system": record["name"],
            "config": dict(record["config"]),
            "data": os.path.abspath(record["data"]),
        }
    except (RunError, TypeError, KeyError, ValueError):
        return None


def _difference(held: dict[str, Any], asked: dict[str, Any], run: Run, data: DataSet) -> str | None:
    """In what way a run is another's; ``None`` where it is not."""
    names = {RENAMED.get(one["system"], one["system"]) for one in (held, asked)}
    if len(names) > 1 and _unnamed(held) != _unnamed(asked):
        return f"another system, {held['system']}"
    before, now = (_without_weights(one["config"].get("extractor", {})) for one in (held, asked))
    changed = first_difference(before, now, "extractor")
    if changed is not None:
        return f"another system ({changed} differs)"
    rows = _rows(run)
    if rows is not None and _same_photographs(rows, data):
        return None
    if held["data"] != asked["data"]:
        return f"the photographs of other data, {held['data']}"
    if held.get("gallery", asked["gallery"]) != asked["gallery"]:
        return f"the photographs of another table, {held['gallery'] or 'index.csv'}"
    if rows is not None and rows["id"].isin(data.photographs["id"]).mean() < SHARED:
        return f"other photographs of {held['data']}, most of which are not there any more"
    return None


def _eight_bits_lost(run: Run, config: SystemConfig, device: str) -> str | None:
    """What a build here would put other networks in place of, and describe everything anew."""
    if not config.quantised or not any(run.quantised.glob("*.json")):
        return None
    refused = cannot_run_eight_bits(torch.device(device))
    return refused and f"networks of eight bits, which cannot run here ({refused})"


def _stops(run: Run, config: SystemConfig, data: DataSet) -> str | None:
    """Why a run that answers stops with its first part; ``None`` where it does not."""
    try:
        before = run.read_finished()[1]
    except RunError:  # it answers nothing as it is
        return None
    changed = first_difference(_describing(before), _describing(config))
    learns = config.whitenings or config.detectors or config.training or config.quantised
    rows = _rows(run)
    if changed is None and learns and rows is not None and not _same_photographs(rows, data):
        changed = "list of photographs"
    return changed and (
        f"{run} answers, and stops until all parts are there and indexed if they are described"
        f" anew ({changed} differs)"
    )


def _describing(config: SystemConfig) -> dict[str, Any]:
    """What decides descriptors, but for the extractor: with another, a run is another's."""
    fields = config.model_dump(mode="json", include=set(DESCRIBING))
    stored = config.local is None or config.search.stored
    return {**_without_weights(fields), "search": {"stored": stored}}


def _unnamed(asked: dict[str, Any]) -> dict[str, Any]:
    kept = _without_weights(asked["config"]).items()
    return {key: value for key, value in kept if key not in ("name", "description")}


def _rows(run: Run) -> pd.DataFrame | None:
    """The photographs that the run was built of, where it has come so far."""
    try:
        return run.read_rows(FIRST) if FIRST in run.additions() else None
    except RunError:  # damaged, and the build's to mend
        return None


def _same_photographs(before: pd.DataFrame, data: DataSet) -> bool:
    """Whether ids and landmarks are the same, wherever the files lie."""
    now = data.photographs
    return len(before) == len(now) and all(
        bool((before[key].fillna("").to_numpy() == now[key].fillna("").to_numpy()).all())
        for key in ("id", "landmark")
    )


def _without_weights(config: Any) -> Any:
    """A config without the places of weights: the same weights may lie elsewhere."""
    if isinstance(config, dict):
        return {
            key: _without_weights(value)
            for key, value in config.items()
            if key not in ("weights", "network")
        }
    return [_without_weights(one) for one in config] if isinstance(config, list) else config


def _take_away(run: Run) -> None:
    """Empty a run of what was made in it. run.json and the note go last: cut short, it asks again.

    What else lies there (predictions, notes) stays.
    """
    log.warning("%s: what it held is taken away", run)
    made = (run.folder / name for name in MADE)
    for path in (*made, run.record, run.asked):
        with writing(path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
