"""The describer of a run: learnt from a sample of its photographs, and loaded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
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
    describe_table,
    described_from,
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
from retrieval.passes import watched
from retrieval.photographs.augmentation import FOR_WHITENING, augmented
from retrieval.photographs.table import labels_of
from retrieval.run import CODE, DESCRIBER, EXTRACTOR, FIRST, QUANTISED, STAGES, Run
from retrieval.storage.fingerprint import fingerprint, first_difference
from retrieval.storage.journal import as_json
from retrieval.storage.shards import OK, ShardStore
from retrieval.types import Vectors
from retrieval.vectors.whitening import AugmentedRows

log = logging.getLogger(__name__)

MOST_BYTES: Final = 4 << 30
"""Of all photographs before whitening, up to which they are kept for another whitening."""
MEASURED: Final = 100
"""Photographs that a network of eight bits is measured on: more change it little."""

Bar = Callable[[str, int | None], AbstractContextManager[Progress]]
"""Takes what is done to how many photographs, where that is known, and gives what is told of those
that are done."""


@contextlib.contextmanager
def no_bar(what: str, total: int | None) -> Iterator[Progress]:
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
    digest: str,
    device: str,
    bar: Bar,
    keep: bool = False,
    apart: bool = False,
) -> tuple[Describer, dict[str, Any], Mapping[int, Outcome]]:
    """The describer, learnt from a sample of the table.

    Args:
        run: of the describer.
        config: of the system.
        table: gallery and bank.
        digest: its :func:`table_digest`.
        device: ``cpu`` or ``cuda``.
        bar: told of photographs that are extracted.
        keep: refuse to learn another than the run has, which parts of it were described by.
        apart: whether the photographs are described in parts, and hence not here.

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
        _leave_out(run, EXTRACTOR, DESCRIBER)
        return Describer(extractor, None), recipe, {}
    if keep:
        _require_kept(run, EXTRACTOR, plain_recipe(recipe, extractor.whitened))
        _require_kept(run, DESCRIBER, recipe)
    known, taught_by = features_stage(run, config, table, frontend_of(extractor, local_branch), bar)
    recipe["taught_by"] = taught_by
    recipe["left_out"] = parts_left_out(len(table), config.pairs_teach, bool(config.whitenings))
    if config.labels_teach:
        recipe["landmarks"] = fingerprint(table["landmark"].iloc[list(known)].tolist())
    taught = table.iloc[known.good_positions]
    sample = Sample(known.good, labels_of(taught), part_of(taught["id"]))
    bare = Describer(extractor, None, local_branch)
    plain = _plain_describer(run, bare, sample, known, recipe, bar)

    def make() -> Mapping[str, Any]:
        _require_enough(known)
        training_set = sample
        if store is not None:
            rows = _rows_of(store, known.good_positions, plain.dimension)
            training_set = replace(training_set, rows=rows)
        if config.whitening is not None and config.whitening.views:
            views = _describe_views(run, config, taught, recipe, bar, plain.extractor)
            training_set = replace(training_set, views=lambda _: views)
        fitted = _learn_whitening(plain, training_set, config, recipe["left_out"], extractor, bar)
        _clear(run, DESCRIBER)
        fitted.save(run.folder)
        return {}

    whitened = config.whitening is not None
    if not whitened and not extractor.whitened:
        _leave_out(run, DESCRIBER)
        return plain, recipe, known
    store = None
    if not apart and keeps_plain(len(table), plain) and run.recipe_of(DESCRIBER) != as_json(recipe):
        made_from = described_from(recipe, digest)
        store = aggregate_table(run, FIRST, table, plain, made_from, bar, known)
    run.stage(DESCRIBER, recipe, make)
    return Describer.load(run.folder, extractor, whitened, local_branch, True), recipe, known


def _learn_whitening(
    plain: Describer,
    sample: Sample,
    config: SystemConfig,
    left_out: int,
    extractor: Extractor,
    bar: Bar,
) -> Describer:
    """A describer with the whitening that it lacks; ``extractor`` is its own, not fitted."""
    log.info("learning whitening from %d photographs", len(sample))
    whitenings = None if extractor.whitened else 1 + left_out
    with bar("learning whitening", whitenings) as progress, watched(lambda: progress(1, 0)):
        return plain.fit_whitening(sample, config.whitening, config.seed, left_out, extractor)


def _plain_describer(
    run: Run,
    bare: Describer,
    sample: Sample,
    known: KnownFeatures,
    recipe: Mapping[str, Any],
    bar: Bar,
) -> Describer:
    """The describer without its whitening: codebooks, and what is made of local features."""
    if bare.extractor.fitted and bare.local_branch is None:
        return bare

    def make() -> Mapping[str, Any]:
        _require_enough(known)
        log.info("learning codebook from %d photographs", len(sample))
        with bar("learning codebook", None) as progress, watched(lambda: progress(1, 0)):
            fitted = Describer.fit(bare.extractor, sample, None, recipe["seed"], bare.local_branch)
        _clear(run, EXTRACTOR, DESCRIBER)
        fitted.save(run.folder)
        return {}

    run.stage(EXTRACTOR, plain_recipe(recipe, bare.extractor.whitened), make)
    return Describer.load(run.folder, bare.extractor, False, bare.local_branch)


