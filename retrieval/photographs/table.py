"""The image table: which photographs there are, where they lie, and which landmark each shows.

A table is a pandas frame with the columns ``id``, ``source`` (a path or a URL), ``landmark``
(missing where no landmark is shown) and ``row`` (the line in the file, the header being line 1, or
0 for a folder), strings held by pyarrow: a million Python strings would cost ten times the memory.
It is checked once, on entry; everything behind trusts it.

Forms that are read:

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

import csv
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from retrieval.errors import TableError
from retrieval.photographs.folders import FolderScan, scan_data_set, scan_folder

log = logging.getLogger(__name__)

COLUMNS: Final = ("id", "source", "landmark", "row")
NESTED_ROOTS: Final = (".", "photos", "images", "train", "index", "test")
GALLERY: Final = "index.csv"
TEST: Final = "test.csv"
BANK: Final = "none.csv"
STRING: Final = "string[pyarrow]"
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


def load_data_set(
    folder: Path, gallery: Path | None = None, *, say: Callable[[str], None] = log.warning
) -> DataSet:
    """Read a data set: a folder with ``index.csv``, or with one folder for each landmark.

    Args:
        folder: the data set. Beside ``index.csv`` it may hold ``test.csv``, ``none.csv`` and
            ``landmarks.csv`` (``landmark_id,name``). Without ``index.csv`` each folder in it is a
            landmark, and a folder named ``none`` is the bank; or ``train`` and ``test`` hold such
            folders.
        gallery: another gallery CSV in place of ``index.csv`` (looked for as given, then in
            ``folder``).
        say: told what was left out of folders, a line each.

    Raises:
        TableError: nothing to read, or one of the tables is bad.
    """
    if not folder.is_dir():
        raise TableError(f"{folder} is not a folder: give a data set's folder (--data)")
    if gallery is None and not (folder / GALLERY).exists():
        return _folder_data_set(folder, say)
    found = _find_gallery(folder, gallery)
    rows = read_table(found)
    unlabelled = rows[rows["landmark"].isna()]
    if len(unlabelled):
        raise TableError(
            f"{found}, row {unlabelled['row'].iloc[0]}: a gallery photograph needs a landmark_id"
            f" ({len(unlabelled)} rows have none); photographs of no landmark belong in {BANK}"
        )
    bank = read_table(folder / BANK) if (folder / BANK).exists() else empty_table()
    labelled = bank[bank["landmark"].notna()]
    if len(labelled):
        raise TableError(
            f"{folder / BANK}, row {labelled['row'].iloc[0]}: a photograph of no landmark has"
            f" landmark_id {labelled['landmark'].iloc[0]!r}; leave the cell empty or move the row"
        )
    _refuse_shared_ids(found, rows, folder / BANK, bank)
    test = read_table(folder / TEST) if (folder / TEST).exists() else None
    return DataSet(folder, rows, bank, test, read_names(folder))


def read_table(
    path: Path, bank: bool = False, *, say: Callable[[str], None] = log.warning
) -> pd.DataFrame:
    """Read and check an image table from a CSV, or from a folder with a folder a landmark.

    Args:
        path: of the CSV or folder.
        bank: whether a folder none of whose photographs shows a landmark is meant so.
        say: told what was left out of a folder, a line each.

    Returns:
        the frame that the module describes; ids unique, every local photograph there.

    Raises:
        TableError: naming the file and the row.
    """
    if path.is_dir():
        table = _read_folder(path, say)
        if not bank and bool(table["landmark"].isna().all()):
            raise TableError(
                f"{path}: no photograph shows a landmark: put them into a folder for each; if they"
                " are meant as photographs of no landmark, say so: --bank"
            )
        return table
    if not path.exists():
        raise TableError(f"{path}: no such file")
    frame = _without_unfetched(path, _read_csv(path))
    frame["source"] = _sources(path, frame)
    table = make_table(frame["id"], frame["source"], frame["landmark"], frame["row"])
    check_table(table, path)
    return table


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


def check_table(table: pd.DataFrame, path: Path) -> None:
    """Refuse empty and duplicate ids and local photographs that are not there.

    Raises:
        TableError: naming the first such row.
    """
    blank = table[table["id"].isna() | (table["id"].str.strip() == "")]
    if len(blank):
        raise TableError(f"{path}, row {blank['row'].iloc[0]}: the id is empty")
    twice = table[table["id"].duplicated()]
    if len(twice):
        again = twice.iloc[0]
        first = table.loc[table["id"] == again["id"], "row"].iloc[0]
        raise TableError(
            f"{path}, row {again['row']}: id {again['id']!r} stands in row {first} already"
            f" ({len(twice)} duplicate ids in all)"
        )
    local = table[~is_url(table["source"])]
    missing = [
        (row, source)
        for row, source in zip(local["row"], local["source"], strict=True)
        if not Path(source).is_file()
    ]
    if missing:
        row, source = missing[0]
        raise TableError(
            f"{path}, row {row}: no photograph at {source} ({len(missing)} of {len(table)} are"
            " missing); mend the path, take the rows out, or fetch them: landmarks data fetch"
        )


def labels_of(table: pd.DataFrame) -> list[str | None]:
    """The landmarks of a table's photographs, ``None`` where there is none."""
    return [None if pd.isna(one) else str(one) for one in table["landmark"]]


