"""Local features beside a descriptor: learnt, made, saved; beside any extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from retrieval.aggregation.asmk import AsmkConfig
from retrieval.aggregation.bow import BowConfig
from retrieval.aggregation.vlad import VladConfig
from retrieval.descriptors.aggregated import AggregatedConfig
from retrieval.descriptors.describer import Describer, frontend_of
from retrieval.descriptors.extraction import extract
from retrieval.descriptors.hog import HogConfig
from retrieval.descriptors.local_branch import LocalBranch, LocalBranchConfig, build_local_branch
from retrieval.descriptors.registry import build_extractor
from retrieval.descriptors.representation import Representation
from retrieval.errors import DecodeError, RunError
from retrieval.local import sift
from retrieval.local.compression import CompressionConfig
from retrieval.local.reduction import ReduceConfig
from retrieval.local.sift import SiftConfig
from retrieval.vectors.whitening import WhiteningConfig
from tests.photographs import blank, picture

SIFT = SiftConfig(size=128, keypoints=40)
PHOTOGRAPHS = [picture(i) for i in range(6)]
ASMK = AsmkConfig(words=16, assignments=2)
KEPT = CompressionConfig(features=20, dimension=8)
PARTS: dict[str, dict[str, Any]] = {
    "asmk": {"words": ASMK},
    "bow": {"words": BowConfig(words=16)},
    "kept": {"kept": KEPT},
    "both": {"words": ASMK, "kept": KEPT},
    "reduced": {"reduce": ReduceConfig(dimension=70), "words": ASMK, "kept": KEPT},
}
EXTRACTORS: dict[str, Any] = {
    "hog": HogConfig(side=64, cells=(16,)),
    "vlad": AggregatedConfig(local=SIFT, aggregation=VladConfig(words=2)),
}

parts = pytest.mark.parametrize("name", sorted(PARTS))


def local_branch(name: str) -> LocalBranch:
    return build_local_branch(LocalBranchConfig(detector=SIFT, **PARTS[name]), "cpu")


def fitted(name: str, extractor: str = "hog") -> Describer:
    built, beside = build_extractor(EXTRACTORS[extractor], "cpu", 0), local_branch(name)
    (features,) = extract([PHOTOGRAPHS], frontend_of(built, beside))
    return Describer.fit(built, features, WhiteningConfig(dimension=4), 0, beside)


def contents(one: Representation) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in one.arrays().items()}


@parts
@pytest.mark.parametrize("extractor", sorted(EXTRACTORS))
def test_photographs_get_what_the_config_says(name: str, extractor: str) -> None:
    describer = fitted(name, extractor)
    found = describer.describe(PHOTOGRAPHS)
    assert found.vectors.shape == (6, 4)
    assert (found.words is not None) == ("words" in PARTS[name])
    assert (found.kept is not None) == ("kept" in PARTS[name])
    features = sift.detect(PHOTOGRAPHS[3], SIFT)
    if found.kept is not None:
        kept = found.kept.one(3)
        assert len(kept) == min(len(features), 20)
        np.testing.assert_allclose(kept.points, features.points[:20], rtol=1e-3)
    if found.words is not None:
        assert describer.local_branch is not None
        assert describer.local_branch.words is not None
        many = PARTS[name]["words"].assignments
        reducer = describer.local_branch.reducer
        short = [features] if reducer is None else reducer.reduce([features])
        expected = describer.local_branch.words.words(short, many)
        assert describer.local_branch.bits == (70 if reducer else 128) * (name != "bow")
        one = found.words[np.array([3])]
        assert one.words.tolist() == expected.words.tolist()
        assert one.values.tobytes() == expected.values.tobytes()
    # Vectors are those of the extractor alone.
    alone = build_extractor(EXTRACTORS[extractor], "cpu", 0)
    (own,) = extract([PHOTOGRAPHS], alone)
    bare = Describer.fit(alone, own, WhiteningConfig(dimension=4), 0).describe(PHOTOGRAPHS)
    np.testing.assert_array_equal(found.vectors, bare.vectors)


def test_nothing_is_reduced_for_nothing() -> None:
    with pytest.raises(ValidationError, match=r"reduce: is for words \(kept\.dimension"):
        LocalBranchConfig(reduce=ReduceConfig(), kept=KEPT)


def test_shared_features_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = sift.detect
    monkeypatch.setattr(sift, "detect", lambda *given: (asked.append(1), real(*given))[1])
    fitted("both", "vlad")
    assert len(asked) == len(PHOTOGRAPHS)


@parts
def test_together_as_one_by_one(name: str) -> None:
    describer = fitted(name)
    together = describer.describe(PHOTOGRAPHS)
    alone = Representation.joined([describer.describe([one]) for one in PHOTOGRAPHS])
    np.testing.assert_allclose(alone.vectors, together.vectors, atol=1e-6)
    rest = {k: v for k, v in contents(together).items() if k != "descriptors"}
    assert {k: v for k, v in contents(alone).items() if k != "descriptors"} == rest


@parts
def test_what_is_saved_is_restored(name: str, tmp_path: Path) -> None:
    describer = fitted(name)
    describer.save(tmp_path)
    extractor = build_extractor(EXTRACTORS["hog"], "cpu", 0)
    again = Describer.load(tmp_path, extractor, True, local_branch(name))
    assert contents(again.describe(PHOTOGRAPHS)) == contents(describer.describe(PHOTOGRAPHS))
    for path in (tmp_path / "local").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="is missing or damaged"):
        Describer.load(tmp_path, extractor, True, local_branch(name))


@parts
def test_photographs_that_fail_have_nothing(name: str) -> None:
    describer = fitted(name)
    (outcomes,) = extract([[PHOTOGRAPHS[0], PHOTOGRAPHS[1]]], describer.frontend)
    error = DecodeError("no photograph")
    found, errors = describer.from_outcomes([error, outcomes[0], error, outcomes[1], error])
    assert errors == [error, None, error, None, error]
    good = describer.from_features(outcomes)
    assert contents(found[np.array([1, 3])]) == contents(good)
    nothing = found[np.array([0, 2, 4])]
    assert not nothing.vectors.any()
    for part in (nothing.words, nothing.kept):
        assert part is None or part.starts.tolist() == [0, 0, 0, 0]
    every, _ = describer.from_outcomes([error, error])
    assert len(every) == 2
    assert not every.vectors.any()
    assert {k: v.shape[1:] for k, v in every.arrays().items()} == {
        k: v.shape[1:] for k, v in good.arrays().items()
    }


@parts
def test_no_photographs_have_the_form_of_some(name: str) -> None:
    describer = fitted(name)
    none, some = describer.from_features([]), describer.describe(PHOTOGRAPHS)
    assert len(none) == 0
    for key, array in none.arrays().items():
        assert array.dtype == some.arrays()[key].dtype
        assert array.shape[1:] == some.arrays()[key].shape[1:]
    assert contents(Representation.joined([none, some])) == contents(some)


@parts
def test_a_photograph_without_keypoints_has_neither_words_nor_features(name: str) -> None:
    """HoG sees a slope where SIFT finds no keypoint."""
    slope = np.repeat(np.linspace(0, 255, 128, dtype=np.uint8)[None, :, None], 96, axis=0)
    slope = np.repeat(slope, 3, axis=2)
    found = fitted(name).describe([slope, blank(), PHOTOGRAPHS[0]])
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx([1, 0, 1], abs=1e-5)
    for part in (found.words, found.kept):
        if part is not None:
            assert np.diff(part.starts)[:2].tolist() == [0, 0]
            assert np.diff(part.starts)[2] > 0
