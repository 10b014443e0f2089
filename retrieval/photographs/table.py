"""The image table: which photographs there are, where they lie, and which landmark each shows.

A table is a pandas frame with the columns ``id``, ``source`` (a path or a URL), ``landmark``
(missing where no landmark is shown) and ``row`` (the line in the file, the header being line 1, or
0 for a folder), strings held by pyarrow: a million Python strings would cost ten times the memory.
It is checked once, on entry; everything behind trusts it.

Forms that are read (a CSV is what :mod:`retrieval.photographs.delimited` reads, its columns
in any order and case):

- a landmarks CSV, ``id,url,landmark_id``, as in the 2018 challenge and Google Landmarks v2, whose
  photographs lie under ``a/b/c/<id>.jpg`` (the first three characters of the id) beside the CSV or
  in its ``photos``, ``images``, ``train``, ``index`` or ``test`` folder;
- ``index_image_to_landmark.csv`` of Google Landmarks v2, ``id,landmark_id``, likewise;
- a CSV with ``path`` (relative to the CSV's folder) in place of ``url``;
- a folder with one folder of photographs for each landmark, and one named ``none`` for
  photographs of no landmark; for a data set also ``train`` and ``test`` folders of such folders
  (:mod:`retrieval.photographs.folders`).
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrieval.errors import TableError
from retrieval.photographs.columns import CELLS, LIKE_PATH, check_header, did_you_mean
from retrieval.photographs.delimited import open_table
from retrieval.photographs.folders import FolderScan, scan_bank, scan_data_set, scan_folder
from retrieval.photographs.labels import label_in_row, looks, shown
from retrieval.photographs.landmark_names import read_names
from retrieval.types import STRING

log = logging.getLogger(__name__)
COLUMNS: Final = ("id", "source", "landmark", "row")
NESTED_ROOTS: Final = (".", "photos", "images", "train", "index", "test")
GALLERY: Final = "index.csv"
TEST: Final = "test.csv"
BANK: Final = "none.csv"
PIECE: Final = 50_000
"""Rows of a CSV held as Python strings at a time."""


@dataclass(frozen=True)
class DataSet:
    """A data set as it stands in a folder.

    Attributes:
        folder: where it lies.
        gallery: the labelled photographs that answers are looked up in.
        bank: photographs of no landmark (may be empty).
        test: labelled queries, or ``None``.
        names: a readable name for each landmark id that has one.
    """

    folder: Path
    gallery: pd.DataFrame
    bank: pd.DataFrame
    test: pd.DataFrame | None
    names: dict[str, str]

    @property
    def photographs(self) -> pd.DataFrame:
        """Gallery and bank, one after the other: all that a run is built of."""
        return pd.concat([self.gallery, self.bank], ignore_index=True)


def load_data_set(
    folder: Path, gallery: Path | None = None, *, say: Callable[[str], None] = log.warning
) -> DataSet:
    """Read a data set: a folder with ``index.csv``, or with one folder for each landmark.

    Any of its tables may be Parquet (``index.parquet``) in place of a CSV.

    Args:
        folder: the data set. Beside ``index.csv`` it may hold ``test.csv``, ``none.csv`` and
            ``landmarks.csv`` (``landmark_id,name``). Without ``index.csv`` each folder in it is a
            landmark, and a folder named ``none`` is the bank; or ``train`` and ``test`` hold such
            folders.
        gallery: another gallery CSV in place of ``index.csv`` (looked for as given, then in
            ``folder``).
        say: called with what was left out of folders, a line each.

    Raises:
        TableError: nothing to read, or one of the tables is bad.
    """
    if not folder.is_dir():
        raise TableError(f"{folder} is not a folder: give a data set's folder (--data)")
    if gallery is None and not table_in(folder, GALLERY).exists():
        return _folder_data_set(folder, say)
    found = _find_gallery(folder, gallery)
    rows = read_table(found)
    unlabelled = rows[rows["landmark"].isna()]
    if len(unlabelled):
        raise TableError(
            f"{found}, row {unlabelled['row'].iloc[0]}: a gallery photograph needs a landmark_id"
            f" ({len(unlabelled)} rows have none); photographs of no landmark belong in {BANK}"
        )
    none, asked = table_in(folder, BANK), table_in(folder, TEST)
    bank = read_bank(none) if none.exists() else empty_table()
    _refuse_shared_ids(found, rows, none, bank)
    test = read_table(asked, bank=True) if asked.exists() else None
    return DataSet(folder, rows, bank, test, read_names(folder))


def read_table(
    path: Path, bank: bool = False, *, say: Callable[[str], None] = log.warning
) -> pd.DataFrame:
    """Read and check an image table from a CSV, or from a folder with a folder a landmark.

    Args:
        path: of the CSV or folder.
        bank: whether a table none of whose photographs shows a landmark is meant so.
        say: called with what was left out of a folder, a line each.

    Returns:
        the frame that the module describes; ids unique, every local photograph there.

    Raises:
        TableError: naming the file and the row.
    """
    table = _read_folder(path, say) if path.is_dir() else _read_rows(path)
    if not bank and bool(table["landmark"].isna().all()):
        remedy = (
            "put them into a folder for each" if path.is_dir()
            else "label them (no column landmark_id, or nothing in it)"
        )  # fmt: skip
        raise TableError(
            f"{path}: no photograph shows a landmark: {remedy}; if they are meant as photographs of"
            " no landmark, say so: --bank"
        )
    return table


def read_bank(path: Path, *, say: Callable[[str], None] = log.warning) -> pd.DataFrame:
    """As :func:`read_table`, of photographs of no landmark: a CSV, or a folder of photographs,
    whatever its folders mean.

    Raises:
        TableError: naming the file and the row; a row has a landmark.
    """
    if path.is_dir():
        return _scanned(scan_bank(path), say)
    bank = read_table(path, bank=True)
    labelled = bank[bank["landmark"].notna()]
    if len(labelled):
        raise TableError(
            f"{path}, row {labelled['row'].iloc[0]}: a photograph of no landmark has"
            f" landmark_id {labelled['landmark'].iloc[0]!r}; leave the cell empty or move the row"
        )
    return bank


def table_in(folder: Path, name: str) -> Path:
    """A table of a data set, ``NAME.csv``; or ``NAME.parquet``, where that lies there alone."""
    csv = folder / name
    parquet = csv.with_suffix(".parquet")
    return parquet if parquet.exists() and not csv.exists() else csv


def local_path(folder: Path, text: str) -> Path:
    """A path as a table says it: relative to the table's folder, or to the home folder (``~/``)."""
    if text == "~" or text.startswith("~/"):
        return Path(os.path.expanduser(text))
    return folder / text


