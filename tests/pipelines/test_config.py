"""Configs: those that are shipped, and what is said of those that are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from pipelines.config import CONFIGS, RENAMED, config_names, dump_config, load_config
from pipelines.studies.methods import Budget
from retrieval.config import SystemConfig
from retrieval.errors import ConfigError
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.training.attention import AttentionConfig

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


@pytest.mark.parametrize(("old", "now"), RENAMED.items())
def test_a_name_of_before_is_taken_and_says_the_one_of_now(
    old: str, now: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert load_config(old).name == now
    assert caplog.messages == [f"{old} is now called {now}"]


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
        ("index={kind: milvus, shard: 5}", "index.shard: no such key; there are batch, build, "),
        ("index={shrd: 5}", "index.shrd: no such key; did you mean shard?"),
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
    whole = override.startswith(("answer", "classifiers={}"))
    where = CONFIGS / "rootsift-vlad.yaml" if whole else "--set"
    assert refused(override).startswith(f"{where}: {message}")


def test_a_wrong_key_is_compared_with_those_of_its_place(tmp_path: Path) -> None:
    # Words stand in a config, though not here.
    assert "whitening.word: no such key; there are dimension, " in refused("whitening.word=3")
    own = tmp_path / "own.yaml"
    own.write_text((CONFIGS / "hog.yaml").read_text() + "sed: 3\n")
    assert (
        refused("index.factory=Flat", name=str(own))
        == f"{own}: sed: no such key; did you mean seed?"
    )


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 2001-99-99", "seed: Input should be a valid integer, found '2001-99-99'"),
        ("seed: 2001-01-01", "seed: Input should be a valid integer, found '2001-01-01'"),
        ("seed: 1:30", "seed: Input should be a valid integer, found '1:30'"),
        ("seed: 010", "seed: Input should be a valid integer, found '010'"),
        ("seed: yes", "seed: Input should be a valid integer, found 'yes'"),
        (f"seed: {'9' * 5000}", "line 1, column 7: a number of 5000 digits"),
        (f"seed: 0x{'f' * 5000}", "line 1, column 7: a number of 5002 digits"),
        (f"seed: 1{'0' * 30}", "seed: Input should be less than 2147483648, found 1000"),
        (f"seed: {'[' * 5000}", "line 1, column 38: more than 32 levels"),
        (f"seed: {'{a: ' * 5000}", "more than 32 levels"),
        ("- " * 5000 + "a", "more than 32 levels"),
        (f"seed: [{'1, ' * 5000}]", "more than 32 levels or 4096 values"),
        ("a: &a [1]\nseed: [*a, *a]", "line 1, column 4: anchors and aliases are not taken"),
        ("seed: *a", "line 1, column 7: anchors and aliases are not taken"),
        ("seed: &a 3", "anchors and aliases are not taken"),
        ("a: {b: 1}\nseed: 1\nseed: 2", "line 3, column 1: seed stands there twice"),
        ("whitening: {power: -0.5, power: 0}", "line 1, column 26: power stands there twice"),
        ("3: x", "line 1, column 1: a key that is no text: put it in quotes"),
        ("null: x", "a key that is no text"),
        ("[1, 2]: x", "a key that is no text"),
        ("? {a: 1}\n: x", "a key that is no text"),
        ("seed: !!python/name:os.system", "tags (tag:yaml.org,2002:python/name:os.system) are not"),
        ("seed: !!binary AAAA", "tags (tag:yaml.org,2002:binary) are not"),
        ("seed: !x 3", "tags (!x) are not"),
        ("seed: 1\n---\nseed: 2", "line 2, column 1: but found another document"),
        ("seed: \x07", "special characters are not allowed"),
        ("seed: [1", "expected ',' or ']'"),
        ("\tseed: 1", "found character '\\t' that cannot start any token"),
        (f"description: {'x' * 70_000}", "more than 64 kB are no config"),
        ('"a\\e[2J": 1', "?[2J: no such key"),
        (f"{'a' * 900}: 1", "…: no such key"),
        (f"seed: {'a' * 5000}", "…"),
        (f"answer: [{'a, ' * 900}]", "…"),
        (f"answer: {'a' * 9000}", "…"),
        ("just text", "expected keys and values"),
        ("", "expected keys and values"),
        ("<<: {seed: 1}", "<<: no such key"),
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)  # fmt: skip
def test_yaml_that_is_no_config_is_one_short_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "own.yaml"
    whole = (CONFIGS / "hog.yaml").read_text()
    path.write_text(text if ":" not in text or "- -" in text else f"{text}\n")
    if "no such key" in said or said.startswith("seed: Input") or said == "…":
        path.write_text(f"{whole}\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    message = str(caught.value).removeprefix(f"{path}: ")
    assert said in message
    assert len(message) < 500
    assert message.isprintable()


def test_files_that_cannot_be_read_as_text_are_one_line(tmp_path: Path) -> None:
    for name, data in (
        ("utf16.yaml", "seed: 1".encode("utf-16")),
        ("photograph.yaml", b"\xff\xd8\xff\xe0"),
        ("x" * 300 + ".yaml", None),
        ("folder.yaml", None),
    ):
        path = tmp_path / name
        if name == "folder.yaml":
            path.mkdir()
        elif data is not None:
            path.write_bytes(data)
        with pytest.raises(ConfigError):
            load_config(str(path))
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbf" + (CONFIGS / "hog.yaml").read_bytes())
    assert load_config(str(tmp_path / "marked.yaml")) == load_config("hog")
    with pytest.raises(ConfigError, match="no config"):
        load_config("../configs/hog")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("1.e-3", 1e-3), ("+.1e-2", 1e-3), ("1.0e-3", 1e-3), ("1", 1)],
)
def test_numbers_without_a_dot_are_numbers(text: str, value: float) -> None:
    config = load_config("hog", [f"classifiers.svm.penalty={text}"])
    assert config.classifiers["svm"].model_dump()["penalty"] == value


@pytest.mark.parametrize(
    "override",
    ["seed=2001-99-99", f"seed={'9' * 5000}", f"seed={'[' * 5000}", "seed=*a", "seed=!!int 3",
     f"{'a.' * 5000}a=1", f"seed={'a' * 5000}", "seed={a: 1, a: 2}", "seed={1: 2}",
     "seed=.nan", "seed=.inf", "seed=1e400", "classifiers.svm.penalty=1e400"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_overrides_are_bounded_as_files_are(override: str) -> None:
    message = refused(override, name="hog")
    assert len(message) < 700
    assert message.isprintable()


@pytest.mark.parametrize(
    "name",
    ["../../x", "/tmp/x", "..", ".", "a/b", "a\\b", "", " ", "a b", "-a", "a" * 61, "a\x00b",
     "a\n", ".hidden"],
)  # fmt: skip
def test_names_that_become_folders_stay_within(name: str) -> None:
    values = yaml.safe_load((CONFIGS / "hog.yaml").read_text())
    for change in (
        {"name": name},
        {"classifiers": {name: {"kind": "knn"}}},
        {"classifiers": {"one": {"kind": "ensemble", "members": {name: {"kind": "knn"}}}}},
    ):
        with pytest.raises(ValidationError, match=r"becomes a folder's"):
            SystemConfig.model_validate({**values, **change})
    with pytest.raises(ValidationError, match=r"becomes a folder's"):
        SystemConfig.model_validate({**values, "classifiers": {"knn.safetensors": {"kind": "knn"}}})


def test_what_looks_like_a_number_stays_the_text_that_it_is(tmp_path: Path) -> None:
    for text in ("1e-3", "2001-01-01", "010", "yes", "null", "~", "0x10", ".inf", "1_000", "a: b"):
        config = load_config("hog", [f"description='{text}'"])
        (tmp_path / "printed.yaml").write_text(dump_config(config))
        assert load_config(str(tmp_path / "printed.yaml")).description == text


TAME = 2.0**41
"""No bound of a number lies further out."""


def numbers(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a JSON schema, by its place."""
    if isinstance(schema, list):
        for i, one in enumerate(schema):
            yield from numbers(one, f"{place}.{i}")
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number") and not {"const", "enum"} & schema.keys():
            yield place, schema
        for key, one in schema.items():
            if key not in ("default", "required", "enum", "const"):
                yield from numbers(one, f"{place}.{key}")


