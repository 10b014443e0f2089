"""What every extractor of the registry owes, whatever is inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter

from retrieval.aggregation.fisher import FisherConfig
from retrieval.aggregation.registry import AGGREGATORS
from retrieval.aggregation.vlad import VladConfig
from retrieval.descriptors.aggregated import AggregatedConfig
from retrieval.descriptors.base import Extractor
from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.describer import Describer
from retrieval.descriptors.extraction import extract
from retrieval.descriptors.hog import HogConfig
from retrieval.descriptors.hough import HoughConfig
from retrieval.descriptors.registry import BUILDERS, ExtractorConfig, JointConfig, build_extractor
from retrieval.descriptors.trained import TrainedConfig
from retrieval.local.delf import SEED, DelfConfig
from retrieval.local.dense import DenseConfig
from retrieval.local.harris import HarrisConfig
from retrieval.local.learned import AlikedConfig
from retrieval.local.reduction import ReduceConfig
from retrieval.local.registry import DETECTORS
from retrieval.local.sift import SiftConfig
from retrieval.local.surf import SurfConfig
from retrieval.networks.trunks import load_trunk
from retrieval.photographs.decoding import shrink
from retrieval.storage.shards import Shard, ShardStore
from retrieval.vectors.whitening import WhiteningConfig
from tests.networks import random_aliked, random_attention, random_training, random_trunk
from tests.photographs import blank, features_of, picture


@dataclass(frozen=True)
class Example:
    """An extractor to be held to its contract, of photographs of 128 pixels.

    Attributes:
        config: a small one.
        changes: another value for every field that the costly half sees, by dotted name.
        aggregate: likewise for the fields that decide nothing of the costly half.
        tolerance: rounding of a batched network; one photograph at a time there is none.
    """

    config: BaseModel
    changes: dict[str, Any]
    aggregate: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 0.0


@cache
def weights(seed: int) -> str:
    """A file of random parameters for ALIKED, there while these tests run."""
    return str(random_aliked(Path(FOLDER.name) / f"{seed}.pth", seed))


def trunk_weights(seed: int) -> str:
    """A file of random parameters for DELF's trunk."""
    return str(random_trunk(Path(FOLDER.name) / f"trunk{seed}.safetensors", DELF.trunk, seed))


def attention(seed: int) -> str:
    """A file of random attention for DELF's map."""
    trunk = load_trunk(DELF.trunk, [DELF.layer], DELF.weights, SEED)
    return str(random_attention(Path(FOLDER.name) / f"{seed}.safetensors", trunk, seed))


@cache
def trained(seed: int) -> str:
    """The folder of a network that might have been trained."""
    return str(random_training(Path(FOLDER.name) / f"trained-{seed}", "squeezenet1_1", seed))


FOLDER = TemporaryDirectory()
DELF = DelfConfig(
    trunk="squeezenet1_1", layer="features.3", weights="none", size=128, scales=(0.7, 1.0),
    keypoints=80, precision="float32",
)  # fmt: skip
# A detector, or an aggregation: its small config, and another value for each of its fields.
Part = tuple[BaseModel, dict[str, Any]]
LOCAL: dict[str, Part] = {
    "sift": (
        SiftConfig(size=128, keypoints=80),
        {"size": 100, "keypoints": 9, "upright": False, "contrast": 0.2, "root": False},
    ),
    "dense": (
        DenseConfig(size=128, keypoints=300),
        {
            "size": 100,
            "step": 9,
            "scales": [20.0],
            "keypoints": 9,
            "upright": False,
            "min_contrast": 12.0,
        },
    ),
    "harris": (
        HarrisConfig(size=128, keypoints=80),
        {"size": 100, "keypoints": 9, "upright": False, "threshold": 1e-4, "levels": 3},
    ),
    "surf": (
        SurfConfig(size=128, keypoints=80, threshold=0.5),
        {"size": 100, "keypoints": 9, "threshold": 200.0},
    ),
    "aliked": (
        AlikedConfig(size=128, keypoints=80, weights=weights(0)),
        {"size": 100, "keypoints": 9, "threshold": 0.6, "weights": weights(1)},
    ),
    "delf": (
        DELF,
        {"trunk": "squeezenet1_0", "layer": "features.6", "size": 100, "scales": [1.0],
         "keypoints": 9, "threshold": 40.0, "overlap": 0.2, "precision": "bfloat16",
         "weights": trunk_weights(1), "attention": attention(0)},
    ),
}  # fmt: skip
AGGREGATION: dict[str, Part] = {
    "vlad": (
        VladConfig(words=4),
        {"words": 8, "codebooks": 2, "residual": True, "intra": False, "power": 1.0},
    ),
    "fisher": (
        FisherConfig(words=4, projected=8),
        {"words": 8, "projected": 9, "deviations": False, "power": 1.0},
    ),
}