def plain_recipe(recipe: Mapping[str, Any], whitened: bool = False) -> dict[str, Any]:
    """What of a describer's recipe decides its descriptors before they are whitened.

    Args:
        recipe: of the describer.
        whitened: whether its extractor whitens within, which labels may teach.
    """
    after = {"whitening", "left_out"} | (set() if whitened else {"landmarks"})
    kept = {key: one for key, one in recipe.items() if key not in after}
    if "local" in kept:
        kept["local"] = {key: one for key, one in kept["local"].items() if key != "stored"}
    return kept


def keeps_plain(photographs: int, describer: Describer) -> bool:
    """Whether a run keeps so many photographs as they are before whitening, so that another
    whitening costs little."""
    branch = describer.local_branch
    each = 4 * describer.extractor.dimension
    if branch is not None and branch.compressor is not None:
        each += branch.compressor.config.bytes_each
    return not describer.extractor.whitened and photographs * each <= MOST_BYTES


def aggregate_table(
    run: Run,
    name: str,
    table: pd.DataFrame,
    plain: Describer,
    made_from: Mapping[str, Any],
    bar: Bar,
    known: Mapping[int, Outcome] | None = None,
) -> ShardStore:
    """Describe a table's photographs without whitening, going on where a killed run was.

    Args:
        made_from: what decides the bytes of the table's descriptors once they are whitened.
    """
    folder, recipe = aggregated_folder(run, name), plain_recipe(made_from)
    store = ShardStore.whole(folder, recipe, len(table))
    if store is not None and not store.damaged():
        return store  # a build asks twice, and is told of the work once
    with bar("describing", len(table)) as progress:
        return describe_table(table, plain, folder, recipe, progress, known, run.timings)


def aggregated_folder(run: Run, name: str) -> Path:
    """Where photographs that came in together are described without whitening."""
    return run.aggregated / f"rows-{name}"


def _rows_of(store: ShardStore, positions: Sequence[int], dimension: int) -> Vectors:
    """(n, dimension) of the rows at some positions; zeros for those that failed."""
    places = np.full(store.rows, -1)
    places[list(positions)] = np.arange(len(positions))
    rows = np.zeros((len(positions), dimension), dtype=np.float32)
    start = 0
    for shard in store.shards():
        ok = np.flatnonzero(np.array(shard.statuses, dtype=object) == OK) + start
        here = places[ok]
        rows[here[here >= 0]] = Representation.from_arrays(shard.arrays).vectors[here >= 0]
        start += len(shard.statuses)
    return rows


def _require_enough(known: KnownFeatures) -> None:
    if len(known.good_positions) < 2:
        failed = (one for one in known.values() if isinstance(one, PhotographError))
        raise TableError(f"fewer than two photographs could be read ({next(map(str, failed), '')})")


def _clear(run: Run, *stages: str) -> None:
    """Take away what stages made before; from here the run's index is another describer's."""
    if run.record.exists():
        run.begin({})
    for stage in stages:
        run.clear(stage)


def _leave_out(run: Run, *stages: str) -> None:
    """Take away what stages made for a config that had them."""
    if any((run.folder / folder).exists() for stage in stages for folder in STAGES[stage]):
        _clear(run, *stages)


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
    config: SystemConfig,
    photographs: pd.DataFrame,
    recipe: Mapping[str, Any],
    bar: Bar,
    extractor: Extractor,
) -> AugmentedRows:
    """Describe views of some of the photographs by the extractor, fitted, going on where a killed
    run was."""
    assert config.whitening is not None
    count = config.whitening.views
    viewed = _sample(len(photographs), config.whitening.viewed, config.seed)
    shown = photographs.iloc[viewed]
    opened = [
        one
        for source, name in zip(shown["source"], shown["id"], strict=True)
        for one in augmented(source, name, count)
    ]
    made_from = {
        **{key: recipe[key] for key in ("code", "extractor", "seed", "taught_by")},
        "views": {"count": count, "photographs": len(viewed), **FOR_WHITENING.model_dump()},
    }
    store = ShardStore(run.views, made_from, run.timings)
    with bar("views", len(opened)) as progress:
        describe_sources(opened, Describer(extractor, None), store, progress)
    statuses, _ = store.verdicts()
    rows = [Representation.from_arrays(shard.arrays).vectors for shard in store.shards()]
    of = np.repeat(viewed, count)[np.array(statuses, dtype=object) == OK]
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
