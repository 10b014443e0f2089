"""Descriptors on disk: shards that are the unit of work and of restart, and their manifest.

A folder holds ``shard-00000.safetensors`` … and ``manifest.jsonl``. Each shard holds the rows of
one slice of an image table: whatever arrays the rows that went well produced, and every row's
status and reason. A shard is written to a temporary file, fsynced and renamed before a line of the
manifest names it, so a run killed at any moment goes on with the first shard that is missing. The
manifest's first line carries the fingerprint of what the shards were made from; a store never mixes
two. Lines are appended, so that what is written grows with the rows alone, and each has a checksum
of its own: one that was cut short or damaged costs its shard.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from safetensors import safe_open
from safetensors.numpy import save as pack

from retrieval.errors import PhotographError, RunError
from retrieval.storage.files import (
    Arrays,
    append,
    atomic_write,
    read_sealed,
    read_sealed_line,
    reading,
    sealed_line,
    write_json,
    writing,
)
from retrieval.storage.fingerprint import checksum, checksums, fingerprint
from retrieval.storage.journal import as_json, reusable
from retrieval.types import STRING

log = logging.getLogger(__name__)

MANIFEST: Final = "manifest.jsonl"
REWRITTEN: Final = "manifest.json"
"""The manifest of earlier versions, which was rewritten whole for every shard."""
STEM: Final = "shard-"
ENDING: Final = ".safetensors"
SECONDS: Final = "seconds"
OK: Final = "ok"


@dataclass(frozen=True)
class Shard:
    """What one slice of a table became.

    Attributes:
        arrays: what was computed, over the rows whose status is ``ok``, in order.
        statuses: (rows,) one a row of the slice.
        reasons: (rows,) empty where the status is ``ok``.
    """

    arrays: Arrays
    statuses: Sequence[str]
    reasons: Sequence[str]

    @classmethod
    def of(cls, arrays: Arrays, errors: Sequence[PhotographError | None]) -> Shard:
        """Arrays of the rows without an error, and all rows' statuses and reasons."""
        statuses = [OK if error is None else error.status for error in errors]
        return cls(arrays, statuses, ["" if error is None else str(error) for error in errors])


