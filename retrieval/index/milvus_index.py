"""Nearest neighbours by inner product, with a Milvus server: the only module that speaks to one.

For galleries that no single machine holds, or that several programs search. The server keeps the
vectors of a run in a collection of its own, a row each: ``key``, ``vector``, ``id`` and
``landmark``, so that other programs can filter by either. A row's key is a checksum of these
three. So a build sends the server what it lacks and takes from it what is no longer wanted, row by
row, and one that was cut short goes on where it was.

Answers are those of :mod:`retrieval.index.faiss_index` within what the server's index
approximates; which rows it finds can change as the server merges its segments.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field, field_validator

from retrieval.errors import ConfigError, RunError, first_line
from retrieval.index.neighbours import Neighbours
from retrieval.storage.files import read_arrays, read_sealed, reading, write_arrays, write_sealed
from retrieval.types import Integers, StrictModel, Vectors
from retrieval.vectors.checked import checked_rows

logger = logging.getLogger(__name__)

MOST_NEIGHBOURS: Final = 16_384
"""The most that a server finds for a query."""
SENT_BYTES: Final = 8 << 20
"""Of vectors in one message; the server takes 64 MB."""
LONGEST: Final = 65_535
"""Bytes of a text that a server keeps."""
ASKED: Final = 4_096
"""Keys in one message."""
CONNECTING: Final = 10.0
"""Seconds in which a server has to take a connection."""
TRIED: Final = 64
"""Rows that the server is asked for when a run is opened."""
URI, TOKEN = "MILVUS_URI", "MILVUS_TOKEN"
"""Variables of the environment: another address than the config's, and what the server asks for."""
NOTE: Final = "milvus.json"
AGAIN: Final = "run landmarks index again"
Setting = Annotated[int, Field(ge=0, le=2**31 - 1)]


class MilvusError(RunError):
    """A server that is away, or refuses what it is asked."""


class MilvusConfig(StrictModel):
    """A Milvus server that holds the gallery.

    Attributes:
        kind: ``milvus``.
        uri: of the server; the environment's MILVUS_URI goes before it, and MILVUS_TOKEN is sent to
            servers that ask for one.
        type: of its index, in Milvus's words.
        build: what the index is built with (``M``, ``efConstruction``, ``nlist`` …).
        search: what it is searched with (``ef``, ``nprobe`` …).
        batch: queries searched for at a time.
        timeout: seconds after which a request is given up.
    """

    kind: Literal["milvus"]
    uri: str = "http://127.0.0.1:19530"
    type: Literal["FLAT", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN", "HNSW", "AUTOINDEX"] = "HNSW"
    build: dict[str, Setting] = Field(default={"M": 16, "efConstruction": 200})
    search: dict[str, Setting] = Field(default={"ef": 128})
    batch: int = Field(256, ge=1, le=MOST_NEIGHBOURS)
    timeout: float = Field(60.0, ge=1e-3, le=3600.0)

    @field_validator("uri")
    @classmethod
    def _of_a_server(cls, uri: str) -> str:
        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f'{uri!r} is no address of a server: try "http://HOST:19530"')
        if parts.password or parts.username:
            raise ValueError(f"give the password in {TOKEN}, which no run keeps, not in the uri")
        return uri


