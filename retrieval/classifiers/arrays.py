"""Fitted classifiers on disk: arrays in a safetensors file, their config as JSON inside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from pydantic import BaseModel
from safetensors import safe_open
from safetensors.numpy import save

from retrieval.errors import RunError
from retrieval.storage.files import atomic_write, reading

Config = TypeVar("Config", bound=BaseModel)


def save_fitted(path: Path, arrays: Mapping[str, NDArray[Any]], config: BaseModel) -> None:
    """Write contiguous arrays and the config that they were fitted with."""
    atomic_write(path, save(dict(arrays), metadata={"config": config.model_dump_json()}))


def load_fitted(path: Path, model: type[Config]) -> tuple[dict[str, NDArray[Any]], Config]:
    """Read what :func:`save_fitted` wrote.

    Raises:
        RunError: it is missing or damaged.
    """
    with reading(path), safe_open(path, framework="numpy") as file:
        config = model.model_validate_json(file.metadata()["config"])
        return {name: file.get_tensor(name) for name in file.keys()}, config  # noqa: SIM118


def require_rows(path: Path, found: int, wanted: int, of: str) -> None:
    """Refuse what was fitted to a gallery of another number ``of`` rows or landmarks.

    Raises:
        RunError: it was.
    """
    if found != wanted:
        raise RunError(
            f"{path} is of {found} {of}, the gallery has {wanted}: fit the classifiers again"
        )
