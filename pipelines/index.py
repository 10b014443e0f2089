"""Build a run: describe gallery and bank, index them, fit the classifiers; add and remove.

Each step keeps a fingerprint of its config, its inputs and its code; where it is the same as last
time the step is not taken again, and where it differs the log says which field changed. A run
killed at any moment goes on where it was when the same command is given again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.gallery_changes import Known, answering, same_rows, say_changes, under_own_ids
from pipelines.locking import locked
from pipelines.progress import progress_bar
from pipelines.train import train_network
from retrieval.classifiers.base import Gallery, HeldOut
from retrieval.classifiers.registry import fit_and_hold_out, load_classifier
from retrieval.classifiers.rejection import Rejection, fit_rejection
from retrieval.devices import CPU, cores
from retrieval.errors import PhotographError, RunError, TableError
from retrieval.evaluation.selection import choose_answer
from retrieval.extractors.base import Extractor, FeatureMaker
from retrieval.extractors.companion import Companion
from retrieval.extractors.cross_fit import part_of, parts_left_out
from retrieval.extractors.describer import (
    Describer,
    KnownFeatures,
    describe_table,
    descriptor_arrays,
    extract_table,
    feature_maker,
    table_digest,
    with_status,
)
from retrieval.extractors.descriptors import KEPT, VECTORS, Descriptors, write_descriptors
from retrieval.extractors.extraction import Outcome
from retrieval.extractors.local.rows import LocalRows
from retrieval.extractors.registry import build_extractor
from retrieval.extractors.variation import VIEWED, views
from retrieval.extractors.whitening import Views
from retrieval.index.expansion import Augmentation
from retrieval.index.faiss_index import FaissIndex, check_limits
from retrieval.index.inverted import InvertedFile
from retrieval.index.record import (
    ADDED,
    DESCRIBER,
    RUN,
    check_files,
    damaged_files,
    file_sums,
    read_record,
    write_record,
)
from retrieval.index.store import (
    AGAIN,
    MANIFEST,
    OK,
    ShardStore,
    atomic_write,
    checksum,
    fingerprint,
    first_difference,
    read_arrays,
    read_json,
    read_sealed,
    read_table,
    read_times,
    reading,
    write_arrays,
    write_sealed,
    writing,
)
from retrieval.photographs.table import DataSet, labels_of
from retrieval.system import (
    AUGMENTED,
    AUTO,
    BANK,
    BANK_ROWS,
    GALLERY,
    ROWS,
    TRAINING,
    SystemConfig,
    companion_of,
    index_device,
    keep_one,
    load_gallery,
    read_run,
)

log = logging.getLogger(__name__)

CODE: Final = 6
"""Version of the code that decides the bytes of a run: raised when they change."""
FIRST: Final = "000"
PART_ROWS: Final = "rows.parquet"
REMOVED: Final = "removed.json"
LEARNT: Final = "extractor/fitted.json"
LEARNT_FROM: Final = (
    "code", "extractor", "whitening", "seed", "fit_photographs", "local", "taught_by", "landmarks",
)  # fmt: skip
TIMINGS: Final = "timings.json"
PACKAGES: Final = ("torch", "torchvision", "opencv-python", "numpy", "scikit-learn", "scikit-image")
MODULES: Final = {"opencv-python": "cv2", "scikit-learn": "sklearn", "scikit-image": "skimage"}


@dataclass(frozen=True)
class Part:
    """Photographs that came into a run together: those of the build, or of one ``add``.

    Attributes:
        name: ``000`` for the build, then ``001`` and so on.
        table: the photographs; a missing landmark marks one of the bank.
        store: their descriptors.
    """

    name: str
    table: pd.DataFrame
    store: ShardStore


@dataclass(frozen=True)
class Origin:
    """Where a run's photographs came from: the data folder, and readable names of landmarks."""

    folder: str
    names: dict[str, str]


