"""Configs: YAML read into the strict models of the library, with messages that help.

YAML is read as its version 1.2 has it where 1.1 takes text for something else: 1e-3 is a number,
while 2001-99-99, 010, 1:30 and 1_000 are text. What a config has no use for is refused: tags,
anchors and aliases (a few of which can stand for gigabytes), keys that stand twice or are no text,
and whatever is too large or too deep.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from retrieval.errors import ConfigError

if TYPE_CHECKING:
    from retrieval.config import SystemConfig

log = logging.getLogger(__name__)

CONFIGS: Final = Path(__file__).parent / "configs"
RENAMED: Final = {
    "best": "resnet50-mobilenet-delf-aliked",
    "best-one": "resnet50-rmac-delf-aliked",
    "deep-one": "resnet50-rmac-delf",
    "deep-many": "resnet50-mobilenet-delf",
}
"""Names that shipped configs had before, and what they are called now."""
MOST_BYTES: Final = 1 << 16
"""Of a config; the longest that is shipped has 3,000."""
MOST_DEEP: Final = 32
MOST_NODES: Final = 4096
MOST_DIGITS: Final = 40
MOST_SHOWN: Final = 80
"""Letters of a wrong value that a message shows."""


class _Loader(yaml.SafeLoader):
    """Reads plain values, each for what it plainly is."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next value, unless it is none for a config."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refusal(event, "anchors and aliases are not taken: write the value out")
        if event.tag is not None:
            raise _refusal(event, f"tags ({str(event.tag)[:MOST_SHOWN]}) are not taken")
        self._nodes += 1
        self._depth += 1
        if self._depth > MOST_DEEP or self._nodes > MOST_NODES:
            raise _refusal(event, f"more than {MOST_DEEP} levels or {MOST_NODES} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    _nodes = 0
    _depth = 0

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Keys and values: keys are text, and each stands once."""
        found: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _refusal(key, "a key that is no text: put it in quotes")
            if key.value in found:
                raise _refusal(key, f"{key.value[:MOST_SHOWN]} stands there twice")
            found.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: Any) -> int:
        """A whole number of not too many digits."""
        if len(node.value) > MOST_DIGITS:
            raise _refusal(node, f"a number of {len(node.value)} digits")
        return int(node.value, 0)


def _refusal(place: Any, message: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, message, place.start_mark)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float",
     r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
     r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     list("-+.0123456789")),
):  # fmt: skip
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def read_yaml(text: str) -> Any:
    """What a YAML document says.

    Raises:
        ConfigError: it is none, or holds what no config needs; one line with the place.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"more than {MOST_BYTES >> 10} kB are no config")
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ConfigError(f"{where}{_short(error.problem or error.context or '')}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(_short(str(error))) from None


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads as it was."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Everything is written out."""
        return True


def _short(text: str, most: int = 2 * MOST_SHOWN) -> str:
    """A text in one line of bounded length, without what a terminal would obey."""
    line = "".join(one if one.isprintable() else "?" for one in " ".join(text.split()))
    return line if len(line) <= most else f"{line[:most]} …"


def _shown(value: Any) -> str:
    """A value as a message shows it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} …"


def config_names() -> list[str]:
    """The systems that are shipped, by name."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def current_name(name: str) -> str:
    """What a shipped config is called now, by that name or one that it had before."""
    now = RENAMED.get(name, name)
    if now != name:
        log.info("%s is now called %s", name, now)
    return now


def load_config(name: str, overrides: Sequence[str] = ()) -> SystemConfig:
    """Read a shipped config by name, or a YAML file by path.

    Args:
        name: of a shipped config, now or before; or a path ending in .yaml.
        overrides: ``dotted.key=value`` each, the value as YAML; a list's entries by their place.

    Raises:
        ConfigError: no such config, a wrong key (with the nearest right one), a value out of range.
    """
    name = current_name(name)
    own = name.endswith((".yaml", ".yml"))
    path = Path(name) if own else CONFIGS / f"{name}.yaml"
    if not (_is_file(path) if own else name in config_names()):
        near = difflib.get_close_matches(name, config_names(), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"no config {_shown(name)}; {hint}there are {', '.join(config_names())}")
    return config_of(read_config(path), overrides, str(path))


def read_config(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file.

    Raises:
        ConfigError: it is none.
    """
    try:
        with path.open("rb") as file:
            values = read_yaml(file.read(MOST_BYTES + 1).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: not YAML ({_short(str(error))})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values")
    return values


def config_of(values: dict[str, Any], overrides: Sequence[str], where: str) -> SystemConfig:
    """A config from its values, changed as :func:`load_config` does.

    Args:
        values: by key; changed.
        overrides: ``dotted.key=value`` each.
        where: they were found, for messages.

    Raises:
        ConfigError: a wrong key, a value out of range.
    """
    from retrieval.config import SystemConfig

    for override in overrides:
        _override(values, override)
    try:
        return SystemConfig.model_validate(values)
    except ValidationError as error:
        if _overridden(overrides, _keys(error.errors()[0]["loc"], values)):
            where = "--set"
        raise ConfigError(f"{where}: {explain(error, SystemConfig, values)}") from None


def dump_config(config: SystemConfig) -> str:
    """A config as YAML with every default filled in."""
    values = config.model_dump()
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def explain(error: ValidationError, model: type[BaseModel], values: Any) -> str:
    """The first fault of a config as one line; a wrong key names the nearest right one.

    Args:
        error: what pydantic says.
        model: of the config.
        values: what was validated.
    """
    first = error.errors()[0]
    place = _keys(first["loc"], values)
    if first["type"] in ("missing", "union_tag_not_found", "union_tag_invalid"):
        place.append(str(first["loc"][-1]) if first["type"] == "missing" else "kind")
    where = _short(".".join(place))
    if first["type"] == "extra_forbidden":
        known = _keys_beside(model, place, values)
        near = difflib.get_close_matches(place[-1], known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        return f"{where}: no such key{hint}"
    if first["type"] == "union_tag_invalid":
        return f"{where}: {_shown(first['ctx']['tag'])} is none of {first['ctx']['expected_tags']}"
    if first["type"] in ("missing", "union_tag_not_found"):
        return f"{where}: is missing"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = _short(first["msg"].removeprefix("Value error, "), 4 * MOST_SHOWN)
    return f"{where}: {message}, found {_shown(first['input'])}{more}" if where else message + more


def _overridden(overrides: Sequence[str], place: Sequence[str]) -> bool:
    """Whether what stands at a place was given by an override."""
    keys = [one.partition("=")[0].split(".") for one in overrides]
    return any(a[: len(place)] == list(place)[: len(a)] for a in keys if place)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _keys(location: Sequence[str | int], values: Any) -> list[str]:
    """The keys that a user wrote on the way to a fault: pydantic puts each ``kind`` between."""
    keys = []
    for part in location:
        if isinstance(values, dict):
            known = part in values
        else:
            known = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if known:
            keys.append(str(part))
            values = values[part]
    return keys


def _keys_beside(model: type[BaseModel], place: Sequence[str], values: Any) -> list[str]:
    """The keys that a config has where a wrong one stands."""
    schema = model.model_json_schema()

    def objects(node: dict[str, Any], kind: Any) -> Iterator[dict[str, Any]]:
        """What may stand there, of the kind that does."""
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        for one in [*node.get("anyOf", ()), *node.get("oneOf", ())]:
            yield from objects(one, kind)
        if kind is None or node.get("properties", {}).get("kind", {}).get("const", kind) == kind:
            yield node

    nodes = [schema]
    for key in place[:-1]:
        values = values[int(key) if isinstance(values, list) else key]
        kind = values.get("kind") if isinstance(values, dict) else None
        inner = [
            node.get("properties", {}).get(key)
            or node.get("additionalProperties")
            or node.get("items")
            for node in nodes
        ]
        nodes = [one for node in inner if node for one in objects(node, kind)]
        # One without a kind, as FAISS's index is, stands aside for the one of the kind.
        own = [one for one in nodes if "const" in one.get("properties", {}).get("kind", {})]
        nodes = own if kind is not None and own else nodes
    return sorted({key for node in nodes for key in node.get("properties", {})})


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"--set {_shown(override)}: expected key=value, such as whitening.dimension=128"
        )
    *outer, last = key.split(".")
    if len(outer) >= MOST_DEEP:
        raise ConfigError(f"--set {_shown(override)}: more than {MOST_DEEP} keys")
    place: Any = values
    for part in outer:
        if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            place = place[int(part)]
        else:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ConfigError(f"--set {_shown(override)}: {_short('.'.join(outer))} holds no keys")
    try:
        place[last] = read_yaml(text)
    except ConfigError as error:
        raise ConfigError(
            f"--set {_shown(override)}: {_shown(text)} is not YAML ({error})"
        ) from None
