"""What the linear SVM takes at 13,000 landmarks and 1.2 million made-up descriptors.

The descriptors are those of scale.py. Above 50,000 rows each landmark is trained against a bounded
set of others, so that memory stays within the set's size and time grows with the landmarks.
Writes results/svm-scale.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.classifiers.svm import SvmClassifier, SvmConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.gallery import Gallery
from retrieval.storage.files import write_json

sys.path.insert(0, str(Path(__file__).parent))
import scale  # type: ignore[import-not-found]


def train(folder: Path, factory: str) -> dict[str, Any]:
    """Fit the machine, then score the queries."""
    names = ("codes", "queries", "query_codes", "bank")
    codes, queries, asked, bank = (np.load(folder / f"{name}.npy") for name in names)
    descriptors = np.load(folder / "gallery.npy", mmap_mode="r")
    landmarks = [f"{code:05d}" for code in range(scale.LANDMARKS)]
    index = FaissIndex.load(folder / factory)
    gallery = Gallery.of(descriptors, codes.astype(np.int64), landmarks, bank, index)
    before = scale.memory("RssAnon")
    with scale.peak_memory() as peak:
        start = time.perf_counter()
        classifier = SvmClassifier.fit(SvmConfig(), gallery)
        fitted = time.perf_counter() - start
    found = index.search(queries, 1)
    seconds, scores = scale.timed(lambda: classifier.scores(queries, found))
    return {
        "fit_seconds": fitted,
        "fit_memory_mb": (max(peak) - before) / 1e6,
        "score_seconds_per_1000": seconds,
        "top1_of_made_up_queries": float((scores.best == asked).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=scale.SIZES[-1])
    parser.add_argument("--out", type=Path, default=scale.RESULTS / "svm-scale.json")
    options = parser.parse_args()
    factory = scale.inverted_file(options.rows)
    with tempfile.TemporaryDirectory(prefix="svm-scale-") as name:
        folder = Path(name)
        scale.apart(scale.make_gallery, folder, options.rows)
        scale.apart(scale.build, folder, factory)
        told = scale.apart(train, folder, factory)
    told = {"rows": options.rows, "index": factory, **scale.conditions(), **told}
    for what, value in told.items():
        print(f"{what}: {value}")
    write_json(options.out, told)


if __name__ == "__main__":
    main()