@dataclass(frozen=True)
class MilvusIndex:
    """n rows that a server holds.

    Attributes:
        config: of the server.
        collection: its name there.
        keys: (n,) of each row.
        dimension: of a vector.
    """

    config: MilvusConfig
    collection: str
    keys: Integers
    dimension: int

    @classmethod
    def synchronise(
        cls,
        folder: Path,
        config: MilvusConfig,
        vectors: Vectors,
        ids: Sequence[str],
        landmarks: Sequence[str],
        fingerprint: str = "",
    ) -> Self:
        """Make a server hold these rows and no others, and note in a folder what it holds.

        Args:
            folder: of the index within the run, with what an earlier build noted there.
            config: of the server.
            vectors: (n, d) unit rows, possibly memory-mapped; n may be 0.
            ids: (n,) of the photographs, no two alike.
            landmarks: (n,) what they show; empty for none.
            fingerprint: kept for :meth:`load` to compare.

        Raises:
            RunError: the server is away or refuses, or a row is not finite.
        """
        before = _noted(folder, config)
        collection = before.get("collection") or f"landmarks_{secrets.token_hex(8)}"
        note = {
            "server": _address(config),
            "collection": collection,
            "settings": {**config.model_dump(include={"type", "build"}), "of": vectors.shape[1]},
        }
        keys = _keys(vectors, ids, landmarks)
        index = cls(config, collection, keys, int(vectors.shape[1]))
        with index._asking() as client:
            # Before the settings are noted, by which a build that is cut short would keep it.
            if before.get("settings") != note["settings"] and client.has_collection(collection):
                client.drop_collection(collection)
            # Before anything is sent: a build that is cut short goes on with the same collection.
            write_sealed(folder / NOTE, {**note, "finished": False})
            write_arrays(folder, {"keys": (keys.dtype, keys.shape)}, [{"keys": keys}])
            _prepare(client, index)
            there = _keys_there(client, index)
            wrong = np.setdiff1d(there, keys)
            for start in range(0, len(wrong), ASKED):
                client.delete(collection, ids=wrong[start : start + ASKED].tolist())
            missing = np.flatnonzero(~np.isin(keys, there))
            step = max(1, min(ASKED, SENT_BYTES // (4 * index.dimension)))
            for start in range(0, len(missing), step):
                client.upsert(
                    collection,
                    [
                        {
                            "key": int(keys[row]),
                            "vector": np.asarray(vectors[row]),
                            "id": _fitting(ids[row]),
                            "landmark": _fitting(landmarks[row]),
                        }
                        for row in missing[start : start + step]
                    ],
                )
            if len(missing):
                client.flush(collection)
        logger.info(
            "%s holds %d rows in %s: %d sent, %d taken out",
            _address(config), len(keys), collection, len(missing), len(wrong),
        )  # fmt: skip
        write_sealed(
            folder / NOTE,
            {**note, "finished": True, "fingerprint": fingerprint, "count": len(keys)},
        )  # fmt: skip
        return index

    @classmethod
    def load(cls, folder: Path, config: MilvusConfig, fingerprint: str | None = None) -> Self:
        """Open what :meth:`synchronise` noted, and see that the server still holds it.

        Raises:
            RunError: it is missing or damaged, of other rows, or the server is away or holds
                something else.
        """
        path = folder / NOTE
        note = read_sealed(path, AGAIN)
        with reading(path, AGAIN):
            if not note["finished"]:
                raise RunError(f"{path}: its rows were not all sent: {AGAIN}")
            if fingerprint is not None and fingerprint != note["fingerprint"]:
                raise RunError(f"{path}: made from other inputs; {AGAIN}")
            keys = np.asarray(read_arrays(folder)["keys"], dtype=np.int64)
            index = cls(config, str(note["collection"]), keys, int(note["settings"]["of"]))
            if len(keys) != note["count"]:
                raise RunError(f"{path}: belongs to other rows; {AGAIN}")
        if not index.is_held():
            raise RunError(
                f"{_address(config)} does not hold the rows of this run in"
                f" {index.collection}: {AGAIN}"
            )
        return index

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def factory(self) -> str:
        """What stands where FAISS has its factory key."""
        return f"milvus {self.config.type}"

    @property
    def most_neighbours(self) -> int:
        """The largest k that it can be searched with."""
        return MOST_NEIGHBOURS

    @property
    def bytes_per_row(self) -> int:
        """Bytes of a vector; what the server's index adds it does not tell."""
        return 4 * self.dimension

    def is_held(self) -> bool:
        """Whether the server has as many rows as there are here, the first and last among them."""
        with self._asking() as client:
            if not client.has_collection(self.collection):
                return False
            client.load_collection(self.collection)
            counted = client.query(self.collection, filter="", output_fields=["count(*)"])
            if counted[0]["count(*)"] != len(self):
                return False
            some = np.unique(np.concatenate([self.keys[:TRIED], self.keys[-TRIED:]])).tolist()
            found = client.get(self.collection, ids=some, output_fields=["key"]) if some else []
            return {int(one["key"]) for one in found} == set(some)

    def search(self, queries: Vectors, k: int) -> Neighbours:
        """The ``k`` nearest rows of each of ``queries`` (q, d), padded with -1 and -inf.

        Raises:
            ConfigError: for more neighbours than a server finds.
            RunError: a query is not finite or of another dimension, or the server is away or holds
                other rows than this run.
        """
        if k > MOST_NEIGHBOURS:
            raise ConfigError(f"k is {k}, and Milvus finds at most {MOST_NEIGHBOURS}: lower it")
        keys = np.full((len(queries), k), -1, dtype=np.int64)
        similarities = np.full((len(queries), k), -np.inf, dtype=np.float32)
        found = min(k, len(self))
        with self._asking() as client:
            for start in range(0, len(queries) if found else 0, self.config.batch):
                batch = checked_rows(
                    queries[start : start + self.config.batch], self.dimension, start
                )
                answers = client.search(
                    self.collection,
                    data=list(batch),
                    anns_field="vector",
                    limit=found,
                    output_fields=["key"],
                    search_params={"metric_type": "IP", "params": self._parameters(found)},
                )
                for query, hits in enumerate(answers, start):
                    keys[query, : len(hits)] = [int(one["key"]) for one in hits]
                    similarities[query, : len(hits)] = [float(one["distance"]) for one in hits]
        rows = self._rows(keys)
        ranks = np.lexsort((rows, -similarities))
        return Neighbours(
            np.take_along_axis(rows, ranks, 1), np.take_along_axis(similarities, ranks, 1)
        )

    def _parameters(self, k: int) -> dict[str, int]:
        """How the index is searched: a graph has to look at as many as are wanted, at least."""
        given = self.config.search
        return {**given, "ef": max(given.get("ef", 0), k)} if self.config.type == "HNSW" else given

    @functools.cached_property
    def _sorted(self) -> tuple[Integers, Integers]:
        """The keys ascending, and the row of each."""
        order = np.argsort(self.keys)
        return self.keys[order], order

    def _rows(self, keys: Integers) -> Integers:
        """Positions of keys that a server gave; -1 stays."""
        here, order = self._sorted
        places = np.minimum(np.searchsorted(here, keys), max(len(here) - 1, 0))
        there = keys >= 0
        if there.any() and not np.array_equal(here[places][there], keys[there]):
            raise RunError(
                f"{_address(self.config)} holds rows of another build in {self.collection}: {AGAIN}"
            )
        rows: Integers = np.where(there, order[places] if len(order) else -1, -1)
        return rows

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Any]:
        """A client; makes an error of one line of whatever goes wrong with the server."""
        pymilvus, address, client = _pymilvus(), _address(self.config), None
        try:
            client = _client(address, os.environ.get(TOKEN, ""), self.config.timeout)
            yield _Timed(client, self.config.timeout)
        except pymilvus.MilvusException as error:
            reason = first_line(error.message, "no reason given")
            _client.cache_clear()
            if client is not None:
                client.close()
            raise MilvusError(
                f"the Milvus server at {address} is away or refuses ({reason}): see that it runs"
                f" there, or name another in {URI}"
            ) from None


@functools.lru_cache(maxsize=4)
def _client(address: str, token: str, timeout: float) -> Any:
    """One connection for all searches."""
    pymilvus = _pymilvus()
    until = time.monotonic() + min(timeout, CONNECTING)
    while True:
        try:
            client = pymilvus.MilvusClient(uri=address, token=token, timeout=timeout)
            client.get_server_version(timeout=timeout)
            return client
        except pymilvus.MilvusException:  # a server that starts refuses for a moment
            if time.monotonic() > until:
                raise
            time.sleep(0.25)


class _Timed:
    """A client whose every request has a time limit, and is not tried again beyond it."""

    def __init__(self, client: Any, timeout: float):
        self._client, self._timeout = client, timeout

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self._client, name)
        if not callable(asked) or name.startswith(("create_schema", "prepare_")):
            return asked
        return lambda *given, **more: asked(*given, timeout=self._timeout, **more)


