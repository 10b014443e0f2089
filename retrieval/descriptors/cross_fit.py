"""Which photographs a describer is fitted without, so that it can be judged on them.

A whitening tells the photographs that it was learnt from: where it keeps as many numbers as there
are photographs, each of these stands at right angles to all others, and a new photograph of no
landmark, which does not, is taken for one. So thresholds and probabilities are fitted in
galleries that are described anew by a describer for each of :data:`PARTS` parts of the photographs,
which has not seen that part; the describer that answers is learnt from all of them. Codebooks are
not learnt anew: a few words of hundreds of thousands of local features know no photograph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

PARTS: Final = 5
"""Parts that the photographs are dealt into."""
FEW: Final = 5_000
"""Photographs up to which a whitening tells the ones that it was learnt from."""
FEW_PAIRS: Final = 1_000
"""Photographs up to which all parts are needed where it is learnt from pairs or views; from there
on one part has enough photographs to fit thresholds on."""


def part_of(ids: Iterable[str]) -> NDArray[np.int64]:
    """(n,) which part each photograph is in, told by its id, whatever comes into the run later."""
    digests = (hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest() for one in ids)
    return np.array([digest[0] % PARTS for digest in digests], dtype=np.int64)


def parts_left_out(photographs: int, pairs: bool, whitened: bool) -> int:
    """How many parts are left out in turn.

    Args:
        photographs: of gallery and bank.
        pairs: whether a whitening learns from pairs or views.
        whitened: whether there is a whitening at all.
    """
    if pairs:
        return PARTS if photographs <= FEW_PAIRS else 1
    return PARTS if whitened and photographs <= FEW else 0
