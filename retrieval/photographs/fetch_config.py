"""How photographs are fetched, as a user may set it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydantic import Field, field_validator, model_validator

from retrieval.types import StrictModel

MIB: Final = 1024 * 1024
HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
OWN_HEADERS: Final = {
    "user-agent": "give --user-agent (user_agent)",
    **dict.fromkeys(
        ("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
         "expect", "range", "if-range", "accept-encoding"),
        "is decided for each request",
    ),
}  # fmt: skip
"""Headers that would break a request, or make another answer of it than a whole photograph."""
PLAIN: Final = 'give "Name: value", of plain characters'


class FetchConfig(StrictModel):
    """How photographs are fetched.

    Attributes:
        concurrency: requests at a time in all.
        per_host: requests at a time to one host.
        read_seconds: cap on silence between two pieces of an answer.
        total_seconds: cap on one try, from connecting to the last byte; waiting for a free slot
            is not counted. A try that takes longer is not repeated.
        retries: further tries after a 5xx, 408, 425 or 429 answer or a broken connection.
        backoff_seconds: pause before the first further try; it doubles each time.
        backoff_cap_seconds: cap on that pause, and on what a Retry-After header may ask for.
        max_bytes: cap on one photograph.
        bytes_in_flight: cap on the bytes that are arriving or waiting to be taken, in all.
        max_redirects: redirects followed for one URL.
        allow_private: fetch from loopback, private and other addresses that are not public.
        user_agent: sent to the servers; some (Wikimedia) ask for a way to reach you in it.
        headers: sent with every request; not to another server that one redirects to, since they
            may hold credentials.
    """

    concurrency: int = Field(default=64, ge=1, le=1024)
    per_host: int = Field(default=8, ge=1, le=1024)
    read_seconds: float = Field(default=15.0, ge=1e-3, le=86_400.0)
    total_seconds: float = Field(default=60.0, ge=1e-3, le=86_400.0)
    retries: int = Field(default=2, ge=0, le=20)
    backoff_seconds: float = Field(default=0.5, ge=0, le=86_400.0)
    backoff_cap_seconds: float = Field(default=30.0, ge=0, le=86_400.0)
    max_bytes: int = Field(default=32 * MIB, ge=1, le=2**34)
    bytes_in_flight: int = Field(default=256 * MIB, ge=1, le=2**40)
    max_redirects: int = Field(default=5, ge=0, le=20)
    allow_private: bool = False
    user_agent: str = Field(default="landmarks (photograph fetcher)", min_length=1)
    headers: Mapping[str, str] = Field(default_factory=dict)

    @field_validator("user_agent")
    @classmethod
    def _agent_is_sendable(cls, value: str) -> str:
        if not HEADER_VALUE.fullmatch(value):
            raise ValueError(f"{value!r}: give plain characters")
        return value

    @field_validator("headers")
    @classmethod
    def _headers_are_sendable(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
                raise ValueError(f"{name!r}: {PLAIN}")
            if name.lower() in OWN_HEADERS:
                raise ValueError(f"{name}: {OWN_HEADERS[name.lower()]}")
        return headers

    def shared_by(self, many: int) -> FetchConfig:
        """The limits of each of so many processes that fetch beside each other: of requests at a
        time, at least one each."""
        shares = {name: max(1, getattr(self, name) // many) for name in ("concurrency", "per_host")}
        return self.model_copy(update=shares)

    @model_validator(mode="after")
    def _one_photograph_fits(self) -> FetchConfig:
        if self.bytes_in_flight < self.max_bytes:
            raise ValueError("bytes_in_flight must be at least max_bytes")
        return self
