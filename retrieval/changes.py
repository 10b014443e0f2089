"""A large run takes in what comes and goes without being built anew.

Above :data:`SMALL` photographs, while no more have come and gone than ``refit_share`` of those that
the run was fitted to:

* rows are taken out of the index's file and new ones added to it, with the lists and codebooks that
  it has, so that new photographs and landmarks are found at once;
* classifiers are updated (:meth:`retrieval.classifiers.base.Classifier.updated`): the SVM keeps its
  separators and learns those of new landmarks;
* thresholds, probabilities and the choice of who answers stay.

What changes is written beside the run, into ``changed/``, and takes the old files' places once all
of it is there. A run that is killed before is as it was; one that is killed later is settled by the
next command that changes it (:func:`settle`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from pydantic import ValidationError

from retrieval.additions import Addition
from retrieval.classifiers.registry import updated_classifier
from retrieval.classifiers.rejection import Rejection
from retrieval.config import SystemConfig
from retrieval.descriptors.local_branch import LocalBranch
from retrieval.descriptors.representation import (
    CALIBRATION,
    VECTORS,
    Representation,
    write_descriptors,
)
from retrieval.errors import RunError
from retrieval.index.early_exit import SavedExit
from retrieval.index.faiss_factory import IndexConfig, can_shrink
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.gallery import GalleryChange
from retrieval.indexing import chosen_rows, keep_all, load_gallery, write_lists
from retrieval.recipes import classifiers_recipe, finished_record, index_recipe, run_mark
from retrieval.run import BEGUN, CLASSIFIERS, INDEX, STAGES, Run
from retrieval.storage.files import (
    Arrays,
    read_arrays,
    read_sealed,
    read_table,
    reading,
    remove_folder,
    write_arrays,
    write_sealed,
    writing,
)
from retrieval.storage.fingerprint import checksum
from retrieval.storage.journal import as_json
from retrieval.types import Flags, StrictModel

log = logging.getLogger(__name__)

SMALL: Final = 100_000
"""Photographs up to which a gallery is fitted anew at each change, as that takes minutes."""
SINCE: Final = "since_fitted"
"""In the record, what came and went since all was fitted."""
READY: Final = "ready.json"
"""In ``changed``: what is to take the old files' places, once all of it is there."""
ROWS: Final = 1 << 12
"""Rows copied at a time."""
DESCRIPTORS: Final = f"index/gallery/{VECTORS}.npy"
"""The gallery's, within a run."""
LISTED: Final = ("id", "source", "landmark")
"""Of the gallery's rows."""


class SinceFitted(StrictModel):
    """Photographs that all was fitted to, and how many came and went since.

    Attributes:
        gallery, bank: that there were.
        gallery_changes, bank_changes: that came or went.
    """

    gallery: int
    bank: int
    gallery_changes: int = 0
    bank_changes: int = 0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> SinceFitted:
        """As a run's record says, or what is told of its index."""
        if SINCE not in record:
            return cls(gallery=record["gallery"], bank=record["bank"])
        try:
            return cls.model_validate(record[SINCE])
        except ValidationError:
            raise RunError(
                f"{SINCE} of the run's record is damaged: run landmarks index again"
            ) from None

    def with_more(self, gallery: int, bank: int) -> SinceFitted:
        """With so many more changes."""
        return self.model_copy(
            update={
                "gallery_changes": self.gallery_changes + gallery,
                "bank_changes": self.bank_changes + bank,
            }
        )

    @property
    def share(self) -> float:
        """The share of the gallery, or of the bank where that is more, that changed."""
        shares = ((self.gallery_changes, self.gallery), (self.bank_changes, self.bank))
        return max(many / max(of, 1) for many, of in shares)

    def __str__(self) -> str:
        many = self.gallery_changes + self.bank_changes
        return (
            f"{many:,} photographs came or went since {self.gallery + self.bank:,} were fitted to"
        )


@dataclass(frozen=True)
class Change:
    """What is to become of a run.

    Attributes:
        tables: the photographs of each addition, by its name, in order; of the new one too.
        removed: ids that are taken out then, by addition.
        gone: ids of those that are taken out now.
        new: the addition that comes in, or comes back, described; or ``None``.
    """

    tables: Mapping[str, pd.DataFrame]
    removed: Mapping[str, list[str]]
    gone: Sequence[str] = ()
    new: Addition | None = None


@dataclass(frozen=True)
class _Rows:
    """The rows of a gallery, or of a bank, before and after.

    Attributes:
        before: what is listed of each.
        left: which of these stay.
        came: what is listed of those that come in, after them.
    """

    before: pd.DataFrame
    left: Flags
    came: pd.DataFrame

    @classmethod
    def of(
        cls, path: Path, columns: Sequence[str], change: Change, came: pd.DataFrame | None
    ) -> _Rows:
        before = read_table(path, columns)
        came = before[:0] if came is None else came
        return cls(before, ~before["id"].isin(change.gone).to_numpy(bool), came[list(columns)])

    @property
    def changes(self) -> int:
        return int((~self.left).sum()) + len(self.came)

    def now(self) -> pd.DataFrame:
        parts = [self.before[self.left], self.came]
        return pd.concat([one for one in parts if len(one)] or parts[:1], ignore_index=True)


