"""What a landmark's label says: the one place that decides what "no landmark" is.

Labels come from cells of tables, from folders' names and from submissions, and mean the same in
all of them.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Final

from retrieval.errors import TableError

NO_LANDMARK: Final = frozenset(("none", "nolandmark", "nolandmarks"))
"""What says that a photograph shows no landmark, in any case, but for blanks, - and _."""
MEANT_AS_NONE: Final = frozenset(
    "na nan nat null nil nul missing undefined unknown unlabelled unlabeled nolabel noclass nothing"
    " nonlandmark nonlandmarks notalandmark notlandmark distractor distractors negative negatives"
    " background".split()
)
"""What programs write where there is nothing, and people where there is no landmark."""
BETWEEN: Final = re.compile(r"[\s_-]+")
MINUS_ONE: Final = re.compile(r"[-−–]1(\.0*)?")
SHOWN: Final = 60
"""Characters of a cell in a message."""
WITHOUT_NAME: Final = frozenset("Pc Pd Ps Pe Pi Pf Po Sm Sk Zs Zl Zp Cc Cf".split())
"""Unicode's categories of punctuation, signs and blanks."""


def landmark_label(text: str) -> str | None:
    """The landmark that a label names, ``None`` for none.

    An empty label is none, and so are ``none`` and ``no-landmark`` in any case. Characters that
    can be composed in two ways (é) come back composed in one (NFC): what looks the same is the
    same.

    Raises:
        TableError: without a file or row, which the caller puts before it: the label is plainly
            meant as none in another way (nan, null, -), or a blank stands around it.
    """
    label = unicodedata.normalize("NFC", text)
    bare = label.strip()
    if not bare or BETWEEN.sub("", bare).casefold() in NO_LANDMARK:
        return None
    name = "".join(one for one in bare if unicodedata.category(one) not in WITHOUT_NAME).casefold()
    if not name or name in MEANT_AS_NONE | NO_LANDMARK or MINUS_ONE.fullmatch(bare):
        raise TableError(
            f"the landmark {shown(bare)} seems to say that there is none: write none, or leave"
            " the cell empty; a landmark that is really called so needs another id (its name goes"
            " into landmarks.csv)"
        )
    if bare != label:
        raise TableError(
            f"a blank stands before or behind the landmark {shown(label)}: take it out"
        )
    return label


def label_in_row(path: Path, row: int, text: str) -> str | None:
    """As :func:`landmark_label`; its TableError names file and row."""
    try:
        return landmark_label(text)
    except TableError as error:
        raise TableError(f"{path}, row {row}: {error}") from None


def shown(text: str) -> str:
    """A text for a message of one line: quoted, and its start alone where it is long."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def looks(text: str) -> str:
    """What a reader sees of a text: composed in one way, without what takes no room.

    Two texts that differ and look the same are a mistake.
    """
    if text.isascii():
        return text.strip()
    composed = unicodedata.normalize("NFC", text)
    return "".join(one for one in composed if unicodedata.category(one) != "Cf").strip()
