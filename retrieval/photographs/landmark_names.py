"""Readable names of landmarks."""

from __future__ import annotations

from pathlib import Path

from retrieval.errors import TableError
from retrieval.photographs.delimited import listing, open_table
from retrieval.photographs.labels import label_in_row, looks, shown


def read_names(folder: Path) -> dict[str, str]:
    """Readable names of landmarks, from ``landmarks.csv`` or Google's ``*_label_to_category.csv``.

    The latter hold a Wikimedia address for each landmark, whose last part is the name.

    Raises:
        TableError: naming file and row: a column is missing, a row has too many cells, or a
            landmark stands twice.
    """
    candidates = [folder / "landmarks.csv", *sorted(folder.glob("*label_to_category.csv"))]
    path = next((one for one in candidates if one.exists()), None)
    return {} if path is None else _read_names(path)


def _read_names(path: Path) -> dict[str, str]:
    table = open_table(path, lambda name: name.lower() in ("landmark_id", "name", "category"))
    lower = [name.lower() for name in table.header]
    column = "name" if "name" in lower else "category"
    if "landmark_id" not in lower or column not in lower:
        raise TableError(
            f"{path}: needs the columns landmark_id and name (or category), found"
            f" {listing(table.header)}"
        )
    names: dict[str, str] = {}
    rows: dict[str, int] = {}
    for row, (text, name) in table.rows([lower.index("landmark_id"), lower.index(column)]):
        landmark = label_in_row(path, row, text)
        if landmark is None:
            raise TableError(f"{path}, row {row}: no landmark_id: say which landmark is called so")
        first = rows.setdefault(looks(landmark), row)
        if first != row:
            raise TableError(f"{path}, row {row}: the landmark {shown(landmark)} has a name in row"
                             f" {first} already")  # fmt: skip
        names[landmark] = name.strip().rsplit("Category:", 1)[-1].replace("_", " ")
    return names