def build_run(config: SystemConfig, data: DataSet, run: Path, device: str) -> dict[str, Any]:
    """Build a run, or go on with it.

    Args:
        config: the system.
        data: its gallery and bank.
        run: the run's folder.
        device: ``cpu`` or ``cuda``.

    Returns:
        what run.json holds.

    Raises:
        TableError: a photograph of the data was added to the run before.
        RunError: the run is no folder, or is being written.
    """
    check_limits(config.index, config.neighbours, device)
    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is a file: a run needs a folder (--run)")
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        _mend(run)
        table = pd.concat([data.gallery, data.bank], ignore_index=True)
        added = {name: _read_rows(run, name) for name in _part_names(run) if name != FIRST}
        removed = _removed(run)
        _refuse_added(run, table, added, removed)
        if removed:
            count = sum(map(len, removed.values()))
            log.info("%s: what was taken out stays out of it: %d photographs (landmarks add brings"
                     " them back)", run, count)  # fmt: skip
        if config.training is not None:
            train_network(config, data, run / TRAINING, device)
        describer, made_from, known = _fitted_describer(config, device, table, run)
        parts = [_describe_part(run, FIRST, table, describer, made_from, known)]
        # What was added since the last build is described as the rest is.
        if added:
            count = sum(map(len, added.values()))
            log.info("%s: the %d photographs that were added to it stay in it", run, count)
        parts += [
            _describe_part(run, name, rows, describer, made_from) for name, rows in added.items()
        ]
        origin = Origin(str(data.folder), data.names)
        return _finish(config, made_from, origin, parts, run, device, describer.companion)


