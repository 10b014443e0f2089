"""The nearest class mean against means taken one by one, and what it holds out."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.classifiers import centroid
from retrieval.classifiers.centroid import CentroidClassifier, CentroidConfig
from retrieval.index.gallery import Gallery
from retrieval.index.neighbours import Neighbours
from tests.oracles import classifiers as slow
from tests.retrieval.classifiers.galleries import clusters, gallery_of, unit, with_bank

NOBODY = Neighbours(np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32))
CONFIG = CentroidConfig(bank_neighbours=3, mean_correction=0.5, query_correction=1.5)


def expected(gallery: Gallery, query: np.ndarray) -> dict[int, float]:
    """Every landmark's value."""
    found = {}
    for code in range(len(gallery.landmarks)):
        own = gallery.vectors[gallery.codes == code]
        if len(own):
            mean = unit(own.sum(axis=0, keepdims=True))[0]
            correction = slow.mean_of_nearest(mean, gallery.bank_vectors, 3)
            found[code] = float(query @ mean) - 0.5 * correction
            found[code] -= 1.5 * slow.mean_of_nearest(query, gallery.bank_vectors, 3)
    return found


@pytest.mark.parametrize("bank", [0, 2, 9])
def test_values_are_the_slow_ones(bank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centroid, "SIMILARITIES", 12)
    monkeypatch.setattr(centroid, "ROWS", 5)
    gallery = clusters(4, 3, bank, 0.9)
    queries = unit(np.random.default_rng(1).standard_normal((7, 16)))
    scores = CentroidClassifier.fit(CONFIG, gallery).scores(queries, NOBODY)
    for query, candidates, values in zip(queries, scores.candidates, scores.values, strict=True):
        slowly = expected(gallery, query)
        assert candidates.tolist() == sorted(slowly, key=lambda code: -slowly[code])
        assert values == pytest.approx([slowly[code] for code in candidates], abs=1e-5)


def test_held_out_scores_are_those_without_the_photograph() -> None:
    gallery = clusters(4, 3, 6, 0.9)
    held = CentroidClassifier.held_out(CONFIG, gallery)
    for row in range(12):
        others = np.delete(np.arange(12), row)
        without = gallery_of(gallery.vectors[others], gallery.codes[others], gallery.bank_vectors)
        slowly = expected(without, gallery.vectors[row])
        values = [slowly[code] for code in held.gallery.candidates[row]]
        assert held.gallery.values[row] == pytest.approx(values, abs=1e-5)
    for row in range(6):
        bank = np.delete(gallery.bank_vectors, row, axis=0)
        slowly = expected(with_bank(gallery, bank), gallery.bank_vectors[row])
        values = [slowly[code] for code in held.bank.candidates[row]]
        assert held.bank.values[row] == pytest.approx(values, abs=1e-5)


def test_sums_are_those_of_one_photograph_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, whatever the blocks; with a landmark that has no photograph."""
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((900, 16)))
    gallery = gallery_of(rows, rng.choice([0, 1, 3], 900))
    expected = np.zeros((len(gallery.landmarks), 16))
    for row, code in zip(rows, gallery.codes, strict=True):
        expected[code] += row
    for block in (7, 1 << 16):
        monkeypatch.setattr(centroid, "ROWS", block)
        assert (centroid._sums(gallery) == expected).all()
        some = np.flatnonzero(gallery.codes == 1)
        assert (centroid._sums(gallery, some)[1] == expected[1]).all()