def make_table(
    ids: Iterable[str],
    sources: Iterable[str],
    landmarks: Iterable[str | None],
    rows: Sequence[int] | pd.Series | None = None,
) -> pd.DataFrame:
    """A frame of the table's form, unchecked."""
    table = pd.DataFrame(
        {
            "id": pd.array(list(ids), dtype=STRING),
            "source": pd.array(list(sources), dtype=STRING),
            "landmark": pd.array(list(landmarks), dtype=STRING),
        }
    )
    table["row"] = np.arange(len(table)) if rows is None else np.asarray(rows, dtype=np.int64)
    return table


def empty_table() -> pd.DataFrame:
    """A table without rows."""
    return make_table((), (), ())


def _check_ids(table: pd.DataFrame, path: Path) -> None:
    """Refuse ids that are empty, have blanks around them, stand twice or look the same."""
    bare = table["id"].str.strip()
    blank = table[table["id"].isna() | (bare == "")]
    if len(blank):
        raise TableError(f"{path}, row {blank['row'].iloc[0]}: the id is empty")
    around = table[bare != table["id"]]
    if len(around):
        row = around.iloc[0]
        raise TableError(
            f"{path}, row {row['row']}: a blank stands before or behind the id {shown(row['id'])}"
            f" ({len(around)} such rows): take it out"
        )
    _refuse_twice(table, path)


