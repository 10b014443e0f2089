"""Descriptors on disk: shards that are the unit of work and of restart, and their manifest.

A folder holds ``shard-00000.safetensors`` … and ``manifest.json``. Each shard holds the rows of
one slice of an image table: whatever arrays the rows that went well produced, and every row's
status and reason. A shard is written to a temporary file, fsynced and renamed before the manifest
names it, so a run killed at any moment goes on with the first shard that is missing. The manifest
carries the fingerprint of what the shards were made from; a store never mixes two.

A disk that flips a bit changes answers in silence, so whatever a run is read from has its SHA-256
somewhere: shards in their manifest, ``index.faiss`` in ``index.json``, the rest in ``run.json``,
and each of these records its own (:func:`write_sealed`). SHA-256 rather than a faster sum: with the
instructions that processors have for it it reads 1.8 GB a second and core, as fast as most disks,
anybody can compare it (``sha256sum``), and files are summed side by side (:func:`checksums`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as pack

from retrieval.errors import LandmarksError, RunError, WriteError
from retrieval.photographs.table import STRING

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]

MANIFEST: Final = "manifest.json"
OK: Final = "ok"
MAPPED: Final = 1 << 16
"""Arrays of more bytes are mapped rather than read; an empty one cannot be mapped."""
SEAL: Final = "sha256"
"""The key below which a sealed JSON file keeps the checksum of all its others."""
AGAIN: Final = "run landmarks index again"
BUFFER: Final = 1 << 12
"""Bytes that are written at a time."""
FULL: Final = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room in your share of that disk",
    errno.EFBIG: "raise the limit on a file's size, or take another disk",
}
"""What helps where nothing more can be written."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file, and what to do, where writing it fails.

    Raises:
        WriteError: in place of the operating system's error.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "make the folder writable, or choose another"
        if error.errno in FULL:
            remedy = (
                f"{FULL[error.errno]}, and give the same command again: it goes on where it was"
            )
        raise WriteError(f"{path} cannot be written ({reason}): {remedy}") from None


@contextlib.contextmanager
def reading(path: Path, remedy: str = AGAIN) -> Iterator[None]:
    """Name the file, and what to do, where what it holds cannot be taken for what it should be.

    Damaged bytes make libraries raise whatever they stumble over.

    Raises:
        RunError: in place of any error but one that explains itself, and of too little memory.
    """
    try:
        yield
    except (LandmarksError, MemoryError):
        raise
    except PermissionError:
        raise RunError(f"{path} cannot be read (Permission denied): make it readable") from None
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise RunError(f"{path} is missing or damaged ({reason}): {remedy}") from None


def atomic_write(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file so that it is either whole or not there, even after a power cut.

    Args:
        path: where it goes; its folder is made where it is missing.
        data: the bytes, or a function that writes them to the open file.
    """
    with writing(path), _temporary(path) as (file, name):
        if callable(data):
            data(file)
        else:
            file.write(data)
        _settle(file, name, path)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A file beside another, open for writing and gone afterwards unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    told = _Told(handle, "wb")
    try:
        with io.BufferedWriter(told, BUFFER) as file:
            yield file, name
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        # Libraries that write through a callback lose the reason on the way.
        if told.error is not None and isinstance(error, Exception):
            raise told.error from None
        raise


class _Told(io.FileIO):
    """A file that remembers why it could not be written."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            self.error = error
            raise


def _settle(file: BinaryIO, temporary: str, path: Path) -> None:
    """Give a file that is written its name, once its bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """:func:`atomic_write` of indented JSON with sorted keys; NaN and infinities are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text.encode() + b"\n")


def read_json(path: Path, remedy: str = AGAIN) -> Any:
    """Read a JSON file of a run.

    Raises:
        RunError: it is missing or damaged.
    """
    with reading(path, remedy):
        return json.loads(path.read_bytes())


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """:func:`write_json` of an object, with its own checksum in it."""
    write_json(path, {**value, SEAL: seal(value)})


def read_sealed(path: Path, remedy: str = AGAIN, unsealed: Collection[str] = ()) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote, without the checksum.

    Args:
        path: of the file.
        remedy: what to do where it is damaged.
        unsealed: the keys of a file by a version that did not seal it yet, which is taken as well.

    Raises:
        RunError: it is missing, damaged or changed by hand.
    """
    found = read_json(path, remedy)
    with reading(path, remedy):
        if not isinstance(found, dict):
            raise ValueError("no object")
        # One flipped bit does not take a key away whole: it makes another one of it.
        if SEAL not in found and unsealed and found.keys() <= set(unsealed):
            return found
        told = found.pop(SEAL, None)
        if told != seal(found):
            raise ValueError("changed since it was written")
    return found


def seal(value: Any) -> str:
    """The SHA-256 of a JSON value, however it is indented."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_tensors(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read arrays of a run's safetensors file.

    Raises:
        RunError: the file is missing or damaged, or lacks one of them.
    """
    with reading(path):
        arrays = load_file(path)
        return {name: arrays[name] for name in names}


def read_table(path: Path, columns: Sequence[str], remedy: str = AGAIN) -> pd.DataFrame:
    """Read columns of a run's Parquet file: ``row`` are numbers, all others text.

    Raises:
        RunError: the file is missing or damaged, or lacks one of them.
    """
    with reading(path, remedy):
        frame = pd.read_parquet(path, columns=list(columns))
        return frame.astype({name: "int64" if name == "row" else STRING for name in columns})


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
    with contextlib.ExitStack() as stack:
        files = {}
        for name, (dtype, shape) in forms.items():
            path = folder / f"{name}.npy"
            stack.enter_context(writing(path))
            files[name] = stack.enter_context(_temporary(path))
            header = {"fortran_order": False, "shape": shape}
            header["descr"] = np.lib.format.dtype_to_descr(dtype)
            np.lib.format.write_array_header_1_0(files[name][0], header)
        for block in blocks:
            for name, (file, _) in files.items():
                file.write(np.ascontiguousarray(block[name], dtype=forms[name][0]).tobytes())
        for name, (file, temporary) in files.items():
            _settle(file, temporary, folder / f"{name}.npy")


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
        with reading(path):
            mode: Literal["r"] | None = "r" if path.stat().st_size > MAPPED else None
            found[path.name.removesuffix(".npy")] = np.load(
                path, mmap_mode=mode, allow_pickle=False
            )
    return found


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(paths: Sequence[Path]) -> list[str | None]:
    """The :func:`checksum` of each file, several at a time; ``None`` for one that is not there."""

    def one(path: Path) -> str | None:
        try:
            return checksum(path)
        except OSError:
            return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, paths))


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
        found = None
        if path.exists():
            try:
                found = _read_manifest(folder)
            except RunError as error:
                log.warning("%s, so what it names is made anew", str(error).rpartition(":")[0])
        changed = first_difference(found["made_from"], wanted) if found else None
        if changed is not None:
            log.info("%s: %s changed, so it is made anew", folder, changed)
        self._manifest: dict[str, Any] = {"made_from": wanted, "shards": {}}
        if found is not None and changed is None:
            self._manifest = found
        else:
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
