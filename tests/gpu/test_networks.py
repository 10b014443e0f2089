"""Networks on the GPU beside the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval.descriptors.cnn import CnnConfig, LayerConfig
from retrieval.descriptors.cnn import build as build_cnn
from retrieval.descriptors.extraction import extract
from retrieval.descriptors.joint_frontend import JointFrontend
from retrieval.descriptors.registry import build_extractor
from retrieval.devices import gpu_mistake
from retrieval.errors import PhotographError
from retrieval.local.delf import DelfConfig
from retrieval.local.delf import build as build_delf
from retrieval.networks.pooling import GemConfig, RmacConfig, SpocConfig
from tests.photographs import picture

SHAPES = [(96, 128), (128, 96), (128, 128)]
PHOTOGRAPHS = [picture(i, *SHAPES[i % 3]) for i in range(24)]
SEVERAL = CnnConfig(
    trunk="resnet18",
    weights="none",
    size=128,
    scales=(1.0, 0.7),
    flip=True,
    layers=(
        LayerConfig(layer="layer2", pooling=SpocConfig()),
        LayerConfig(layer="layer3", pooling=RmacConfig()),
        LayerConfig(pooling=GemConfig()),
    ),
)
SYSTEMS = {
    "convnext_tiny": CnnConfig(trunk="convnext_tiny", weights="none", size=128),
    "resnet50": CnnConfig(trunk="resnet50", weights="none", size=128),
    "vit_b_16": CnnConfig(trunk="vit_b_16", weights="none"),
    "several layers and scales": SEVERAL,
}


def rows(extractor: Any, photographs: Any = PHOTOGRAPHS) -> Any:
    (found,) = extract([photographs], extractor)
    return extractor.aggregate(found)


@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_descriptors_are_the_processors(name: str, precision: str) -> None:
    config = SYSTEMS[name].model_copy(update={"precision": precision})
    exact = config.model_copy(update={"precision": "float32"})
    on_cpu, on_gpu = rows(build_cnn(exact, "cpu", 0)), rows(build_cnn(config, "cuda", 0))
    assert (on_cpu * on_gpu).sum(axis=1).min() >= 0.999
    # Random networks see much the same in all photographs: far nearer to its own than to another.
    apart = np.linalg.norm(on_cpu[:, None] - on_cpu, axis=2)[~np.eye(len(on_cpu), dtype=bool)]
    assert np.linalg.norm(on_cpu - on_gpu, axis=1).max() < 0.25 * apart.min()


def test_what_comes_out_does_not_hang_on_the_company() -> None:
    extractor = build_cnn(SEVERAL, "cuda", 0)
    assert not extractor.threaded
    assert extractor.batch > SEVERAL.batch
    broken = "/nowhere/a.jpg"
    windows = [PHOTOGRAPHS[:10], [broken], [], [*PHOTOGRAPHS[10:20], broken], PHOTOGRAPHS[20:]]
    found = [one for window in extract(windows, extractor) for one in window]
    failed = [i for i, one in enumerate(found) if isinstance(one, PhotographError)]
    assert failed == [10, 21]
    described = extractor.aggregate([one for i, one in enumerate(found) if i not in failed])
    alone = np.concatenate([rows(extractor, [one]) for one in PHOTOGRAPHS])
    assert (described * alone).sum(axis=1).min() > 0.999


def test_networks_and_detectors_side_by_side() -> None:
    configs: list[Any] = [SYSTEMS["convnext_tiny"], SEVERAL]
    several: Any = JointFrontend(tuple(build_cnn(one, "cuda", 0) for one in configs))
    (found,) = extract([PHOTOGRAPHS], several)
    for place, frontend in enumerate(several.frontends):
        own = rows(frontend)
        beside = frontend.aggregate([row[place] for row in found])
        assert (own * beside).sum(axis=1).min() > 0.999


def test_a_combination_with_sift() -> None:
    from retrieval.aggregation.vlad import VladConfig
    from retrieval.descriptors.aggregated import AggregatedConfig
    from retrieval.descriptors.registry import JointConfig, PartConfig
    from retrieval.local.sift import SiftConfig

    config = JointConfig(
        parts=(
            PartConfig(extractor=SYSTEMS["convnext_tiny"]),
            PartConfig(
                extractor=AggregatedConfig(
                    local=SiftConfig(size=128, keypoints=50), aggregation=VladConfig(words=4)
                )
            ),
        )
    )
    extractor = build_extractor(config, "cuda", 0)
    (found,) = extract([PHOTOGRAPHS], extractor)
    fitted = extractor.fit(found, 0)
    described = fitted.aggregate(found)
    np.testing.assert_allclose(np.linalg.norm(described, axis=1), 1, atol=1e-5)


def test_delf_finds_the_processors_features() -> None:
    config = DelfConfig(
        trunk="resnet18", layer="layer3", weights="none", size=128, scales=(1.0, 0.7),
        keypoints=100, precision="float32",
    )  # fmt: skip
    for photograph in PHOTOGRAPHS[:6]:
        on_cpu, on_gpu = (
            build_delf(config, device).features([photograph])[0] for device in ("cpu", "cuda")
        )
        places = {tuple(point): i for i, point in enumerate(np.round(on_cpu.points, 2))}
        pairs = [
            (places[tuple(point)], i)
            for i, point in enumerate(np.round(on_gpu.points, 2))
            if tuple(point) in places
        ]
        assert len(pairs) > 0.9 * max(len(on_cpu), len(on_gpu))
        first, second = (
            one.codes[list(places)].astype(np.float64)
            for one, places in zip((on_cpu, on_gpu), zip(*pairs, strict=True), strict=True)
        )
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        assert np.median((first * second).sum(axis=1) / lengths) > 0.999


def test_aliked_finds_the_processors_features(tmp_path: Path) -> None:
    pytest.importorskip("kornia", reason="kornia is not installed")
    from retrieval.local.learned import AlikedConfig
    from retrieval.local.learned import build as build_aliked
    from tests.networks import random_aliked

    config = AlikedConfig(weights=str(random_aliked(tmp_path / "a.pth", 0)), size=128)
    on_cpu, on_gpu = (
        build_aliked(config, device).features(PHOTOGRAPHS[:1])[0] for device in ("cpu", "cuda")
    )
    shared = set(map(tuple, np.round(on_cpu.points))) & set(map(tuple, np.round(on_gpu.points)))
    assert len(shared) > 0.8 * len(on_cpu)


def test_too_little_memory_is_one_line() -> None:
    extractor = build_cnn(SYSTEMS["resnet50"], "cuda", 0)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            rows(extractor, [picture(i, 1024, 1024) for i in range(8)] * 8)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    message = gpu_mistake(caught.value)
    assert message is not None
    assert message.startswith("the GPU's memory ran out (")
    assert "\n" not in message
    assert len(rows(extractor)) == len(PHOTOGRAPHS)
