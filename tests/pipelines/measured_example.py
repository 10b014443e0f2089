"""A small evaluation with known answers: five landmarks, six queries, two classifiers.

The queries follow the challenge's worked example, with one more photograph of a landmark that
cannot be read. Each descriptor is a unit vector that says which row of ANSWERS it gets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrieval.classifiers.base import Judgement, Scores
from retrieval.descriptors.representation import Representation
from retrieval.index.neighbours import Neighbours

LANDMARKS = ["l1", "l3", "l4", "l5", "l7"]
#          id   truth  status
QUERIES = [
    ("a", "l1", "ok"),
    ("b", "l7", "ok"),
    ("c", None, "ok"),
    ("d", "l3", "ok"),
    ("e", None, "ok"),
    ("f", "l4", "decode_failed"),
]
# For each query that can be read: candidates, their confidences, probability, accepted.
KNN = [
    (["l1", "l3"], [0.9, 0.2], 0.95, True),
    (["l7", "l1"], [0.7, 0.6], 0.75, True),
    (["l5", "l1"], [0.8, 0.1], 0.85, True),
    (["l4", "l3"], [0.6, 0.5], 0.40, False),
    ([], [], 0.01, False),
]
# The SVM names d right and rejects c: everything is as it should be, but for f.
SVM = [
    (["l1", "l3"], [1.9, 0.2], 0.99, True),
    (["l7", "l1"], [1.7, 0.6], 0.95, True),
    (["l5", "l1"], [-0.8, -0.9], 0.10, False),
    (["l3", "l4"], [1.6, 0.5], 0.90, True),
    (["l1"], [-1.0], 0.05, False),
]
DIMENSION = 8


@dataclass
class FakeSystem:
    """Answers looked up in the tables above; neighbours by inner product."""

    rows: pd.DataFrame
    answers: dict[str, list[Any]] = field(default_factory=lambda: {"knn": KNN, "svm": SVM})
    answer: str = "svm"
    landmarks: list[str] = field(default_factory=lambda: list(LANDMARKS))
    names: dict[str, str] = field(default_factory=lambda: {"l1": "The First Tower"})

    def __post_init__(self) -> None:
        # Two photographs of each landmark; the first pair points where query a points, and so on.
        codes = np.repeat(np.arange(5), 2)
        query_of = [0, 3, 6, 2, 1]  # nobody's descriptor points at l4: its query cannot be read
        self.gallery = SimpleNamespace(
            codes=codes,
            bank=np.zeros((3, DIMENSION), np.float32),
            searcher=SimpleNamespace(
                vectors=np.eye(DIMENSION, dtype=np.float32)[[query_of[code] for code in codes]]
            ),
        )
        self.classifiers = {name: SimpleNamespace(neighbours=3) for name in self.answers}
        self.rejections = {
            "knn": SimpleNamespace(threshold=0.65, notes=[], surprises=lambda *counts: []),
            "svm": SimpleNamespace(threshold=0.0, notes=[], surprises=lambda *counts: []),
        }

    def neighbours(self, descriptors: Representation, k: int | None = None) -> Neighbours:
        similarities = descriptors.vectors @ self.gallery.searcher.vectors.T
        rows = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        padding = ((0, 0), (0, (k or 3) - rows.shape[1]))
        return Neighbours(
            np.pad(rows, padding, constant_values=-1),
            np.pad(-np.sort(-similarities, axis=1)[:, :k], padding, constant_values=-np.inf),
        )

    def judge(
        self, descriptors: Representation, neighbours: Neighbours | None = None
    ) -> dict[str, Judgement]:
        if neighbours is not None and neighbours.rows.shape[1] != 3:
            raise ValueError("the classifiers asked for three neighbours")
        asked = descriptors.vectors.argmax(axis=1)
        return {name: self._judgement(table, asked) for name, table in self.answers.items()}

    def _judgement(self, table: list[Any], asked: NDArray[np.int64]) -> Judgement:
        candidates = np.full((len(asked), 2), -1, np.int64)
        values = np.full((len(asked), 2), -np.inf, np.float32)
        for at, query in enumerate(asked):
            found, scores = table[query][:2]
            candidates[at, : len(found)] = [self.landmarks.index(one) for one in found]
            values[at, : len(found)] = scores
        return Judgement(
            Scores(candidates, values),
            np.array([table[query][2] for query in asked], np.float32),
            np.array([table[query][3] for query in asked], bool),
        )


@dataclass
class FakeStore:
    """The described test table."""

    table: pd.DataFrame
    descriptors: Representation
    seconds_per_image: float = 0.02


def photograph(path: Path, seed: int) -> str:
    """A small JPEG with a picture that differs by seed."""
    y, x = np.mgrid[0:60, 0:80]
    waves = np.stack([(x * (seed + 2) + y * shift) % 256 for shift in (1, 3, 5)], axis=2)
    cv2.imwrite(str(path), waves.astype(np.uint8))
    return str(path)


def system(folder: Path) -> FakeSystem:
    """A system whose gallery photographs lie in ``folder``."""
    ids = [f"g{number}" for number in range(10)]
    sources = [photograph(folder / f"{one}.jpg", at) for at, one in enumerate(ids)]
    return FakeSystem(pd.DataFrame({"id": ids, "source": sources}))


def test_table(folder: Path) -> pd.DataFrame:
    """The six queries as an image table; f is no photograph."""
    sources = [photograph(folder / f"{one}.jpg", 20 + at) for at, (one, *_) in enumerate(QUERIES)]
    (folder / "f.jpg").write_bytes(b"not a photograph")
    return pd.DataFrame(
        {
            "id": pd.array([one[0] for one in QUERIES], dtype="string[pyarrow]"),
            "source": pd.array(sources, dtype="string[pyarrow]"),
            "landmark": pd.array([one[1] for one in QUERIES], dtype="string[pyarrow]"),
            "row": np.arange(2, 8),
        }
    )


def described(table: pd.DataFrame) -> FakeStore:
    """The table with statuses, and a descriptor for each of the five that can be read."""
    failed = [one[2] != "ok" for one in QUERIES]
    return FakeStore(
        table.drop(columns="row").assign(
            status=[one[2] for one in QUERIES],
            reason=["not a photograph of a known format" if one else "" for one in failed],
        ),
        Representation(np.eye(5, DIMENSION, dtype=np.float32)),
    )
