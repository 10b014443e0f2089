"""Networks by name, and weights that must fit to the last number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from retrieval.descriptors.cnn import CnnConfig, LayerConfig, build
from retrieval.errors import ConfigError, WeightsError
from retrieval.networks.running import MIN_SIDE
from retrieval.networks.trunks import (
    _cut,
    bare_network,
    find_weights,
    fuse_norms,
    last_map,
    load_trunk,
)

SMALL = "squeezenet1_1"
NORMED = "mobilenet_v2"


def model(name: str, seed: int = 5) -> torch.nn.Module:
    """A network whose batch norms have something to say."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = torchvision.models.get_model(name, weights=None).eval()
    for part in whole.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for values in (part.weight.data, part.running_var):
                values.copy_(torch.rand(values.shape, generator=random) + 0.5)
            for values in (part.bias.data, part.running_mean):
                values.copy_(torch.randn(values.shape, generator=random) * 0.2)
    return whole


def state(name: str, keep: Callable[[str], bool] = lambda key: True) -> dict[str, Tensor]:
    return {k: v.contiguous().clone() for k, v in model(name).state_dict().items() if keep(k)}


def photographs(side: int = 96) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the parameters up to the cut, as a trunk's file has."""
    path = tmp_path_factory.mktemp("weights") / f"{NORMED}.safetensors"
    save_file(state(NORMED, lambda key: key.startswith("features.")), path)
    return path


@torch.inference_mode()
def test_the_map_is_the_model_s_own_with_batch_norms_folded(weights: Path) -> None:
    trunk = load_trunk(NORMED, [None], str(weights), seed=0)
    expected = model(NORMED).features(photographs())
    torch.testing.assert_close(
        trunk.outputs(photographs())[0][0], expected, rtol=1e-3, atol=1e-4 * expected.std().item()
    )
    parts = dict(trunk.network.named_modules())
    steps = [parts[node.target] for node in trunk.network.graph.nodes if node.op == "call_module"]
    assert sum(isinstance(step, torch.nn.Conv2d) for step in steps) == 52
    assert not any(isinstance(step, torch.nn.BatchNorm2d) for step in steps)
    assert trunk.mean == (0.485, 0.456, 0.406)
    assert trunk.square is None


@torch.inference_mode()
def test_a_trunk_is_cut_where_it_is_told(weights: Path) -> None:
    trunk = load_trunk(NORMED, ["features.6"], str(weights), seed=0)
    expected = model(NORMED).features[:7](photographs())
    torch.testing.assert_close(trunk.outputs(photographs())[0][0], expected, rtol=1e-3, atol=1e-4)
    # Its identity is that of the part which is used.
    whole = load_trunk(NORMED, [None], str(weights), seed=0)
    assert trunk.identity["weights"] != whole.identity["weights"]
    assert (trunk.identity["layers"], whole.identity["layers"]) == (["features.6"], ["features"])