class ShardStore:
    """A folder of shards with one fingerprint.

    Args:
        folder: where the shards lie.
        made_from: the config and inputs that decide the shards' bytes (JSON-able). A store that
            was made from something else is emptied, and the log says which field changed.
        timings: a JSON file that keeps how long the shards took; it lies elsewhere, since the bytes
            in ``folder`` must not hang on the time of day.
    """

    def __init__(self, folder: Path, made_from: Mapping[str, Any], timings: Path | None = None):
        self.folder = folder
        self.timings = timings
        wanted = as_json(made_from)
        path = next((one for one in _manifests(folder) if one.exists()), folder / MANIFEST)
        found = reusable(folder, path, wanted, lambda: _recipe_and_manifest(folder))
        self._manifest = found or _Manifest(wanted, {})
        if found is None:
            # The manifest goes first: one that names shards which are gone would be damage.
            with writing(folder / MANIFEST):
                for one in _manifests(folder):
                    one.unlink(missing_ok=True)
                _remove_shards(folder)
            self._note_seconds(0.0)
            self._write_manifest()

    @classmethod
    def open(cls, folder: Path, timings: Path | None = None) -> ShardStore:
        """A store that is there, whatever it was made from.

        Raises:
            RunError: there is none, or it is damaged.
        """
        return cls(folder, _read_manifest(folder).made_from, timings)

    @classmethod
    def whole(cls, folder: Path, made_from: Mapping[str, Any], rows: int) -> ShardStore | None:
        """A store of so many rows, made from this; ``None`` where there is no such one."""
        try:
            store = cls.open(folder)
        except RunError:  # there is none, or it is damaged, and made anew
            return None
        same = store.made_from == as_json(made_from) and store.rows == rows
        return store if same else None

    def __contains__(self, number: int) -> bool:
        return shard_name(number) in self._manifest.shards

    def __len__(self) -> int:
        return len(self._manifest.shards)

    @property
    def made_from(self) -> dict[str, Any]:
        """What decides the shards' bytes."""
        return self._manifest.made_from

    @property
    def numbers(self) -> list[int]:
        """Of the shards that are there."""
        return [int(name[len(STEM) : -len(ENDING)]) for name in self._manifest.shards]

    def mend(self) -> None:
        """Forget the shards that are missing or damaged, so that they are made again."""
        damaged = self.damaged()
        for name in damaged:
            log.warning("%s is missing or damaged: made anew", self.folder / name)
            del self._manifest.shards[name]
        if damaged:
            self._write_manifest()

    def damaged(self) -> list[str]:
        """The names of the shards that are missing or damaged."""
        shards = self._manifest.shards
        found = checksums([self.folder / name for name in shards])
        both = zip(shards.items(), found, strict=True)
        return sorted(name for (name, one), now in both if now != one["sha256"])

    def counts(self, number: int) -> tuple[int, int]:
        """Rows and failed rows of a shard that is there."""
        entry = self._manifest.shards[shard_name(number)]
        return int(entry["rows"]), int(entry["failed"])

    def write(self, number: int, shard: Shard, seconds: float = 0.0) -> None:
        """Add one shard: its file first, then its line in the manifest."""
        name = shard_name(number)
        arrays = {key: np.ascontiguousarray(value) for key, value in shard.arrays.items()}
        notes = {"statuses": list(shard.statuses), "reasons": list(shard.reasons)}
        data = pack(arrays, metadata={"rows": json.dumps(notes, ensure_ascii=False)})
        atomic_write(self.folder / name, data)
        entry = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "rows": len(shard.statuses),
            "failed": sum(status != OK for status in shard.statuses),
        }
        self._note(name, entry)
        self._note_seconds(self.seconds + seconds)

    def adopt(self, parts: Sequence[ShardStore]) -> None:
        """Take the shards of other stores, of the same make, whose files stay where they are.

        Args:
            parts: each whole.
        """
        for part in parts:
            for name in part._manifest.shards:
                _link(part.folder / name, self.folder / name)
            self._manifest.shards.update(part._manifest.shards)
        self._write_manifest()
        self._note_seconds(self.seconds + sum(part.seconds for part in parts))

    def read(self, number: int) -> Shard:
        """One shard, its arrays read into memory.

        Raises:
            RunError: it is missing or damaged.
        """
        return self._read(number, with_arrays=True)

    def verdicts(self) -> tuple[list[str], list[str]]:
        """Every row's status and reason, in order."""
        shards = [self._read(number, with_arrays=False) for number in range(len(self))]
        statuses = [status for shard in shards for status in shard.statuses]
        return statuses, [reason for shard in shards for reason in shard.reasons]

    def _read(self, number: int, with_arrays: bool) -> Shard:
        name = shard_name(number)
        path = self.folder / name
        with reading(path):
            if with_arrays and checksum(path) != self._manifest.shards[name]["sha256"]:
                raise ValueError("another checksum")
            with safe_open(path, framework="numpy") as file:
                notes = json.loads(file.metadata()["rows"])
                names = sorted(file.keys()) if with_arrays else []
                arrays = {name: file.get_tensor(name) for name in names}
            return Shard(arrays, notes["statuses"], notes["reasons"])

    def shards(self) -> Iterator[Shard]:
        """Every shard in order."""
        for number in range(len(self)):
            yield self.read(number)

    @property
    def digest(self) -> str:
        """A fingerprint of the content: what was asked for and every shard's checksum."""
        return fingerprint({"made_from": self._manifest.made_from, "shards": self._manifest.shards})

    @property
    def rows(self) -> int:
        """How many rows there are, failed ones among them."""
        return sum(entry["rows"] for entry in self._manifest.shards.values())

    @property
    def failed(self) -> int:
        """How many rows failed."""
        return sum(entry["failed"] for entry in self._manifest.shards.values())

    @property
    def seconds(self) -> float:
        """How long making the shards took, over all the runs that it took."""
        return float(sum(read_times(self.timings).get(self.folder.name, {}).values()))

    def _note_seconds(self, seconds: float) -> None:
        if self.timings is not None:
            told = {SECONDS: round(seconds, 4)}
            write_json(self.timings, {**read_times(self.timings), self.folder.name: told})

    def _note(self, name: str, entry: dict[str, Any]) -> None:
        """Add a line to the manifest; rewrite it where lines would stand in another order than in
        that of a run that nothing interrupted."""
        shards = self._manifest.shards
        appended = self._manifest.appendable and name > next(reversed(shards), "")
        shards[name] = entry
        if appended:
            append(self.folder / MANIFEST, _line(name, entry))
        else:
            self._write_manifest()

    def _write_manifest(self) -> None:
        self._manifest.write(self.folder)