def unknown_landmarks(test: pd.DataFrame, landmarks: Iterable[str]) -> pd.DataFrame:
    """The rows of a test table whose landmark the gallery lacks: nothing can answer them right."""
    return test[test["landmark"].notna() & ~test["landmark"].isin(list(landmarks))]


def is_url(sources: pd.Series) -> pd.Series:
    """Which sources are URLs rather than paths."""
    return sources.str.match(r"(?i)^[a-z][a-z0-9+.-]*://").fillna(False).astype(bool)


def nested_path(root: Path, photograph_id: str) -> Path:
    """Where Google Landmarks keeps a photograph: ``a/b/c/<id>.jpg``."""
    return root.joinpath(*photograph_id[:3], f"{photograph_id}.jpg")


def read_names(folder: Path) -> dict[str, str]:
    """Readable names of landmarks, from ``landmarks.csv`` or Google's ``*_label_to_category.csv``.

    The latter hold a Wikimedia address for each landmark, whose last part is the name.

    Raises:
        TableError: the file is no CSV, or lacks a column.
    """
    candidates = [folder / "landmarks.csv", *sorted(folder.glob("*label_to_category.csv"))]
    for path in candidates:
        if not path.exists():
            continue
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        except ValueError as error:  # pandas's own are of this kind too
            raise TableError(
                f"{path}: not a CSV in UTF-8 ({' '.join(str(error).split())})"
            ) from None
        column = "name" if "name" in frame else "category"
        if "landmark_id" not in frame or column not in frame:
            raise TableError(f"{path}: needs the columns landmark_id and name (or category)")
        return {
            landmark: text.rsplit("Category:", 1)[-1].replace("_", " ")
            for landmark, text in zip(frame["landmark_id"], frame[column], strict=True)
        }
    return {}


def _find_gallery(folder: Path, gallery: Path | None) -> Path:
    if gallery is None:
        return folder / GALLERY
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
    if (folder / TEST).exists():
        if test is not None:
            raise TableError(
                f"{folder} holds {TEST} and a folder of test photographs: leave one of them in"
            )
        test = read_table(folder / TEST)
    return DataSet(folder, gallery, bank, test, read_names(folder))


def _read_folder(folder: Path, say: Callable[[str], None]) -> pd.DataFrame:
    """A folder with a folder for each landmark; ``none`` and its like are the bank's."""
    if (folder / GALLERY).exists():
        raise TableError(f"{folder} holds {GALLERY}: give the table itself, {folder / GALLERY}")
    return _scanned(scan_folder(folder), say)


def _scanned(scan: FolderScan, say: Callable[[str], None]) -> pd.DataFrame:
    for note in scan.notes:
        say(f"{scan.folder}: {note}")
    sources = (str(scan.folder / path) for path in scan.paths)
    return make_table(scan.paths, sources, scan.landmarks, [0] * len(scan.paths))