def take_in(
    run: Run,
    record: Mapping[str, Any],
    config: SystemConfig,
    change: Change,
    device: str,
    local_branch: LocalBranch | None,
    sound: Callable[[], object],
) -> dict[str, Any] | None:
    """Change a run without building it anew, if it can be.

    Args:
        run: locked.
        record: its run.json.
        config: of the system.
        change: what is to become of it.
        device: ``cpu`` or ``cuda``.
        local_branch: of the system, fitted.
        sound: raises where a file of the run is damaged; asked before anything takes effect.

    Returns:
        what run.json holds then; ``None`` where the run has to be built anew, and is as it was.
    """
    noted = run.noted(INDEX)
    if noted is None or not _can_keep(run, record, config, change):
        return None
    if noted["recipe"]["removed"] != as_json(run.removed()):  # a removal was cut short
        return None
    digests = list(noted["recipe"]["descriptors"])
    new, failed = change.new, record["failed"]
    if new is not None:
        place = list(change.tables).index(new.name)
        if digests[place : place + 1] == [new.store.digest]:  # what was taken out comes back
            back = new.table["id"].isin(run.removed().get(new.name, []))
            new = replace(new, left=back)
        else:
            digests.insert(place, new.store.digest)
            failed += new.store.failed
    if len(digests) != len(change.tables):
        return None
    gallery = _Rows.of(run.rows, LISTED, change, None if new is None else new.table[new.gallery])
    bank = _Rows.of(run.bank_rows, ["id"], change, None if new is None else new.table[new.bank])
    since = SinceFitted.of(record).with_more(gallery.changes, bank.changes)
    stays = since.share <= config.refit_share
    log.info(
        "%s: %s, as %s (refit_share is %g)", run,
        "classifiers, thresholds and the index's lists stay" if stays else "all is fitted anew",
        since, config.refit_share,
    )  # fmt: skip
    if not stays:
        return None
    staged, came = _staged(run), _new_descriptors(new, bank=False)
    with ThreadPoolExecutor(1) as pool:
        made_from = pool.submit(_write_descriptors, run, staged, gallery.left, came)
        now, bank_now = gallery.now(), bank.now()
        write_lists(staged, now, bank_now)
        if bank.changes:
            _write_bank(run, staged, bank.left, new, local_branch)
        else:
            staged.bank = run.bank
        tables = list(change.tables.values())
        recipe = index_recipe(config, record["describer"], digests, tables, change.removed)
        vectors = [one.vectors for one in came]
        index = FaissIndex.update_into(
            staged.index, run.index, gallery.left, vectors, made_from.result
        )
    _write_classifiers(run, staged, config, device, local_branch, gallery, index)
    known = set(now["landmark"].unique())
    told = {
        "gallery": len(now),
        "bank": len(bank_now),
        "failed": failed,
        "landmarks": len(known),
        "lost": sorted(_labels(change) - known),
        "dimension": record["dimension"],
        "index": {**record["index"], "descriptors": made_from.result()},
        SINCE: since.model_dump(),
    }
    own_sums = FaissIndex.file_checksums(staged.index)
    known_sums = {f"index/{name}": one for name, one in own_sums.items()}
    sums = staged.checksums_of(INDEX, {DESCRIPTORS: made_from.result(), **known_sums})
    sound()
    recipe[SINCE] = told[SINCE]
    files = {**noted["files"], **sums}
    stages = {
        INDEX: {"recipe": as_json(recipe), "told": told, "files": files},
        CLASSIFIERS: {
            "recipe": as_json(classifiers_recipe(config, recipe)),
            "told": {"answer": record["answer"]},
            "files": staged.checksums_of(CLASSIFIERS),
        },
    }
    _make_ready(run, record, stages, change.removed, device)
    settle(run)
    return run.read_record()


