"""A system that is quick, deterministic and touchy: its answers change if a batch does.

As a script it classifies in a process of its own, for tests that kill it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipelines.answering.classify import ClassifySummary, classify_list
from retrieval.descriptors.base import VectorExtractor
from retrieval.descriptors.describer import Describer, Errors
from retrieval.descriptors.representation import Representation
from retrieval.frontend import Classical
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.types import Photograph, Vectors

COLOURS = ("blue", "green", "red")
QUICK = FetchConfig(
    allow_private=True, backoff_seconds=0.01, backoff_cap_seconds=0.05, retries=1, per_host=32
)


class FakeExtractor(Classical, VectorExtractor):
    """Mean colours, and the photograph's place in its batch, as a batched network's rounding."""

    longest_side = 32
    dimension = 5

    def identity(self) -> dict[str, Any]:
        return {}

    def features(self, photographs: Sequence[Photograph]) -> list[Vectors]:
        return [photograph.reshape(-1, 3).mean(axis=0) / 255 for photograph in photographs]

    def aggregate(self, features: Sequence[Vectors]) -> Vectors:
        places = np.arange(len(features))[:, None] / (1000 * len(features))
        ones = np.ones((len(features), 1))  # a black photograph is described too
        return np.concatenate([np.stack(features), places, ones], axis=1).astype(np.float32)


class FakeSystem:
    """The brightest channel is the landmark, unless it is dark: then none."""

    def __init__(self, fingerprint: str = "fake") -> None:
        self.fingerprint = fingerprint
        self.query_describer = Describer(FakeExtractor(), None)

    def predictions(
        self,
        ids: Sequence[str],
        descriptors: Representation,
        top: int = 0,
        near: int = 1,
        errors: Errors | None = None,
    ) -> pd.DataFrame:
        errors = errors or [None] * len(ids)
        good = [error is None for error in errors]
        vectors = descriptors.vectors[good, :4]
        best = vectors[:, :3].argmax(axis=1)
        bright = vectors[:, :3].max(axis=1) > 0.3
        candidate = np.array(["r", "g", "b"])[best]
        landmark = np.where(bright, candidate, "")
        ranked = np.argsort(-vectors[:, :3], axis=1, kind="stable")
        columns: dict[str, object] = {
            "landmark": landmark,
            "name": [f"{one}, the channel" if one else "" for one in landmark],
            "probability": vectors.sum(axis=1) / 4,
            "candidate": candidate,
            "candidate_name": [f"{one}, the channel" for one in candidate],
            "confidence": vectors[:, :3].max(axis=1),
        }
        for i in range(1, near + 1):
            suffix = f"_{i}" if i > 1 else ""
            columns |= {f"nearest{suffix}": f"g{i}", f"similarity{suffix}": 1 / i}
        for i in range(1, top + 1):  # there are three; a fourth is none
            there = i <= 3
            place = ranked[:, min(i, 3) - 1]
            values = np.take_along_axis(vectors, place[:, None], axis=1)[:, 0]
            columns[f"candidate_{i}"] = np.array(["r", "g", "b"])[place] if there else ""
            columns[f"score_{i}"] = values if there else np.nan
        frame = pd.DataFrame(columns, index=np.flatnonzero(good)).reindex(range(len(ids)))
        frame["id"] = list(ids)
        frame["status"] = ["ok" if error is None else error.status for error in errors]
        frame["reason"] = ["" if error is None else str(error) for error in errors]
        return frame


def photographs(many: int) -> dict[str, bytes]:
    """Small JPEGs, no two alike."""
    files = {}
    for i in range(many):
        pixels = np.full((24 + i % 5, 32, 3), (i * 37 % 256, i * 91 % 256, i * 53 % 256), np.uint8)
        files[f"{i}.jpg"] = cv2.imencode(".jpg", pixels)[1].tobytes()
    return files


def classify(csv: Path, out: Path, **options: object) -> ClassifySummary:
    """``classify_list`` with chunks small enough to have many, and a fresh system."""
    settings = {"fetch": QUICK, "chunk_rows": 8, **options}
    return classify_list(FakeSystem(), csv, out, **settings)  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("csv", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    # One request at a time: there is time to kill it.
    slow = QUICK.model_copy(update={"per_host": 1})
    classify(arguments.csv, arguments.out, fetch=slow)
