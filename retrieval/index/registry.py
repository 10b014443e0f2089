"""The engines that hold a gallery's vectors: FAISS on this machine, or a Milvus server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag

from retrieval.index import faiss_factory
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.milvus_index import MilvusConfig


def _kind(given: Any) -> str:
    # Without a kind it is FAISS: so configs were written before there was another.
    kind = (
        given.get("kind", "faiss")
        if isinstance(given, Mapping)
        else getattr(given, "kind", "faiss")
    )
    return str(kind)


def _without_kind(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {key: value for key, value in given.items() if (key, value) != ("kind", "faiss")}
    return given


AnyIndexConfig = Annotated[
    Annotated[IndexConfig, BeforeValidator(_without_kind), Tag("faiss")]
    | Annotated[MilvusConfig, Tag("milvus")],
    Discriminator(_kind),
]


def local_settings(config: IndexConfig | MilvusConfig) -> IndexConfig:
    """How vectors are indexed on this machine, where galleries are made for calibration alone."""
    return config if isinstance(config, IndexConfig) else IndexConfig(factory="auto")


def check_limits(config: IndexConfig | MilvusConfig, k: int, device: str) -> None:
    """Raise ConfigError where ``device`` cannot do what the config and ``k`` ask of it."""
    faiss_factory.check_limits(local_settings(config), k, device)
