"""Reads the official ground truth of revisited Oxford and Paris, which is published as a pickle.

A pickle may run any code that it names. The reader here knows plain containers, text, numbers and
what NumPy's arrays are made of, and refuses a file that names anything else before it is called.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from retrieval.errors import TableError
from retrieval.evaluation.protocols import Revisited

KINDS: Final = ("easy", "hard", "junk")
ARRAYS: Final = {
    ("multiarray", "_reconstruct"),
    ("multiarray", "scalar"),
    ("numeric", "_frombuffer"),
}
"""What arrays and their numbers are made by, in whichever module a version of NumPy keeps it."""


def read_revisited(path: Path) -> Revisited:
    """Read ``gnd_roxford5k.pkl``, ``gnd_rparis6k.pkl``, or the same as JSON.

    The file holds ``imlist``, the database's names, ``qimlist``, the queries' names, and ``gnd``:
    for each query ``bbx``, the box to crop it to, and the places ``easy``, ``hard`` and ``junk``.

    Raises:
        TableError: there is no such file, it names something other than arrays, or it holds
            something else.
    """
    if not path.exists():
        raise TableError(f"{path}: no such file")
    try:
        if path.suffix == ".json":
            told = json.loads(path.read_text(encoding="utf-8"))
        else:
            with path.open("rb") as file:
                told = _Plain(file).load()
        return _checked(told)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever its opcodes stumble over
        raise TableError(
            f"{path} is no ground truth of revisited Oxford or Paris ({type(error).__name__}:"
            f" {error})"
        ) from None


class _Plain(pickle.Unpickler):
    """An unpickler of containers, text, numbers and arrays."""

    def __init__(self, file: BinaryIO):
        # Names were written by Python 2: its text and its arrays' bytes are both read so.
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        part = module.rpartition(".")
        if part[0] in ("numpy.core", "numpy._core") and (part[2], name) in ARRAYS:
            found: Callable[..., Any] = super().find_class(module, name)
            return found
        if module == "numpy" and name in ("ndarray", "dtype"):
            return np.ndarray if name == "ndarray" else np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _latin_bytes
        if module in ("builtins", "__builtin__") and name == "bytes":
            return _no_bytes
        raise TableError(f"names {module}.{name}, which is no part of an array: not read")


def _latin_bytes(text: str, encoding: str) -> bytes:
    """How protocol 2 writes an array's bytes."""
    if encoding != "latin1":
        raise TableError(f"bytes in {encoding}, where arrays have latin1: not read")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes those of an empty array."""
    return b""


def _checked(told: Mapping[str, Any]) -> Revisited:
    database, queries = ([str(name) for name in told[key]] for key in ("imlist", "qimlist"))
    if len(told["gnd"]) != len(queries):
        raise TableError(f"gnd has {len(told['gnd'])} queries, qimlist {len(queries)}")
    judged = {
        kind: [np.array(one[kind], dtype=np.int64).reshape(-1) for one in told["gnd"]]
        for kind in KINDS
    }
    for kind, places in judged.items():
        for query, here in zip(queries, places, strict=True):
            if ((here < 0) | (here >= len(database))).any():
                raise TableError(
                    f"query {query}: {kind} has a place outside the {len(database)} of imlist"
                )
    boxes = np.array([one["bbx"] for one in told["gnd"]], dtype=np.float64).reshape(-1, 4)
    return Revisited(database, queries, boxes, judged)
