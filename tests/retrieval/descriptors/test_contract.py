"""What every extractor of the registry owes, whatever is inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin

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
from retrieval.errors import LandmarksError
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
        tolerance: rounding of a batched network; one photograph at a time there is none.
    """

    config: ExtractorConfig
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
SMALL = {
    "trunk": "squeezenet1_1",
    "weights": "none",
    "size": 128,
    "precision": "float32",
    "batch": 3,
}
LOCAL: dict[str, BaseModel] = {
    "sift": SiftConfig(size=128, keypoints=80),
    "dense": DenseConfig(size=128, keypoints=300),
    "harris": HarrisConfig(size=128, keypoints=80),
    "surf": SurfConfig(size=128, keypoints=80, threshold=0.5),
    "aliked": AlikedConfig(size=128, keypoints=80, weights=weights(0)),
    "delf": DELF,
}
AGGREGATION: dict[str, BaseModel] = {
    "vlad": VladConfig(words=4),
    "fisher": FisherConfig(words=4, projected=8),
}
# Other values of what a type says too little of, by the field's name.
VALUES: dict[str, tuple[Any, ...]] = {
    "trunk": ("squeezenet1_0", "timm/deit_tiny_patch16_224"),
    "layer": ("features.6", "features.3", "blocks.1"),
    "weights": (trunk_weights(1), weights(1)),
    "attention": (attention(0),),
    "network": (trained(1),),
    "reduce": ({"dimension": 6},),
    "whitening": ({"dimension": 3},),
}


def aggregated(
    local: str, aggregation: str, shorter: int | None = None, tolerance: float = 0.0
) -> Example:
    """A detector met by an aggregation, its descriptors made shorter or not."""
    config = AggregatedConfig.model_validate(
        {
            "local": LOCAL[local],
            "reduce": shorter and ReduceConfig(dimension=shorter),
            "aggregation": AGGREGATION[aggregation],
        }
    )
    return Example(config, tolerance)


def combination(*names: str) -> Example:
    """Examples side by side, all but the last whitened."""
    whitening = {"dimension": 4, "power": -0.3, "shrinkage": 0.1}
    parts = [
        {"weight": 0.5 + i, "extractor": EXAMPLES[name].config.model_dump(mode="json"),
         "whitening": None if name == names[-1] else whitening}
        for i, name in enumerate(names)
    ]  # fmt: skip
    # Rounding of the whitenings' products.
    return Example(JointConfig.model_validate({"parts": parts}), tolerance=1e-5)


EXAMPLES: dict[str, Example] = {
    "cnn": Example(CnnConfig.model_validate(SMALL), 2e-5),
    "cnn-several": Example(
        CnnConfig.model_validate(
            {
                **SMALL, "scales": [0.5, 1.0], "flip": True,
                "layers": [
                    {"layer": "features.7", "pooling": {"kind": "rmac"}},
                    {"layer": "features", "pooling": {"kind": "mac"}, "weight": 0.5},
                    {"layer": "features", "pooling": {"kind": "spoc"}},
                ],
            }
        ),
        2e-5,
    ),
    "cnn-tokens": Example(
        CnnConfig.model_validate(
            {
                **SMALL, "trunk": "timm/test_vit", "scales": [1.0, 0.7],
                "layers": [{"pooling": {"kind": "cls"}}, {"layer": "blocks.2"}],
            }
        ),
        2e-5,
    ),
    "trained": Example(TrainedConfig(network=trained(0), precision="float32", batch=3), 2e-5),
    "hog": Example(HogConfig(side=64, cells=(16,))),
    "hog-cells": Example(HogConfig(side=64, cells=(8, 16))),
    "hough": Example(HoughConfig(size=128, angles=9, offsets=7, grid=2)),
    "sift-vlad": aggregated("sift", "vlad"),
    "dense-fisher": aggregated("dense", "fisher"),
    "harris-vlad": aggregated("harris", "vlad"),
    "surf-vlad": aggregated("surf", "vlad", 16),
    "delf-vlad": aggregated("delf", "vlad", 16, 1e-6),
    "aliked-vlad": aggregated("aliked", "vlad", tolerance=1e-6),
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


def leaves(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """A config's fields that hold no configs: dotted names, annotations and values."""
    for name, field in type(config).model_fields.items():
        at, value = prefix + name, getattr(config, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{at}.")
        elif isinstance(value, tuple) and isinstance(value[0], BaseModel):
            for place, one in enumerate(value):
                yield from leaves(one, f"{at}.{place}.")
        else:
            yield at, field.annotation, value


def values(name: str, annotation: Any, value: Any) -> Iterator[Any]:
    """Values that a field might have instead, the likely ones first; some may be refused."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, tuple):
        yield from ([one, *value[1:]] for one in values(name, float, value[0]))
    elif get_origin(annotation) is Literal:
        yield from (one for one in get_args(annotation) if one != value)
    elif name in VALUES:
        yield from VALUES[name]
    elif value:
        for times in (0.5, 0.75, 3, 10, 1 / 30, 300, 1e5):
            yield type(value)(value * times)
        yield from (value - 1, value + 1)
    else:  # nothing yet, or a number that is left to the network
        yield from (0.5, 10, 40, 100)


def changed(config: ExtractorConfig, at: str, annotation: Any, value: Any) -> Iterator[Extractor]:
    """Extractors of configs that differ in one field."""
    name = at.rpartition(".")[2]
    if name == "weights":  # other random ones
        yield build_extractor(config, "cpu", 1)
    for other in values(name, annotation, value):
        dumped = config.model_dump(mode="json")
        place: Any = dumped
        for step in at.split(".")[:-1]:
            place = place[int(step) if isinstance(place, list) else step]
        place[name] = other
        with suppress(LandmarksError, ValueError):
            yield build_extractor(type(config).model_validate_json(json.dumps(dumped)), "cpu", 0)


def test_every_kind_is_held_to_its_contract() -> None:
    kinds: dict[str, set[str]] = {}
    for example in EXAMPLES.values():
        for at, _, value in leaves(example.config):
            *outer, last = at.split(".")
            if last == "kind":
                kinds.setdefault("".join(outer[-1:]), set()).add(value)
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


@pytest.mark.slow
@examples
def test_the_identity_is_of_what_gives_features_and_nothing_else(name: str) -> None:
    """Or old features would be taken for new ones; or another codebook would mean new features."""
    config, plain, identity = (
        EXAMPLES[name].config,
        packed(extractor(name)),
        extractor(name).identity(),
    )
    features = features_of(extractor(name), PHOTOGRAPHS)
    rows = fitted(name).aggregate(features)

    def tells(at: str, other: Extractor) -> bool:
        """Whether a change of a field can be seen where it should be."""
        arrays, known = packed(other), other.identity() != identity
        if plain.keys() != arrays.keys() or any(
            not np.array_equal(plain[part], arrays[part]) for part in plain
        ):
            assert known, at
            return True
        if known:  # these change rounding alone, and not everywhere
            return at.endswith(("batch", "runtime"))
        others = other.fit(features, 0, LANDMARKS).aggregate(features)
        return not np.array_equal(rows, others)

    for at, annotation, value in leaves(config):
        # The part of a combination that learns from views is refused; where eight bits lie matters
        # to those alone.
        if not at.endswith(("kind", "whitening.views", "viewed", "quantised")):
            assert any(tells(at, other) for other in changed(config, at, annotation, value)), at
