"""A run is built: describe gallery and bank, index them, fit the classifiers; add and remove.

Each stage keeps the recipe that it was made by: its config, its inputs and its code. Where the
recipe is the same as last time nothing is made again, and where it differs the log says which field
changed. A run killed at any moment goes on where it was when the same call is made again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from retrieval.additions import Addition, described_store, open_addition, present, same_rows
from retrieval.agreement import require_same_extractor
from retrieval.changes import Change, settle, since_fitted, take_in
from retrieval.classifiers.base import HeldOut
from retrieval.classifiers.exits import fit_early_exit, with_exit
from retrieval.classifiers.members import Fitting
from retrieval.classifiers.registry import fit_and_hold_out
from retrieval.classifiers.rejection import fit_rejection
from retrieval.config import AUTO, SystemConfig
from retrieval.describing import (
    Bar,
    aggregate_table,
    aggregated_folder,
    describer_stage,
    keeps_plain,
    load_describer,
    local_branch_of,
    no_bar,
    quantise_stage,
)
from retrieval.descriptors.cache import describe_table, described_from, table_digest, whiten_table
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.extraction import Outcome
from retrieval.descriptors.local_branch import LocalBranch
from retrieval.errors import RunError, TableError
from retrieval.evaluation.selection import choose_answer
from retrieval.index.expansion import DatabaseAugmentation
from retrieval.index.milvus_index import MilvusConfig
from retrieval.index.registry import check_limits
from retrieval.indexing import (
    calibration_galleries,
    collect_rows,
    index_gallery,
    is_lost,
    load_gallery,
    with_kept,
)
from retrieval.parts import (
    BuildPart,
    describe_part,
    has_parts,
    require_same_data,
    take_parts,
)
from retrieval.photographs.table import DataSet
from retrieval.recipes import classifiers_recipe, finished_record, index_recipe, run_mark
from retrieval.run import BEGUN, CLASSIFIERS, CODE, FIRST, INDEX, Run
from retrieval.storage.files import remove_folder
from retrieval.storage.shards import ShardStore
from retrieval.training.loop import fit as fit_network
from retrieval.training.watching import Watcher

log = logging.getLogger(__name__)


def build(
    config: SystemConfig,
    data: DataSet,
    run: Run,
    device: str,
    bar: Bar = no_bar,
    watcher: Watcher | None = None,
) -> dict[str, Any]:
    """Build a run, or go on with it.

    Args:
        config: the system.
        data: its gallery and bank.
        run: where it is built.
        device: ``cpu`` or ``cuda``.
        bar: told of photographs that are described.
        watcher: of the training of the run's own network.

    Returns:
        what run.json holds.

    Raises:
        TableError: a photograph of the data was added to the run before.
        RunError: the run is no folder, or is being written.
    """
    check_limits(config.index, config.neighbours, device)
    run.create()
    with run.locked():
        settle(run)
        run.mend()
        table = data.photographs
        added = {name: run.read_rows(name) for name in run.additions() if name != FIRST}
        _refuse_added(run, table, added)
        _say_kept(run, added)
        digest = table_digest(table)
        if has_parts(run):
            require_same_data(run, digest)
        describer, recipe, known = _learn(run, config, table, digest, device, bar, watcher)
        made_from = described_from(recipe, digest)
        take_parts(run, len(table), made_from)
        additions = [describe(run, FIRST, table, describer, made_from, bar, known)]
        additions += [
            describe(run, name, rows, describer, described_from(recipe, table_digest(rows)), bar)
            for name, rows in added.items()
        ]
        begun = {
            "name": config.name,
            "config": config.model_dump(),
            "data": str(data.folder),
            "describer": recipe,
            "names": data.names,
        }
        return finish(run, config, begun, additions, device, describer.local_branch)


def build_part(
    config: SystemConfig,
    data: DataSet,
    run: Run,
    part: BuildPart,
    device: str,
    bar: Bar = no_bar,
    watcher: Watcher | None = None,
) -> ShardStore | None:
    """Describe a part of a run's photographs; :func:`build` takes all of the parts.

    Whichever part comes first learns codebook and whitening, while the others wait.

    Args:
        part: which.
        config, data, run, device, bar, watcher: as of :func:`build`.

    Returns:
        the part's shards; ``None`` where the run has all of them already.

    Raises:
        RunError: another process describes this part, or other parts are described otherwise.
    """
    learnt = learn_run(config, data, run, device, bar, watcher, part)
    if learnt is None:
        return None
    describer, made_from, known = learnt
    return describe_part(run, part, data.photographs, describer, made_from, bar, known)


Learnt = tuple[Describer, dict[str, Any], Mapping[int, Outcome]]
"""As of :func:`retrieval.describing.describer_stage`."""


def learn_run(
    config: SystemConfig,
    data: DataSet,
    run: Run,
    device: str,
    bar: Bar = no_bar,
    watcher: Watcher | None = None,
    part: BuildPart | None = None,
) -> Learnt | None:
    """Learn what the parts of a run are described by, or load it.

    Args:
        config, data, run, device, bar, watcher: as of :func:`build`.
        part: that is described by it next.

    Returns:
        what describes, with the table's digest in its recipe; ``None`` where all photographs are
        described.

    Raises:
        RunError: as of :func:`build_part`.
    """
    table = data.photographs
    run.create()
    with run.locked(wait=True):
        digest = table_digest(table)
        require_same_data(run, digest)
        describer, recipe, known = _learn(
            run, config, table, digest, device, bar, watcher, apart=True
        )
        made_from = described_from(recipe, digest)
        if ShardStore.whole(run.descriptors / FIRST, made_from, len(table)) is not None:
            return None
        if part is not None:
            part.within(run).create()  # from here on, nothing else is learnt in the run
        return describer, made_from, known


def _learn(
    run: Run,
    config: SystemConfig,
    table: pd.DataFrame,
    digest: str,
    device: str,
    bar: Bar,
    watcher: Watcher | None,
    apart: bool = False,
) -> Learnt:
    """Networks and the describer of a run."""
    keep = has_parts(run)
    if config.training is not None:
        fit_network(
            config.training, table, digest, run.training, device, config.seed,
            watcher or Watcher(),
        )  # fmt: skip
    quantise_stage(run, config, table, device, bar, keep)
    return describer_stage(run, config, table, digest, device, bar, keep, apart or keep)


def add(
    run: Run, table: pd.DataFrame, device: str, weights: Path | None = None, bar: Bar = no_bar
) -> dict[str, Any]:
    """Describe further labelled photographs (or bank photographs, without a label) into a run.

    Nothing that is in the run is described again; the very table that was added before goes on
    where that was cut short. What was taken out of the run may come back.

    Args:
        run: that was built.
        table: the photographs, as :func:`retrieval.photographs.table.read_table` has them.
        device: ``cpu`` or ``cuda``.
        weights: where networks find theirs.
        bar: told of photographs that are described.

    Raises:
        TableError: an id is in the run already.
        RunError: the run is damaged.
    """
    with _changing(run) as (record, config, sound):
        sound()
        known = {name: run.read_rows(name) for name in run.additions()}
        name = next((old for old in list(known)[1:] if same_rows(known[old], table)),
                    f"{max(map(int, known)) + 1:03d}")  # fmt: skip
        there = present(run, known)
        there = there[there["id"].isin(table["id"]) & (there["addition"] != name)]
        _refuse_twice(
            table[table["id"].isin(there["id"])],
            f"is in {run} already", "leave them out, or take those out of the run first"
            " (landmarks remove)",
        )  # fmt: skip
        for one in known.keys() - {name}:
            described_store(run, one, len(known[one]))  # before anything is written
        describer = load_describer(run, config.with_weights(weights), device)
        recipe = record["describer"]
        require_same_extractor(run, recipe, describer)
        removed = run.removed()
        back = removed.pop(name, None)
        made_from = described_from(recipe, table_digest(table))
        new = describe(run, name, table, describer, made_from, bar)
        tables = {one: new.table if one == name else known[one]
                  for one in sorted({*known, name}, key=int)}  # fmt: skip
        new = replace(new, left=pd.Series(data=True, index=new.table.index))
        change = Change(tables, removed, new=new)
        branch = describer.local_branch
        taken = take_in(run, record, config, change, device, branch, sound)
        if taken is not None:
            return taken
        if back:
            run.note_removed(removed)
        additions = [new if one == name else open_addition(run, one) for one in tables]
        begun = {key: record[key] for key in BEGUN}
        return finish(run, config, begun, additions, device, branch)


def remove(run: Run, ids: Sequence[str], device: str) -> dict[str, Any]:
    """Take photographs out of a run, by id; nothing is described again.

    Raises:
        TableError: an id never was in the run, or no gallery photograph would be left.
        RunError: the run is damaged.
    """
    with _changing(run) as (record, config, sound):
        tables = {name: run.read_rows(name, ("id", "landmark")) for name in run.additions()}
        ids = list(dict.fromkeys(ids))
        found = {name: set(one["id"][one["id"].isin(ids)]) for name, one in tables.items()}
        unknown = [name for name in ids if not any(name in there for there in found.values())]
        if unknown:
            raise TableError(f"id {unknown[0]!r} is not in {run} ({len(unknown)} such ids)")
        for name, one in tables.items():
            described_store(run, name, len(one))
        before = run.removed()
        removed = {name: sorted(there.union(before.get(name, ()))) for name, there in found.items()}
        removed = {name: gone for name, gone in removed.items() if gone}
        local_branch = local_branch_of(config.within(run.training, run.quantised), device)
        if local_branch is not None:
            local_branch = local_branch.restored(run.folder)
        change = Change(tables, removed, gone=ids)
        taken = take_in(run, record, config, change, device, local_branch, sound)
        if taken is not None:
            return taken
        sound()
        additions = [open_addition(run, name) for name in tables]
        if not any((one.gallery & ~one.table["id"].isin(ids)).any() for one in additions):
            raise TableError(f"nothing would be left of the gallery of {run}: leave some of it in")
        run.note_removed(removed)
        additions = [replace(one, left=one.left & ~one.table["id"].isin(ids)) for one in additions]
        begun = {key: record[key] for key in BEGUN}
        return finish(run, config, begun, additions, device, local_branch)


def describe(
    run: Run,
    name: str,
    table: pd.DataFrame,
    describer: Describer,
    made_from: Mapping[str, Any],
    bar: Bar,
    known: Mapping[int, Outcome] | None = None,
) -> Addition:
    """Describe photographs that come into a run together, going on where that was cut short."""
    rows = run.write_rows(name, table)
    stored, folder = made_from.get("local", {}).get("stored", True), run.descriptors / name
    kept = describer.whitening is not None and keeps_plain(len(table), describer)
    if not kept:
        remove_folder(aggregated_folder(run, name))  # another config's
    if not kept or ShardStore.whole(folder, made_from, len(rows)) is not None:
        with bar("describing", len(table)) as progress:
            store = describe_table(
                rows, describer, folder, made_from, progress, known, run.timings, stored
            )
        return Addition.of(run, name, rows, store)
    plain = aggregate_table(run, name, rows, describer.plain, made_from, bar, known)
    with bar("whitening", len(table)) as progress:
        store = whiten_table(describer, plain, folder, made_from, progress, run.timings, stored)
    return Addition.of(run, name, rows, store)


def finish(
    run: Run,
    config: SystemConfig,
    begun: Mapping[str, Any],
    additions: Sequence[Addition],
    device: str,
    local_branch: LocalBranch | None,
) -> dict[str, Any]:
    """Index the descriptors, fit the classifiers, write run.json.

    Args:
        run: in which the photographs are described.
        config: of the system.
        begun: what run.json says in the meantime, the describer's recipe among it.
        additions: the photographs.
        device: ``cpu`` or ``cuda``.
        local_branch: of the system, fitted.

    Returns:
        what run.json holds.
    """
    augmentations: list[DatabaseAugmentation] = []

    def index() -> Mapping[str, Any]:
        run.begin(begun)
        counts = collect_rows(run, config, additions, local_branch)
        told, augmentation = index_gallery(run, config, device, local_branch)
        augmentations.extend([] if augmentation is None else [augmentation])
        return {**counts, **told}

    def classifiers() -> Mapping[str, Any]:
        run.begin(begun)
        run.clear(CLASSIFIERS)
        return {"answer": fit_classifiers(run, config, device, local_branch, *augmentations)}

    recipe = index_recipe(
        config, begun["describer"], [one.store.digest for one in additions],
        [one.table for one in additions], run.removed(),
    )  # fmt: skip
    recipe = since_fitted(run, config, recipe)
    if isinstance(config.index, MilvusConfig) and is_lost(run, config.index):
        run.forget(INDEX)  # the server has lost what the run says that it holds
    told = run.stage(INDEX, recipe, index)
    fitted = classifiers_recipe(config, recipe)
    answer = run.stage(CLASSIFIERS, fitted, classifiers)
    mark = run_mark(recipe, fitted, begun["names"])
    unchanged = run.read_record() if run.record.exists() else {}
    if unchanged.get("finished") and unchanged["fingerprint"] == mark:
        log.info("%s: nothing changed, nothing to do", run)
        return unchanged
    record = finished_record(run, begun, {**answer, **told}, mark, device)
    run.write_record(record)
    return record


def fit_classifiers(
    run: Run,
    config: SystemConfig,
    device: str,
    local_branch: LocalBranch | None,
    augmentation: DatabaseAugmentation | None = None,
) -> str:
    """Fit every classifier and its rejection; return the name of the one that answers."""
    gallery = with_kept(run, load_gallery(run, config, device, local_branch)[0])
    calibration = calibration_galleries(run, config, gallery, device, augmentation)
    fitting = Fitting(gallery, calibration, config.seed)
    held, thresholds = _fit(run, config, fitting)
    answer = choose_answer(held) if config.answer == AUTO else config.answer
    verification = config.search.verification
    if verification is not None and verification.early_exit is not None:
        found = fit_early_exit(
            held[answer], thresholds[answer], calibration, verification.early_exit
        )
        log.info("of %d photographs held out, %d need no verification", found.held_out, found.exits)
        found.save(run.classifiers)
        if found.least is not None:
            # Those not verified get other scores, and thresholds are of scores as queries get them.
            exiting = [with_exit(one, found.least) for one in calibration]
            _fit(run, config, fitting.searched_as(exiting))
    return answer


def _fit(
    run: Run, config: SystemConfig, fitting: Fitting
) -> tuple[dict[str, HeldOut], dict[str, float]]:
    """Fit and save every classifier and its rejection: held-out scores and thresholds by name."""
    held: dict[str, HeldOut] = {}
    thresholds: dict[str, float] = {}
    for name, one in config.classifiers.items():
        folder = run.classifiers / name
        fitted, scores = fit_and_hold_out(one, fitting)
        fitted.save(folder)
        rejection, held[name] = fit_rejection(
            scores, fitting.calibration, config.rejection, config.calibration, config.seed
        )
        rejection.save(folder)
        thresholds[name] = rejection.threshold
    return held, thresholds


@contextlib.contextmanager
def _changing(
    run: Run,
) -> Iterator[tuple[dict[str, Any], SystemConfig, Callable[[], object]]]:
    """Lock a run of this version, and give its record, its config and what raises where one of its
    files is damaged, which is found out meanwhile."""
    if run.changed.exists():
        with run.locked():
            settle(run)
    record, config = run.read()
    if record["describer"].get("code") != CODE:  # its parts would not fit together
        raise RunError(f"{run} was built by another version of this program: landmarks index it"
                       " again, which takes up its features")  # fmt: skip
    with run.locked(), ThreadPoolExecutor(1) as pool:
        yield record, config, pool.submit(run.check, record, everything=True).result


def _refuse_added(run: Run, table: pd.DataFrame, added: Mapping[str, pd.DataFrame]) -> None:
    """Refuse a build of photographs that were added to the run: each would vote twice."""
    # Those that were taken out of the build do not vote in it, and may have come back.
    twice = table["id"].isin(present(run, added)["id"])
    twice &= ~table["id"].isin(run.removed().get(FIRST, []))
    _refuse_twice(table[twice], f"was added to {run} before",
                  "take them out of the data, or build into another folder (--run)")  # fmt: skip


def _refuse_twice(twice: pd.DataFrame, what: str, remedy: str) -> None:
    if len(twice):
        row = twice.iloc[0]
        place = f"row {row['row']}: " if row["row"] else ""
        raise TableError(f"{place}id {row['id']!r} {what} ({len(twice)} such ids): {remedy}")


def _say_kept(run: Run, added: Mapping[str, pd.DataFrame]) -> None:
    removed = sum(map(len, run.removed().values()))
    if removed:
        log.info("%s: what was taken out stays out of it: %d photographs (landmarks add brings"
                 " them back)", run, removed)  # fmt: skip
    # What was added since the last build is described as the rest is.
    if added:
        count = sum(map(len, added.values()))
        log.info("%s: the %d photographs that were added to it stay in it", run, count)