def _read_csv(path: Path) -> pd.DataFrame:
    """The raw columns as strings, with ``row``; all lines must have as many cells as the header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(path, header)
            # Piece by piece into pyarrow's strings: Python's own would take ten times the memory.
            rows = ((reader.line_num, _checked_cells(path, reader.line_num, header, cells))
                    for cells in reader if cells)  # fmt: skip
            pieces = [
                _piece(header, piece) for piece in iter(lambda: list(islice(rows, PIECE)), [])
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: not a CSV in UTF-8 ({error})") from None
    if not pieces:
        raise TableError(f"{path}: no rows below the header")
    frame = pd.concat(pieces, ignore_index=True)
    landmark = frame["landmark_id"].str.strip() if "landmark_id" in frame else None
    frame["landmark"] = pd.NA if landmark is None else landmark.replace({"": pd.NA, "None": pd.NA})
    return frame


def _checked_cells(path: Path, row: int, header: list[str], cells: list[str]) -> list[str]:
    if len(cells) != len(header):
        raise TableError(
            f"{path}, row {row}: {len(cells)} cells where the header has {len(header)}"
            f" ({','.join(header)})"
        )
    return cells


def _piece(header: list[str], rows: list[tuple[int, list[str]]]) -> pd.DataFrame:
    frame = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=STRING)
    frame["row"] = np.array([number for number, _ in rows], dtype=np.int64)
    return frame


def fetched_name(table: Path) -> str:
    """The file that says what became of each row of a CSV whose photographs were fetched."""
    return f"fetched-{table.stem}.csv"


def _without_unfetched(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows whose photographs could not be fetched, as the fetcher's note beside says."""
    note = path.with_name(fetched_name(path))
    if "path" in frame or not note.exists():
        return frame
    fetched = pd.read_csv(note, dtype=STRING, keep_default_na=False)
    failed = frame["id"].isin(fetched.loc[fetched["status"] != "ok", "id"])
    if failed.any():
        log.warning("%s: %d rows are left out, whose photographs could not be fetched (see %s)",
                    path, failed.sum(), note.name)  # fmt: skip
    if failed.all():
        raise TableError(f"{path}: none of its photographs could be fetched (see {note})")
    return frame[~failed].reset_index(drop=True)


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise TableError(f"{path}: empty file (expected id,path,landmark_id or id,url,landmark_id)")
    if "id" not in header:
        raise TableError(
            f"{path}, row 1: no column id among {','.join(header)}"
            " (expected id,path,landmark_id or id,url,landmark_id)"
        )
    if len(set(header)) < len(header):
        raise TableError(f"{path}, row 1: a column name stands twice: {','.join(header)}")


def _sources(path: Path, frame: pd.DataFrame) -> pd.Series:
    """A source for each row: its ``path``, the nested photograph of its id, or its ``url``."""
    folder = path.parent
    if "path" in frame:
        empty = frame[frame["path"].isna() | (frame["path"].str.strip() == "")]
        if len(empty):
            raise TableError(f"{path}, row {empty['row'].iloc[0]}: the path is empty")
        return frame["path"].map(lambda name: str(folder / name)).astype(STRING)
    short = frame[frame["id"].str.len() < 3]
    if len(short):
        row = short.iloc[0]
        raise TableError(
            f"{path}, row {row['row']}: id {row['id']!r} is too short to name a photograph under"
            " a/b/c/<id>.jpg"
        )
    roots = [folder / name for name in NESTED_ROOTS]
    first = str(frame["id"].iloc[0])
    present = (root for root in roots if any(nested_path(root, i).exists() for i in frame["id"]))
    root = next((root for root in roots if nested_path(root, first).exists()), None)
    root = root or next(present, None)
    if root is not None:
        return frame["id"].map(lambda name: str(nested_path(root, name))).astype(STRING)
    hint = f"fetch them first: landmarks data fetch {path}" if "url" in frame else "unpack them"
    raise TableError(
        f"{path}, row {frame['row'].iloc[0]}: no photograph of id {first!r} under a/b/c/<id>.jpg in"
        f" {folder} or its photos folder; {hint}"
    )


def _refuse_shared_ids(
    gallery_path: Path, gallery: pd.DataFrame, bank_path: Path, bank: pd.DataFrame
) -> None:
    shared = bank[bank["id"].isin(gallery["id"])]
    if len(shared):
        row = shared.iloc[0]
        raise TableError(
            f"{bank_path}, row {row['row']}: id {row['id']!r} is in {gallery_path} too; a"
            " photograph is in the gallery or shows no landmark, not both"
        )
