"""The shipped systems: their figures, what they need, and which is taken where none is named."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.building import shipped
from pipelines.building.index import build_run
from pipelines.building.listing import list_lines, measured_figures
from pipelines.building.proposal import MachineFacts, propose
from pipelines.building.replacing import begin_build
from pipelines.building.shipped import (
    Pretrained,
    gather,
    pretrained,
    settle_system,
)
from pipelines.config import config_names, load_config
from retrieval.config import SystemConfig
from retrieval.errors import ConfigError, RunError, WeightsError
from retrieval.networks.trunks import bare_network, cached_weights
from retrieval.photographs.table import DataSet, load_data_set
from retrieval.storage.files import write_sealed
from tests.pipelines.building.test_index import config_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def photographs(data: Path) -> DataSet:
    return load_data_set(data)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of torchvision's in which nothing is."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def cached(*trunks: str) -> None:
    for trunk in trunks:
        cached_weights(trunk, "IMAGENET1K_V2").touch()


def answering(gallery: str) -> dict[str, tuple[float, float]]:
    """Top-1 and GAP of the classifiers that answer, by docs/measuring.md."""
    text = (ROOT / "docs/measuring.md").read_text()
    row = rf"^\| `([\w.-]+)` \| {gallery} \| \w+ \* \| ([\d.]+) \| ([\d.]+) \|"
    return {name: (float(a), float(b)) for name, a, b in re.findall(row, text, re.MULTILINE)}


def test_figures_are_those_of_the_documentation() -> None:
    told = measured_figures()
    assert set(told) <= set(config_names())
    for gallery, key in (("index.csv", "gallery"), ("index_few.csv", "few")):
        found = {name: getattr(one, key) for name, one in told.items() if getattr(one, key)}
        assert {name: (one.top1, one.gap) for name, one in found.items()} == answering(gallery)
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `([\w.-]+)` \|.*\| ([\d,]+) \| ([\d.]+|–) \| (yes|no) \|$", text, re.M)
    assert len(rows) >= 10
    for name, size, milliseconds, needs in rows:
        assert told[name].bytes == int(size.replace(",", ""))
        assert told[name].milliseconds == (None if milliseconds == "–" else float(milliseconds))
        assert bool(pretrained(load_config(name))) == (needs == "yes")


def test_the_list_is_a_table_of_lines_the_best_first() -> None:
    heading, *lines = list_lines()
    assert sorted(line.split()[0] for line in lines) == config_names()
    gaps = [float(cell) for line in lines if (cell := line[37:42].strip())]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] == max(one.gallery.gap for one in measured_figures().values() if one.gallery)
    rows = {line.split()[0]: line for line in lines}
    start = heading.index("description")
    for name, line in rows.items():
        assert line[start - 2 :] == f"  {load_config(name).description}"
        needs = "needed" if pretrained(load_config(name)) else "none"
        assert line[heading.index("weights") :].split()[0] == needs
    assert rows["hog"].split()[:6] == ["hog", "0.527", "0.427", "3.3", "1024", "none"]
    assert rows["resnet50-gem"].split()[5] == "needed"
    assert rows["vgg_small"].split()[1] == "none"  # unmeasured


@pytest.mark.parametrize(
    ("name", "networks"),
    [
        ("hog", []),
        ("classical", []),
        ("vgg_small", []),
        ("mobilenet_v2-gem", ["mobilenet_v2"]),
        ("mobilenet_v2-arcface", ["mobilenet_v2"]),
        ("mobilenet_v2-tuned", ["mobilenet_v2"]),
        ("resnet50-delf", ["resnet50"]),
        ("resnet50-mobilenet-delf", ["resnet50", "mobilenet_v2"]),
        ("resnet50-rmac-delf-aliked", ["resnet50", "aliked"]),
        ("dinov2-cls", ["timm/vit_small_patch14_dinov2.lvd142m"]),
    ],
)
def test_networks_that_come_with_weights(name: str, networks: list[str]) -> None:
    assert [one.network for one in pretrained(load_config(name))] == networks


def lacks(facts: MachineFacts) -> dict[str, list[tuple[str, bool]]]:
    return {
        one.name: [(lack.what, lack.downloaded) for lack in one.lacks] for one in facts.candidates
    }


def test_facts_of_photographs_and_systems(photographs: DataSet) -> None:
    facts = gather(photographs, None, "cpu")
    assert (facts.gallery, facts.bank, facts.landmarks) == (24, 8, 6)
    assert (facts.paired, facts.gpu) == (True, False)
    assert facts.cores >= 1
    assert gather(photographs, None, "cuda").gpu
    alone = photographs.gallery.drop_duplicates("landmark")
    assert not gather(replace(photographs, gallery=alone), None, "cpu").paired
    found = {one.name: one for one in facts.candidates}
    assert set(found) == set(measured_figures())
    deep, hog = found["resnet50-rmac-delf"], found["hog"]
    assert (deep.network, deep.views, deep.viewed, deep.pairs) == (True, 4, 500, True)
    assert (hog.network, hog.views, hog.pairs) == (False, 0, False)
    assert found["mobilenet_v2-tuned"].trained
    # Something is always here, whatever is not.
    assert propose(facts).system == "classical-global"
    assert "downloaded" in propose(facts).lines[1]


def test_weights_in_the_cache_are_here(photographs: DataSet) -> None:
    both = "the weights of resnet50 and mobilenet_v2 (downloaded if they can be)"
    assert lacks(gather(photographs, None, "cpu"))["resnet50-mobilenet-delf"] == [(both, True)]
    cached("mobilenet_v2")
    found = lacks(gather(photographs, None, "cpu"))
    assert found["mobilenet_v2-gem"] == found["hog"] == []
    assert found["resnet50-mobilenet-delf"] == [
        ("the weights of resnet50 (downloaded if they can be)", True)
    ]
    cached("resnet50")
    facts = gather(photographs, None, "cpu")
    assert lacks(facts)["resnet50-mobilenet-delf"] == []
    files = "resnet50.safetensors and mobilenet_v2.safetensors and aliked-n16rot.pth"
    assert lacks(facts)["resnet50-mobilenet-delf-aliked"] == [
        (f"{files} in a folder (--weights)", False)
    ]
    assert propose(facts).system == "resnet50-mobilenet-delf"


def test_libraries_that_are_not_here(
    photographs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached("mobilenet_v2", "resnet50")
    monkeypatch.setattr(shipped, "find_spec", lambda name: None)
    found = lacks(gather(photographs, None, "cpu"))
    kornia = ("kornia (pip install '.[learned]')", False)
    assert found["resnet50-mobilenet-delf-aliked"][-1] == kornia
    assert found["resnet50-mobilenet-delf"] == []


def test_weights_in_a_folder_are_here_and_no_others(photographs: DataSet, tmp_path: Path) -> None:
    cached("mobilenet_v2")
    (tmp_path / "resnet50.safetensors").touch()
    found = lacks(gather(photographs, tmp_path, "cpu"))
    assert found["resnet50-gem"] == found["resnet50-rmac-delf"] == []
    missing = (f"mobilenet_v2.safetensors in {tmp_path}", False)
    assert found["mobilenet_v2-gem"] == found["resnet50-mobilenet-delf"] == [missing]
    assert propose(gather(photographs, tmp_path, "cpu")).system == "resnet50-rmac-delf"


@pytest.mark.slow
def test_a_file_of_weights_is_told_by_what_is_in_it(photographs: DataSet, tmp_path: Path) -> None:
    state = bare_network("mobilenet_v2").state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    facts = gather(photographs, tmp_path / "mine.safetensors", "cpu")
    assert lacks(facts)["mobilenet_v2-gem"] == []
    found = lacks(facts)
    assert found["resnet50-gem"] == [("resnet50.safetensors in a folder (--weights)", False)]
    both = "resnet50.safetensors and mobilenet_v2.safetensors in a folder (--weights)"
    assert found["resnet50-mobilenet-delf"] == [(both, False)]
    assert propose(facts).system == "mobilenet_v2-gem"
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "none.safetensors").write_text("nothing")
    for name in ("other", "none"):
        with pytest.raises(WeightsError, match="fits none of mobilenet_v2, resnet50: name the"):
            gather(photographs, tmp_path / f"{name}.safetensors", "cpu")
    with pytest.raises(WeightsError, match=r"absent: no such file or folder of weights"):
        gather(photographs, tmp_path / "absent", "cpu")


def settle(data: DataSet, run: Path, *overrides: str, weights: Path | None = None) -> SystemConfig:
    return settle_system(data, run, overrides, weights, "cpu")


def test_a_build_that_names_no_system_takes_the_proposed_one(
    photographs: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = settle(photographs, tmp_path / "run", "whitening.dimension=8")
    assert found == load_config("classical-global", ["whitening.dimension=8"])
    assert [line.split()[0] for line in caplog.messages] == ["classical-global", "or"]
    (tmp_path / "resnet50.safetensors").touch()
    found = settle(photographs, tmp_path / "run", weights=tmp_path)
    assert found == load_config("resnet50-rmac-delf").with_weights(tmp_path)
    with pytest.raises(ConfigError, match="no such key"):
        settle(photographs, tmp_path / "run", "whitening.dimesion=8")


def begun(data: DataSet, run: Path, config: SystemConfig) -> SystemConfig:
    begin_build(run, config, data, None, "cpu", replace=False, agreed=lambda held: False)
    return config


NAMED = "extractor={kind: cnn, trunk: alexnet, weights: none}"


@pytest.mark.parametrize("more", [(), ("whitening=null",), (NAMED,)])
def test_a_run_keeps_the_system_that_it_was_begun_by(
    photographs: DataSet, tmp_path: Path, more: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """To the last key, weights too, whatever is here now."""
    caplog.set_level(logging.INFO)
    config = begun(photographs, tmp_path / "run", load_config("hog", more))
    cached("mobilenet_v2", "resnet50")
    assert settle(photographs, tmp_path / "run") == config
    assert caplog.messages == [
        f"{tmp_path / 'run'} holds hog, which is kept (--config takes another)"
    ]
    changed = settle(photographs, tmp_path / "run", "seed=5")
    assert changed == config.model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match="--set: sed: no such key; did you mean seed"):
        settle(photographs, tmp_path / "run", "sed=5")


def test_a_run_keeps_a_training(photographs: DataSet, tmp_path: Path) -> None:
    config = begun(photographs, tmp_path / "run", load_config("vgg_small"))
    assert settle(photographs, tmp_path / "run") == config


def test_weights_that_lie_elsewhere_now(photographs: DataSet, tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "resnet50.safetensors").touch()
    config = load_config("resnet50-gem").with_weights(tmp_path / "old")
    begun(photographs, tmp_path / "run", config)
    found = settle(photographs, tmp_path / "run", weights=tmp_path / "new")
    assert found == load_config("resnet50-gem").with_weights(tmp_path / "new")


def stripped(run: Path) -> None:
    """As a version before noted systems: without weights."""
    note: dict[str, Any] = json.loads((run / "asked.json").read_text())
    del note["config"]["extractor"]["weights"], note["sha256"]
    write_sealed(run / "asked.json", note)


def test_a_run_of_a_version_before_keeps_its_system(photographs: DataSet, tmp_path: Path) -> None:
    config = config_of("hog", "seed=3")
    build_run(config, photographs, tmp_path / "built", "cpu")
    assert settle(photographs, tmp_path / "built") == config
    begun(photographs, tmp_path / "begun", load_config("hog", [NAMED]))
    stripped(tmp_path / "begun")
    with pytest.raises(RunError, match=r"begun holds hog, .* name it \(--config hog\)$"):
        settle(photographs, tmp_path / "begun")
    assert begun(photographs, tmp_path / "begun", load_config("hog", [NAMED]))


def test_each_network_is_told_once() -> None:
    assert pretrained(load_config("resnet50-mobilenet-delf-aliked")) == [
        Pretrained("resnet50", "IMAGENET1K_V2"),
        Pretrained("mobilenet_v2", "IMAGENET1K_V2"),
        Pretrained("aliked"),
    ]
