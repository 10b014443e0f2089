"""A run on disk: its paths, its lock, its record, and which photographs came into it.

``run.json`` is the record: sealed, with the checksum of every file that the run answers by. It is
written last, and begins to say ``finished: false`` before a file that it names is changed: what
differs from it is damage, or was changed by hand.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from retrieval.errors import RunError, without_remedy
from retrieval.storage.files import (
    AGAIN,
    atomic_write,
    read_json,
    read_sealed,
    read_table,
    reading,
    remove_folder,
    write_json,
    write_sealed,
    writing,
)
from retrieval.storage.fingerprint import checksums
from retrieval.storage.journal import as_json, lock, remove_litter, reusable
from retrieval.storage.shards import read_times

if TYPE_CHECKING:
    from retrieval.config import SystemConfig

log = logging.getLogger(__name__)

CODE: Final = 7
"""Version of the code that decides the bytes of a run: raised when they change."""
QUANTISED: Final = "quantised"
EXTRACTOR: Final = "extractor"
DESCRIBER: Final = "describer"
INDEX: Final = "index"
CLASSIFIERS: Final = "classifiers"
STAGES: Final[Mapping[str, Sequence[str]]] = {
    QUANTISED: ("quantised",),
    EXTRACTOR: ("extractor", "local"),
    DESCRIBER: ("whitening", "calibration"),
    INDEX: ("index",),
    CLASSIFIERS: ("classifiers",),
}
"""The folders that each stage of a build writes, all of which a run answers by. What its own
network needs is in ``training``, which has checksums of its own, as it can be another run's too."""
ANSWERING: Final = [folder for folders in STAGES.values() for folder in folders]
ROWS: Final = "rows.parquet"
COLUMNS: Final = ("id", "source", "landmark", "row")
"""Of those."""
STAGED: Final = "stages"
"""Where the times of stages stand in timings.json, beside those of shards."""
FIRST: Final = "000"
"""The photographs of the build; those of additions are 001 and so on."""
OWN_SUM: Final = re.compile(r"index/index(-\d+)?\.faiss")
"""The files among those that answer whose checksums stand in another, index.json."""
BEGUN: Final = ("name", "config", "data", "describer", "names")
"""What run.json says of a run that is being built or changed."""
UNFINISHED: Final = "is not finished: run landmarks index again, it goes on"


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


class _Noted(BaseModel):
    """What is noted of a stage: what its files were made by, what is told of them, and theirs."""

    model_config = ConfigDict(extra="allow", strict=True)

    recipe: dict[str, Any]
    told: dict[str, Any]
    files: dict[str, str]


