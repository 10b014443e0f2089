"""What every extractor of the registry owes, whatever is inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter

from retrieval.extractors.aggregation.vlad import SiftVladConfig
from retrieval.extractors.base import Extractor
from retrieval.extractors.cnn import CnnConfig
from retrieval.extractors.describer import Describer
from retrieval.extractors.extraction import extract
from retrieval.extractors.hog import HogConfig
from retrieval.extractors.local.sift import SiftConfig
from retrieval.extractors.registry import BUILDERS, ExtractorConfig, build_extractor
from retrieval.extractors.whitening import WhiteningConfig
from retrieval.index.store import Shard, ShardStore
from retrieval.photographs.decoding import shrink
from tests.photographs import blank, features_of, picture

SMALL: dict[str, Any] = {
    "cnn": CnnConfig(trunk="squeezenet1_1", weights="none", size=128, precision="float32", batch=3),
    "sift-vlad": SiftVladConfig(sift=SiftConfig(size=128, keypoints=80), words=4),
    "hog": HogConfig(side=64, cell=16),
}
# For each kind: every field of its config, with another value. Those under "aggregate" decide
# nothing of the costly half.
CHANGES: dict[str, dict[str, Any]] = {
    "cnn": {"trunk": "squeezenet1_0", "layer": "features.3", "weights": None, "size": 100, "p": 2.0,
            "precision": "bfloat16", "batch": 2},
    "sift-vlad": {"sift.size": 100, "sift.keypoints": 9, "sift.upright": False,
                  "sift.contrast": 0.2},
    "hog": {"side": 80, "cell": 8, "block": 1, "orientations": 5},
}  # fmt: skip
AGGREGATE: dict[str, set[str]] = {"cnn": set(), "sift-vlad": {"words", "power"}, "hog": set()}
# Rounding of a batched network; one photograph at a time there is none.
TOLERANCE = {"cnn": 2e-5, "sift-vlad": 0.0, "hog": 0.0}
PHOTOGRAPHS = [picture(seed) for seed in range(6)]
ANY_SIZE = {
    "portrait": picture(1, 128, 90),
    "landscape": picture(2, 90, 128),
    "large": picture(3, 150, 400),
    "tiny": picture(4, 2, 2),
    "narrow": picture(5, 400, 3),
    "low": picture(6, 5, 300),
}

kinds = pytest.mark.parametrize("kind", sorted(BUILDERS))


@cache
def extractor(kind: str) -> Extractor:
    return build_extractor(SMALL[kind], "cpu", 0)


@cache
def fitted(kind: str) -> Extractor:
    return extractor(kind).fit(features_of(extractor(kind), PHOTOGRAPHS), 0)


def described(kind: str, photographs: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return fitted(kind).aggregate(features_of(extractor(kind), photographs))


def packed(one: Extractor) -> dict[str, NDArray[Any]]:
    (features,) = extract([[picture(1, 150, 200)]], one)
    return one.pack(features)


def fields(config: type[BaseModel], prefix: str = "") -> set[str]:
    """The dotted names of a config's fields."""
    found: set[str] = set()
    for name, field in config.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= fields(inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def changed(config: BaseModel, field: str, value: Any) -> Any:
    values = config.model_dump()
    *outer, last = field.split(".")
    place = values
    for name in outer:
        place = place[name]
    place[last] = value
    return type(config).model_validate(values)


def test_every_kind_is_held_to_its_contract() -> None:
    assert set(SMALL) == set(CHANGES) == set(BUILDERS)


@kinds
def test_a_config_says_of_which_kind_it_is(kind: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ExtractorConfig)
    assert adapter.validate_python(SMALL[kind].model_dump()) == SMALL[kind]
    assert type(adapter.validate_python({"kind": kind})) is type(SMALL[kind])


@kinds
def test_rows_are_of_unit_length(kind: str) -> None:
    rows = described(kind, PHOTOGRAPHS)
    assert rows.shape == (6, extractor(kind).dimension)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    likeness = rows @ rows.T
    assert (likeness[~np.eye(6, dtype=bool)] < 0.9999).all()


@kinds
def test_the_same_config_gives_the_same_bytes(kind: str) -> None:
    again = build_extractor(SMALL[kind], "cpu", 0)
    features = features_of(again, PHOTOGRAPHS)
    assert again.identity() == extractor(kind).identity()
    rows = again.fit(features, 0).aggregate(features)
    np.testing.assert_array_equal(rows, described(kind, PHOTOGRAPHS))


@kinds
def test_a_batch_is_its_photographs_one_by_one(kind: str) -> None:
    mixed = [PHOTOGRAPHS[0], ANY_SIZE["portrait"], *PHOTOGRAPHS[1:], ANY_SIZE["landscape"]]
    alone = np.concatenate([described(kind, [photograph]) for photograph in mixed])
    np.testing.assert_allclose(described(kind, mixed), alone, rtol=0, atol=TOLERANCE[kind])


@kinds
@pytest.mark.parametrize("size", sorted(ANY_SIZE))
def test_photographs_of_any_size(kind: str, size: str) -> None:
    rows = described(kind, [ANY_SIZE[size]])
    assert rows.shape == (1, extractor(kind).dimension)
    norm = float(np.linalg.norm(rows))
    # No keypoint may be a row of zeros; anything in between is neither.
    assert norm == 0.0 or norm == pytest.approx(1.0, abs=1e-5)
    if size in ("portrait", "landscape", "large"):
        assert norm > 0


@kinds
def test_a_blank_photograph_goes_through(kind: str) -> None:
    rows = described(kind, [blank(), PHOTOGRAPHS[0]])
    assert np.isfinite(rows).all()
    learnt = Describer.fit(
        extractor(kind), features_of(extractor(kind), [*PHOTOGRAPHS, blank()]),
        WhiteningConfig(dimension=4), 0,
    )  # fmt: skip
    norms = np.linalg.norm(learnt.describe([blank(), PHOTOGRAPHS[0]]), axis=1)
    assert norms[0] == pytest.approx(np.linalg.norm(rows[0]), abs=1e-5)
    assert norms[1] == pytest.approx(1, abs=1e-5)


@kinds
def test_features_survive_a_shard(kind: str, tmp_path: Path) -> None:
    photographs = [PHOTOGRAPHS[0], blank(), ANY_SIZE["tiny"], PHOTOGRAPHS[1]]
    features = features_of(extractor(kind), photographs)
    store = ShardStore(tmp_path, {})
    store.write(0, Shard(extractor(kind).pack(features), ["ok"] * 4, [""] * 4))
    unpacked = extractor(kind).unpack(store.read(0).arrays)
    assert len(unpacked) == 4
    np.testing.assert_array_equal(
        fitted(kind).aggregate(unpacked), fitted(kind).aggregate(features)
    )


@kinds
def test_no_features_survive_a_shard(kind: str, tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {})
    store.write(0, Shard(extractor(kind).pack([]), ["decode_failed"], ["empty file"]))
    assert extractor(kind).unpack(store.read(0).arrays) == []


@kinds
def test_what_was_learnt_is_restored(kind: str, tmp_path: Path) -> None:
    fitted(kind).save(tmp_path)
    restored = build_extractor(SMALL[kind], "cpu", 0).restored(tmp_path)
    assert restored.fitted
    features = features_of(restored, PHOTOGRAPHS)
    np.testing.assert_array_equal(restored.aggregate(features), described(kind, PHOTOGRAPHS))


@kinds
def test_larger_photographs_are_shrunk(kind: str) -> None:
    whole = picture(1, 300, 400)
    small = shrink(whole, extractor(kind).longest_side)
    assert small.shape == (96, 128, 3)
    expected = described(kind, [small])
    (features,) = extract([[whole]], extractor(kind))
    np.testing.assert_array_equal(fitted(kind).aggregate(features), expected)
    np.testing.assert_array_equal(described(kind, [whole]), expected)


@kinds
def test_the_identity_is_json(kind: str) -> None:
    identity = extractor(kind).identity()
    assert json.loads(json.dumps(identity)) == identity


@kinds
def test_the_identity_tells_apart_what_gives_other_features(kind: str, tmp_path: Path) -> None:
    config = SMALL[kind]
    assert set(CHANGES[kind]) | AGGREGATE[kind] | {"kind"} == fields(type(config))
    plain = packed(extractor(kind))
    for field, value in CHANGES[kind].items():
        if field == "weights":  # other random ones, by another seed
            other = build_extractor(config, "cpu", 1)
        else:
            other = build_extractor(changed(config, field, value), "cpu", 0)
        assert other.identity() != extractor(kind).identity(), field
        if field != "batch":  # which changes rounding alone, and not everywhere
            arrays = packed(other)
            assert any(
                plain[name].shape != arrays[name].shape or (plain[name] != arrays[name]).any()
                for name in plain
            ), field


@kinds
def test_the_identity_keeps_out_what_the_costly_half_does_not_see(kind: str) -> None:
    """Or another codebook would mean that all keypoints are looked for again."""
    for field in AGGREGATE[kind]:
        other = changed(SMALL[kind], field, {"words": 8, "power": 1.0}[field])
        assert build_extractor(other, "cpu", 0).identity() == extractor(kind).identity()