def holds(folder: Path, config: MilvusConfig) -> bool:
    """Whether the server holds what a finished build noted in the folder.

    Raises:
        MilvusError: the server is away.
    """
    try:
        MilvusIndex.load(folder, config)
    except MilvusError:
        raise
    except RunError:
        return False
    return True


def _pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError:
        raise ConfigError(
            'index.kind milvus needs pymilvus: pip install "landmark-retrieval[milvus]"'
        ) from None
    # It warns of what it does for older servers.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return pymilvus


def _address(config: MilvusConfig) -> str:
    return os.environ.get(URI) or config.uri


def _noted(folder: Path, config: MilvusConfig) -> dict[str, Any]:
    """What an earlier build noted of this server; nothing where there is none."""
    try:
        note = read_sealed(folder / NOTE, AGAIN)
    except RunError:
        return {}
    return note if note.get("server") == _address(config) else {}


def _keys(vectors: Vectors, ids: Sequence[str], landmarks: Sequence[str]) -> Integers:
    """(n,) positive numbers: 63 bits of a checksum of each row's id, landmark and vector."""
    keys = np.empty(len(ids), dtype=np.int64)
    for row, texts in enumerate(zip(ids, landmarks, strict=True)):
        vector = checked_rows(np.asarray(vectors[row : row + 1]), vectors.shape[1], row)
        short = _short("\0".join(texts))
        digest = hashlib.blake2b(vector.tobytes(), digest_size=8, key=short).digest()
        keys[row] = int.from_bytes(digest, "little") >> 1
    if len(np.unique(keys)) != len(keys):
        raise RunError("two photographs of one id: ids have to be unique")
    return keys


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


def _fitting(text: str) -> str:
    """A text cut to what a server keeps; other programs read it, nothing here does."""
    return text.encode()[:LONGEST].decode(errors="ignore")


def _prepare(client: Any, index: MilvusIndex) -> None:
    """Load the collection, or make it where it is not there."""
    name, config = index.collection, index.config
    if client.has_collection(name):
        client.load_collection(name)
        return
    kinds = _pymilvus().DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", kinds.INT64, is_primary=True)
    schema.add_field("vector", kinds.FLOAT_VECTOR, dim=index.dimension)
    schema.add_field("id", kinds.VARCHAR, max_length=LONGEST)
    schema.add_field("landmark", kinds.VARCHAR, max_length=LONGEST)
    wanted = client.prepare_index_params()
    wanted.add_index("vector", index_type=config.type, metric_type="IP", params=config.build)
    client.create_collection(name, schema=schema, index_params=wanted, consistency_level="Strong")


def _keys_there(client: Any, index: MilvusIndex) -> Integers:
    """The keys of the rows that the server has."""
    rows = client.query_iterator(
        index.collection, batch_size=ASKED, filter="", output_fields=["key"]
    )
    found: list[int] = []
    while batch := rows.next():
        found.extend(int(one["key"]) for one in batch)
    rows.close()
    return np.array(found, dtype=np.int64)
