"""Reads the official ground truth of revisited Oxford and Paris, which is published as a pickle.

A pickle is a program: it may call anything that it names, and NumPy's own classes crash when they
are called with what they do not expect. So none is run here. Its steps are read one by one
(``pickletools``), and those that containers, text, numbers and arrays are made by are taken by a
machine of our own, which calls nothing: an array is made from a type, a shape and bytes, all
checked. Any other step, and any other name, is refused.
"""

from __future__ import annotations

import json
import math
import pickletools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import TableError
from retrieval.evaluation.protocols import Revisited

KINDS: Final = ("easy", "hard", "junk")
MOST_BYTES: Final = 1 << 23
"""Of a file: ten times what the official ones have."""
MOST_STEPS: Final = 1_000_000
MOST_NUMBERS: Final = 5_000_000
"""Of all queries together: a few bytes can stand for many, as each list may be taken up again."""
PARTS: Final = {
    ("multiarray", "_reconstruct"): "array",
    ("multiarray", "scalar"): "scalar",
    ("numeric", "_frombuffer"): "buffer",
}
"""What arrays and their numbers are made by, in whichever module a version of NumPy keeps it."""
OTHERS: Final = {
    ("numpy", "ndarray"): "class",
    ("numpy", "dtype"): "type",
    ("_codecs", "encode"): "encode",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
}
PLAIN: Final = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|[SU][0-9]{1,4})")
"""Types of arrays: truth values, numbers and text. Objects and records are none."""
VALUES: Final = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING"
    " UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8"
    " BYTEARRAY8".split()
)
"""Steps that bring a value along."""


def read_revisited(path: Path) -> Revisited:
    """Read ``gnd_roxford5k.pkl``, ``gnd_rparis6k.pkl``, or the same as JSON.

    The file holds ``imlist``, the database's names, ``qimlist``, the queries' names, and ``gnd``:
    for each query ``bbx``, the box to crop it to, and the places ``easy``, ``hard`` and ``junk``.

    Raises:
        TableError: there is no such file, it names something other than arrays, or it holds
            something else.
    """
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    if path.stat().st_size > MOST_BYTES:
        raise TableError(f"{path}: more than {MOST_BYTES >> 20} MB are no ground truth")
    try:
        data = path.read_bytes()
        found = json.loads(data) if path.suffix == ".json" else _Machine().run(data)
        return _checked(found)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(str(error).split())[:200]
        raise TableError(
            f"{path} is no ground truth of revisited Oxford or Paris ({type(error).__name__}:"
            f" {reason})"
        ) from None


@dataclass(frozen=True)
class _Name:
    """Something that a pickle names, by what it is to us. It cannot be called."""

    what: str


@dataclass
class _Type:
    """An array's type: its letters, and its order of bytes, which comes in a later step."""

    text: str
    order: str = "="

    def settled(self) -> np.dtype[Any]:
        order: Any = self.order
        return np.dtype(self.text).newbyteorder(order)


@dataclass
class _Array:
    """An array, empty until a later step fills it."""

    values: NDArray[Any] | None = None


class _Mark:
    """Where a container's items begin on the stack."""


