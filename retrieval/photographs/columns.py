"""Which columns an image table's CSV has, and which were meant by other names."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from retrieval.errors import TableError
from retrieval.photographs.delimited import DelimitedTable, listing

CELLS: Final = ("id", "path", "url", "landmark_id")
"""Columns that are read; others are passed over."""
LIKE_ID: Final = frozenset("imageid photoid photographid pictureid imgid fileid name key".split())
LIKE_PATH: Final = frozenset(
    "file filename filepath imagepath photopath image photo photograph picture img".split()
)
LIKE_LANDMARK: Final = frozenset(
    "landmark landmarks landmarkid landmarkids landmarkname label labels labelid labelname class"
    " classes classid classname category categories categoryid target targets groundtruth place"
    " placeid monument".split()
)
"""What columns of landmarks are called elsewhere, without what stands between the words."""


def check_header(table: DelimitedTable) -> None:
    """Refuse a table without ids, or whose landmarks stand in a column of another name."""
    lower = [name.lower() for name in table.header]
    where = f"{table.path}, row {table.skipped + 1}"
    if "id" not in lower:
        raise TableError(
            f"{where}: no column id among {listing(table.header)}"
            f"{did_you_mean(table.header, 'id', LIKE_ID)}"
            " (expected id,path,landmark_id or id,url,landmark_id)"
        )
    meant = did_you_mean(table.header, "landmark_id", LIKE_LANDMARK)
    if "landmark_id" not in lower and meant:
        raise TableError(
            f"{where}: no column landmark_id among {listing(table.header)}{meant} (a column that"
            " means something else needs another name)"
        )


def did_you_mean(header: Sequence[str], wanted: str, like: frozenset[str]) -> str:
    """A question after a column that seems to be the wanted one; empty where none does."""
    plain = {"".join(filter(str.isalnum, name.lower())): name for name in header}
    alike = next((name for key, name in plain.items() if key in like), None)
    if alike is None and len(wanted) > 4:
        close = get_close_matches(wanted, [name.lower() for name in header], n=1, cutoff=0.8)
        alike = next((name for name in header if close == [name.lower()]), None)
    return "" if alike is None else f"; did you mean {listing([alike])}? Name it {wanted}"
