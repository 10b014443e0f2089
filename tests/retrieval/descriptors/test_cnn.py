"""Several layers, scales and mirror images from one trunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.functional import normalize as standardise

from retrieval.descriptors.cnn import CnnConfig, CnnExtractor, build
from retrieval.descriptors.extraction import extract
from retrieval.errors import ConfigError
from retrieval.networks.pooling import gem, rmac
from retrieval.networks.running import MIN_SIDE
from tests.photographs import picture

TRUNK = "squeezenet1_1"
GEM = {"layer": "features", "pooling": {"kind": "gem"}}
RMAC = {"layer": "features.7", "pooling": {"kind": "rmac"}}
MAC = {"layer": "features.3", "pooling": {"kind": "mac"}}


def made(*layers: dict[str, Any], **fields: Any) -> CnnExtractor:
    values = {"trunk": TRUNK, "weights": "none", "size": 200, "precision": "float32", **fields}
    if layers:
        values["layers"] = list(layers)
    return build(CnnConfig.model_validate(values), "cpu", 0)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def one(extractor: CnnExtractor, photograph: np.ndarray) -> np.ndarray:
    ((features,),) = extract([[photograph]], extractor)
    return np.asarray(features)


def test_layers_stand_side_by_side_each_as_long_as_its_weight() -> None:
    photograph = picture(1, 150, 200)
    together = one(made({**GEM, "weight": 2.0}, RMAC, {**MAC, "weight": 0.5}), photograph)
    alone = [one(made(layer), photograph) for layer in (GEM, RMAC, MAC)]
    for layer in alone:
        assert np.linalg.norm(layer) == pytest.approx(1, abs=1e-5)
    expected = np.concatenate([2.0 * alone[0], alone[1], 0.5 * alone[2]])
    np.testing.assert_allclose(together, expected, atol=1e-5)


@torch.inference_mode()
def test_scales_are_summed_layer_by_layer() -> None:
    photograph = picture(1, 150, 200)
    single, scales = made(GEM, RMAC), [1.0, 0.75, 0.5]
    sums: Any = [0.0, 0.0]
    for scale in scales:
        # The whole photograph at each size, resized by hand.
        values = torch.from_numpy(photograph).permute(2, 0, 1)[None].float()
        shape = max(MIN_SIDE, round(150 * scale)), round(200 * scale)
        values = torch.nn.functional.interpolate(values, shape, mode="bilinear", antialias=True)
        view = standardise(values / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        (last, _), (early, _) = single.trunk.outputs(view)
        for i, pooled in enumerate((gem(last, 3.0), rmac(early, 3))):
            sums[i] = sums[i] + unit(pooled[0].numpy())
    expected = np.concatenate([unit(each) for each in sums])
    np.testing.assert_allclose(one(made(GEM, RMAC, scales=scales), photograph), expected, atol=1e-4)


def test_a_mirrored_photograph_is_the_same_where_both_are_seen() -> None:
    photograph = picture(3, 150, 200)
    mirrored = np.ascontiguousarray(photograph[:, ::-1])
    plain, flipped = made(GEM), made(GEM, flip=True)
    assert unit(one(plain, photograph)) @ unit(one(plain, mirrored)) < 0.9999
    expected = unit(one(plain, photograph) + one(plain, mirrored))
    np.testing.assert_allclose(one(flipped, photograph), expected, atol=1e-5)
    np.testing.assert_allclose(one(flipped, mirrored), expected, atol=1e-5)


def test_one_pass_a_scale_whatever_is_pooled_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = made(GEM, RMAC, MAC, scales=[1.0, 0.5], flip=True)
    seen = []
    forward = extractor.trunk.network.forward

    def counted(values: torch.Tensor) -> Any:
        seen.append(tuple(values.shape))
        return forward(values)

    monkeypatch.setattr(extractor.trunk.network, "forward", counted)
    extractor.features([picture(1, 180, 200), picture(2, 180, 200)])
    assert seen == [(2, 3, 180, 200)] * 2 + [(2, 3, 90, 100)] * 2


def test_photographs_are_decoded_at_the_largest_scale() -> None:
    assert made(scales=[1.0, 2**0.5, 0.5]).longest_side == 283
    assert made(scales=[0.5]).longest_side == 100


@pytest.mark.parametrize("shape", [(200, 2), (3, 200), (80, 81), (2, 2)])
def test_strips_are_wide_enough_at_every_scale(shape: tuple[int, int]) -> None:
    extractor = made(GEM, RMAC, scales=[1.0, 0.7, 0.1])
    views = list(extractor.views(extractor.prepare([picture(1, *shape)])))
    assert len(views) == 3
    assert all(min(view.shape[-2:]) >= MIN_SIDE for view in views)
    assert np.isfinite(one(extractor, picture(1, *shape))).all()


def test_a_transformer_sees_its_patches_as_a_map_and_its_class_token_apart() -> None:
    config = {"trunk": "timm/test_vit", "weights": "none", "size": 128, "precision": "float32"}
    layers = [{"pooling": {"kind": "cls"}}, {"pooling": {"kind": "spoc"}}]
    config |= {"layers": layers, "runtime": "torch"}
    extractor = build(CnnConfig.model_validate(config), "cpu", 0)
    photograph = picture(1, 60, 128)
    assert extractor.shape(photograph) == (80, 128)  # Whole patches, and none too few.
    assert extractor.shape(picture(1, 100, 128)) == (96, 128)
    values = extractor.trunk.normalised(torch.from_numpy(picture(2, 96, 128))[None])
    with torch.inference_mode():
        tokens = extractor.trunk.network.network.forward_features(values)
        (feature_map, token), _ = extractor.trunk.outputs(values)
    assert tokens.shape == (1, 1 + 6 * 8, 64)
    assert feature_map.shape == (1, 64, 6, 8)
    torch.testing.assert_close(token, tokens[:, 0])
    torch.testing.assert_close(feature_map[0, :, 2, 3], tokens[0, 1 + 2 * 8 + 3])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trunk": TRUNK, "layers": [{"pooling": {"kind": "cls"}}]},
         f"{TRUNK} cut at features cannot be pooled: it has no class token"),
        ({"trunk": "timm/vit_tiny_r_s16_p8_224.x"}, "is none of vit_tiny_r_s16_p8_224.augreg"),
        ({"trunk": "timm/levit_128s", "scales": [1.0, 0.5]},
         "timm/levit_128s sees squares of 224 alone: extractor.scales can be but [1]"),
    ],
)  # fmt: skip
def test_what_a_trunk_cannot_do_is_said(values: dict[str, Any], message: str) -> None:
    config = CnnConfig.model_validate({"weights": "none", **values})
    with pytest.raises(ConfigError) as caught:
        build(config, "cpu", 0)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"layers": []},
        {"scales": []},
        {"scales": [0.0]},
        {"layers": [{"weight": 0.0}]},
        {"layers": [{"pooling": {"kind": "gem", "levels": 2}}]},
    ],
)
def test_configs_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CnnConfig.model_validate(values)