class _Machine:
    """The steps of a pickle without its calls: a stack, and what was noted to be taken again."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self, data: bytes) -> Any:
        """What the pickle holds, its arrays as :class:`_Array`.

        Raises:
            TableError: a step or a name that no array is made by, or too many steps.
        """
        for number, (step, argument, _) in enumerate(pickletools.genops(data)):
            if number == MOST_STEPS:
                raise TableError(f"more than {MOST_STEPS:,} steps are no ground truth")
            if step.name == "STOP":
                (found,) = self.stack
                return found
            if step.name in VALUES:
                self.stack.append(argument)
            elif step.name in STEPS:
                STEPS[step.name](self, argument)
            else:
                raise TableError(f"has a step {step.name}, which no array is made by: not read")
        raise TableError("ends before its end")

    def pop(self, kind: type | tuple[type, ...] = object) -> Any:
        """The uppermost value, which has to be of a kind."""
        value = self.stack.pop()
        if isinstance(value, _Mark) or not isinstance(value, kind):
            raise ValueError(f"a {type(value).__name__} out of place")
        return value

    def above(self, mark: type = _Mark) -> list[Any]:
        """The values above the last mark."""
        place = next(i for i in reversed(range(len(self.stack))) if type(self.stack[i]) is mark)
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def under_a_dict(self) -> list[Any]:
        """The values above the last mark, with a new dictionary in their place."""
        values = self.above()
        self.stack.append({})
        return values

    def copying(self, values: Sequence[Any]) -> None:
        """Count bytes that are about to be copied: one step may take up what another brought."""
        self.copied += sum(len(one) for one in values if isinstance(one, str | bytes | bytearray))
        if self.copied > 4 * MOST_BYTES:
            raise ValueError("the same bytes over and over")

    def top(self, kind: type) -> Any:
        """The uppermost value, of a kind, left where it is."""
        value = self.pop(kind)
        self.stack.append(value)
        return value

    def push_tuple(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Text alone: a tuple within tuples would be hashed without end.
            if not isinstance(key, str):
                raise ValueError(f"a {type(key).__name__} as a key")
            target[key] = value

    def name(self, module: str, name: str) -> None:
        package, _, last = module.rpartition(".")
        part = PARTS.get((last, name)) if package in ("numpy.core", "numpy._core") else None
        what = part or OTHERS.get((module, name))
        if what is None:
            known = " ".join(f"{module}.{name}"[:100].split())
            raise TableError(f"names {known}, which is no part of an array: not read")
        self.stack.append(_Name(what))

    def call(self) -> None:
        """What a call of a name would make."""
        arguments = self.pop(tuple)
        self.copying(arguments)
        self.stack.append(CALLS[self.pop(_Name).what](*arguments))

    def build(self) -> None:
        """Fill an array or a type that was made empty."""
        state = self.pop(tuple)
        self.copying(state)
        target = self.top(object)
        if isinstance(target, _Type):
            version, order, *rest = state
            if version not in (3, 4) or order not in ("<", ">", "|", "=") or any(rest[:3]):
                raise ValueError("a type of records")
            target.order = order
        elif isinstance(target, _Array):
            _, shape, kind, by_columns, data = state
            data = data.encode("latin1") if isinstance(data, str) else data
            target.values = _array(data, kind, shape, "F" if by_columns else "C")
        else:
            raise ValueError(f"a {type(target).__name__} is filled")

    def put(self, place: int) -> None:
        self.memo[place] = self.top(object)


def _array(data: Any, kind: Any, shape: Any, order: str) -> NDArray[Any]:
    """An array from its bytes, which have to be as many as its type and shape say."""
    if not isinstance(data, bytes | bytearray) or not isinstance(kind, _Type):
        raise ValueError("an array of something else")
    sizes = [size for size in shape if type(size) is int and 0 <= size <= MOST_BYTES]
    if len(sizes) != len(shape) or len(sizes) > 2 or order not in ("C", "F"):
        raise ValueError("an array of no such shape")
    dtype = kind.settled()
    if math.prod(sizes) * dtype.itemsize != len(data):
        raise ValueError("an array of another size than its bytes")
    if not len(data):
        return np.empty(0, dtype)
    return np.frombuffer(bytes(data), dtype).reshape(sizes, order=order)  # type: ignore[call-overload, no-any-return]


def _made_type(text: Any, *_: Any) -> _Type:
    if not isinstance(text, str) or not PLAIN.fullmatch(text):
        raise ValueError(f"an array of {str(text)[:20] if isinstance(text, str) else 'objects'}")
    return _Type(text)


def _made_scalar(kind: Any, data: Any = b"") -> Any:
    data = data.encode("latin1") if isinstance(data, str) else data
    return _array(data, kind, (1,), "C")[0].item()


def _made_bytes(text: str, encoding: str) -> bytes:
    """How protocol 2 writes an array's bytes."""
    if encoding != "latin1":
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin1")


