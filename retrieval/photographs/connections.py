"""aiohttp's side of a connection, with answers' heads put right before its parser sees them."""

from __future__ import annotations

import re
from typing import Any, Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

MAX_HEAD: Final = 64 * 1024
"""Bytes of an answer's status line and headers."""
MAX_INFORMATIONAL: Final = 32
"""Answers of the kind "100 Continue" that may come before the answer itself."""
_END: Final = re.compile(rb"\r?\n\r?\n")
_INFORMATIONAL: Final = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d\b")
_LENGTH: Final = re.compile(rb"^content-length[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r?\n", re.I | re.M)
_START: Final = b"HTTP/1."


class Connection(ResponseHandler):
    """A connection that bounds heads, passes over informational answers, and takes a length that
    is said twice.

    aiohttp reads any number of informational answers without once letting its event loop go on,
    and refuses an answer for two equal Content-Length headers, as some servers send.
    """

    _head: bytes = b""
    _in_head: bool = False
    _passed: int = 0

    def set_response_params(self, **params: Any) -> None:
        """Begin an answer."""
        self._head, self._in_head, self._passed = b"", True, 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Collect the answer's head, then hand everything on."""
        if not self._in_head or not data:
            return super().data_received(data)
        self._reschedule_timeout()
        self._head += data
        while end := _END.search(self._head):
            if not _INFORMATIONAL.match(self._head):
                break
            self._head = self._head[end.end() :]
            self._passed += 1
            if self._passed > MAX_INFORMATIONAL:
                return self._refuse("too many informational answers")
        size = end.end() if end else len(self._head)
        if size > MAX_HEAD:
            return self._refuse("headers of more than 64 kB")
        if end or not _START.startswith(self._head[: len(_START)]):
            # Whole, or no head at all: the parser says so.
            head, rest = self._head[:size], self._head[size:]
            self._head, self._in_head = b"", False
            super().data_received(_with_one_length(head) + rest)

    def _refuse(self, reason: str) -> None:
        self._head, self._in_head = b"", False
        if self.transport is not None:
            self.transport.close()
        self.set_exception(HttpProcessingError(code=400, message=reason))


def _with_one_length(head: bytes) -> bytes:
    """A head with Content-Length once, if it is said more than once and always the same."""
    found: list[bytes] = _LENGTH.findall(head)
    lengths = {one.strip() for value in found for one in value.split(b",")}
    if len(lengths) != 1 or (len(found) == 1 and b"," not in found[0]):
        return head
    first = _LENGTH.search(head)
    assert first is not None
    line = b"Content-Length: " + lengths.pop() + b"\r\n"
    return head[: first.start()] + line + _LENGTH.sub(b"", head[first.end() :])