def _check_photographs(table: pd.DataFrame, path: Path) -> None:
    """Refuse local photographs that are not there."""
    local = table[~is_url(table["source"])]
    missing = [
        (row, source)
        for row, source in zip(local["row"], local["source"], strict=True)
        if not os.path.isfile(source)
    ]
    if missing:
        row, source = missing[0]
        raise TableError(
            f"{path}, row {row}: no photograph at {_shown_path(source)}"
            f"{_composed_otherwise(source)} ({len(missing)} of {len(table)} are missing); mend the"
            " path, take the rows out, or fetch them: landmarks data fetch"
        )


def _refuse_twice(table: pd.DataFrame, path: Path) -> None:
    """Refuse an id that stands twice, or looks as another does."""
    seen = seen_ids(table)
    twice = table[seen.duplicated()]
    if len(twice):
        again = twice.iloc[0]
        first = table[seen == looks(again["id"])].iloc[0]
        same = (
            "stands in" if first["id"] == again["id"] else "looks the same as, but is not, that of"
        )
        raise TableError(
            f"{path}, row {again['row']}: id {shown(again['id'])} {same} row {first['row']}"
            f"{' already' if first['id'] == again['id'] else ''}"
            f" ({len(twice)} duplicate ids in all)"
        )


def seen_ids(table: pd.DataFrame) -> pd.Series:
    """The ids as a reader sees them, which differ where the ids do, or there is a mistake."""
    odd = ~table["id"].str.isascii()
    if not odd.any():
        return table["id"]
    seen = table["id"].copy()
    seen[odd] = [looks(one) for one in seen[odd]]
    return seen


def _shown_path(source: str) -> str:
    """A path as it stands, where a message of one line can hold it."""
    return source if source.isprintable() and len(source) <= 1000 else shown(source)


def _composed_otherwise(source: str) -> str:
    """A hint where the photograph lies under the same name in other characters."""
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, source)
        if other != source and os.path.isfile(other):
            return f", but at the same name composed otherwise ({form}: rename one)"
    return ""


def labels_of(table: pd.DataFrame) -> list[str | None]:
    """The landmarks of a table's photographs, ``None`` where there is none."""
    found = table["landmark"].astype(STRING)  # of one kind: millions are quick
    cells = zip(found.tolist(), found.notna().tolist(), strict=True)
    return [one if there else None for one, there in cells]


def unknown_landmarks(test: pd.DataFrame, landmarks: Iterable[str]) -> pd.DataFrame:
    """The rows of a test table whose landmark the gallery lacks: nothing can answer them right."""
    return test[test["landmark"].notna() & ~test["landmark"].isin(list(landmarks))]


def read_origins(csv: Path, ids: Sequence[str] | pd.Series[str], by: str = "id") -> list[str]:
    """The ``source`` column of a checked table's CSV, for some of its ids (or of another column's
    cells), empty for one that it does not list; an empty list without such columns."""
    if csv.is_dir():
        return []
    table = open_table(csv, (by, "source").__contains__)
    lower = [name.lower() for name in table.header]
    if not {by, "source"} <= set(lower):
        return []
    rows = table.rows([lower.index(by), lower.index("source")])
    wanted = set(ids)
    origins = {name: source for _, (name, source) in rows if name in wanted}
    return [origins.get(one, "") for one in ids]


def bank_origins(data: DataSet) -> list[str]:
    """Where each photograph of a data set's bank comes from, as ``none.csv`` says; or nothing."""
    path = table_in(data.folder, BANK)
    if not len(data.bank) or not path.exists():
        return []
    # A folder's photographs go by their paths below it.
    return read_origins(path, data.bank["id"], "id" if data.bank["row"].all() else "path")


def photographs_each(table: pd.DataFrame) -> NDArray[np.int64]:
    """(l,) how many photographs each landmark of a table has."""
    counts: NDArray[np.int64] = np.asarray(table["landmark"].value_counts(), dtype=np.int64)
    return counts


