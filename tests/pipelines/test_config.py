"""Configs: those that are shipped, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.config import CONFIGS, config_names, dump_config, load_config
from retrieval.errors import ConfigError
from retrieval.system import SystemConfig

PATHS = sorted(CONFIGS.glob("*.yaml"))


def refused(*overrides: str, name: str = "rootsift-vlad") -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(name, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_shipped_config_is_read_and_named_after_its_file(path: Path) -> None:
    config = load_config(path.stem)
    assert config.name == path.stem
    assert config.description
    assert load_config(str(path)) == config


def test_the_names_are_those_of_the_files() -> None:
    assert config_names() == sorted(path.stem for path in PATHS)
    assert "rootsift-vlad" in config_names()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_is_printed_is_read_again(path: Path, tmp_path: Path) -> None:
    config = load_config(path.stem)
    printed = dump_config(config)
    (tmp_path / "printed.yaml").write_text(printed)
    assert load_config(str(tmp_path / "printed.yaml")) == config
    # With every default filled in.
    assert set(yaml.safe_load(printed)) == set(SystemConfig.model_fields)


def test_overrides_are_yaml_by_dotted_keys() -> None:
    config = load_config(
        "rootsift-vlad",
        ["whitening.dimension=32", "extractor.local.upright=false", "seed=7",
         "whitening.power=-0.25", "description=a = b"],
    )  # fmt: skip
    assert config.whitening is not None
    assert (config.whitening.dimension, config.whitening.power) == (32, -0.25)
    assert config.extractor.model_dump()["local"]["upright"] is False
    assert (config.seed, config.description) == (7, "a = b")
    assert load_config("rootsift-vlad", ["whitening=null"]).whitening is None
    config = load_config("resnet50-gem", ["extractor.layers.0.layer=layer3"])
    assert config.extractor.model_dump()["layers"][0]["layer"] == "layer3"
    assert "extractor.layers.1 holds no keys" in refused(
        "extractor.layers.1.p=3", name="resnet50-gem"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("whitening.dimenson=3", "whitening.dimenson: no such key; did you mean dimension?"),
        ("extractor.aggregation.wrds=3",
         "extractor.aggregation.wrds: no such key; did you mean words?"),
        ("extractor.local.contrst=3",
         "extractor.local.contrst: no such key; did you mean contrast?"),
        ("clasifiers={}", "clasifiers: no such key; did you mean classifiers?"),
        ("zzz=1", "zzz: no such key"),
        ("extractor.kind=hgo", "extractor.kind: 'hgo' is none of "),
        ("classifiers.knn.kind=kn", "classifiers.knn.kind: 'kn' is none of 'knn', 'svm'"),
        ("classifiers.knn={}", "classifiers.knn.kind: is missing"),
        ("whitening.dimension=0",
         "whitening.dimension: Input should be greater than or equal to 1, found 0"),
        ("whitening.dimension=many",
         "whitening.dimension: Input should be a valid integer, found 'many'"),
        ("extractor.local.upright=maybe",
         "extractor.local.upright: Input should be a valid boolean, found 'maybe'"),
        ("extractor={kind: hog, side: 32}", "extractor: side must hold at least one block"),
        ("extractor={kind: combination, parts: [{extractor: {kind: hog, cels: [8]}}]}",
         "extractor.parts.0.extractor.cels: no such key; did you mean cells?"),
        ("extractor={kind: combination, parts: [{extractor: {kind: hog, cells: [20, 2]}}]}",
         "extractor.parts.0.extractor.cells.1: Input should be greater than or equal to 4, found"),
        ("extractor={kind: combination, parts: [{weight: 1}]}",
         "extractor.parts.0.extractor: is missing"),
        ("extractor={kind: combination, parts: [{extractor: {kind: combination}}]}",
         "extractor.parts.0.extractor.kind: 'combination' is none of 'cnn', "),
        ("answer=centroid", "answer: 'centroid' is not auto nor a classifier (knn, svm)"),
        ("classifiers={}", "classifiers: name at least one"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named(override: str, message: str) -> None:
    assert refused(override).startswith(f"{CONFIGS / 'rootsift-vlad.yaml'}: {message}")


def test_several_faults_are_counted() -> None:
    message = refused("whitening.dimension=0", "seed=-1", "whitening.power=5")
    assert message.endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set 'seed': expected key=value"),
        ("=3", "--set '=3': expected key=value"),
        ("seed=[1", "--set 'seed=[1': '[1' is not YAML"),
        ("name.first=x", "--set 'name.first=x': name holds no keys"),
    ],
)
def test_an_override_that_is_none(override: str, message: str) -> None:
    assert refused(override).startswith(message)


def test_a_config_that_is_not_there() -> None:
    assert refused(name="rootsift-vld").startswith(
        "no config 'rootsift-vld'; did you mean rootsift-vlad? there are alexnet-gem, "
    )
    assert refused(name="/absent/x.yaml").startswith(
        "no config '/absent/x.yaml'; there are alexnet-gem, "
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: [", "not YAML ("),
        (b"\xff\xfe", "not YAML ("),
        (b"just words", "expected keys and values"),
        (b"", "expected keys and values"),
        (b"name: x\nclassifiers: {knn: {kind: knn}}", "extractor: is missing"),
    ],
)
def test_a_file_that_is_no_config(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    assert refused(name=str(path)).startswith(f"{path}: {message}")