def aggregated(local: str, aggregation: str, reduce: ReduceConfig | None = None) -> Example:
    """A detector met by an aggregation, its descriptors made shorter or not."""
    (detector, changes), (aggregator, others) = LOCAL[local], AGGREGATION[aggregation]
    config = AggregatedConfig.model_validate(
        {"local": detector, "reduce": reduce, "aggregation": aggregator}
    )
    shorter = {"reduce": {"dimension": 6}}
    if reduce is not None:
        shorter = {"reduce.dimension": 5, "reduce.whiten": True}
    return Example(
        config,
        {f"local.{name}": value for name, value in changes.items()},
        {**shorter, **{f"aggregation.{name}": value for name, value in others.items()}},
    )


def combination(*names: str) -> Example:
    """Examples side by side, all but the last whitened."""
    parts, changes, aggregate = [], {}, {}
    for i, name in enumerate(names):
        part, at = EXAMPLES[name], f"parts.{i}"
        last = i == len(names) - 1
        whitening = None if last else {"dimension": 4, "power": -0.3, "shrinkage": 0.1}
        extractor = part.config.model_dump(mode="json")
        parts.append({"weight": 0.5 + i, "extractor": extractor, "whitening": whitening})
        changes |= {f"{at}.extractor.{name}": value for name, value in part.changes.items()}
        aggregate |= {f"{at}.extractor.{name}": value for name, value in part.aggregate.items()}
        aggregate[f"{at}.weight"] = 3.0
        if whitening is None:
            aggregate[f"{at}.whitening"] = {"dimension": 3}
        else:
            others = {"dimension": 3, "power": -0.5, "shrinkage": 0.5, "learnt_on": "pairs"}
            aggregate |= {f"{at}.whitening.{name}": value for name, value in others.items()}
    # Rounding of the whitenings' products.
    return Example(JointConfig.model_validate({"parts": parts}), changes, aggregate, tolerance=1e-5)


EXAMPLES: dict[str, Example] = {
    "cnn": Example(
        CnnConfig(
            trunk="squeezenet1_1", weights="none", size=128, precision="float32", batch=3
        ),
        {"trunk": "squeezenet1_0", "weights": None, "size": 100, "scales": [1.0, 0.7],
         "flip": True, "layers.0.layer": "features.3", "layers.0.pooling.p": 2.0,
         "layers.0.weight": 2.0, "precision": "bfloat16", "batch": 2},
        tolerance=2e-5,
    ),
    "cnn-several": Example(
        CnnConfig.model_validate(
            {
                "trunk": "squeezenet1_1", "weights": "none", "size": 128, "precision": "float32",
                "batch": 3, "scales": [0.5, 1.0], "flip": True,
                "layers": [
                    {"layer": "features.7", "pooling": {"kind": "rmac"}},
                    {"layer": "features", "pooling": {"kind": "mac"}, "weight": 0.5},
                    {"layer": "features", "pooling": {"kind": "spoc"}},
                ],
            }
        ),
        {"trunk": "squeezenet1_0", "weights": None, "size": 100, "scales": [1.0],
         "flip": False, "precision": "bfloat16", "batch": 2,
         "layers.0.layer": "features.3", "layers.0.pooling.levels": 2, "layers.0.weight": 2.0,
         "layers.1.layer": "features.3", "layers.1.weight": 2.0,
         "layers.2.layer": "features.3", "layers.2.weight": 2.0},
        tolerance=2e-5,
    ),
    "cnn-tokens": Example(
        CnnConfig.model_validate(
            {
                "trunk": "timm/test_vit", "weights": "none", "size": 128, "precision": "float32",
                "batch": 3, "scales": [1.0, 0.7],
                "layers": [{"pooling": {"kind": "cls"}}, {"layer": "blocks.2"}],
            }
        ),
        {"trunk": "timm/deit_tiny_patch16_224", "weights": None, "size": 100, "scales": [1.0],
         "flip": True, "precision": "bfloat16", "batch": 2,
         "layers.0.layer": "blocks.4", "layers.0.weight": 2.0,
         "layers.1.layer": "blocks.1", "layers.1.weight": 2.0, "layers.1.pooling.p": 2.0},
        tolerance=2e-5,
    ),
    "trained": Example(
        TrainedConfig(network=trained(0), precision="float32", batch=3),
        {"network": trained(1), "size": 100, "scales": [1.0, 0.7], "flip": True,
         "precision": "bfloat16", "batch": 2},
        tolerance=2e-5,
    ),
    "hog": Example(
        HogConfig(side=64, cells=(16,)), {"side": 80, "cells": [8], "block": 1, "orientations": 5}
    ),
    "hog-cells": Example(
        HogConfig(side=64, cells=(8, 16)),
        {"side": 80, "cells": [8, 32], "block": 1, "orientations": 5},
    ),
    "hough": Example(
        HoughConfig(size=128, angles=9, offsets=7, grid=2),
        {"size": 100, "shortest": 0.1, "segments": 5, "paired": 4, "angles": 8,
         "offsets": 6, "grid": 3, "power": 1.0},
    ),
    "sift-vlad": aggregated("sift", "vlad"),
    "dense-fisher": aggregated("dense", "fisher"),
    "harris-vlad": aggregated("harris", "vlad"),
    "surf-vlad": aggregated("surf", "vlad", ReduceConfig(dimension=16)),
    "delf-vlad": replace(aggregated("delf", "vlad", ReduceConfig(dimension=16)), tolerance=1e-6),
    "aliked-vlad": replace(aggregated("aliked", "vlad"), tolerance=1e-6),
}  # fmt: skip
EXAMPLES["combination"] = combination("sift-vlad", "dense-fisher", "hog")
PHOTOGRAPHS = [picture(seed) for seed in range(6)]
LANDMARKS = ["a", "a", "b", "b", "c", None]
ANY_SIZE = {
    "portrait": picture(1, 128, 90),
    "landscape": picture(2, 90, 128),
    "large": picture(3, 150, 400),
    "tiny": picture(4, 2, 2),
    "narrow": picture(5, 400, 3),
    "low": picture(6, 5, 300),
}

