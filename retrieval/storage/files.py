"""Files of a run: whole or not there, and whatever is damaged is told by name.

A disk that flips a bit changes answers in silence, so whatever a run is read from has its SHA-256
somewhere: shards in their manifest, ``index.faiss`` in ``index.json``, the rest in ``run.json``,
and each of these records its own (:func:`write_sealed`). SHA-256 rather than a faster sum: with the
instructions that processors have for it it reads 1.8 GB a second and core, as fast as most disks,
anybody can compare it (``sha256sum``), and files are summed side by side (:func:`checksums`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from retrieval.errors import LandmarksError, RunError, WriteError, first_line
from retrieval.storage.fingerprint import seal
from retrieval.types import STRING

Arrays = Mapping[str, NDArray[Any]]

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
        reason = first_line(error)
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


def link(source: Path, target: Path) -> None:
    """Have a file's bytes stand under another name too, which is new: linked, or else copied."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        with reading(source), source.open("rb") as file:
            atomic_write(target, lambda copy: shutil.copyfileobj(file, copy))


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A file beside another, open for writing and gone afterwards unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    raw = _ErrorKeeper(handle, "wb")
    try:
        with io.BufferedWriter(raw, BUFFER) as file:
            yield file, name
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        # Libraries that write through a callback lose the reason on the way.
        if raw.error is not None and isinstance(error, Exception):
            raise raw.error from None
        raise


class _ErrorKeeper(io.FileIO):
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


def sealed_line(value: Mapping[str, Any]) -> bytes:
    """A JSON object on a line of its own, with its own checksum in it."""
    sealed = {**value, SEAL: seal(value)}
    return json.dumps(sealed, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_sealed_line(line: bytes) -> dict[str, Any]:
    """What :func:`sealed_line` was given.

    Raises:
        ValueError: damaged, or written in part.
    """
    found = json.loads(line)
    if not isinstance(found, dict) or found.pop(SEAL, None) != seal(found):
        raise ValueError("changed since it was written")
    return found


def remove_folder(folder: Path) -> None:
    """Remove a folder and all that is in it; nothing where it is not there."""
    with writing(folder), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file; on the disk once this returns. A kill may leave a part of it."""
    with writing(path), path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