def is_url(sources: pd.Series) -> pd.Series:
    """Which sources are URLs rather than paths."""
    return sources.str.match(r"(?i)^[a-z][a-z0-9+.-]*://").fillna(False).astype(bool)


def nested_path(root: Path, photograph_id: str) -> Path:
    """Where Google Landmarks keeps a photograph: ``a/b/c/<id>.jpg``."""
    return root.joinpath(*photograph_id[:3], f"{photograph_id}.jpg")


def _find_gallery(folder: Path, gallery: Path | None) -> Path:
    if gallery is None:
        return table_in(folder, GALLERY)
    for path in (gallery, folder / gallery):
        if path.exists():
            return path
    raise TableError(f"{gallery}: no such file, neither here nor in {folder} (--gallery)")


def _folder_data_set(folder: Path, say: Callable[[str], None]) -> DataSet:
    scan, asked = scan_data_set(folder)
    table = _scanned(scan, say)
    none = table["landmark"].isna()
    gallery = table[~none].reset_index(drop=True)
    bank = table[none].reset_index(drop=True)
    if not len(gallery):
        raise TableError(
            f"{folder} has neither {GALLERY} nor a folder of photographs for each landmark"
        )
    test = _scanned(asked, say) if asked is not None else None
    if (listed := table_in(folder, TEST)).exists():
        if test is not None:
            raise TableError(
                f"{folder} holds {listed.name} and a folder of test photographs: leave one of them"
                " in"
            )
        test = read_table(listed, bank=True)
    return DataSet(folder, gallery, bank, test, read_names(folder))


def _read_folder(folder: Path, say: Callable[[str], None]) -> pd.DataFrame:
    """A folder with a folder for each landmark; ``none`` and its like are the bank's."""
    if (table := table_in(folder, GALLERY)).exists():
        raise TableError(f"{folder} holds {table.name}: give the table itself, {table}")
    return _scanned(scan_folder(folder), say)


def _scanned(scan: FolderScan, say: Callable[[str], None]) -> pd.DataFrame:
    for note in scan.notes:
        say(f"{scan.folder}: {note}")
    sources = (str(scan.folder / path) for path in scan.paths)
    return make_table(scan.paths, sources, scan.landmarks, [0] * len(scan.paths))


def _read_rows(path: Path) -> pd.DataFrame:
    frame = _without_unfetched(path, _read_csv(path))
    _check_ids(frame, path)
    frame["source"] = _sources(path, frame)
    table = make_table(frame["id"], frame["source"], frame["landmark"], frame["row"])
    _check_photographs(table, path)
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    """Those of :data:`CELLS` that there are as strings, with ``row`` and ``landmark``."""
    table = open_table(path, lambda name: name.lower() in CELLS)
    check_header(table)
    lower = [name.lower() for name in table.header]
    names = [name for name in CELLS if name in lower]
    # Piece by piece into pyarrow's strings: Python's own would take ten times the memory.
    rows = table.rows([lower.index(name) for name in names])
    pieces = [_piece(names, piece) for piece in iter(lambda: list(islice(rows, PIECE)), [])]
    if not pieces:
        raise TableError(f"{path}: no rows below the header")
    frame = pd.concat(pieces, ignore_index=True)
    frame["landmark"] = _landmarks(path, frame) if "landmark_id" in frame else pd.NA
    return frame


def _piece(names: Sequence[str], rows: list[tuple[int, list[str]]]) -> pd.DataFrame:
    frame = pd.DataFrame([cells for _, cells in rows], columns=list(names), dtype=STRING)
    frame["row"] = np.array([number for number, _ in rows], dtype=np.int64)
    return frame