def _made_array(kind: Any, *_: Any) -> _Array:
    if kind != _Name("class"):
        raise ValueError("an array of another class")
    return _Array()


CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "array": _made_array,
    "scalar": _made_scalar,
    "buffer": lambda data, kind, shape, order: _Array(_array(data, kind, shape, order)),
    "type": _made_type,
    "encode": _made_bytes,
    "bytes": lambda: b"",
}


def _appended(machine: _Machine, values: Sequence[Any]) -> None:
    machine.top(list).extend(values)


STEPS: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": lambda machine, _: machine.stack.append(_Mark()),
    "POP": lambda machine, _: machine.stack.__delitem__(-1),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.above())),
    "LIST": lambda machine, _: machine.stack.append(machine.above()),
    "DICT": lambda machine, _: machine.set_items(machine.under_a_dict()),
    "APPEND": lambda machine, _: _appended(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _appended(machine, machine.above()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above()),
    "GLOBAL": lambda machine, both: machine.name(*both.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*[machine.pop(str), machine.pop(str)][::-1]),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "PUT": lambda machine, place: machine.put(place),
    "BINPUT": lambda machine, place: machine.put(place),
    "LONG_BINPUT": lambda machine, place: machine.put(place),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
}
"""What is done at each step that brings no value."""


def _checked(found: Any) -> Revisited:
    """Lists by their contents: nothing that lies in them is taken for what it is not."""
    database, queries = (_names(found[key]) for key in ("imlist", "qimlist"))
    gnd = found["gnd"]
    if not isinstance(gnd, list) or not all(isinstance(one, dict) for one in gnd):
        raise ValueError("gnd is no list of queries")
    if len(gnd) != len(queries):
        raise TableError(f"gnd has {len(gnd)} queries, qimlist {len(queries)}")
    lists = [one[kind] for one in gnd for kind in KINDS]
    if sum(map(_length, lists)) > MOST_NUMBERS or any(_length(one["bbx"]) != 4 for one in gnd):
        raise ValueError(f"more than {MOST_NUMBERS:,} places, or a box of other than 4 numbers")
    judged = {kind: [_numbers(one[kind], int, np.int64) for one in gnd] for kind in KINDS}
    for kind, places in judged.items():
        for query, here in zip(queries, places, strict=True):
            if ((here < 0) | (here >= len(database))).any():
                raise TableError(
                    f"query {query}: {kind} has a place outside the {len(database)} of imlist"
                )
    boxes = np.array([_numbers(one["bbx"], (int, float), np.float64) for one in gnd])
    if not np.isfinite(boxes).all():
        raise ValueError("a box that is not finite")
    return Revisited(database, queries, boxes.reshape(-1, 4), judged)


def _names(found: Any) -> list[str]:
    names = found.values.tolist() if _filled(found) else found
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise ValueError("no list of names")
    return [name.decode("latin1") if isinstance(name, bytes) else name for name in names]


def _numbers(found: Any, kinds: type | tuple[type, ...], dtype: type[Any]) -> NDArray[Any]:
    """A list's or an array's numbers, in one row."""
    values = found.values.reshape(-1).tolist() if _filled(found) else found
    if not isinstance(values, list | tuple):
        raise ValueError(f"a {type(values).__name__} where numbers are expected")
    whole = [int(one) if isinstance(one, float) and kinds is int and one == int(one) else one
             for one in values]  # fmt: skip
    if not all(isinstance(one, kinds) and not isinstance(one, bool) for one in whole):
        raise ValueError("something else among numbers")
    return np.array(whole, dtype=dtype).reshape(-1)


def _length(found: Any) -> int:
    return int(found.values.size) if _filled(found) else len(found)


def _filled(found: Any) -> bool:
    return isinstance(found, _Array) and found.values is not None
