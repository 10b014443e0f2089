"""What a run says of itself: run.json, sealed, with the checksum of every file that it answers by.

run.json is written last, and begins to say ``finished: false`` before a file that it names is
changed: what differs from it is damage, or was changed by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from retrieval.errors import RunError
from retrieval.storage.files import AGAIN, read_sealed, reading, write_sealed
from retrieval.storage.fingerprint import checksums

RUN: Final = "run.json"
ANSWERING: Final = ("extractor", "whitening", "calibration", "local", "index", "classifiers")
"""Folders of what a run answers by. What its own network needs is in ``training``, which has
checksums of its own, as it can be another run's too."""
DESCRIBER: Final = ANSWERING[:4]
"""Those of what describes photographs."""
ADDED: Final = "descriptors/*/rows.parquet"
"""Which photographs the build and each addition brought. Their descriptors lie beside, in shards
whose manifest has their checksums."""
OWN_SUM: Final = "index/index.faiss"
"""The one file among them whose checksum stands in another, index.json."""


class IndexRecord(BaseModel):
    """What run.json says of the index."""

    model_config = ConfigDict(extra="allow", strict=True)

    factory: str
    bytes_per_image: float
    descriptors: str


class BegunRecord(BaseModel):
    """What run.json says of a run that is being built, or changed, and knows its config."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    config: dict[str, Any]
    data: str
    describer: dict[str, Any]
    names: dict[str, str]


class FinishedRecord(BegunRecord):
    """What run.json says of a run that answers."""

    fingerprint: str
    answer: str
    gallery: int
    bank: int
    failed: int
    landmarks: int
    dimension: int
    index: IndexRecord
    device: str
    machine: dict[str, Any]
    versions: dict[str, str]
    timings: dict[str, float]
    files: dict[str, str]


def read_record(folder: Path) -> dict[str, Any]:
    """run.json of a run, which need not be whole.

    Raises:
        RunError: there is none, or it is damaged.
    """
    path = folder / RUN
    if not path.exists():
        raise RunError(f"{path} is missing: build the run first (landmarks index)")
    record = read_sealed(path)
    with reading(path):
        if record.get("finished"):
            FinishedRecord.model_validate(record)
        elif "config" in record:
            BegunRecord.model_validate(record)
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json; one that is finished with the checksums of the run's files."""
    files = {"files": file_sums(folder)} if record.get("finished") else {}
    write_sealed(folder / RUN, {**record, **files})


def file_sums(
    folder: Path, folders: Sequence[str] = ANSWERING, added: bool = True
) -> dict[str, str]:
    """The checksum of each file that a run answers by, by its path within the run.

    Args:
        folder: of the run.
        folders: of those files.
        added: whether the lists of photographs are among them.
    """
    found = [path for part in folders for path in (folder / part).rglob("*") if path.is_file()]
    found += folder.glob(ADDED) if added else []
    names = {path.relative_to(folder).as_posix(): path for path in sorted(found)}
    names.pop(OWN_SUM, None)
    sums = zip(names, checksums(list(names.values())), strict=True)
    return {name: one for name, one in sums if one is not None}


def damaged_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Which of the files are missing, or not what they were when their checksum was taken."""
    found = checksums([folder / name for name in files])
    return [name for name, one in zip(files, found, strict=True) if one != files[name]]


def check_files(folder: Path, record: Mapping[str, Any], everything: bool = False) -> None:
    """Compare a finished run's files with their checksums.

    Args:
        folder: of the run.
        record: its run.json.
        everything: the lists of photographs too, which nothing is answered by.

    Raises:
        RunError: naming the first that is missing or damaged.
    """
    files = record.get("files", {})
    if not everything:
        files = {name: one for name, one in files.items() if name.partition("/")[0] in ANSWERING}
    damaged = damaged_files(folder, files)
    if damaged:
        more = f", and {len(damaged) - 1} more files," if len(damaged) > 1 else ""
        raise RunError(
            f"{folder / damaged[0]}{more} is missing or damaged (not what run.json has the"
            f" checksum of): {AGAIN}"
        )