@pytest.mark.parametrize(
    "model", [SystemConfig, AttentionConfig, FetchConfig, Budget], ids=lambda one: one.__name__
)
def test_every_number_of_every_config_has_both_bounds(model: type[BaseModel]) -> None:
    found = dict(numbers(model.model_json_schema(), model.__name__))
    assert found
    for place, schema in found.items():
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        assert low is not None, place
        assert high is not None, place
        assert -TAME <= low < high <= TAME, place
        # What lies just above zero overflows where it divides.
        assert schema.get("exclusiveMinimum") != 0, place
    assert model.model_config.get("allow_inf_nan") is False


@pytest.mark.parametrize("value", [1e300, -1e300, 1e-300, 10**30, float("nan"), float("inf")])
def test_no_number_of_a_shipped_config_may_be_extreme(value: float) -> None:
    tried = 0
    for name in config_names():
        values = load_config(name).model_dump(mode="json")
        for place, key in number_places(values):
            kept, place[key] = place[key], value
            tried += 1
            try:
                config = SystemConfig.model_validate(values)
            except ValidationError:
                pass
            else:
                # A number may be as good as nothing where nothing is one of its values.
                assert value == 1e-300, (name, key)
                assert SystemConfig.model_validate({**values, **nothing(place, key)}), config
            place[key] = kept
    assert tried > 500


def nothing(place: Any, key: Any) -> dict[str, Any]:
    """Put a zero there."""
    place[key] = 0.0
    return {}


def number_places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every number of a config, as its container and its key there."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, one in list(items):
        if isinstance(one, dict | list):
            yield from number_places(one)
        elif isinstance(one, int | float) and not isinstance(one, bool):
            yield values, key
