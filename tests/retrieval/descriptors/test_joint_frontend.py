"""Several makers of features: what is computed once, at which size, in which batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.extraction import extract
from retrieval.descriptors.hog import HogConfig
from retrieval.descriptors.joint_frontend import JointFrontend
from retrieval.descriptors.registry import build_extractor
from retrieval.errors import DecodeError
from retrieval.frontend import Frontend
from retrieval.local.registry import build_detector
from retrieval.local.sift import SiftConfig
from retrieval.photographs.decoding import shrink
from retrieval.types import Photograph
from tests.photographs import blank, picture


@dataclass(frozen=True)
class Sees:
    """Its features are the shape and mean of what it sees; it remembers its batches.

    Seen at its longest side, or as a square of that side.
    """

    name: str
    longest_side: int = 64
    batched: bool = False
    batch: int = 1
    threaded: bool = True
    square: bool = False
    batches: list[list[tuple[int, int]]] = field(default_factory=list, compare=False)

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        if self.square:
            return self.longest_side, self.longest_side
        return photograph.shape[0], photograph.shape[1]

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def features(self, photographs: Sequence[Photograph]) -> list[Any]:
        self.batches.append([self.shape(one) for one in photographs])
        return [(*one.shape[:2], float(one.mean())) for one in photographs]

    def pack(self, features: Sequence[Any]) -> dict[str, NDArray[Any]]:
        return {"seen": np.array(features)} if features else {}

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
        return [tuple(row) for row in arrays["seen"].tolist()] if arrays else []


def seen(frontend: Sees, photograph: Photograph) -> tuple[int, int, float]:
    small = shrink(photograph, frontend.longest_side)
    return (small.shape[0], small.shape[1], float(small.mean()))


def test_an_entry_for_each_maker_at_its_own_size() -> None:
    frontends = Sees("small", 32), Sees("large", 100), Sees("middle", 64)
    several = JointFrontend(frontends)
    assert several.longest_side == 100
    photographs = [picture(1, 75, 100), picture(2, 100, 60)]
    (found,) = extract([photographs], several)
    assert found == [tuple(seen(frontend, one) for frontend in frontends) for one in photographs]


def test_what_is_the_same_is_computed_and_stored_once() -> None:
    first, other, again = Sees("a"), Sees("b"), Sees("a")
    several = JointFrontend((first, other, again))
    features = several.features([picture(1, 40, 60), picture(2, 30, 50)])
    assert (len(first.batches), len(other.batches), len(again.batches)) == (1, 1, 0)
    assert all(row[2] is row[0] for row in features)
    arrays = several.pack(features)
    assert sorted(arrays) == ["0.seen", "1.seen"]
    assert several.unpack(arrays) == features
    assert several.unpack(several.pack([])) == []
    assert several.identity() == {"several": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}


def test_a_tenth_maker_s_arrays_are_not_the_first_s() -> None:
    several = JointFrontend(tuple(Sees(str(i), 20 + i) for i in range(12)))
    features = several.features([picture(1, 40, 60)])
    assert several.unpack(several.pack(features)) == features


@pytest.mark.parametrize(
    ("frontends", "batched", "batch", "threaded"),
    [
        ((Sees("a"), Sees("b")), False, 1, True),
        ((Sees("a"), Sees("b", batched=True, batch=8)), True, 8, True),
        ((Sees("a", batched=True, batch=8), Sees("b", batched=True, batch=3)), True, 3, True),
        ((Sees("a"), Sees("b", batched=True, batch=8, threaded=False)), True, 8, False),
    ],
)
def test_networks_set_the_pace(
    frontends: tuple[Sees, ...], batched: bool, batch: int, threaded: bool
) -> None:
    several = JointFrontend(frontends)
    assert (several.batched, several.batch, several.threaded) == (batched, batch, threaded)


@pytest.mark.parametrize(
    "networks",
    [
        (Sees("a", 40, batched=True, batch=4),),
        (Sees("a", 40, batched=True, batch=4, square=True),),
        (Sees("a", 40, batched=True, batch=4), Sees("b", 60, batched=True, batch=3, square=True)),
    ],
)
def test_a_batch_has_one_shape_for_each_network(networks: tuple[Sees, ...]) -> None:
    frontends = (Sees("c", 90), *networks)
    photographs = [picture(i, *[(90, 60), (60, 90), (89, 60), (40, 26)][i % 4]) for i in range(16)]
    (found,) = extract([photographs], JointFrontend(frontends), threads=1)
    assert found == [tuple(seen(frontend, one) for frontend in frontends) for one in photographs]
    for network in networks:
        assert all(len(set(batch)) == 1 for batch in network.batches)
        assert sum(len(batch) for batch in network.batches) == 16


def test_a_network_alone_keeps_its_dense_batches() -> None:
    """Sizes that differ only where the network does not look share a batch."""
    network = Sees("a", 40, batched=True, batch=8)
    photographs = [picture(i, 90 - i % 2, 60) for i in range(8)]
    list(extract([photographs], JointFrontend((Sees("b", 90), network)), threads=1))
    assert network.batches == [[(40, 27)] * 8]


def test_a_strip_that_is_a_pixel_across_is_shrunk_further() -> None:
    frontends = Sees("large", 128), Sees("small", 64)
    (found,) = extract([[picture(1, 400, 3)]], JointFrontend(frontends))
    assert [row[:2] for row in found[0]] == [(128, 1), (64, 1)]


def test_failures_are_those_of_the_photograph() -> None:
    (found,) = extract([["/absent.jpg", picture(1), picture(2, 1, 9)]], JointFrontend((Sees("a"),)))
    assert [isinstance(one, DecodeError) for one in found] == [True, False, True]


def test_real_makers_give_what_they_give_alone() -> None:
    """A network, a histogram and bare local features of one size, together."""
    frontends: list[Frontend] = [
        build_extractor(
            CnnConfig(
                trunk="squeezenet1_1", weights="none", size=128, precision="float32", batch=2
            ),
            "cpu", 0,
        ),
        build_extractor(HogConfig(side=64), "cpu", 0),
        build_detector(SiftConfig(size=128, keypoints=50), "cpu"),
    ]  # fmt: skip
    photographs = [picture(1), picture(2, 128, 96), blank(), picture(3, 200, 300), picture(4)]
    several = JointFrontend(tuple(frontends))
    (together,) = extract([photographs], several)
    restored = several.unpack(several.pack(together))
    for i, frontend in enumerate(frontends):
        (alone,) = extract([photographs], frontend)
        expected = frontend.pack(alone)
        for rows in (together, restored):
            arrays = frontend.pack([row[i] for row in rows])
            assert arrays.keys() == expected.keys()
            for name in arrays:
                np.testing.assert_array_equal(arrays[name], expected[name])