@dataclass
class _Manifest:
    """What a store was made from, and its shards' checksums, rows and failed rows by name.

    Attributes:
        appendable: whether the file holds exactly this, so that a line may be added.
    """

    made_from: dict[str, Any]
    shards: dict[str, dict[str, Any]]
    appendable: bool = False

    def write(self, folder: Path) -> None:
        self.shards = dict(sorted(self.shards.items()))
        lines = [sealed_line({"made_from": self.made_from})]
        lines += [_line(name, entry) for name, entry in self.shards.items()]
        atomic_write(folder / MANIFEST, b"".join(lines))
        with writing(folder / REWRITTEN):
            (folder / REWRITTEN).unlink(missing_ok=True)
        self.appendable = True


def _line(name: str, entry: Mapping[str, Any]) -> bytes:
    return sealed_line({"name": name, "shard": entry})


def is_store(folder: Path) -> bool:
    """Whether a folder has a manifest."""
    return any(path.exists() for path in _manifests(folder))


def _manifests(folder: Path) -> list[Path]:
    return [folder / name for name in (MANIFEST, REWRITTEN)]


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    if not path.exists() and (folder / REWRITTEN).exists():
        return _read_rewritten(folder / REWRITTEN)
    with reading(path):
        first, *lines = path.read_bytes().split(b"\n")
        found = _Manifest(read_sealed_line(first)["made_from"], {}, appendable=lines[-1:] == [b""])
    for place, line in enumerate(lines[:-1], start=2):
        try:
            told = read_sealed_line(line)
            found.shards[told["name"]] = _whole(told["name"], told["shard"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            log.warning("%s: line %d is damaged: its shard is made anew", path, place)
            found.appendable = False
    return found


def _read_rewritten(path: Path) -> _Manifest:
    """The manifest of an earlier version; it becomes one of this when a shard is added."""
    found = read_sealed(path, unsealed=("made_from", "shards"))
    with reading(path):
        shards = {name: _whole(name, entry) for name, entry in found["shards"].items()}
        return _Manifest(found["made_from"], shards)


def _whole(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    if not {"sha256", "rows", "failed"} <= entry.keys():
        raise ValueError(f"{name} is not told of whole")
    return entry


def _link(source: Path, target: Path) -> None:
    """Give a file another name; where the two are on different disks, copy it."""
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
        os.link(source, target)
    except OSError:
        atomic_write(target, source.read_bytes())


def _recipe_and_manifest(folder: Path) -> tuple[dict[str, Any], _Manifest]:
    found = _read_manifest(folder)
    return found.made_from, found


def read_times(path: Path | None) -> dict[str, dict[str, float]]:
    """How long the shards of each store took; nothing of a file that is missing or damaged.

    Times are told, and decide nothing: no work stops for them.
    """
    try:
        known = json.loads(path.read_bytes()) if path is not None else {}
        return {
            str(store): {str(name): float(seconds) for name, seconds in shards.items()}
            for store, shards in known.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s is damaged (%s): times begin anew", path, error)
        return {}


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return f"{STEM}{number:05d}{ENDING}"


def _remove_shards(folder: Path) -> None:
    for path in folder.glob(f"{STEM}*{ENDING}"):
        path.unlink()


def with_status(table: pd.DataFrame, store: ShardStore) -> pd.DataFrame:
    """The table with the ``status`` and ``reason`` that the store has for each row."""
    full = table.reset_index(drop=True).copy()
    full["status"], full["reason"] = (pd.array(v, dtype=STRING) for v in store.verdicts())
    return full