class Run:
    """The folder of a run, which need not be there.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path | str):
        self.folder = folder = Path(folder)
        self.record = folder / "run.json"
        self.asked = folder / "asked.json"
        self.timings = folder / "timings.json"
        self.agreed = folder / "agreed.json"
        self.stages = folder / "stages"
        self.training = folder / "training"
        self.quantised = folder / "quantised"
        self.features = folder / "features"
        self.aggregated = folder / "aggregated"
        self.kept = self.aggregated / "kept"
        self.views = folder / "views"
        self.descriptors = folder / "descriptors"
        self.parts = folder / "parts"
        self.removals = self.descriptors / "removed.json"
        self.index = folder / "index"
        self.rows = self.index / "rows.parquet"
        self.gallery = self.index / "gallery"
        self.bank = self.index / "bank"
        self.bank_rows = self.index / "bank-rows.parquet"
        self.augmented = self.index / "augmented"
        self.classifiers = folder / "classifiers"
        self.changed = folder / "changed"
        self.evaluation = folder / "evaluation"

    def __str__(self) -> str:
        return str(self.folder)

    def create(self) -> None:
        """Make the folder.

        Raises:
            RunError: a file is there.
            WriteError: it cannot be made.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self} is a file: a run needs a folder (--run)")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Keep two commands from writing the run at a time; the lock goes with the process.

        Args:
            wait: for another command to be done, rather than refuse.

        Raises:
            RunError: another command has it.
            WriteError: the run cannot be written.
        """
        path = self.folder / ".lock"
        with writing(path):
            file = path.open("w")
        with file:
            lock(file, self, wait)
            remove_litter(self.folder, apart=self.parts)  # they have locks of their own
            yield

    # The record.

    def read_record(self) -> dict[str, Any]:
        """run.json, of a run that need not be whole.

        Raises:
            RunError: there is none, or it is damaged.
        """
        if not self.record.exists():
            raise RunError(f"{self.record} is missing: build the run first (landmarks index)")
        record = read_sealed(self.record)
        with reading(self.record):
            if record.get("finished"):
                FinishedRecord.model_validate(record)
            elif "config" in record:
                BegunRecord.model_validate(record)
        return record

    def read(self) -> tuple[dict[str, Any], SystemConfig]:
        """The record, and the config that the run was built by; the run need not be whole.

        Raises:
            RunError: there is none, it is damaged, or another version of this project wrote it.
        """
        # What makes a config of it needs every library of the work; most of a run does not.
        from retrieval.config import SystemConfig

        record = self.read_record()
        if "config" not in record:
            raise RunError(f"{self} {UNFINISHED}")
        try:
            return record, SystemConfig.model_validate(record["config"])
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise RunError(
                f"{self.record} holds a config that this version does not know ({place}): build"
                " the run again (landmarks index)"
            ) from None

    def read_finished(self) -> tuple[dict[str, Any], SystemConfig]:
        """As :meth:`read`, of a run that answers.

        Raises:
            RunError: it is not finished, or as of :meth:`read`.
        """
        record, config = self.read()
        if not record.get("finished"):
            raise RunError(f"{self} {UNFINISHED}")
        return record, config

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write run.json; one that is finished with the checksums of the run's files."""
        files = {"files": self._sums()} if record.get("finished") else {}
        write_sealed(self.record, {**record, **files})

    def begin(self, record: Mapping[str, Any]) -> None:
        """Say that the run is not whole from here on, until run.json is written again."""
        kept = {key: record[key] for key in BEGUN if key in record}
        self.write_record({"finished": False, **kept})

    def check(self, record: Mapping[str, Any], everything: bool = False) -> None:
        """Compare a finished run's files with their checksums.

        Args:
            record: its run.json.
            everything: the lists of photographs too, which nothing is answered by.

        Raises:
            RunError: naming the first that is missing or damaged.
        """
        files = record.get("files", {})
        if not everything:
            files = {k: one for k, one in files.items() if k.partition("/")[0] in ANSWERING}
        damaged = self._damaged(files)
        if damaged:
            more = f", and {len(damaged) - 1} more files," if len(damaged) > 1 else ""
            raise RunError(
                f"{damaged[0]}{more} is missing or damaged (not what run.json has the checksum"
                f" of): {AGAIN}"
            )

    def mend(self) -> None:
        """Take away what is damaged of a finished run, so that it is made anew.

        Raises:
            RunError: it cannot be: it says which photographs were added.
        """
        try:
            record = self.read_record() if self.record.exists() else {}
        except RunError as error:
            log.warning("%s: it is built anew", without_remedy(error))
            self.begin({})
            return
        damaged = self._damaged(record.get("files", {}))
        for path in damaged:
            if path.parent.parent != self.descriptors:
                log.warning("%s is missing or damaged: made anew", path)
                path.unlink(missing_ok=True)
            elif path.parent.name != FIRST:  # the build's own list is written anew
                if path.exists():
                    raise RunError(f"{path} is damaged: {_lost(path)}")
                log.warning(
                    "%s is gone, and with it the photographs that were added then", path.parent
                )
        if damaged:
            self.begin(record)

    def _sums(self) -> dict[str, str]:
        """The checksum of each file that the run answers by, and of the lists of photographs."""
        paths = [*self._files(ANSWERING), *self.descriptors.glob(f"*/{ROWS}")]
        names = ((path, path.relative_to(self.folder).as_posix()) for path in paths)
        return self._checksums([path for path, name in names if not OWN_SUM.fullmatch(name)])

    def files_after(self, files: Mapping[str, str], changed: Mapping[str, str]) -> dict[str, str]:
        """The checksums for run.json once the files of some stages have changed.

        Args:
            files: as it has them now.
            changed: those of the stages, by path.
        """
        lists = self._checksums(list(self.descriptors.glob(f"*/{ROWS}")))
        found = {**files, **changed, **lists}
        return {name: found[name] for name in sorted(found) if not OWN_SUM.fullmatch(name)}

    def _files(self, folders: Sequence[str]) -> list[Path]:
        found = (path for one in folders for path in (self.folder / one).rglob("*"))
        return [path for path in found if path.is_file()]

    def _checksums(self, paths: Sequence[Path]) -> dict[str, str]:
        """The checksum of each file that is there, by its path within the run."""
        ordered = sorted(paths)
        sums = zip(ordered, checksums(ordered), strict=True)
        return {path.relative_to(self.folder).as_posix(): one for path, one in sums if one}

    def _damaged(self, files: Mapping[str, str]) -> list[Path]:
        """Which files are missing, or not what they were when their checksum was taken."""
        paths = [self.folder / name for name in files]
        found = zip(paths, files.values(), checksums(paths), strict=True)
        return [path for path, told, one in found if one != told]

    # The stages.

    def stage(
        self, name: str, recipe: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Make a stage's files, unless they are there, whole and of the same recipe.

        Args:
            name: of the stage.
            recipe: all that decides the files' bytes.
            make: writes them, and returns what is to be told of them (JSON).

        Returns:
            what ``make`` told, now or when the files were made.
        """
        recipe, path = as_json(recipe), self.stages / f"{name}.json"
        known = reusable(name, path, recipe, lambda: self._noted(path))
        if known is not None:
            log.info("%s: nothing changed", name)
            return known
        with writing(path):
            path.unlink(missing_ok=True)
        begun, described = time.perf_counter(), self.seconds_describing()
        told = make()
        # What is described within a stage, as views are, counts as describing.
        within = self.seconds_describing() - described
        self._note_seconds(name, max(time.perf_counter() - begun - within, 0.0))
        self.note(name, {"recipe": recipe, "told": told, "files": self.checksums_of(name)})
        return told

    def checksums_of(
        self, name: str, known: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, str]:
        """The checksum of each file of a stage, by its path within the run, some ``known``."""
        paths = [
            one
            for one in self._files(STAGES[name])
            if one.relative_to(self.folder).as_posix() not in known
        ]
        return {**self._checksums(paths), **known}

    def note(self, name: str, noted: Mapping[str, Any]) -> None:
        """Note of a stage its recipe, what is told of it, and its files' checksums."""
        write_sealed(self.stages / f"{name}.json", noted)

    def noted(self, name: str) -> dict[str, Any] | None:
        """What was noted of a stage, whose files need not be whole; ``None`` where nothing is."""
        path = self.stages / f"{name}.json"
        try:
            noted = read_sealed(path)
            with reading(path):
                _Noted.model_validate(noted)
            return noted
        except RunError:
            return None

    def recipe_of(self, name: str) -> dict[str, Any] | None:
        """What a stage's files were made by; ``None`` where they are not there whole."""
        path = self.stages / f"{name}.json"
        try:
            return self._noted(path)[0] if path.exists() else None
        except RunError:
            return None

    def forget(self, name: str) -> None:
        """Have a stage made anew, whatever its recipe."""
        with writing(self.stages):
            (self.stages / f"{name}.json").unlink(missing_ok=True)

    def clear(self, name: str) -> None:
        """Take away the files of a stage, so that none stay that are not made again."""
        self.forget(name)
        for folder in STAGES[name]:
            remove_folder(self.folder / folder)

    def _noted(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """The recipe of a stage, and what is told of it.

        Raises:
            RunError: it is not there whole.
        """
        noted = read_sealed(path)
        with reading(path):
            damaged = self._damaged(_Noted.model_validate(noted).files)
        if damaged:
            raise RunError(f"{damaged[0]} is missing or damaged: {AGAIN}")
        return noted["recipe"], noted["told"]

    def seconds_describing(self) -> float:
        """How long extraction and description took, over all the commands that it took."""
        known = read_times(self.timings)
        return float(sum(sum(known[store].values()) for store in known.keys() - {STAGED}))

    def seconds_of_stages(self) -> dict[str, float]:
        """How long each stage took when it was last made."""
        return read_times(self.timings).get(STAGED, {})

    def _note_seconds(self, name: str, seconds: float) -> None:
        known = {**self.seconds_of_stages(), name: round(seconds, 3)}
        write_json(self.timings, {**read_times(self.timings), STAGED: known})

    # Which photographs came in, and which were taken out.

    def additions(self) -> list[str]:
        """The names of what came in together: the build's photographs, then each addition's."""
        return sorted((path.parent.name for path in self.descriptors.glob(f"*/{ROWS}")), key=int)

    def read_rows(self, addition: str, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
        """The photographs that came in together, or some columns on them."""
        path = self.descriptors / addition / ROWS
        return read_table(path, columns, _lost(path))

    def write_rows(self, addition: str, table: pd.DataFrame) -> pd.DataFrame:
        """Note the photographs that come in together, and return them as they are noted."""
        rows = table[list(COLUMNS)].reset_index(drop=True)
        path = self.descriptors / addition / ROWS
        atomic_write(path, lambda file: rows.to_parquet(file, index=False))
        return rows

    def removed(self) -> dict[str, list[str]]:
        """The ids that were taken out, by the addition that they had come in with."""
        path = self.removals
        if not path.exists():
            return {}
        remedy = "delete it, and take the photographs out once more (landmarks remove)"
        with reading(path, remedy):
            noted = read_json(path, remedy)
            if isinstance(noted, list):
                # Of the version that neither sealed it nor let any come back: of any addition.
                of = {name: set(self.read_rows(name)["id"]) for name in self.additions()}
                return {name: sorted(gone) for name in of if (gone := of[name] & set(noted))}
            return {name: list(ids) for name, ids in read_sealed(path, remedy).items() if ids}

    def note_removed(self, removed: Mapping[str, Sequence[str]]) -> None:
        """Note which ids are taken out, by addition."""
        write_sealed(self.removals, {name: list(ids) for name, ids in removed.items() if ids})


def _lost(path: Path) -> str:
    """What to do about a damaged list of photographs, which nothing else tells of."""
    if path.parent.name == FIRST:
        return AGAIN
    return f"delete {path.parent}, {AGAIN}, and add those photographs once more (landmarks add)"
