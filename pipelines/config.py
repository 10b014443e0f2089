"""Configs: YAML read into the strict models of the library, with messages that help."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from retrieval.errors import ConfigError
from retrieval.system import SystemConfig

CONFIGS: Final = Path(__file__).parent / "configs"


def config_names() -> list[str]:
    """The systems that are shipped, by name."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load_config(name: str, overrides: Sequence[str] = ()) -> SystemConfig:
    """Read a shipped config by name, or a YAML file by path.

    Args:
        name: of a shipped config, or a path ending in .yaml.
        overrides: ``dotted.key=value`` each, the value as YAML; a list's entries by their place.

    Raises:
        ConfigError: no such config, a wrong key (with the nearest right one), a value out of range.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name, config_names(), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"no config {name!r}; {hint}there are {', '.join(config_names())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values")
    for override in overrides:
        _override(values, override)
    try:
        return SystemConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, SystemConfig, values)}") from None


def dump_config(config: SystemConfig) -> str:
    """A config as YAML with every default filled in."""
    return str(yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True))


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
    where = ".".join(place)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], _all_keys(model), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{where}: no such key{hint}"
    if first["type"] == "union_tag_invalid":
        return f"{where}: {first['ctx']['tag']!r} is none of {first['ctx']['expected_tags']}"
    if first["type"] in ("missing", "union_tag_not_found"):
        return f"{where}: is missing"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, found {first['input']!r}{more}" if where else message + more


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


def _all_keys(model: type[BaseModel]) -> list[str]:
    """Every key that stands somewhere in a config."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({key for part in parts for key in part.get("properties", {})})


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"--set {override!r}: expected key=value, such as whitening.dimension=128"
        )
    *outer, last = key.split(".")
    place: Any = values
    for part in outer:
        if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            place = place[int(part)]
        else:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ConfigError(f"--set {override!r}: {'.'.join(outer)} holds no keys")
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: {text!r} is not YAML") from None
