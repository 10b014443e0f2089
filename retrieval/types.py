"""What all rooms speak of: arrays by what they hold, and what configs are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict

STRING: Final = "string[pyarrow]"

Photograph = NDArray[np.uint8]
Vectors = NDArray[np.float32]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Reals = NDArray[np.floating[Any]]
Features = Any
"""What ``features`` makes of one photograph: a row of floats, or local features."""
Labels = Sequence[str | None]
"""The landmark of each photograph, missing where it shows none."""


class StrictModel(BaseModel):
    """A config's model: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _part_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w-]{0,59}", name):
        raise ValueError(
            "a name, which becomes a folder's, has at most 60 letters, digits, _ and -"
        )
    return name


def _system_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]{0,59}", name):
        raise ValueError(
            "a name, which becomes a folder's, has at most 60 letters, digits, _, - and dots, no"
            " dot first"
        )
    return name


PartName = Annotated[str, AfterValidator(_part_name)]
"""Of a classifier: a folder within the run, beside files."""
SystemName = Annotated[str, AfterValidator(_system_name)]
"""Of a system: the folder of its run."""


def unit_rows(rows: NDArray[np.floating[Any]]) -> Vectors:
    """Rows of (n, d) divided by their L2 norm; a row of zeros stays one."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Vectors = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled
