"""The files of an index: one, or one for each shard, and index.json, which says what they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import faiss
from pydantic import Field, ValidationError

from retrieval.errors import RunError
from retrieval.index.faiss_factory import HALVES, IndexConfig, empty_index
from retrieval.storage.files import atomic_write, link
from retrieval.storage.fingerprint import checksum
from retrieval.types import StrictModel
from retrieval.vectors.gpu import ROWS_PER_BLOCK

logger = logging.getLogger(__name__)
INDEX_FILE, INDEX_FILES = "index.faiss", "index*.faiss"
SIDECAR_FILE = "index.json"


class Sidecar(StrictModel):
    """What index.json says of the file beside it, or of the files of ``shards``."""

    format: int
    faiss: str
    factory: str
    metric: str
    count: int
    dimension: int
    fingerprint: str
    checksum: str | None = None
    shards: dict[Annotated[str, Field(pattern=r"^index-\d+\.faiss$")], str] | None = None
    config: IndexConfig

    @property
    def files(self) -> dict[str, str]:
        """The checksum of each file."""
        return self.shards or {INDEX_FILE: self.checksum or ""}


@dataclass(frozen=True)
class About:
    """An index that is written: what index.json says of it, and the ``device`` that it is on."""

    factory: str
    config: IndexConfig
    dimension: int
    device: str
    fingerprint: str | Callable[[], str]


@dataclass(frozen=True)
class Kept:
    """The file of a shard that nothing changes."""

    path: Path
    checksum: str
    count: int


def write_shards(folder: Path, shards: Iterable[Any], about: About) -> Sidecar:
    """Write shards, each before the next is made, and last what index.json says of them."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    count = 0
    for shard in shards:
        divided = about.config.shard is not None
        path = folder / (f"index-{len(files):03d}.faiss" if divided else INDEX_FILE)
        if isinstance(shard, Kept):
            link(shard.path, path)
            files[path.name], count = shard.checksum, count + shard.count
        else:
            _write_shard(path, on_cpu(shard, about.factory, about.device))
            files[path.name], count = checksum(path), count + int(shard.ntotal)
        del shard  # while the next is made
    told = about.fingerprint
    sidecar = Sidecar(
        format=1,
        faiss=faiss.__version__,
        factory=about.factory,
        metric="inner product",
        count=count,
        dimension=about.dimension,
        fingerprint=told() if callable(told) else told,
        checksum=files.get(INDEX_FILE),
        shards=None if INDEX_FILE in files else files,
        config=about.config,
    )
    text = sidecar.model_dump_json(indent=2, exclude_none=True) + "\n"
    atomic_write(folder / SIDECAR_FILE, text.encode())
    for path in folder.glob(INDEX_FILES):
        if path.name not in files:  # of an index that was divided otherwise
            path.unlink()
    return sidecar


def _write_shard(path: Path, index: Any) -> None:
    def write(stream: Any) -> None:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))

    atomic_write(path, write)


def on_cpu(index: Any, factory: str, device: str) -> Any:
    """A shard as FAISS has it on the CPU: a copy, where it is on a GPU."""
    if device == "cpu":
        return index
    if factory != HALVES:
        return faiss.index_gpu_to_cpu(index)
    halves = empty_index(HALVES, index.d)
    for start in range(0, index.ntotal, ROWS_PER_BLOCK):
        halves.add(index.reconstruct_n(start, min(ROWS_PER_BLOCK, index.ntotal - start)))
    return halves


def read_sidecar(folder: Path) -> Sidecar:
    """What index.json says of an index; RunError where it is missing or damaged."""
    path = folder / SIDECAR_FILE
    try:
        return Sidecar.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} is missing: build the index first (landmarks index)") from None
    except (OSError, ValidationError) as error:
        logger.debug("%s: %s", path, error)
        raise RunError(f"{path}: damaged; run `landmarks index` again") from error