@pytest.mark.slow
def test_the_identity_is_of_the_parameters_not_of_the_file(weights: Path, tmp_path: Path) -> None:
    identity = load_trunk(NORMED, [None], str(weights), seed=0).identity
    whole, bare = tmp_path / "whole.safetensors", tmp_path / "bare.safetensors"
    save_file(state(NORMED), whole)
    # Batch norm's step counters say nothing, and files of other libraries lack them.
    save_file(state(NORMED, lambda key: "num_batches" not in key), bare)
    for path in (whole, bare):
        assert load_trunk(NORMED, [None], str(path), seed=1).identity == identity
    changed = load_file(weights)
    changed["features.3.conv.0.0.weight"][0, 0] += 1e-3
    save_file(changed, tmp_path / "changed.safetensors")
    other = load_trunk(NORMED, [None], str(tmp_path / "changed.safetensors"), seed=0).identity
    assert {key for key in identity if identity[key] != other[key]} == {"weights"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.3.squeeze.bias"), "lacks features.3.squeeze.bias (1 in all)"),
        (lambda s: s.update({"head.bias": torch.zeros(2), "neck": torch.zeros(1)}),
         "has no place for head.bias (2 in all)"),
        (lambda s: s.update({"features.0.bias": torch.zeros(3)}), "misfits features.0.bias (1 in"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.safetensors"
    tensors = state(SMALL)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(WeightsError) as caught:
        load_trunk(SMALL, [None], str(path), seed=0)
    assert str(caught.value).startswith(f"{path} does not fit {SMALL} cut at features: {message}")


def test_what_lies_behind_the_cut_may_be_missing_but_not_misfit(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    early = ("features.0.", "features.3.")
    save_file(state(SMALL, lambda key: key.startswith(early)), path)
    assert load_trunk(SMALL, ["features.3"], str(path), seed=0).identity["layers"] == ["features.3"]
    with pytest.raises(WeightsError, match=r"lacks features\.10\.expand1x1\.bias"):
        load_trunk(SMALL, [None], str(path), seed=0)


def test_a_classifier_behind_the_cut_may_be_of_other_classes(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file({**state(SMALL), "classifier.1.weight": torch.zeros(3, 512, 1, 1)}, path)
    assert load_trunk(SMALL, [None], str(path), seed=0).layers == ("features",)
    with pytest.raises(WeightsError, match=r"misfits classifier\.1\.weight"):
        load_trunk(SMALL, ["classifier.1"], str(path), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head", "cut"),
    [("googlenet", "aux2.fc2.bias", "conv3"), ("inception_v3", "AuxLogits.fc.bias", "maxpool1")],
)
def test_files_with_auxiliary_heads_give_what_torchvision_s_own_weights_give(
    name: str, head: str, cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their downloaded networks normalise photographs anew, and so must those of a file."""
    with torch.device("meta"):
        whole = torchvision.models.get_model(name, weights=None, init_weights=False)
    random = torch.Generator().manual_seed(0)
    values = {
        key: torch.rand(one.shape, generator=random).to(one.dtype)
        for key, one in whole.state_dict().items()
    }
    assert head in values
    path = tmp_path / "whole.safetensors"
    save_file(values, path)
    monkeypatch.setattr(
        torchvision.models._api.WeightsEnum, "get_state_dict", lambda *args, **kwargs: values
    )
    file, downloaded = (load_trunk(name, [cut], one, seed=0) for one in (str(path), "DEFAULT"))
    assert file.identity == downloaded.identity
    with torch.inference_mode():
        found, expected = (one.outputs(photographs())[0][0] for one in (file, downloaded))
    torch.testing.assert_close(found, expected)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(WeightsError, match=r"a\.safetensors: no such weights file \(--weights\)"):
        load_trunk(SMALL, [None], str(path), seed=0)
    path.write_bytes(b"PK\x03\x04 a zip, as torch.save writes")
    with pytest.raises(WeightsError, match=r"a\.safetensors is not a safetensors file"):
        load_trunk(SMALL, [None], str(path), seed=0)


def test_names_that_are_none() -> None:
    with pytest.raises(
        ConfigError, match=r"'resnet51' is not a torchvision network; near it: .*resnet50"
    ):
        load_trunk("resnet51", [None], "none", seed=0)
    with pytest.raises(
        ConfigError, match=r"squeezenet1_1 has no layer 'layer4'; its parts are .*features"
    ):
        load_trunk(SMALL, ["layer4"], "none", seed=0)
    with pytest.raises(WeightsError, match=r"no weights 'V9'; it has IMAGENET1K_V1; or give"):
        load_trunk(SMALL, [None], "V9", seed=0)


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(WeightsError) as caught:
        load_trunk(SMALL, [None], "IMAGENET1K_V1", seed=0)
    message = str(caught.value)
    assert message.startswith(f"the weights of {SMALL} (IMAGENET1K_V1) could not be downloaded")
    for part in ("no route to host", "squeezenet1_1-b8a52dc0.pth", "checkpoints", "--weights"):
        assert part in message
    assert "\n" not in message


def test_random_weights_hang_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = load_trunk(SMALL, [None], "none", seed=3).identity
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert load_trunk(SMALL, [None], "none", seed=3).identity == one
    assert torch.equal(torch.get_rng_state(), before)
    assert load_trunk(SMALL, [None], "none", seed=4).identity != one


def test_weights_are_found_in_a_folder_by_the_trunk_s_name(weights: Path) -> None:
    assert find_weights(NORMED, weights) == str(weights)
    assert find_weights(NORMED, weights.parent) == str(weights)
    with pytest.raises(WeightsError, match=r"resnet50\.safetensors: no such weights file"):
        find_weights("resnet50", weights.parent)


FAMILIES = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 mnasnet0_5"
    " mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5"
    " squeezenet1_1 swin_t vgg11 vit_b_16 wide_resnet50_2"
).split()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_last_map(name: str) -> None:
    """Without numbers: torch's meta device knows shapes alone."""
    device = "cpu" if name.startswith("regnet") else "meta"
    layer = last_map(name)
    with torch.device(device):
        whole = bare_network(name)
        side = getattr(whole, "image_size", None)
        shape = (side, side) if side else (MIN_SIDE, 2 * MIN_SIDE)
        found = fuse_norms(_cut(whole, [layer], name))(torch.zeros(1, 3, *shape))[layer]
    # A transformer's tokens, or a map of the photograph's shape with channels first.
    assert found.ndim == 3 if layer == "encoder.ln" else found.shape[3] >= found.shape[2]


def test_torchvision_has_no_network_without_a_known_last_map() -> None:
    for name in torchvision.models.list_models(module=torchvision.models):
        assert last_map(name)
    with pytest.raises(ConfigError, match=r"'new': say where to cut it \(extractor\.layers\)"):
        last_map("new")


def test_a_map_whose_channels_come_last_is_refused() -> None:
    layers = (LayerConfig(layer="features.1"),)
    config = CnnConfig(trunk="swin_t", layers=layers, weights="none", precision="float32")
    with pytest.raises(
        ConfigError, match=r"swin_t cut at features\.1 cannot be pooled: its channels"
    ):
        build(config, "cpu", 0)