examples = pytest.mark.parametrize("name", EXAMPLES)


@cache
def extractor(name: str) -> Extractor:
    return build_extractor(EXAMPLES[name].config, "cpu", 0)


@cache
def fitted(name: str) -> Extractor:
    return extractor(name).fit(features_of(extractor(name), PHOTOGRAPHS), 0)


def described(name: str, photographs: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return fitted(name).aggregate(features_of(extractor(name), photographs))


def packed(one: Extractor) -> dict[str, NDArray[Any]]:
    (features,) = extract([[picture(1, 150, 200)]], one)
    return one.pack(features)


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names of a dumped config's fields, with their values; parts of a list by place."""
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        values = {str(place): value for place, value in enumerate(values)}
    if isinstance(values, dict):
        for name, value in values.items():
            yield from leaves(value, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, values


def changed(config: BaseModel, name: str, value: Any) -> Any:
    """A config with another value at a dotted name."""
    values = config.model_dump(mode="json")
    *outer, last = name.split(".")
    place: Any = values
    for step in outer:
        place = place[int(step) if isinstance(place, list) else step]
    place[last] = value
    return type(config).model_validate_json(json.dumps(values))


def test_every_kind_is_held_to_its_contract() -> None:
    kinds: dict[str, set[str]] = {}
    for example in EXAMPLES.values():
        for name, value in leaves(example.config.model_dump(mode="json")):
            outer, _, last = name.rpartition(".")
            if last == "kind":
                kinds.setdefault(outer.rpartition(".")[2], set()).add(value)
    assert kinds[""] == set(BUILDERS)
    assert kinds["local"] == set(DETECTORS)
    assert kinds["aggregation"] == set(AGGREGATORS)
    assert kinds["pooling"] == {"mac", "spoc", "gem", "rmac", "cls"}


@examples
def test_a_config_says_of_which_kind_it_is(name: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ExtractorConfig)
    config = EXAMPLES[name].config
    # As YAML gives it: lists for tuples, and nothing but plain values.
    assert adapter.validate_python(config.model_dump(mode="json")) == config


@examples
def test_rows_are_of_unit_length(name: str) -> None:
    rows = described(name, PHOTOGRAPHS)
    assert rows.shape == (6, extractor(name).dimension)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    likeness = rows @ rows.T
    assert (likeness[~np.eye(6, dtype=bool)] < 0.9999).all()


@examples
def test_the_same_config_gives_the_same_bytes(name: str) -> None:
    again = build_extractor(EXAMPLES[name].config, "cpu", 0)
    features = features_of(again, PHOTOGRAPHS)
    assert again.identity() == extractor(name).identity()
    rows = again.fit(features, 0).aggregate(features)
    np.testing.assert_array_equal(rows, described(name, PHOTOGRAPHS))


@examples
def test_a_batch_is_its_photographs_one_by_one(name: str) -> None:
    mixed = [PHOTOGRAPHS[0], ANY_SIZE["portrait"], *PHOTOGRAPHS[1:], ANY_SIZE["landscape"]]
    alone = np.concatenate([described(name, [photograph]) for photograph in mixed])
    np.testing.assert_allclose(described(name, mixed), alone, rtol=0, atol=EXAMPLES[name].tolerance)


@examples
@pytest.mark.parametrize("size", sorted(ANY_SIZE))
def test_photographs_of_any_size(name: str, size: str) -> None:
    rows = described(name, [ANY_SIZE[size]])
    assert rows.shape == (1, extractor(name).dimension)
    norm = float(np.linalg.norm(rows))
    # No keypoint may be a row of zeros; anything in between is neither.
    assert norm == 0.0 or norm == pytest.approx(1.0, abs=1e-5)
    if size in ("portrait", "landscape", "large"):
        assert norm > 0


@examples
def test_a_blank_photograph_goes_through(name: str) -> None:
    rows = described(name, [blank(), PHOTOGRAPHS[0]])
    assert np.isfinite(rows).all()
    learnt = Describer.fit(
        extractor(name), features_of(extractor(name), [*PHOTOGRAPHS, blank()]),
        WhiteningConfig(dimension=4), 0,
    )  # fmt: skip
    norms = np.linalg.norm(learnt.describe([blank(), PHOTOGRAPHS[0]]).vectors, axis=1)
    assert norms[0] == pytest.approx(np.linalg.norm(rows[0]), abs=1e-5)
    assert norms[1] == pytest.approx(1, abs=1e-5)


@examples
def test_features_survive_a_shard(name: str, tmp_path: Path) -> None:
    photographs = [PHOTOGRAPHS[0], blank(), ANY_SIZE["tiny"], PHOTOGRAPHS[1]]
    features = features_of(extractor(name), photographs)
    store = ShardStore(tmp_path, {})
    store.write(0, Shard(extractor(name).pack(features), ["ok"] * 4, [""] * 4))
    unpacked = extractor(name).unpack(store.read(0).arrays)
    assert len(unpacked) == 4
    np.testing.assert_array_equal(
        fitted(name).aggregate(unpacked), fitted(name).aggregate(features)
    )


@examples
def test_no_features_survive_a_shard(name: str, tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {})
    store.write(0, Shard(extractor(name).pack([]), ["decode_failed"], ["empty file"]))
    assert extractor(name).unpack(store.read(0).arrays) == []


@examples
def test_what_was_learnt_is_restored(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path)
    restored = build_extractor(EXAMPLES[name].config, "cpu", 0).restored(tmp_path)
    assert restored.fitted
    features = features_of(restored, PHOTOGRAPHS)
    np.testing.assert_array_equal(restored.aggregate(features), described(name, PHOTOGRAPHS))


@examples
def test_larger_photographs_are_shrunk(name: str) -> None:
    whole = picture(1, 300, 400)
    small = shrink(whole, extractor(name).longest_side)
    assert small.shape == (96, 128, 3)
    expected = described(name, [small])
    (features,) = extract([[whole]], extractor(name))
    np.testing.assert_array_equal(fitted(name).aggregate(features), expected)
    np.testing.assert_array_equal(described(name, [whole]), expected)


@examples
def test_the_identity_is_json(name: str) -> None:
    identity = extractor(name).identity()
    assert json.loads(json.dumps(identity)) == identity


@examples
def test_every_field_has_another_value(name: str) -> None:
    example = EXAMPLES[name]
    found = {
        at
        for at, _ in leaves(example.config.model_dump(mode="json"))
        if at.rpartition(".")[2] != "kind" and not at.endswith("whitening.views")
    }  # the part of a combination that learns from views is refused
    assert {*example.changes, *example.aggregate} == found
    assert not set(example.changes) & set(example.aggregate)


@examples
def test_the_identity_tells_apart_what_gives_other_features(name: str) -> None:
    plain = packed(extractor(name))
    for at, value in EXAMPLES[name].changes.items():
        if at.endswith("weights") and value is None:  # other random ones, by another seed
            other = build_extractor(EXAMPLES[name].config, "cpu", 1)
        else:
            other = build_extractor(changed(EXAMPLES[name].config, at, value), "cpu", 0)
        assert other.identity() != extractor(name).identity(), at
        if not at.endswith("batch"):  # which changes rounding alone, and not everywhere
            arrays = packed(other)
            assert plain.keys() != arrays.keys() or any(
                plain[part].shape != arrays[part].shape or (plain[part] != arrays[part]).any()
                for part in plain
            ), at


@examples
def test_the_identity_keeps_out_what_the_costly_half_does_not_see(name: str) -> None:
    """Or another codebook would mean that all keypoints are looked for again."""
    features = features_of(extractor(name), PHOTOGRAPHS)
    rows = fitted(name).aggregate(features)
    for at, value in EXAMPLES[name].aggregate.items():
        other = build_extractor(changed(EXAMPLES[name].config, at, value), "cpu", 0)
        assert other.identity() == extractor(name).identity(), at
        others = other.fit(features, 0, LANDMARKS).aggregate(features)
        assert rows.shape != others.shape or (rows != others).any(), at