def since_fitted(run: Run, config: SystemConfig, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of an index, with what came and went since it was fitted, where it is up to date
    and that is no more than the config tolerates."""
    noted = run.noted(INDEX)
    if noted is None or SINCE not in noted["recipe"]:
        return dict(recipe)
    changed = {**recipe, SINCE: noted["recipe"][SINCE]}
    kept = SinceFitted.of(noted["told"]).share <= config.refit_share
    return changed if kept and as_json(changed) == noted["recipe"] else dict(recipe)


def settle(run: Run) -> None:
    """End a change that was cut short: forget one that was not written whole, and give the files
    of one that was the old ones' places."""
    if not run.changed.exists():
        return
    path = run.changed / READY
    if path.exists():
        ready = read_sealed(path, f"delete {run.changed}, run landmarks index again")
        with reading(path):
            record, stages, files = ready["record"], ready["stages"], ready["files"]
        run.begin(record)
        for folder in (run.folder / one for name in stages for one in STAGES[name]):
            staged = run.changed / folder.name
            for source in sorted(one for one in staged.rglob("*") if one.is_file()):
                target = folder / source.relative_to(staged)
                with writing(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(source, target)
        remove_folder(run.kept)  # of the rows before
        run.note_removed(ready["removed"])
        for name, stage in stages.items():
            run.note(name, stage)
        write_sealed(run.record, {**record, "files": files})
    remove_folder(run.changed)


def _can_keep(run: Run, record: Mapping[str, Any], config: SystemConfig, change: Change) -> bool:
    """Whether a run is large enough for it, whole, and of a kind of which rows alone are stored."""
    search, verification = config.search, config.search.verification
    return (
        bool(record.get("finished"))
        and record["gallery"] > SMALL
        and isinstance(config.index, IndexConfig)
        and not search.expansion.gallery
        and not (verification is not None and search.stored)
        and not (config.local is not None and config.local.words is not None)
        and {one.stem for one in run.gallery.iterdir()} <= {VECTORS, CALIBRATION}
        and (not change.gone or can_shrink(record["index"]["factory"]))
        and run.noted(CLASSIFIERS) is not None
    )


def _staged(run: Run) -> Run:
    """Where the files that change are written, an empty folder; networks stay where they are."""
    remove_folder(run.changed)
    staged = Run(run.changed)
    staged.create()
    staged.training, staged.quantised = run.training, run.quantised
    return staged


def _new_descriptors(new: Addition | None, bank: bool) -> list[Representation]:
    """Of what comes in, few beside what is there; shard by shard, none of them empty."""
    if new is None:
        return []
    flags = (new.bank if bank else new.gallery).to_numpy(bool)
    return [one for one in chosen_rows([new.store], [flags]) if len(one)]


def _write_bank(
    run: Run, staged: Run, left: Flags, new: Addition | None, local_branch: LocalBranch | None
) -> None:
    known = Representation.from_arrays(read_arrays(run.bank))
    parts = [known[np.flatnonzero(left)], *_new_descriptors(new, bank=True)]
    if known.kept is not None and new is not None and new.bank.any():
        assert local_branch is not None
        kept = keep_all(local_branch, new.table["source"][new.bank])
        came = Representation.joined(parts[1:])
        parts = [parts[0], replace(came, kept=kept)]
    write_descriptors(staged.bank, lambda: [Representation.joined(parts)])


def _write_descriptors(run: Run, staged: Run, left: Flags, came: Sequence[Representation]) -> str:
    """Write those of the gallery; the checksum of its vectors."""
    known = read_arrays(run.gallery)
    count = int(left.sum()) + sum(len(one) for one in came)
    forms = {name: (one.dtype, (count, *one.shape[1:])) for name, one in known.items()}

    def blocks() -> Iterator[Arrays]:
        for start in range(0, len(left), ROWS):
            here = left[start : start + ROWS]
            block = {name: one[start : start + ROWS] for name, one in known.items()}
            yield block if here.all() else {name: one[here] for name, one in block.items()}
        yield from (one.arrays() for one in came)

    write_arrays(staged.gallery, forms, blocks())
    return checksum(staged.folder / DESCRIPTORS)


def _write_classifiers(
    run: Run,
    staged: Run,
    config: SystemConfig,
    device: str,
    local_branch: LocalBranch | None,
    rows: _Rows,
    index: FaissIndex,
) -> None:
    codes, labels = pd.factorize(rows.before["landmark"], sort=True)
    change = GalleryChange(codes.astype(np.int64), list(labels), rows.left)
    gallery = load_gallery(staged, config, device, local_branch, index=index)[0]
    for name, one in config.classifiers.items():
        folder, target = run.classifiers / name, staged.classifiers / name
        updated_classifier(one, folder, gallery, change, config.seed).save(target)
        Rejection.load(folder).save(target)
    verification = config.search.verification
    if verification is not None and verification.early_exit is not None:
        SavedExit.load(run.classifiers).save(staged.classifiers)


def _labels(change: Change) -> set[str]:
    """The landmarks of all photographs that are not taken out, described or not."""
    return {
        str(label)
        for name, table in change.tables.items()
        for label in table["landmark"][~table["id"].isin(change.removed.get(name, []))]
        .dropna()
        .unique()
    }


def _make_ready(
    run: Run,
    record: Mapping[str, Any],
    stages: Mapping[str, Mapping[str, Any]],
    removed: Mapping[str, list[str]],
    device: str,
) -> None:
    """Write what :func:`settle` does, last of all.

    Args:
        run: the run.
        record: its run.json before.
        stages: what is noted of each then.
        removed: ids that are taken out then.
        device: ``cpu`` or ``cuda``.
    """
    begun = {key: record[key] for key in BEGUN}
    mark = run_mark(stages[INDEX]["recipe"], stages[CLASSIFIERS]["recipe"], begun["names"])
    told = {**stages[CLASSIFIERS]["told"], **stages[INDEX]["told"]}
    files = {**stages[INDEX]["files"], **stages[CLASSIFIERS]["files"]}
    ready = {
        "record": finished_record(run, begun, told, mark, device),
        "files": run.files_after(record["files"], files),
        "stages": stages,
        "removed": removed,
    }
    write_sealed(run.changed / READY, ready)
