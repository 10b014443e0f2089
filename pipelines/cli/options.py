"""Options that several commands have, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from retrieval.errors import ConfigError
from retrieval.photographs.fetch_config import PLAIN, FetchConfig

Run = Annotated[Path, typer.Option("--run", help="Folder of the run.")]
DEMO_RUN: Final = Path("data/runs/demo")
TargetPrecision = Annotated[
    float | None, typer.Option(help="Share of answers to be right, such as 0.95.")
]
MaxFalseAccepts = Annotated[
    float | None,
    typer.Option(help="Share of photographs without a landmark that may be answered."),
]
GalleryTable = Annotated[
    Path | None, typer.Option("--gallery", help="Another gallery CSV in place of index.csv.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Weights = Annotated[
    Path | None,
    typer.Option(help="A file of weights, or a folder in which each trunk finds NAME.safetensors."),
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Take away another system's or other data's run first."),
]
Workers = Annotated[
    str | None,
    typer.Option(
        help="Have a Ray cluster do it: its address (HOST:6379, ray://HOST:10001), or ray for this"
        " machine."
    ),
]
AllowPrivate = Annotated[
    bool, typer.Option("--allow-private", help="Fetch from private and loopback addresses too.")
]
Concurrency = Annotated[int, typer.Option(help="Downloads at a time in all.")]
PerHost = Annotated[int, typer.Option(help="Downloads at a time from one host.")]
Seconds = Annotated[float, typer.Option(help="Cap on one try of a download, in seconds.")]
UserAgent = Annotated[
    str, typer.Option(help="What servers are told; some ask for a way to reach you in it.")
]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", help='A header of every request: "Name: value" (repeatable).'),
]
UrlColumn = Annotated[
    str | None, typer.Option(help="Column of URLs or paths, where the list has another name.")
]
IdColumn = Annotated[str | None, typer.Option(help="Column of ids, likewise.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Take just the rows that failed again.")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Forget what was finished and begin anew.")
]
Test = Annotated[
    Path | None,
    typer.Option("--test", help="Labelled CSV to measure; by default the data's test.csv."),
]
ProtocolOut = Annotated[
    Path | None,
    typer.Option("--out", help="Where figures and descriptors go; by default RUN/protocols/NAME."),
]

FETCH = FetchConfig()


def fetch_config(
    header: list[str] | None = None, seconds: float = FETCH.total_seconds, **values: Any
) -> FetchConfig:
    """The limits of downloads that the command line gave, checked.

    Args:
        header: each ``Name: value``.
        seconds: of one try of a download.
        values: the others, by the names of :class:`FetchConfig`.

    Raises:
        ConfigError: naming the option.
    """
    values |= {"headers": parse_headers(header or []), "total_seconds": seconds}
    from pydantic import ValidationError

    # A photograph as large as is allowed has to fit into what may be in flight.
    in_flight = max(FETCH.bytes_in_flight, values.get("max_bytes", 0))
    try:
        return FetchConfig(**values, bytes_in_flight=in_flight)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        option = {"headers": "header", "total_seconds": "seconds"}.get(name, name.replace("_", "-"))
        # What FetchConfig itself says of a value, or else pydantic.
        reason = first.get("ctx", {}).get("error") or f"{first['msg']}, found {first['input']}"
        raise ConfigError(f"--{option}: {reason}") from None


def parse_headers(given: list[str]) -> dict[str, str]:
    """The headers that the command line gave.

    Raises:
        ConfigError: one is none, or stands twice.
    """
    headers: dict[str, str] = {}
    for one in given:
        name, colon, value = one.partition(":")
        if not colon:
            raise ConfigError(f"--header {one!r}: {PLAIN}")
        if name.lower() in map(str.lower, headers):
            raise ConfigError(f"--header {name}: is given twice")
        headers[name] = value.strip(" \t")
    return headers
