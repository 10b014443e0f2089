"""What decides the bytes of a run's index and classifiers, and what run.json says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from retrieval.config import SystemConfig
from retrieval.devices import machine, versions
from retrieval.photographs.table import labels_of
from retrieval.run import CODE, Run
from retrieval.storage.fingerprint import fingerprint


def index_recipe(
    config: SystemConfig,
    describer: Mapping[str, Any],
    digests: Sequence[str],
    tables: Sequence[pd.DataFrame],
    removed: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """All that decides the bytes of the index.

    Args:
        config: of the system.
        describer: the recipe of what describes.
        digests: of the descriptors of each addition.
        tables: of the photographs of each.
        removed: ids that were taken out, by addition.
    """
    return {
        "code": CODE,
        "seed": config.seed,
        "index": config.index.model_dump(exclude_none=True),
        "search": config.search.model_dump(),
        "describer": dict(describer),
        "descriptors": list(digests),
        "landmarks": fingerprint([labels_of(one) for one in tables]),
        "removed": removed,
    }


def classifiers_recipe(config: SystemConfig, index: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the bytes of the classifiers, and which of them answers."""
    fields = {"classifiers", "answer", "rejection", "calibration", "seed"}
    return {"code": CODE, "inputs": fingerprint(index), **config.model_dump(include=fields)}


def run_mark(
    index: Mapping[str, Any], classifiers: Mapping[str, Any], names: Mapping[str, str]
) -> str:
    """The fingerprint of all that decides a run's answers."""
    return fingerprint(index, classifiers, names)


def finished_record(
    run: Run, begun: Mapping[str, Any], told: Mapping[str, Any], mark: str, device: str
) -> dict[str, Any]:
    """What run.json says of a run that answers, but for its files' checksums.

    Args:
        run: the run.
        begun: what it said while the run was being built.
        told: by the stages of index and classifiers.
        mark: as of :func:`run_mark`.
        device: ``cpu`` or ``cuda``.
    """
    return {
        "finished": True,
        "fingerprint": mark,
        **begun,
        **told,
        "device": device,
        "machine": machine(),
        "versions": versions(),
        "timings": {**run.seconds_of_stages(), "describe": round(run.seconds_describing(), 3)},
    }
