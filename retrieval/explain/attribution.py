"""A method's result for one photograph: a map of what a number depends on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Attribution:
    """A map over a photograph.

    Attributes:
        method: its name.
        target: what was explained, in words.
        value: of the target for the photograph as it is.
        map: (h, w) float32, over the whole photograph; where ``signed``, below nought where it
            speaks against.
        signed: whether values below nought mean something.
        note: what the method says of itself, or empty.
        failed: how it failed the check on the system, or empty.
    """

    method: str
    target: str
    value: float
    map: NDArray[np.float32]
    signed: bool
    note: str = ""
    failed: str = ""
