"""The describer of a run: learnt from a sample of its photographs, and loaded."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from retrieval.config import SystemConfig
from retrieval.descriptors.base import Extractor
from retrieval.descriptors.cache import (
    KnownFeatures,
    Progress,
    describe_sources,
    extract_table,
    no_progress,
    table_digest,
)
from retrieval.descriptors.cross_fit import part_of, parts_left_out
from retrieval.descriptors.describer import Describer, frontend_of
from retrieval.descriptors.extraction import Outcome
from retrieval.descriptors.local_branch import LocalBranch, build_local_branch
from retrieval.descriptors.registry import build_extractor, quantise_network, unsettled
from retrieval.descriptors.representation import Representation
from retrieval.descriptors.sample import Sample
from retrieval.devices import CPU
from retrieval.errors import PhotographError, RunError, TableError
from retrieval.frontend import Frontend
from retrieval.networks.runtime import cannot_quantise
from retrieval.photographs.augmentation import FOR_WHITENING, augmented
from retrieval.photographs.table import labels_of
from retrieval.run import CODE, DESCRIBER, QUANTISED, Run
from retrieval.storage.fingerprint import fingerprint, first_difference
from retrieval.storage.journal import as_json
from retrieval.storage.shards import OK, ShardStore
from retrieval.vectors.whitening import AugmentedRows

log = logging.getLogger(__name__)

MEASURED: Final = 100
"""Photographs that a network of eight bits is measured on: more change it little."""

Bar = Callable[[str, int], AbstractContextManager[Progress]]
"""Takes what is done to how many photographs, and gives what is told of those that are done."""


@contextlib.contextmanager
def no_bar(what: str, total: int) -> Iterator[Progress]:
    """For callers who do not watch."""
    yield no_progress


def features_stage(
    run: Run, config: SystemConfig, table: pd.DataFrame, frontend: Frontend, bar: Bar
) -> tuple[KnownFeatures, str]:
    """The features of a sample of the table, from which codebook and whitening are learnt, and
    their fingerprint."""
    positions = _sample(len(table), config.fit_photographs, config.seed)
    sample = table.iloc[positions]
    store = features_store(run, frontend, sample)
    with bar("extracting", len(sample)) as progress:
        extract_table(sample, frontend, store, progress)
    return KnownFeatures(frontend, store, positions), store.digest


def features_store(run: Run, frontend: Frontend, sample: pd.DataFrame) -> ShardStore:
    """Where a run keeps the features that codebook and whitening are learnt from."""
    made_from = {"code": CODE, "extractor": frontend.identity(), "table": table_digest(sample)}
    return ShardStore(run.features, made_from, run.timings)


def _require_kept(run: Run, stage: str, recipe: Mapping[str, Any]) -> None:
    """Refuse where a stage would be made anew that parts of the run were described by."""
    noted = run.recipe_of(stage)
    before = recipe if noted is None else {key: noted.get(key) for key in recipe}
    changed = first_difference(as_json(before), as_json(recipe))
    if changed is not None:
        raise RunError(
            f"{run} has learnt what its parts are described by otherwise than it would be here"
            f" ({stage}: {changed} differs): give the same config, on a machine of the same kind;"
            f" or begin anew, without {run.parts}"
        )


def quantise_stage(
    run: Run,
    config: SystemConfig,
    table: pd.DataFrame,
    device: str,
    bar: Bar,
    keep: bool = False,
) -> None:
    """The networks that are to be of eight bits, whose ranges are measured on some of the table.

    Where that cannot be, it is said, and the networks are of the precision ``auto``.
    """
    wanted = config.quantised
    refused = cannot_quantise(torch.device(device)) if wanted else None
    if refused is not None and device == CPU:
        log.warning("precision: int8: %s; the networks run about half as fast", refused)
    if not wanted or refused is not None:
        return
    sample = table.iloc[_sample(len(table), MEASURED, config.seed)]
    networks = [unsettled(one, config.seed) for one in wanted]
    recipe = {
        "code": CODE,
        "networks": [one.identity() for one in networks],
        "photographs": table_digest(sample),
    }

    if keep:
        _require_kept(run, QUANTISED, recipe)

    def make() -> Mapping[str, Any]:
        sources = sample["source"].tolist()
        with bar("quantising", len(sources) * len(networks)) as progress:
            for one in networks:
                quantise_network(one, sources, run.quantised)
                progress(len(sources), 0)
        return {}

    run.stage(QUANTISED, recipe, make)


def describer_stage(
    run: Run,
    config: SystemConfig,
    table: pd.DataFrame,
    device: str,
    bar: Bar,
    keep: bool = False,
) -> tuple[Describer, dict[str, Any], Mapping[int, Outcome]]:
    """The describer, learnt from a sample of the table.

    Args:
        run: of the describer.
        config: of the system.
        table: gallery and bank.
        device: ``cpu`` or ``cuda``.
        bar: told of photographs that are extracted.
        keep: refuse to learn another than the run has, which parts of it were described by.

    Returns:
        the describer, its recipe, and the sample's features by position.

    Raises:
        RunError: another would be learnt, and that of the run is to be kept.
    """
    config = config.within(run.training, run.quantised)
    extractor = build_extractor(config.extractor, device, config.seed)
    local_branch = local_branch_of(config, device)
    recipe = _describer_fields(config, extractor, local_branch)
    if extractor.fitted and config.whitening is None and local_branch is None:
        return Describer(extractor, None), recipe, {}
    if keep:
        _require_kept(run, DESCRIBER, recipe)
    known, digest = features_stage(run, config, table, frontend_of(extractor, local_branch), bar)
    recipe["taught_by"] = digest
    recipe["left_out"] = parts_left_out(len(table), config.pairs_teach, bool(config.whitenings))
    taught = table.iloc[known.good_positions]
    if config.labels_teach:
        of_all = table["landmark"].iloc[list(known)]
        recipe["landmarks"] = fingerprint(of_all.tolist())

    def make() -> Mapping[str, Any]:
        if len(taught) < 2:
            failed = (one for one in known.values() if isinstance(one, PhotographError))
            raise TableError(
                f"fewer than two photographs could be read ({next(map(str, failed), '')})"
            )
        log.info("learning codebook and whitening from %d photographs", len(taught))
        count = config.whitening.views if config.whitening is not None else 0
        described = functools.partial(_describe_views, run, count, taught, recipe, bar)
        sample = Sample(
            known.good, labels_of(taught), part_of(taught["id"]), described if count else None
        )
        fitted = Describer.fit(
            extractor, sample, config.whitening, config.seed, local_branch, recipe["left_out"]
        )
        # From here the run's index is another describer's.
        if run.record.exists():
            run.begin({})
        fitted.save(run.folder)
        return {}

    run.stage(DESCRIBER, recipe, make)
    whitened = config.whitening is not None
    return Describer.load(run.folder, extractor, whitened, local_branch, True), recipe, known


def local_branch_of(config: SystemConfig, device: str) -> LocalBranch | None:
    """What a system makes of local features, not yet fitted; ``None`` if nothing."""
    return None if config.local is None else build_local_branch(config.local, device)


def load_describer(
    run: Run, config: SystemConfig, device: str, calibrated: bool = True
) -> Describer:
    """The run's describer; with those for calibration, where photographs come in."""
    config = config.within(run.training, run.quantised)
    extractor = build_extractor(config.extractor, device, config.seed)
    local_branch = local_branch_of(config, device)
    whitened = config.whitening is not None
    return Describer.load(run.folder, extractor, whitened, local_branch, calibrated)


def _describe_views(
    run: Run,
    count: int,
    photographs: pd.DataFrame,
    recipe: Mapping[str, Any],
    bar: Bar,
    extractor: Extractor,
) -> AugmentedRows:
    """Describe views of photographs by the extractor, fitted, going on where a killed run was."""
    opened = [
        one
        for source, name in zip(photographs["source"], photographs["id"], strict=True)
        for one in augmented(source, name, count)
    ]
    made_from = {
        **{key: recipe[key] for key in ("code", "extractor", "seed", "taught_by")},
        "views": {"count": count, **FOR_WHITENING.model_dump()},
    }
    store = ShardStore(run.views, made_from, run.timings)
    with bar("views", len(opened)) as progress:
        describe_sources(opened, Describer(extractor, None), store, progress)
    statuses, _ = store.verdicts()
    rows = [Representation.from_arrays(shard.arrays).vectors for shard in store.shards()]
    of = np.repeat(np.arange(len(photographs)), count)[np.array(statuses, dtype=object) == OK]
    return AugmentedRows(np.concatenate(rows), of)


def _describer_fields(
    config: SystemConfig, extractor: Extractor, local_branch: LocalBranch | None
) -> dict[str, Any]:
    """The fields of a config that decide descriptors."""
    whitening = config.whitening.model_dump() if config.whitening else None
    fields = {
        "code": CODE,
        "extractor": {**_extractor_fields(config), **extractor.identity()},
        "whitening": whitening,
        "seed": config.seed,
        "fit_photographs": config.fit_photographs,
    }
    if config.local is not None and local_branch is not None:
        fields["local"] = {
            **config.local.model_dump(exclude={"detector"}),
            "detector": local_branch.detector.identity(),
            "stored": config.search.stored,
        }
    return dict(as_json(fields))


def _extractor_fields(config: SystemConfig) -> dict[str, Any]:
    # A path of weights is no field: the weights' checksum is, within the identity.
    inner: dict[str, Any] = {
        "weights": True,
        "precision": True,
        "runtime": True,
        "quantised": True,
        "layers": True,
        "network": True,
        "local": {"weights", "attention", "precision", "runtime", "quantised"},
    }
    return config.extractor.model_dump(
        exclude={**inner, "parts": {"__all__": {"extractor": inner}}}
    )


def _sample(rows: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most ``wanted`` of so many rows, ascending."""
    if rows <= wanted:
        return np.arange(rows)
    chosen = np.random.default_rng(seed).permutation(rows)[:wanted]
    return np.sort(chosen)
