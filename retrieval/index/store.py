"""Descriptors on disk: shards that are the unit of work and of restart, and their manifest.

A folder holds ``shard-00000.safetensors`` … and ``manifest.json``. Each shard holds the rows of
one slice of an image table: whatever arrays the rows that went well produced, and every row's
status and reason. A shard is written to a temporary file, fsynced and renamed before the manifest
names it, so a run killed at any moment goes on with the first shard that is missing. The manifest
carries the fingerprint of what the shards were made from; a store never mixes two.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as pack

from retrieval.errors import RunError

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]

MANIFEST: Final = "manifest.json"
OK: Final = "ok"
MAPPED: Final = 1 << 16
"""Arrays of more bytes are mapped rather than read; an empty one cannot be mapped."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system inside name this file: a full disk, as Python tells it, names none."""
    try:
        yield
    except OSError as error:
        # An error that names a file is of that one, unless the name was made up for a while.
        if error.errno is None or not str(error.filename or ".tmp").endswith(".tmp"):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def atomic_write(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file so that it is either whole or not there, even after a power cut.

    Args:
        path: where it goes; its folder is made where it is missing.
        data: the bytes, or a function that writes them to the open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_json(path: Path, value: Any) -> None:
    """:func:`atomic_write` of indented JSON with sorted keys; NaN and infinities are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} is missing: build the run first (landmarks index)") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): build the run again") from None


def read_tensors(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read arrays of a run's safetensors file.

    Raises:
        RunError: the file is missing or damaged, or lacks one of them.
    """
    try:
        arrays = load_file(path)
        return {name: arrays[name] for name in names}
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(
            f"{path} is missing or damaged ({error}): run landmarks index again"
        ) from None


def write_arrays(
    folder: Path,
    forms: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    blocks: Iterable[Arrays],
) -> None:
    """Write arrays that come block by block into one file each, NAME.npy, that can be mapped.

    Args:
        folder: where they go.
        forms: each array's type and whole shape.
        blocks: each with the next rows of every array.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), contextlib.ExitStack() as stack:
        files = {}
        for name, (dtype, shape) in forms.items():
            handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
            files[name] = stack.enter_context(os.fdopen(handle, "wb")), temporary
            header = {"fortran_order": False, "shape": shape}
            header["descr"] = np.lib.format.dtype_to_descr(dtype)
            np.lib.format.write_array_header_1_0(files[name][0], header)
        for block in blocks:
            for name, (file, _) in files.items():
                file.write(np.ascontiguousarray(block[name], dtype=forms[name][0]).tobytes())
        for name, (file, temporary) in files.items():
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, folder / f"{name}.npy")


def read_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Every array that :func:`write_arrays` wrote, memory-mapped where there is much of it.

    Raises:
        RunError: there is none, or one is damaged.
    """
    found = {}
    paths = sorted(folder.glob("*.npy"))
    if not paths:
        raise RunError(f"{folder} is missing or empty: run landmarks index again")
    for path in paths:
        try:
            mode: Literal["r"] | None = "r" if path.stat().st_size > MAPPED else None
            found[path.name.removesuffix(".npy")] = np.load(
                path, mmap_mode=mode, allow_pickle=False
            )
        except (OSError, EOFError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}): run landmarks index again") from None
    return found


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        wanted = json.loads(json.dumps(made_from))
        path = folder / MANIFEST
        found = read_json(path) if path.exists() else None
        changed = first_difference(found["made_from"], wanted) if found else None
        if changed is not None:
            log.info("%s: %s changed, so it is made anew", folder, changed)
        self._manifest: dict[str, Any] = {"made_from": wanted, "shards": {}}
        if found is not None and changed is None:
            self._manifest = found
        else:
            # The manifest goes first: one that names shards which are gone would be damage.
            path.unlink(missing_ok=True)
            _remove_shards(folder)
            self._note_times({})
            self._write_manifest()

    @classmethod
    def open(cls, folder: Path, clock: Path | None = None) -> ShardStore:
        """A store that is there, whatever it was made from.

        Raises:
            RunError: there is none.
        """
        return cls(folder, read_json(folder / MANIFEST)["made_from"], clock)

    def __contains__(self, number: int) -> bool:
        return shard_name(number) in self._manifest["shards"]

    def __len__(self) -> int:
        return len(self._manifest["shards"])

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
        remedy = f"delete {self.folder} and run again"
        try:
            if with_arrays and checksum(path) != self._manifest["shards"][name]["sha256"]:
                raise ValueError("another checksum")
            with safe_open(path, framework="numpy") as file:
                notes = json.loads(file.metadata()["rows"])
                names = sorted(file.keys()) if with_arrays else []
                arrays = {name: file.get_tensor(name) for name in names}
        except (FileNotFoundError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is missing or damaged ({error}): {remedy}") from None
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
        known = read_json(self.clock) if self.clock is not None and self.clock.exists() else {}
        return dict(known.get(self.folder.name, {}))

    def _note_times(self, times: Mapping[str, float]) -> None:
        if self.clock is not None:
            known = read_json(self.clock) if self.clock.exists() else {}
            write_json(self.clock, {**known, self.folder.name: times})

    def _write_manifest(self) -> None:
        write_json(self.folder / MANIFEST, self._manifest)


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The dotted path of the first field in which two JSON values differ, or ``None``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{path}.{key}" if path else str(key)
            if key not in old or key not in new:
                return inner
            found = first_difference(old[key], new[key], inner)
            if found is not None:
                return found
        return None
    return None if old == new else (path or "value")


def _remove_shards(folder: Path) -> None:
    for path in folder.glob("shard-*.safetensors"):
        path.unlink()
