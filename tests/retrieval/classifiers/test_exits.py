"""The leads that early exits are learnt on are those that searches look at."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.classifiers.base import HeldOut, Scores
from retrieval.classifiers.exits import fit_early_exit, with_exit
from retrieval.descriptors.representation import Representation
from retrieval.index.early_exit import EarlyExit
from retrieval.index.expansion import ExpansionConfig
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.gallery import Gallery
from retrieval.index.searcher import SearchConfig, Searcher
from retrieval.index.verification import VerificationConfig
from retrieval.local.compression import CompressedFeatures
from retrieval.local.features import no_features
from retrieval.types import Vectors, unit_rows


def described(vectors: Vectors) -> Representation:
    kept = CompressedFeatures.of([no_features(16, (8, 8))] * len(vectors), 16)
    return Representation(vectors, kept=kept)


@pytest.mark.parametrize("expanded", [0, 2])
def test_leads_are_learnt_as_they_are_looked_at(
    expanded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    vectors, none = (unit_rows(random.standard_normal((many, 6)) + 0.5) for many in (12, 5))
    known, bank = described(vectors), described(none)
    config = SearchConfig(
        verification=VerificationConfig(top=4), expansion=ExpansionConfig(queries=expanded)
    )
    index, exact = (FaissIndex.build(one, IndexConfig()) for one in (vectors, none))
    gallery = Gallery(
        known, np.arange(12) // 4, ["a", "b", "c"], bank,
        Searcher(index, vectors, kept=known.kept, config=config), Searcher(exact, none),
    )  # fmt: skip
    seen: list[Vectors] = []
    lead = EarlyExit.lead
    monkeypatch.setattr(EarlyExit, "lead", lambda *given: seen.append(lead(*given)) or seen[-1])
    rows, bank_rows = np.arange(12), np.arange(5)
    scores, of_bank = (Scores.top(np.zeros((many, 3), np.float32), 1) for many in (12, 5))
    held = HeldOut(rows, gallery.codes, scores, bank_rows, of_bank)
    fit_early_exit(held, 0.0, [gallery], 0.5)
    exiting = with_exit(gallery, 0.0)
    exiting.neighbours_of(rows, 6)
    exiting.neighbours_of_bank(bank_rows, 6)
    learnt, looked_at = seen[:2], seen[2:]
    assert np.isfinite(np.concatenate(learnt)).all()
    for one, other in zip(learnt, looked_at, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
