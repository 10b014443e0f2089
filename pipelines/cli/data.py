"""Get photographs, and look tables over."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    FETCH,
    AllowPrivate,
    Concurrency,
    Headers,
    IdColumn,
    PerHost,
    Restart,
    RetryFailed,
    Seconds,
    UrlColumn,
    UserAgent,
    fetch_config,
)
from pipelines.progress import progress_bar, say
from retrieval.errors import TableError

app = typer.Typer(
    no_args_is_help=True,
    help="Get photographs, and look tables over.",
    epilog="Example: landmarks data check photos",
)


@app.command("demo", epilog="Example: landmarks data demo --out data/demo --seed 1")
def data_demo(
    out: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path("data/demo"),
    seed: Annotated[int, typer.Option(help="Another seed, another world.")] = 0,
) -> None:
    """Render the demo's photographs: made-up landmarks, and scenes without one."""
    from pipelines.demo.stages import make_photographs

    make_photographs(out, seed)


@app.command("bank", epilog="Example: landmarks data bank --out photos --count 80")
def data_bank(
    out: Annotated[
        Path, typer.Option(help="Folder; a data folder without photographs of none may be given.")
    ],
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Photographs.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other photographs.")] = 0,
) -> None:
    """Render photographs of no landmark, for those who have none: country, streets, rooms, objects.

    They lie in OUT/none, and OUT/none.csv lists them: for a data folder as its
    bank, or for a run: landmarks add OUT/none.csv --bank. Real photographs are
    worth far more: do without these where you have some.
    """
    from pipelines.demo.bank import make_bank

    with progress_bar("rendering", count) as progress:
        summary = make_bank(out, count=count, seed=seed, progress=progress)
    say(str(summary))


@app.command("concepts", epilog="Example: landmarks data concepts --out data/concepts")
def data_concepts(
    out: Annotated[Path, typer.Option(help="Folder.")] = Path("data/concepts"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other photographs.")] = 0,
) -> None:
    """Render photographs of concepts (stripes, water, columns …) for landmarks concepts."""
    rendered_concepts(out, seed)


def rendered_concepts(out: Path, seed: int) -> None:
    """Render what is not there yet."""
    from pipelines.demo.concepts import TOTAL, make_concepts

    with progress_bar("rendering concepts", TOTAL) as progress:
        count = make_concepts(out, seed=seed, progress=progress)
    say(f"{count:,} photographs of concepts → {out}")


@app.command("check", epilog="Example: landmarks data check photos")
def data_check(
    data: Annotated[Path, typer.Argument(help="A data folder, or a single table.")],
    quick: Annotated[bool, typer.Option("--quick", help="Open no photograph.")] = False,
    tell_all: Annotated[
        bool, typer.Option("--all", help="Tell every finding, not twenty of a kind.")
    ] = False,
) -> None:
    """Look a data set over: what is in it, what is left out, broken, or there twice.

    Exit code 0 with warnings, 2 where nothing can be built of it.
    """
    from pipelines.data.checking import check_data_set

    with ExitStack() as stack:
        found = check_data_set(
            data, quick=quick, tell_all=tell_all,
            progress=lambda total: stack.enter_context(progress_bar("opening", total)),
        )  # fmt: skip
    for line in found.lines:
        typer.echo(line)
    if not found.usable:
        raise TableError(f"{data}: none of its photographs can be opened, so nothing can be built")


@app.command("fetch", epilog="Example: landmarks data fetch index.csv --out data/fetched")
def data_fetch(
    csv: Annotated[Path, typer.Argument(help="Landmarks CSV: id,url,landmark_id.")],
    out: Annotated[Path | None, typer.Option(help="Data folder; by default the CSV's own.")] = None,
    url_column: UrlColumn = None,
    id_column: IdColumn = None,
    allow_private: AllowPrivate = False,
    user_agent: UserAgent = FETCH.user_agent,
    header: Headers = None,
    concurrency: Concurrency = FETCH.concurrency,
    per_host: PerHost = FETCH.per_host,
    seconds: Seconds = FETCH.total_seconds,
    retry_failed: RetryFailed = False,
    restart: Restart = False,
) -> None:
    """Download a landmarks CSV's own URLs into photos/a/b/c/ID.jpg. A killed run goes on."""
    from pipelines.data.downloads import fetch_photographs
    from pipelines.lists.rows import read_rows

    fetch = fetch_config(
        header, seconds, allow_private=allow_private, user_agent=user_agent,
        concurrency=concurrency, per_host=per_host,
    )  # fmt: skip
    rows = sum(1 for _ in read_rows(csv, url_column, id_column, fetched=True))
    with progress_bar("fetching", rows) as progress:
        summary = fetch_photographs(
            csv,
            out or csv.parent,
            url_column=url_column,
            id_column=id_column,
            fetch=fetch,
            retry_failed=retry_failed,
            restart=restart,
            progress=progress,
        )
    say(str(summary))


@app.command("gldv2", epilog="Example: landmarks data gldv2 --split index --shards 0-3")
def data_gldv2(
    split: Annotated[str, typer.Option(help="train, index or test.")],
    shards: Annotated[str, typer.Option(help="Numbers of tars: 0-3, or 0,5,7-9.")],
    out: Annotated[Path, typer.Option(help="Data folder.")] = Path("data/gldv2"),
    base_url: Annotated[
        str | None, typer.Option(help="Where the archive lies, if not at its own place.")
    ] = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep the tars, below OUT/archives.")
    ] = False,
    allow_private: AllowPrivate = False,
) -> None:
    """Download Google Landmarks v2's own tars, checked and unpacked. A killed run goes on."""
    from pipelines.data.downloads import GLDV2, download_gldv2

    with progress_bar("downloading", None) as progress:
        summary = download_gldv2(
            split, shards, out, base_url=base_url or GLDV2, keep_archives=keep_archives,
            fetch=fetch_config(allow_private=allow_private), progress=progress,
        )  # fmt: skip
    say(str(summary))