def add_photographs(
    run: Path,
    table: pd.DataFrame,
    device: str,
    weights: Path | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Describe further labelled photographs (or bank photographs, without a label) into a run.

    Nothing that is in the run is described again; the very table that was added before goes on
    where that was cut short. What was taken out of the run may come back.

    Args:
        run: the run's folder.
        table: the photographs.
        device: ``cpu`` or ``cuda``.
        weights: where networks find theirs.
        folder: that the photographs were found in, if their ids are the paths below it: those are
            made unique then.

    Raises:
        TableError: an id is in the run already.
        RunError: the run is damaged.
    """
    record, config = read_run(run)
    _require_same_code(run, record)
    check_files(run, record, everything=True)
    with locked(run):
        rows = {name: _read_rows(run, name) for name in _part_names(run)}
        removed = _removed(run)
        present = _present(rows, removed)
        if folder is not None:
            table = under_own_ids(table, folder, dict(list(rows.items())[1:]), present)
        name = next((old for old in list(rows)[1:] if same_rows(rows[old], table)),
                    f"{max(map(int, rows)) + 1:03d}")  # fmt: skip
        twice = table[table["id"].isin(present.loc[present["part"] != name, "id"])]
        if len(twice):
            row = twice.iloc[0]
            place = f"row {row['row']}: " if row["row"] else ""
            raise TableError(
                f"{place}id {row['id']!r} is in {run} already ({len(twice)} such ids): leave them"
                " out, or take those out of the run first (landmarks remove)"
            )
        before = answering(run, record)
        located = config.with_weights(weights)
        describer = _load_describer(located, device, run)
        _require_same_extractor(run, record, describer)
        made_from = record["describer"]
        if removed.pop(name, None):
            _note_removed(run, removed)
        parts = [
            _open_part(run, old)
            if old != name
            else _describe_part(run, name, table, describer, made_from)
            for old in sorted({*rows, name}, key=int)
        ]
        after = _finish(
            config, made_from, _data_of(record), parts, run, device, describer.companion
        )
        say_changes(before, answering(run, after))
        return after


def remove_photographs(run: Path, ids: Sequence[str], device: str) -> dict[str, Any]:
    """Take photographs out of a run, by id; nothing is described again.

    Raises:
        TableError: an id never was in the run, or no gallery photograph would be left.
        RunError: the run is damaged.
    """
    record, config = read_run(run)
    _require_same_code(run, record)
    check_files(run, record, everything=True)
    with locked(run):
        parts = [_open_part(run, name) for name in _part_names(run)]
        before = answering(run, record)
        removed = _removed(run)
        known = {part.name: set(part.table["id"]) for part in parts}
        unknown = [name for name in ids if not any(name in there for there in known.values())]
        if unknown:
            raise TableError(f"id {unknown[0]!r} is not in {run} ({len(unknown)} such ids)")
        gone = {
            name: sorted(there.intersection([*removed.get(name, ()), *ids]))
            for name, there in known.items()
        }
        if not any(_gallery_rows(part, gone[part.name]).any() for part in parts):
            raise TableError(f"nothing would be left of the gallery of {run}: leave some of it in")
        _note_removed(run, gone)
        companion = companion_of(config, device)
        if companion is not None:
            companion = companion.restored(run)
        after = _finish(
            config, record["describer"], _data_of(record), parts, run, device, companion
        )
        say_changes(before, answering(run, after))
        return after


def known_photographs(run: Path) -> Known:
    """The photographs of a run that is built, and what became of each.

    Raises:
        RunError: there is no such run, or it is not finished.
    """
    record, _ = read_run(run)
    if not record.get("finished"):
        raise RunError(f"{run} is not finished: run landmarks index again, it goes on")
    removed = _removed(run)
    tables = []
    for part in (_open_part(run, name) for name in _part_names(run)):
        table = with_status(part.table, part.store)
        table.loc[table["id"].isin(removed.get(part.name, [])), "status"] = "removed"
        tables.append(table)
    return Known(pd.concat(tables, ignore_index=True), record["names"])


def _fitted_describer(
    config: SystemConfig, device: str, table: pd.DataFrame, run: Path
) -> tuple[Describer, dict[str, Any], Mapping[int, Outcome]]:
    """The describer, learnt from a sample of the table.

    Returns:
        the describer, what it was made from, and the sample's features by position.
    """
    extractor = build_extractor(config.extractor_in(run), device, config.seed)
    companion = companion_of(config, device)
    fields = _describer_fields(config, extractor, companion)
    if extractor.fitted and config.whitening is None and companion is None:
        return Describer(extractor, None), fields, {}
    maker = feature_maker(extractor, companion)
    positions = _sample(len(table), config.fit_photographs, config.seed)
    sample = table.iloc[positions]
    store = features_store(run, maker, sample)
    with progress_bar("extracting", len(sample)) as progress:
        extract_table(sample, maker, store, lambda f: (maker.pack(f), [""] * len(f)), progress)
    known = KnownFeatures(maker, store, positions)
    left_out = parts_left_out(len(table), config.pairs_teach, bool(config.whitenings))
    recipe = {**fields, "taught_by": store.digest, "left_out": left_out}
    if config.labels_teach:
        recipe["landmarks"] = fingerprint(sample["landmark"].tolist())
    before = _learnt_from(run)
    if before == recipe:
        try:
            return _load_describer(config, device, run), recipe, known
        except RunError as error:
            log.warning("%s: learnt anew", _fault(error))
    elif before is not None:
        log.info("%s changed: codebook and whitening are learnt anew",
                 first_difference(before, recipe))  # fmt: skip
    features = known.good
    if len(features) < 2:
        reason = next((str(one) for one in known.values() if isinstance(one, PhotographError)), "")
        raise TableError(f"fewer than two photographs could be read ({reason})")
    log.info("learning codebook and whitening from %d photographs", len(features))
    photographs = table.iloc[known.good_positions]
    count = config.whitening.views if config.whitening is not None else 0
    described = functools.partial(_describe_views, count, photographs, recipe, run)
    describer = Describer.fit(
        extractor, features, config.whitening, config.seed, companion, labels_of(photographs),
        described if count else None,
        part_of(photographs["id"]), left_out,
    )  # fmt: skip
    # From here the run's index is another describer's.
    if (run / RUN).exists():
        write_record(run, {"finished": False})
    with writing(run / LEARNT):
        (run / LEARNT).unlink(missing_ok=True)
    describer.save(run)
    write_sealed(run / LEARNT, {**recipe, "files": file_sums(run, DESCRIBER, added=False)})
    return describer, recipe, known


def features_store(run: Path, maker: FeatureMaker, sample: pd.DataFrame) -> ShardStore:
    """Where a run keeps the features of the photographs that teach codebook and whitening."""
    made_from = {"code": CODE, "extractor": maker.identity(), "table": table_digest(sample)}
    return ShardStore(run / "features", made_from, run / TIMINGS)


def _learnt_from(run: Path) -> dict[str, Any] | None:
    """What codebook and whitening were learnt from; ``None`` where they are not there whole."""
    if not (run / LEARNT).exists():
        return None
    try:
        learnt = read_sealed(run / LEARNT, unsealed=LEARNT_FROM)
    except RunError as error:
        log.warning("%s: learnt anew", _fault(error))
        return None
    damaged = damaged_files(run, learnt.pop("files", {}))
    for name in damaged:
        log.warning("%s is missing or damaged: learnt anew", run / name)
    return None if damaged else learnt


def _describe_views(
    count: int,
    photographs: pd.DataFrame,
    made_from: Mapping[str, Any],
    run: Path,
    extractor: Extractor,
) -> Views:
    """Describe views of photographs by the extractor, fitted, going on where a killed run was."""
    opened = [
        one
        for source, name in zip(photographs["source"], photographs["id"], strict=True)
        for one in views(source, name, count)
    ]
    made_from = {
        **{key: made_from[key] for key in ("code", "extractor", "seed", "taught_by")},
        "views": {"count": count, **VIEWED.model_dump()},
    }
    store = ShardStore(run / "views", made_from, run / TIMINGS)
    with progress_bar("views", len(opened)) as progress:
        extract_table(
            pd.DataFrame({"source": opened}), extractor, store,
            lambda features: descriptor_arrays(Descriptors(extractor.aggregate(features))),
            progress,
        )  # fmt: skip
    statuses, _ = store.verdicts()
    rows = [Descriptors.from_arrays(shard.arrays).vectors for shard in store.shards()]
    of = np.repeat(np.arange(len(photographs)), count)[np.array(statuses, dtype=object) == OK]
    return Views(np.concatenate(rows), of)


def _load_describer(config: SystemConfig, device: str, run: Path) -> Describer:
    """The run's describer, for the device, with those for calibration."""
    extractor = build_extractor(config.extractor_in(run), device, config.seed)
    whitened = config.whitening is not None
    return Describer.load(run, extractor, whitened, companion_of(config, device), True)


def _describer_fields(
    config: SystemConfig, extractor: Extractor, companion: Companion | None
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
    if config.local is not None and companion is not None:
        fields["local"] = {
            **config.local.model_dump(exclude={"detector"}),
            "detector": companion.detector.identity(),
            "stored": config.search.stored,
        }
    return dict(json.loads(json.dumps(fields)))


def _extractor_fields(config: SystemConfig) -> dict[str, Any]:
    # A path of weights is no field: the weights' checksum is, within the identity.
    inner: dict[str, Any] = {
        "weights": True,
        "precision": True,
        "layers": True,
        "network": True,
        "local": {"weights", "attention", "precision"},
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


def _describe_part(
    run: Path,
    name: str,
    table: pd.DataFrame,
    describer: Describer,
    made_from: Mapping[str, Any],
    known: Mapping[int, Outcome] | None = None,
) -> Part:
    folder = run / "descriptors" / name
    rows = table[["id", "source", "landmark", "row"]].reset_index(drop=True)
    atomic_write(folder / PART_ROWS, lambda file: rows.to_parquet(file, index=False))
    with progress_bar("describing", len(table)) as progress:
        stored = made_from.get("local", {}).get("stored", True)
        store = describe_table(
            rows, describer, folder, made_from, progress, known, run / TIMINGS, stored
        )
    return Part(name, rows, store)


def _open_part(run: Path, name: str) -> Part:
    """A part that is described already.

    Raises:
        RunError: adding it was cut short.
    """
    folder, rows = run / "descriptors" / name, _read_rows(run, name)
    if (folder / MANIFEST).exists():
        store = ShardStore.open(folder, run / TIMINGS)
        if store.rows == len(rows):
            return Part(name, rows, store)
    raise RunError(
        f"{run}: an earlier landmarks add was cut short: give that command again, or run landmarks"
        " index again, and then this one"
    )


def _refuse_added(
    run: Path,
    table: pd.DataFrame,
    added: Mapping[str, pd.DataFrame],
    removed: Mapping[str, Sequence[str]],
) -> None:
    """Refuse a build of photographs that were added to the run: each would vote twice."""
    # Those that were taken out of the build do not vote in it, and may have come back.
    twice = table[table["id"].isin(_present(added, removed)["id"])
                  & ~table["id"].isin(removed.get(FIRST, []))]  # fmt: skip
    if len(twice):
        row = twice.iloc[0]
        place = f"row {row['row']}: " if row["row"] else ""
        raise TableError(
            f"{place}id {row['id']!r} was added to {run} before ({len(twice)} such ids):"
            " take them out of the data, or build into another folder (--run)"
        )


def _read_rows(run: Path, name: str) -> pd.DataFrame:
    path = run / "descriptors" / name / PART_ROWS
    return read_table(path, ("id", "source", "landmark", "row"), _lost(path))


def _part_names(run: Path) -> list[str]:
    names = (path.parent.name for path in (run / "descriptors").glob(f"*/{PART_ROWS}"))
    return sorted(names, key=int)


def _removed(run: Path) -> dict[str, list[str]]:
    """The ids that were taken out, by the part that they had come in."""
    path = run / "descriptors" / REMOVED
    if not path.exists():
        return {}
    remedy = "delete it, and take the photographs out once more (landmarks remove)"
    with reading(path, remedy):
        noted = read_json(path, remedy)
        if isinstance(noted, list):
            # Of the version that neither sealed it nor let any come back: they are of any part.
            of = {name: set(_read_rows(run, name)["id"]) for name in _part_names(run)}
            return {name: sorted(gone) for name in of if (gone := of[name].intersection(noted))}
        return {name: list(ids) for name, ids in read_sealed(path, remedy).items() if ids}


def _note_removed(run: Path, removed: Mapping[str, Sequence[str]]) -> None:
    kept = {name: list(ids) for name, ids in removed.items() if ids}
    write_sealed(run / "descriptors" / REMOVED, kept)


def _present(
    rows: Mapping[str, pd.DataFrame], removed: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """The rows of parts that were not taken out, and the ``part`` of each."""
    tables = [
        one[~one["id"].isin(removed.get(name, []))].assign(part=name) for name, one in rows.items()
    ]
    return pd.concat(tables) if tables else pd.DataFrame({"id": [], "part": []})


def _lost(path: Path) -> str:
    """What to do about the damaged rows of a part, which nothing else tells of."""
    if path.parent.name == FIRST:
        return AGAIN
    return f"delete {path.parent}, {AGAIN}, and add those photographs once more (landmarks add)"


def _fault(error: RunError) -> str:
    """An error without its remedy, where that is what is done."""
    return str(error).rpartition(":")[0]


def _mend(run: Path) -> None:
    """Take away what is damaged of a finished run, so that it is made anew.

    Raises:
        RunError: it cannot be: it says which photographs were added.
    """
    try:
        record = read_record(run) if (run / RUN).exists() else {}
    except RunError as error:
        log.warning("%s: it is built anew", _fault(error))
        write_record(run, {"finished": False})
        return
    damaged = damaged_files(run, record.get("files", {}))
    for path in (run / name for name in damaged):
        added = path.match(ADDED) and path.parent.name != FIRST
        if added and path.exists():
            raise RunError(f"{path} is damaged: {_lost(path)}")
        if added:
            log.warning("%s is gone, and with it the photographs that were added then", path.parent)
        elif not path.match(ADDED):
            log.warning("%s is missing or damaged: made anew", path)
            path.unlink(missing_ok=True)
    if damaged:
        _begin(run, record)


def _begin(run: Path, record: Mapping[str, Any]) -> None:
    """Say that the run is not whole from here on, until run.json is written again."""
    kept = {key: record[key] for key in ("name", "config", "data", "describer", "names")}
    write_record(run, {"finished": False, **kept})


def _finish(
    config: SystemConfig,
    describer: Mapping[str, Any],
    data: Origin,
    parts: Sequence[Part],
    run: Path,
    device: str,
    companion: Companion | None,
) -> dict[str, Any]:
    """Index the descriptors, fit the classifiers, write run.json."""
    recipe = {
        "code": CODE,
        # What detects and describes is told by the describer, whatever folder its weights lie in.
        "config": config.model_dump(
            exclude={
                "name": True,
                "description": True,
                "training": True,
                "extractor": True,
                "local": {"detector"},
            }
        ),
        "describer": dict(describer),
        "descriptors": [part.store.digest for part in parts],
        "removed": _removed(run) or [],
        "names": data.names,
    }
    mark = fingerprint(recipe)
    before = read_sealed(run / RUN) if (run / RUN).exists() else {}
    if before.get("finished") and before["fingerprint"] == mark:
        damage = _damage(config, before, run, companion)
        if damage is None:
            log.info("%s: nothing changed, nothing to do", run)
            return before
        log.warning("%s: indexed anew", damage)
    begun = time.perf_counter()
    described = {
        "name": config.name,
        "config": config.model_dump(),
        "data": data.folder,
        "describer": dict(describer),
        "names": data.names,
    }
    _begin(run, described)
    counts = _gather(parts, _removed(run), run, config, companion)
    index, augmentation = _build_index(config, run, device, companion)
    gallery, _ = load_gallery(run, device, index["descriptors"], config, companion, augmentation)
    indexed = time.perf_counter()
    answer = _fit_classifiers(config, gallery, run)
    record = {
        "finished": True,
        "fingerprint": mark,
        **described,
        "answer": answer,
        **counts,
        "landmarks": len(gallery.landmarks),
        "dimension": int(gallery.vectors.shape[1]),
        "index": index,
        "device": device,
        "machine": machine(),
        "versions": versions(),
        "timings": {
            "describe": round(_seconds_describing(run), 3),
            "index": round(indexed - begun, 3),
            "classifiers": round(time.perf_counter() - indexed, 3),
        },
    }
    write_record(run, record)
    return record


def _damage(
    config: SystemConfig, record: Mapping[str, Any], run: Path, companion: Companion | None
) -> str | None:
    """What is wrong with a finished run's index or classifiers; ``None`` where they load."""
    try:
        gallery, _ = load_gallery(run, CPU, record["index"]["descriptors"], config, companion)
        for name, one in config.classifiers.items():
            load_classifier(one, run / "classifiers" / name, gallery)
            Rejection.load(run / "classifiers" / name)
    except RunError as error:
        return _fault(error)
    return None


def _seconds_describing(run: Path) -> float:
    """How long extraction and description took, over all the commands that it took."""
    return float(sum(sum(shards.values()) for shards in read_times(run / TIMINGS).values()))


def _gather(
    parts: Sequence[Part],
    removed: Mapping[str, Sequence[str]],
    run: Path,
    config: SystemConfig,
    companion: Companion | None,
) -> dict[str, Any]:
    """Write the gallery's rows and descriptors, and the bank's, from the parts' shards."""
    tables = [with_status(part.table, part.store) for part in parts]
    left = [~t["id"].isin(removed.get(p.name, [])) for p, t in zip(parts, tables, strict=True)]
    usable = [(t["status"] == OK) & keep for t, keep in zip(tables, left, strict=True)]
    labelled = [keep & t["landmark"].notna() for keep, t in zip(usable, tables, strict=True)]
    rows = pd.concat([t[keep] for t, keep in zip(tables, labelled, strict=True)])
    if not len(rows):
        raise TableError("no gallery photograph could be described: look at the reasons above")
    rows = rows[["id", "source", "landmark"]].reset_index(drop=True)
    atomic_write(run / ROWS, lambda file: rows.to_parquet(file, index=False))
    bank = [keep & t["landmark"].isna() for keep, t in zip(usable, tables, strict=True)]
    unlabelled = pd.concat([t.loc[keep, ["id"]] for t, keep in zip(tables, bank, strict=True)])
    atomic_write(run / BANK_ROWS, lambda file: unlabelled.to_parquet(file, index=False))
    _write_descriptors(run / GALLERY, parts, tables, labelled)
    _write_descriptors(run / BANK, parts, tables, bank)
    if config.search.verification is not None and not config.search.stored:
        assert companion is not None
        sources = [str(s) for t, keep in zip(tables, bank, strict=True) for s in t[keep]["source"]]
        _keep_bank(run, sources, companion)
    _report_failures(tables)
    wanted = {label for t, keep in zip(tables, left, strict=True)
              for label in t[keep]["landmark"].dropna()}  # fmt: skip
    return {
        "lost": sorted(wanted - set(rows["landmark"])),
        "gallery": len(rows),
        "bank": int(sum(keep.sum() for keep in bank)),
        "failed": int(sum((table["status"] != OK).sum() for table in tables)),
    }


def _gallery_rows(part: Part, removed: Sequence[str]) -> pd.Series:
    """Which rows of a part are the gallery's: described, labelled and not taken out."""
    table = with_status(part.table, part.store)
    return (table["status"] == OK) & table["landmark"].notna() & ~table["id"].isin(removed)


def _write_descriptors(
    folder: Path, parts: Sequence[Part], tables: Sequence[pd.DataFrame], keep: Sequence[pd.Series]
) -> None:
    """Copy what the kept rows are described by, shard by shard, into arrays that can be mapped."""

    def blocks() -> Iterator[Descriptors]:
        for part, table, wanted in zip(parts, tables, keep, strict=True):
            # Shards hold the rows that went well, in order: so must the mask.
            mask = wanted[table["status"] == OK].to_numpy(dtype=bool)
            start = 0
            for shard in part.store.shards():
                block = Descriptors.from_arrays(shard.arrays)
                yield block[np.flatnonzero(mask[start : start + len(block)])]
                start += len(block)

    with writing(folder), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)  # what another config kept there
    write_descriptors(folder, blocks)


def _keep_bank(run: Path, sources: Sequence[str], companion: Companion) -> None:
    """Keep the bank's local features: held-out scores ask for them, and there are few."""
    with ThreadPoolExecutor(cores()) as pool:
        kept = list(pool.map(functools.partial(keep_one, companion), sources))
    assert companion.keeper is not None
    arrays = LocalRows.of(kept, companion.keeper.dimension).arrays(KEPT)
    forms = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    write_arrays(run / BANK, forms, [arrays])


def _report_failures(tables: Sequence[pd.DataFrame]) -> None:
    for table in tables:
        failed = table[table["status"] != OK]
        for _, row in failed.head(10).iterrows():
            place = f"row {row['row']}, " if row["row"] else ""  # folders have no rows
            log.warning("%s%s: %s", place, row["source"], row["reason"])
        if len(failed) > 10:
            log.warning("and %d more photographs that failed", len(failed) - 10)


def _build_index(
    config: SystemConfig, run: Path, device: str, companion: Companion | None
) -> tuple[dict[str, Any], Augmentation | None]:
    """Index the gallery's vectors, and both its and the bank's words; what run.json says of it."""
    known = Descriptors.from_arrays(read_arrays(run / GALLERY))
    indexed, augmentation = run / GALLERY, None
    with writing(run / AUGMENTED), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(run / AUGMENTED)
    if config.search.expansion.gallery:
        plain = FaissIndex.build(known.vectors, config.index, index_device(device), config.seed)
        augmentation = Augmentation.of(known.vectors, plain, config.search.expansion)
        indexed = run / AUGMENTED
        form = {VECTORS: (np.dtype(np.float32), known.vectors.shape)}
        write_arrays(indexed, form, ({VECTORS: block} for block in augmentation.blocks()))
    rows = read_arrays(indexed)[VECTORS]
    index = FaissIndex.build(rows, config.index, index_device(device), config.seed)
    made_from = checksum(indexed / f"{VECTORS}.npy")
    index.save(run / "index", made_from)
    per_image = index.bytes_per_row + (known.kept.bytes_per_row if known.kept else 0.0)
    if companion is not None and companion.words is not None:
        bank = Descriptors.from_arrays(read_arrays(run / BANK))
        for part, folder in ((known, run / GALLERY), (bank, run / BANK)):
            assert part.words is not None
            inverted = InvertedFile.build(part.words, companion.words.config, companion.bits)
            inverted.save(folder)
            per_image += inverted.bytes_per_row if part is known else 0.0
    told = {"factory": index.factory, "bytes_per_image": per_image, "descriptors": made_from}
    return told, augmentation


def _fit_classifiers(config: SystemConfig, gallery: Gallery, run: Path) -> str:
    """Fit every classifier and its rejection; return the name of the one that answers."""
    held: dict[str, HeldOut] = {}
    for name, one in config.classifiers.items():
        folder = run / "classifiers" / name
        fitted, scores = fit_and_hold_out(one, gallery, config.seed)
        fitted.save(folder)
        rejection, held[name] = fit_rejection(
            scores, gallery, config.rejection, config.calibration, config.seed
        )
        rejection.save(folder)
    return choose_answer(held) if config.answer == AUTO else config.answer


def _data_of(record: Mapping[str, Any]) -> Origin:
    return Origin(record["data"], record["names"])


def _require_same_code(run: Path, record: Mapping[str, Any]) -> None:
    """Refuse to change what another version made: its parts would not fit together."""
    if record["describer"].get("code") != CODE:
        raise RunError(f"{run} was built by another version of this program: landmarks index it"
                       " again, which takes up its features")  # fmt: skip


def _require_same_extractor(run: Path, record: Mapping[str, Any], describer: Describer) -> None:
    """Refuse to add to a run what another extractor or detector describes."""
    fields = record["describer"]
    now = dict(json.loads(json.dumps(describer.extractor.identity())))
    before = {key: fields["extractor"].get(key) for key in now}
    if describer.companion is not None:
        now["detector"] = json.loads(json.dumps(describer.companion.detector.identity()))
        before["detector"] = fields["local"]["detector"]
    changed = first_difference(before, now)
    if changed is not None:
        raise RunError(f"{run} was built with another {changed}: give the same, or build it anew")


def machine() -> dict[str, Any]:
    """What the work runs on, without a name of the host."""
    return {
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of the libraries that decide the bytes."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    """That of a distribution, or of the one that brings its module (opencv-python-headless)."""
    with contextlib.suppress(PackageNotFoundError):
        return version(name)
    brings = packages_distributions().get(MODULES.get(name, name), [])
    return version(brings[0]) if brings else "not installed as a package"
