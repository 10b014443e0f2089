"""Descriptors on disk: shards that are the unit of work and of restart, and their manifest.

A folder holds ``shard-00000.safetensors`` … and ``manifest.json``. Each shard holds the rows of
one slice of an image table: whatever arrays the rows that went well produced, and every row's
status and reason. A shard is written to a temporary file, fsynced and renamed before the manifest
names it, so a run killed at any moment goes on with the first shard that is missing. The manifest
carries the fingerprint of what the shards were made from; a store never mixes two.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from safetensors import safe_open
from safetensors.numpy import save as pack

from retrieval.errors import PhotographError
from retrieval.storage.files import (
    Arrays,
    atomic_write,
    read_sealed,
    reading,
    write_json,
    write_sealed,
    writing,
)
from retrieval.storage.fingerprint import checksum, checksums, fingerprint
from retrieval.storage.journal import as_json, take_up
from retrieval.types import STRING

log = logging.getLogger(__name__)

MANIFEST: Final = "manifest.json"
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
        clock: a JSON file that keeps how long each shard took; it lies elsewhere, since the bytes
            in ``folder`` must not hang on the time of day.
    """

    def __init__(self, folder: Path, made_from: Mapping[str, Any], clock: Path | None = None):
        self.folder = folder
        self.clock = clock
        wanted, path = as_json(made_from), folder / MANIFEST
        found = take_up(folder, path, wanted, lambda: _recipe_and_manifest(folder))
        self._manifest: dict[str, Any] = found or {"made_from": wanted, "shards": {}}
        if found is None:
            # The manifest goes first: one that names shards which are gone would be damage.
            with writing(path):
                path.unlink(missing_ok=True)
                _remove_shards(folder)
            self._note_times({})
            self._write_manifest()

    @classmethod
    def open(cls, folder: Path, clock: Path | None = None) -> ShardStore:
        """A store that is there, whatever it was made from.

        Raises:
            RunError: there is none, or it is damaged.
        """
        return cls(folder, _read_manifest(folder)["made_from"], clock)

    def __contains__(self, number: int) -> bool:
        return shard_name(number) in self._manifest["shards"]

    def __len__(self) -> int:
        return len(self._manifest["shards"])

    def mend(self) -> None:
        """Forget the shards that are missing or damaged, so that they are made again."""
        names = sorted(self._manifest["shards"])
        found = checksums([self.folder / name for name in names])
        damaged = [
            name
            for name, told in zip(names, found, strict=True)
            if told != self._manifest["shards"][name]["sha256"]
        ]
        for name in damaged:
            log.warning("%s is missing or damaged: made anew", self.folder / name)
            del self._manifest["shards"][name]
        if damaged:
            self._write_manifest()

    def counts(self, number: int) -> tuple[int, int]:
        """Rows and failed rows of a shard that is there."""
        entry = self._manifest["shards"][shard_name(number)]
        return int(entry["rows"]), int(entry["failed"])

    def write(self, number: int, shard: Shard, seconds: float = 0.0) -> None:
        """Add one shard: its file first, then its line in the manifest."""
        name = shard_name(number)
        arrays = {key: np.ascontiguousarray(value) for key, value in shard.arrays.items()}
        notes = {"statuses": list(shard.statuses), "reasons": list(shard.reasons)}
        data = pack(arrays, metadata={"rows": json.dumps(notes, ensure_ascii=False)})
        atomic_write(self.folder / name, data)
        self._manifest["shards"][name] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "rows": len(shard.statuses),
            "failed": sum(status != OK for status in shard.statuses),
        }
        self._write_manifest()
        self._note_times({**self._times(), name: round(seconds, 4)})

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
            if with_arrays and checksum(path) != self._manifest["shards"][name]["sha256"]:
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
        return fingerprint(self._manifest)

    @property
    def rows(self) -> int:
        """How many rows there are, failed ones among them."""
        return sum(entry["rows"] for entry in self._manifest["shards"].values())

    @property
    def failed(self) -> int:
        """How many rows failed."""
        return sum(entry["failed"] for entry in self._manifest["shards"].values())

    @property
    def seconds(self) -> float:
        """How long making the shards took, over all the runs that it took."""
        return float(sum(self._times().values()))

    def _times(self) -> dict[str, float]:
        """Seconds by shard, of this store."""
        return dict(read_times(self.clock).get(self.folder.name, {}))

    def _note_times(self, times: Mapping[str, float]) -> None:
        if self.clock is not None:
            write_json(self.clock, {**read_times(self.clock), self.folder.name: times})

    def _write_manifest(self) -> None:
        write_sealed(self.folder / MANIFEST, self._manifest)


def _recipe_and_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    found = _read_manifest(folder)
    return found["made_from"], found


def _read_manifest(folder: Path) -> dict[str, Any]:
    found = read_sealed(folder / MANIFEST, unsealed=("made_from", "shards"))
    with reading(folder / MANIFEST):
        for name, entry in found["shards"].items():
            if not {"sha256", "rows", "failed"} <= entry.keys():
                raise ValueError(f"{name} is not told of whole")
        return {"made_from": found["made_from"], "shards": found["shards"]}


def read_times(path: Path | None) -> dict[str, dict[str, float]]:
    """How long each shard of each store took; nothing of a file that is missing or damaged.

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
    return f"shard-{number:05d}.safetensors"


def _remove_shards(folder: Path) -> None:
    for path in folder.glob("shard-*.safetensors"):
        path.unlink()


def with_status(table: pd.DataFrame, store: ShardStore) -> pd.DataFrame:
    """The table with the ``status`` and ``reason`` that the store has for each row."""
    full = table.reset_index(drop=True).copy()
    full["status"], full["reason"] = (pd.array(v, dtype=STRING) for v in store.verdicts())
    return full
