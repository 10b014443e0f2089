"""Photographs from elsewhere: a landmarks CSV's own URLs, and Google Landmarks v2's archives.

Both end in the layout that image tables are read from, ``a/b/c/<id>.jpg``, and both can be killed
at any moment and called again: what is there is not fetched again, and nothing is there in part.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipelines.lists.inputs import limits, listed
from pipelines.lists.journal import Item, Journal, chunks
from retrieval.devices import cores
from retrieval.errors import ConfigError, DownloadError, FetchError, PhotographError, RunError
from retrieval.photographs.decoding import MAX_PIXELS, decode
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.fetching import Fetcher
from retrieval.photographs.table import fetched_name, nested_path
from retrieval.storage.files import read_json, write_json, writing
from retrieval.storage.journal import remove_litter
from retrieval.storage.shards import OK
from retrieval.streams import ahead

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

PHOTOGRAPHS: Final = "photos"
FETCHED_COLUMNS: Final = ("id", "status", "reason")
FETCH_ROWS: Final = 256
FETCH_CHUNKS_AHEAD: Final = 7
CHECKED: Final = 64
"""Pixels that a photograph is decoded at to check it: all of a JPEG's data are read for an eighth
of the time that all its pixels take."""
SAFE_ID: Final = re.compile(r"[0-9A-Za-z_-]{3,200}")

GLDV2: Final = "https://s3.amazonaws.com/google-landmark/"
GLDV2_SHARDS: Final = {"train": 500, "index": 100, "test": 20}
GLDV2_TABLES: Final = {
    "train": (
        "train.csv",
        "train_clean.csv",
        "train_attribution.csv",
        "train_label_to_category.csv",
        "train_label_to_hierarchical.csv",
    ),
    "index": (
        "index.csv",
        "index_image_to_landmark.csv",
        "index_label_to_category.csv",
        "index_label_to_hierarchical.csv",
    ),
    "test": ("test.csv",),
}
GLDV2_SOLUTIONS: Final = ("recognition_solution_v2.1.csv", "retrieval_solution_v2.1.csv")
MEMBER: Final = re.compile(r"(?:\./)?([0-9a-f])/([0-9a-f])/([0-9a-f])/(\1\2\3[0-9a-f]{13})\.jpg")
MD5: Final = re.compile(r"\b[0-9a-f]{32}\b")
MOST_BYTES: Final = 8 * 2**30
TRIES: Final = 3
SHARDS_AT_A_TIME: Final = 4


@dataclass(frozen=True)
class FetchSummary:
    """What became of a landmarks CSV.

    Attributes:
        photographs: the folder that they lie in.
        table: ``fetched-<name of the input>.csv``, one row for each of the input's.
        rows: in all.
        counts: of them, by status.
        nothing_to_do: whether an earlier run had finished.
    """

    photographs: Path
    table: Path
    rows: int
    counts: dict[str, int]
    nothing_to_do: bool

    @property
    def failed(self) -> int:
        return self.rows - self.counts.get(OK, 0)

    def __str__(self) -> str:
        done = "finished already, nothing to do: " if self.nothing_to_do else ""
        failed = f", {self.failed:,} failed (why: {self.table})" if self.failed else ""
        return f"{done}{self.rows - self.failed:,} photographs in {self.photographs}{failed}"


@dataclass(frozen=True)
class Gldv2Summary:
    """What of Google Landmarks v2 is there.

    Attributes:
        folder: the photographs' folder.
        shards: that are complete, of those asked for.
        photographs: in them.
        already: shards that were complete before.
    """

    folder: Path
    shards: int
    photographs: int
    already: int

    def __str__(self) -> str:
        already = f", {self.already} of them there before" if self.already else ""
        there = f"{self.photographs:,} photographs of {self.shards} archives"
        return f"{there}{already} → {self.folder}"


def fetch_photographs(
    table: Path,
    out: Path,
    *,
    url_column: str | None = None,
    id_column: str | None = None,
    fetch: FetchConfig | None = None,
    retry_failed: bool = False,
    restart: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: Progress = lambda done, failed: None,
) -> FetchSummary:
    """Download the photographs of a landmarks CSV to ``out/photos/a/b/c/<id>.jpg``.

    A photograph is kept as it came, once it has been decoded whole.
    ``out/fetched-<name>.csv`` says, in the order of the input, what became of each row.

    Args:
        table: a list with columns of ids and URLs; others are passed over.
        url_column: the name of the one, where it is no usual one.
        id_column: likewise of the other.
        out: a folder, made where it is missing.
        fetch: limits of the downloads.
        retry_failed: take the failed rows of a finished run again; limits may differ then.
        restart: go through all rows again; photographs that are there are still not fetched.
        max_pixels: cap on a photograph's pixels.
        progress: told of (rows done since the last call, failed ones among them).

    Raises:
        TableError: the CSV cannot be read, or lacks a column.
        RunError: ``out`` was filled from another CSV or with other limits.
    """
    fetch = fetch or FetchConfig()
    photographs = out / PHOTOGRAPHS
    given = listed(table, url_column, id_column, fetched=True)
    made_from = {"input": given.digest}
    options = {"max_pixels": max_pixels, **limits(fetch)}
    with Journal(
        out / fetched_name(table),
        FETCHED_COLUMNS,
        made_from,
        options,
        retry_failed=retry_failed,
        restart=restart,
    ) as journal:
        done = journal.state.rows
        progress(done, done - (journal.state.counts or {}).get(OK, 0))
        if not journal.done_before:
            todo = chunks(journal.pending(given.rows()), FETCH_ROWS)
            with ThreadPoolExecutor(cores()) as pool, Fetcher(fetch) as fetcher:
                compressor = _Keeper(fetcher, pool, photographs, max_pixels)
                begun = map(compressor.begin, todo)
                try:
                    for records in _finished(ahead(begun, FETCH_CHUNKS_AHEAD)):
                        counts = Counter(record[1] for record in records)
                        journal.append(records, counts)
                        progress(len(records), len(records) - counts[OK])
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
            shutil.rmtree(compressor.incoming, ignore_errors=True)
            journal.finish()
        counts = Counter(journal.state.counts or {})
        return FetchSummary(
            photographs, journal.out, journal.state.rows, dict(counts), journal.done_before
        )


def download_gldv2(
    split: str,
    shards: str,
    out: Path,
    *,
    base_url: str = GLDV2,
    fetch: FetchConfig | None = None,
    keep_archives: bool = False,
    progress: Progress = lambda done, failed: None,
) -> Gldv2Summary:
    """Download and unpack archives of Google Landmarks v2, and the split's tables.

    ``out/<split>/a/b/c/<id>.jpg`` are the photographs, ``out/*.csv`` the tables, and
    ``out/gldv2-<split>.json`` says which archives are done. Each archive is compared with its
    published md5 sum before anything is unpacked.

    Args:
        split: ``train``, ``index`` or ``test``.
        shards: numbers of archives, "0-3,7", or "all".
        out: a folder, made where it is missing; an archive needs twice its size for a while.
        base_url: where the data set is published.
        fetch: timeouts, retries, and whether private addresses are fetched from.
        keep_archives: keep the tar files in ``out/archives``.
        progress: told of (archives done since the last call, 0).

    Raises:
        ConfigError: no such split or archive.
        DownloadError: something cannot be had, or does not match its sum after three tries.
    """
    wanted = set(parse_shards(shards, split))
    place = _Gldv2(split, out, base_url.rstrip("/"), fetch or FetchConfig(), keep_archives)
    known = place.known()
    todo = [shard for shard in sorted(wanted) if shard not in known]
    progress(len(wanted) - len(todo), 0)
    if todo:
        sums = place.sums(todo)
        with ThreadPoolExecutor(SHARDS_AT_A_TIME) as pool, Fetcher(place.fetch) as fetcher:
            jobs = {pool.submit(place.bring, fetcher, one, sums[one]): one for one in todo}
            try:
                for job in as_completed(jobs):
                    known[jobs[job]] = job.result()
                    place.note(known)
                    progress(1, 0)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    place.tidy()
    with Fetcher(place.fetch) as fetcher:
        place.tables(fetcher)
    count = sum(many for shard, many in known.items() if shard in wanted)
    return Gldv2Summary(out / split, len(wanted), count, len(wanted) - len(todo))


def parse_shards(text: str, split: str) -> list[int]:
    """Numbers of archives from "0-3,7", or "all".

    Raises:
        ConfigError: not numbers, or more than the split has.
    """
    if split not in GLDV2_SHARDS:
        raise ConfigError(f"--split {split}: choose among {', '.join(GLDV2_SHARDS)}")
    many = GLDV2_SHARDS[split]
    if text == "all":
        return list(range(many))
    numbers: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if ends is None:
            raise ConfigError(f"--shards {text}: give numbers such as 0-3,7, or all")
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if last < first or last >= many:
            raise ConfigError(f"--shards {text}: {split} has the archives 0 to {many - 1}")
        numbers.extend(range(first, last + 1))
    return sorted(set(numbers))


@dataclass(frozen=True)
class _Keeper:
    """Fetches, checks and keeps photographs, in the background."""

    fetcher: Fetcher
    pool: ThreadPoolExecutor
    photographs: Path
    max_pixels: int

    @property
    def incoming(self) -> Path:
        """Where a photograph lies until it is whole, named by its row: ids may repeat."""
        return self.photographs / ".incoming"

    def begin(self, chunk: list[Item]) -> list[tuple[Item, Future[None] | PhotographError | None]]:
        self.incoming.mkdir(parents=True, exist_ok=True)
        return [(item, self._outcome(item)) for item in chunk]

    def _outcome(self, item: Item) -> Future[None] | PhotographError | None:
        row = item.row
        if item.kept is not None:
            return None
        if row.problem or not isinstance(row.source, str):
            return FetchError(row.problem or f"bad row: {row.source} is no URL")
        if not SAFE_ID.fullmatch(row.id):
            return FetchError("bad row: the id must be 3 or more letters, digits, - or _")
        path = nested_path(self.photographs, row.id)
        if path.exists():
            return None

        def keep(data: bytes) -> None:
            decode(data, CHECKED, max_pixels=self.max_pixels)
            part = self.incoming / f"{row.line}.jpg"
            with writing(path):
                with part.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(part, path)

        return self.fetcher.submit(row.source, keep, self.pool)


def _finished(
    begun: Iterable[list[tuple[Item, Future[None] | PhotographError | None]]],
) -> Iterator[list[list[str]]]:
    """The records of each chunk, once its photographs are there."""
    for chunk in begun:
        records = []
        for item, outcome in chunk:
            error = outcome
            if isinstance(outcome, Future):
                error = outcome.exception()  # type: ignore[assignment]
            if item.kept is not None:
                records.append(item.kept)
            elif error is None:
                records.append([item.row.id, OK, ""])
            elif isinstance(error, PhotographError):
                records.append([item.row.id, error.status, str(error)])
            else:
                raise error  # type: ignore[misc]  # a full disk, a bug
        yield records


@dataclass(frozen=True)
class _Gldv2:
    """One split of Google Landmarks v2 in one folder."""

    split: str
    out: Path
    base_url: str
    fetch: FetchConfig
    keep_archives: bool

    @property
    def archives(self) -> Path:
        return self.out / "archives" / self.split

    @property
    def notes(self) -> Path:
        return self.out / f"gldv2-{self.split}.json"

    def known(self) -> dict[int, int]:
        """Finished archives, and how many photographs each holds."""
        remove_litter(self.out, self.notes.name)
        if not self.notes.exists():
            return {}
        try:
            return {int(shard): int(many) for shard, many in read_json(self.notes).items()}
        except (RunError, AttributeError, TypeError, ValueError):
            raise RunError(f"{self.notes} is damaged: delete it and run again") from None

    def note(self, known: dict[int, int]) -> None:
        write_json(self.notes, {f"{shard:03d}": known[shard] for shard in known})

    def sums(self, shards: Sequence[int]) -> dict[int, str]:
        """The published md5 sums of archives."""
        place = f"{self.base_url}/md5sum/{self.split}/md5.images_"
        urls = [f"{place}{shard:03d}.txt" for shard in shards]
        sums = {}
        with ThreadPoolExecutor(1) as pool, Fetcher(self.fetch) as fetcher:
            jobs = [fetcher.submit(url, bytes.lower, pool) for url in urls]
            for shard, url, job in zip(shards, urls, jobs, strict=True):
                try:
                    found = MD5.search(job.result().decode("ascii", errors="replace"))
                except FetchError as error:
                    raise DownloadError(f"{url}: {error}") from None
                if found is None:
                    raise DownloadError(f"{url}: no md5 sum in it")
                sums[shard] = found[0]
        return sums

    def bring(self, fetcher: Fetcher, shard: int, md5: str) -> int:
        """Download, compare and unpack one archive; how many photographs it holds."""
        path = self.archives / f"images_{shard:03d}.tar"
        for _ in range(TRIES):
            if not path.exists():
                self._download(fetcher, f"{self.split}/{path.name}", path, resume=True)
            if _md5(path) == md5:
                try:
                    return self._unpack(path)
                except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
                    reason = " ".join(str(error).split())[:200]
                    raise DownloadError(
                        f"{path} is a damaged archive ({reason}), although its md5 sum is the"
                        " published one: delete it, and take it from another server (--base-url)"
                    ) from None
            log.warning("%s does not match its md5 sum: downloading it again", path)
            path.unlink()
        raise DownloadError(f"{path.name} does not match its md5 sum, {TRIES} times in a row")

    def tidy(self) -> None:
        """Delete archives that are unpacked."""
        if self.keep_archives:
            return
        for shard in self.known():
            (self.archives / f"images_{shard:03d}.tar").unlink(missing_ok=True)
        for folder in (self.archives, self.archives.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def tables(self, fetcher: Fetcher) -> None:
        """Download the split's CSVs that are not there. They have no sums: each comes whole."""
        names = [f"metadata/{name}" for name in GLDV2_TABLES[self.split]]
        if self.split == "test":
            names += [f"ground_truth/{name}" for name in GLDV2_SOLUTIONS]
        for name in names:
            path = self.out / name.rpartition("/")[2]
            if not path.exists():
                self._download(fetcher, name, path, resume=False)

    def _download(self, fetcher: Fetcher, name: str, path: Path, resume: bool) -> None:
        url = f"{self.base_url}/{name}"
        try:
            fetcher.download(url, path, max_bytes=MOST_BYTES, resume=resume)
        except FetchError as error:
            raise DownloadError(f"{url}: {error}; the same command goes on from here") from None

    def _unpack(self, path: Path) -> int:
        """Photographs alone: whatever else an archive may hold does not reach the disk."""
        root = self.out / self.split
        count = strange = 0
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = MEMBER.fullmatch(member.name)
                whole = member.isreg() and not member.issparse()
                content = archive.extractfile(member) if name and whole else None
                if name is None or content is None:
                    strange += not member.isdir()
                    continue
                target = nested_path(root, name[4])
                part = target.with_name(target.name + ".part")
                with writing(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with part.open("wb") as file:
                        shutil.copyfileobj(content, file)
                    os.replace(part, target)
                count += 1
            _require_end(path, archive.offset)
        if strange:
            log.warning("%s: %d entries that are not photographs were left out", path, strange)
        os.sync()  # before the archive is noted as done, its thousands of files must be on disk
        return count


def _require_end(path: Path, place: int) -> None:
    """Raise where something other than an archive's end follows: Python stops there in silence."""
    with path.open("rb") as file:
        file.seek(place)
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                raise tarfile.ReadError(f"no entry at byte {place}")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
