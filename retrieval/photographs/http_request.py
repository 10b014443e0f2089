"""What is sent: the URL as it was written, the user's headers and a chain's cookies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urljoin

import aiohttp
from yarl import URL

from retrieval.errors import FetchError

# What may stand in a URL as it is sent; what is escaped already stays so.
UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f]")
PARTS: Final = re.compile(r"(?:([^:/?#]*):)?(?://([^/?#]*))?(.*)", re.DOTALL)
URL_CHARACTERS: Final = "".join(map(chr, range(0x21, 0x7F)))


def as_written(url: str) -> URL:
    """A URL whose path and query are sent as they stand; only what no request can hold is escaped.

    yarl would turn escapes into characters where it can, which makes signed addresses void.

    Raises:
        FetchError: not an http or https address, or without a host.
    """
    scheme, authority, rest = PARTS.fullmatch(url.strip()).groups("")  # type: ignore[union-attr]
    if UNPRINTABLE.search(authority):
        raise FetchError("not a usable address")
    server = _checked_url(URL(f"{scheme}://{authority}"))
    # Bytes that were no UTF-8 came in as lone surrogates and go out as they were.
    sent = quote(rest.partition("#")[0], safe=URL_CHARACTERS, errors="surrogateescape")
    slash = "" if sent.startswith("/") else "/"
    return URL(f"{server.scheme}://{server.raw_authority}{slash}{sent}", encoded=True)


def _checked_url(url: URL) -> URL:
    if url.scheme not in ("http", "https"):
        raise FetchError("not an http or https address")
    if not url.host:
        raise FetchError("the address names no host")
    return url


def redirected(url: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if not location:
        raise FetchError("redirect to nowhere")
    return as_written(urljoin(str(url), location.strip()))


def headers_for(
    target: URL, first: URL, headers: Mapping[str, str], cookies: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """The user's headers, to the server that they are meant for, and a host's own cookies."""
    safer = (first.scheme, target.scheme) == ("http", "https")
    same = target.origin() == first.origin()
    upgraded = safer and first.host == target.host and first.is_default_port()
    sent = dict(headers) if same or (upgraded and target.is_default_port()) else {}
    if pairs := cookies.get(target.host or ""):
        given = [value for name, value in sent.items() if name.lower() == "cookie"]
        sent = {name: value for name, value in sent.items() if name.lower() != "cookie"}
        sent["Cookie"] = "; ".join([*given, *(f"{name}={value}" for name, value in pairs.items())])
    return sent


def take_cookies(cookies: dict[str, str], response: aiohttp.ClientResponse) -> None:
    """Keep the cookies that a redirect sets, for the rest of its chain."""
    for name, morsel in response.cookies.items():
        if morsel["max-age"] == "0" or (morsel["secure"] and response.url.scheme != "https"):
            cookies.pop(name, None)
        else:
            cookies[name] = morsel.coded_value