def _landmarks(path: Path, frame: pd.DataFrame) -> pd.Series:
    """The landmark of each row, missing where there is none; each label is looked at once."""
    codes, texts = pd.factorize(frame["landmark_id"])
    first = frame["row"].to_numpy()[pd.Series(codes).drop_duplicates().index]
    labels: list[str | None] = []
    seen: dict[str, tuple[str, int]] = {}
    composed = 0
    for text, row in zip(texts, first.tolist(), strict=True):
        label = label_in_row(path, row, text)
        labels.append(label)
        if label is None:
            continue
        composed += label != text
        other, where = seen.setdefault(looks(label), (label, row))
        if other != label:
            raise TableError(
                f"{path}, row {row}: the landmark {shown(label)} looks the same as, but is not,"
                f" {shown(other)} in row {where}: write both alike"
            )
    if composed:
        log.warning("%s: %d landmarks hold characters in two parts (NFD); they are taken in one"
                    " (NFC)", path, composed)  # fmt: skip
    return pd.Series(pd.array(labels, dtype=STRING)).take(codes).set_axis(frame.index)


def fetched_name(table: Path) -> str:
    """The file that says what became of each row of a CSV whose photographs were fetched."""
    return f"fetched-{table.stem}.csv"


def _without_unfetched(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows whose photographs could not be fetched, as the fetcher's note beside says."""
    note = path.with_name(fetched_name(path))
    if "path" in frame or not note.exists():
        return frame
    fetched = open_table(note, lambda name: name in ("id", "status"))
    columns = [fetched.header.index(name) for name in ("id", "status") if name in fetched.header]
    if len(columns) < 2:
        raise TableError(f"{note}: no columns id and status: fetch the photographs anew")
    unfetched = [name for _, (name, status) in fetched.rows(columns) if status != "ok"]
    failed = frame["id"].isin(unfetched)
    if failed.any():
        log.warning("%s: %d rows are left out, whose photographs could not be fetched (see %s)",
                    path, failed.sum(), note.name)  # fmt: skip
    if failed.all():
        raise TableError(f"{path}: none of its photographs could be fetched (see {note})")
    return frame[~failed].reset_index(drop=True)


def _sources(path: Path, frame: pd.DataFrame) -> pd.Series:
    """A source for each row: its ``path``, the nested photograph of its id, or its ``url``."""
    folder = path.parent
    if "path" in frame:
        empty = frame[frame["path"].isna() | (frame["path"].str.strip() == "")]
        if len(empty):
            raise TableError(f"{path}, row {empty['row'].iloc[0]}: the path is empty")
        return frame["path"].map(lambda name: str(local_path(folder, name))).astype(STRING)
    short = frame[frame["id"].str.len() < 3]
    if len(short):
        row = short.iloc[0]
        raise TableError(
            f"{path}, row {row['row']}: id {shown(row['id'])} is too short to name a photograph"
            f" under a/b/c/<id>.jpg{_path_column_meant(path)}"
        )
    roots = [folder / name for name in NESTED_ROOTS]
    first = str(frame["id"].iloc[0])
    present = (root for root in roots if any(_is_nested(root, i) for i in frame["id"]))
    root = next((root for root in roots if _is_nested(root, first)), None)
    root = root or next(present, None)
    if root is not None:
        return frame["id"].map(lambda name: str(nested_path(root, name))).astype(STRING)
    hint = f"fetch them first: landmarks data fetch {path}" if "url" in frame else "unpack them"
    raise TableError(
        f"{path}, row {frame['row'].iloc[0]}: no photograph of id {shown(first)} under"
        f" a/b/c/<id>.jpg in {folder} or its photos folder; {hint}{_path_column_meant(path)}"
    )


def _is_nested(root: Path, photograph_id: str) -> bool:
    return os.path.exists(nested_path(root, photograph_id))


def _path_column_meant(path: Path) -> str:
    return did_you_mean(open_table(path, CELLS.__contains__).header, "path", LIKE_PATH)


def _refuse_shared_ids(
    gallery_path: Path, gallery: pd.DataFrame, bank_path: Path, bank: pd.DataFrame
) -> None:
    shared = bank[seen_ids(bank).isin(seen_ids(gallery))]
    if len(shared):
        row = shared.iloc[0]
        raise TableError(
            f"{bank_path}, row {row['row']}: id {shown(row['id'])} is in {gallery_path} too; a"
            " photograph is in the gallery or shows no landmark, not both"
        )
