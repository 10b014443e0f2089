"""timm's networks: layers by module, weights that must fit, their own preprocessing."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from retrieval.errors import ConfigError, WeightsError
from retrieval.networks.trunks import find_weights, load_trunk

NET = "timm/test_resnet"
VIT = "timm/test_vit.r160_in1k"


def photographs(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_layers_are_caught_by_their_modules_names() -> None:
    trunk = load_trunk(NET, ["layer2", None, "layer2"], "none", seed=0)
    # The same parameters, with nothing caught.
    network = load_trunk(NET, [None], "none", seed=0).network.network
    at = network.maxpool(network.act1(network.bn1(network.conv1(photographs()))))
    early = network.layer2(network.layer1(at))
    found = [feature_map for feature_map, _ in trunk.outputs(photographs())]
    last = network.forward_features(photographs())
    for one, expected in zip(found, (early, last, early), strict=True):
        torch.testing.assert_close(one, expected)


def test_threads_share_a_network_and_each_catches_its_own() -> None:
    trunk = load_trunk(NET, ["layer1", "layer3"], "none", seed=0)

    @torch.inference_mode()
    def outputs(seed: int) -> list[Tensor]:
        return [feature_map for feature_map, _ in trunk.outputs(photographs(seed))]

    expected = [outputs(seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for one, alone in zip(pool.map(outputs, range(12)), expected, strict=True):
            torch.testing.assert_close(one, alone)


@torch.inference_mode()
def test_maps_whose_channels_come_last_are_turned() -> None:
    trunk = load_trunk("timm/swin_tiny_patch4_window7_224", [None, "layers.1"], "none", seed=0)
    (last, _), (early, _) = trunk.outputs(photographs())
    assert (last.shape, early.shape) == ((2, 768, 3, 3), (2, 192, 12, 12))


def test_preprocessing_and_sizes_belong_to_the_weights() -> None:
    plain = load_trunk("timm/vit_tiny_patch16_224.augreg_in21k", [None], "none", seed=0)
    assert (plain.mean, plain.interpolation, plain.square, plain.step) == (
        (0.5, 0.5, 0.5), "bicubic", None, 16,
    )  # fmt: skip
    assert load_trunk("timm/levit_128s", [None], "none", seed=0).square == 224
    network = load_trunk(NET, [None], "none", seed=0)
    assert (network.square, network.step, network.tokens) == (None, 1, None)
    assert network.identity != load_trunk(NET, [None], "none", seed=1).identity


def test_weights_of_a_file_must_fit_but_for_the_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("test_vit").state_dict()
    path = tmp_path / "test_vit.r160_in1k.safetensors"
    save_file(whole, path)
    assert find_weights(VIT, tmp_path) == str(path)
    identity = load_trunk(VIT, [None], str(path), seed=0).identity
    save_file({key: one for key, one in whole.items() if not key.startswith("head.")}, path)
    assert load_trunk(VIT, [None], str(path), seed=1).identity == identity
    for change, message in (
        ({"extra": torch.zeros(1)}, r"has no place for extra \(1 in all\)"),
        ({"cls_token": torch.zeros(1)}, "misfits cls_token"),
    ):
        save_file({**whole, **change}, path)
        with pytest.raises(WeightsError, match=rf"does not fit {VIT}: {message}"):
            load_trunk(VIT, [None], str(path), seed=0)
    save_file({key: one for key, one in whole.items() if key != "cls_token"}, path)
    with pytest.raises(WeightsError, match=r"lacks cls_token \(1 in all\)"):
        load_trunk(VIT, [None], str(path), seed=0)


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", offline)
    with pytest.raises(WeightsError) as caught:
        load_trunk(VIT, [None], "DEFAULT", seed=0)
    message = str(caught.value)
    assert message.startswith(f"the weights of {VIT} could not be downloaded (no route to host)")
    assert "test_vit.r160_in1k.safetensors in a folder" in message


def test_names_that_are_none() -> None:
    for name, layer, weights, message in (
        ("timm/resnet51", None, "none", r"'timm/resnet51' is not one .* near it: .*timm/resnet50"),
        ("timm/test_vit.v9", None, "none", r"'timm/test_vit\.v9' is none of test_vit\.r160_in1k"),
        (NET, "layer9", "none", r"has no layer 'layer9'; its parts are conv1, .*layer4"),
        (NET, None, "IMAGENET1K_V1", r"no weights 'IMAGENET1K_V1': timm's are part of the name"),
    ):
        with pytest.raises((ConfigError, WeightsError), match=message):
            load_trunk(name, [layer], weights, seed=0)


def test_without_timm_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "retrieval.networks.timm_trunks", raising=False)
    monkeypatch.delattr("retrieval.networks.timm_trunks", raising=False)
    with pytest.raises(ConfigError, match=r"needs timm, .*: pip install '\.\[timm\]'"):
        load_trunk(NET, [None], "none", seed=0)
