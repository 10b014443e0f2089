"""Answer photographs by a run, and work on the answers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipelines.cli.options import (
    DEMO_RUN,
    FETCH,
    AllowPrivate,
    Concurrency,
    Device,
    Headers,
    IdColumn,
    MaxFalseAccepts,
    PerHost,
    Restart,
    RetryFailed,
    Run,
    Seconds,
    TargetPrecision,
    UrlColumn,
    UserAgent,
    Weights,
    Workers,
    fetch_config,
)
from pipelines.progress import console, progress_bar, say
from retrieval.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.answering.classify import ClassifySummary, Form

PANEL: Final = "Answer photographs"

app = typer.Typer()
command = partial(app.command, rich_help_panel=PANEL)


@command(epilog="Example: landmarks classify urls.csv --run mine --out predictions.parquet --top 5")
def classify(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Photographs and folders of them; or a list of URLs or paths, or - for a list on"
            " standard input."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Predictions; by default predictions.csv, and the terminal for photographs that"
            " are named one by one."
        ),
    ] = None,
    run: Run = DEMO_RUN,
    device: Device = "auto",
    weights: Weights = None,
    workers: Workers = None,
    form: Annotated[
        str | None, typer.Option("--format", help="csv, parquet or jsonl; by default OUT's ending.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=0, max=1000, help="Best candidates told with their scores; on the terminal 3."
        ),
    ] = None,
    guard: Annotated[
        bool,
        typer.Option(
            "--guard", help="Put ' before text that a spreadsheet would take for a formula."
        ),
    ] = False,
    url_column: UrlColumn = None,
    id_column: IdColumn = None,
    urls_only: Annotated[
        bool, typer.Option("--urls-only", help="Refuse rows that are paths: a stranger's list.")
    ] = False,
    allow_private: AllowPrivate = False,
    user_agent: UserAgent = FETCH.user_agent,
    header: Headers = None,
    concurrency: Concurrency = FETCH.concurrency,
    per_host: PerHost = FETCH.per_host,
    seconds: Seconds = FETCH.total_seconds,
    retries: Annotated[int, typer.Option(help="Further tries of a download.")] = FETCH.retries,
    max_bytes: Annotated[
        int, typer.Option(help="Cap on one photograph's file, in bytes.")
    ] = FETCH.max_bytes,
    memory: Annotated[
        int, typer.Option(min=1, help="Soft cap on photographs held in memory, in MiB.")
    ] = 1024,
    frequency_ban: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Write OUT.banned.csv too, in which landmarks answered for more rows than this"
            " are none: an answer hangs on the list's other rows then.",
        ),
    ] = None,
    retry_failed: RetryFailed = False,
    restart: Restart = False,
) -> None:
    """Classify photographs, folders of them, or a list of URLs or paths. A killed run goes on.

    Columns of OUT, a row for each photograph in the order of the input:

    id: of the row, or its URL or path.
    landmark, name: the answer; empty for none.
    probability: that the best candidate is right, answered or not; empty where
    held-out photographs were too few to learn it from.
    status, reason: ok, fetch_failed, decode_failed or describe_failed, and why.
    candidate, candidate_name: the best candidate, even where the answer is none.
    confidence: its score, which the answer hangs on.
    nearest, similarity: the nearest gallery photograph.
    candidate_1, score_1 to candidate_K, score_K: with --top K.
    """
    from pipelines.answering.by_ray import answers_by_ray
    from pipelines.answering.classify import classify_list
    from pipelines.answering.predictions import ban_frequent
    from pipelines.lists.inputs import kind_of, opened
    from pipelines.terminal import show
    from retrieval.ray_pool import reach
    from retrieval.system import System

    fetch = fetch_config(
        header, seconds, allow_private=allow_private, user_agent=user_agent, retries=retries,
        concurrency=concurrency, per_host=per_host, max_bytes=max_bytes,
    )  # fmt: skip
    target, written = _form(out, form, top or 0, guard)
    if workers is not None:
        reach(workers)
    with opened(inputs, url_column, id_column) as given:
        for line in given.told:
            say(line)
        if given.named and out is None:
            _needs_out(
                format=form, guard=guard, frequency_ban=frequency_ban, retry_failed=retry_failed,
                restart=restart, workers=workers,
            )  # fmt: skip
            system = System.load(run, device, weights)
            shown = 3 if top is None else top
            failed = show(system, given, fetch, shown, urls_only, name=system.name)
            say(*system.notes)
            if failed:
                raise typer.Exit(1)
            return
        if workers is not None and given.named and kind_of(inputs[0]) == "stream":
            raise ConfigError("--workers: a photograph that comes in a stream has no path there")
        system = System.load(run, device, weights)
        elsewhere = None if workers is None else partial(answers_by_ray, workers, system)
        with progress_bar("classifying", sum(1 for _ in given.rows())) as progress:
            summary = classify_list(
                system, given, target, form=written, fetch=fetch, urls_only=urls_only,
                retry_failed=retry_failed, restart=restart, memory=memory * 2**20,
                elsewhere=elsewhere, progress=progress,
            )  # fmt: skip
    if summary.nothing_to_do:
        say(f"{target}: finished already, nothing to do")
    _say_summary(summary)
    say(*system.notes)
    if frequency_ban is not None:
        kept = target.with_name(f"{target.stem}.banned{target.suffix}")
        banned = ban_frequent(target, kept, frequency_ban)
        say(
            f"{banned:,} rows of landmarks that more than {frequency_ban:,} rows are answered with"
            f" are none → {kept}"
        )


@command(epilog="Example: landmarks rethreshold predictions.csv --run mine --min-probability 0.8")
def rethreshold(
    predictions: Annotated[Path, typer.Argument(help="Predictions by `landmarks classify`.")],
    run: Run = DEMO_RUN,
    min_probability: Annotated[
        float | None, typer.Option(help="Answer what is at least so probable, such as 0.8.")
    ] = None,
    target_precision: TargetPrecision = None,
    max_false_accepts: MaxFalseAccepts = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New predictions; by default NAME.rethresholded beside the old ones."),
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
) -> None:
    """Answer stored predictions anew at another operating point, without any photograph."""
    from pipelines.answering.predictions import rethreshold as answer_anew

    by_default = f"{predictions.stem}.rethresholded{predictions.suffix}"
    summary = answer_anew(
        predictions, out or predictions.with_name(by_default), run,
        min_probability=min_probability, target_precision=target_precision,
        max_false_accepts=max_false_accepts, device=device, weights=weights,
    )  # fmt: skip
    _say_summary(summary)


@command(epilog="Example: landmarks vote one.csv other.csv --out merged.csv")
def vote(
    csvs: Annotated[
        list[Path], typer.Argument(help="Predictions of one list, by `landmarks classify`.")
    ],
    out: Annotated[Path, typer.Option(help="Merged predictions CSV.")] = Path("merged.csv"),
) -> None:
    """Merge several runs' predictions of one list: on every row, the files' answers vote."""
    from pipelines.answering.predictions import vote_csvs

    _say_summary(vote_csvs(csvs, out))


@command(epilog="Example: landmarks score submission.csv recognition_solution_v2.1.csv")
def score(
    submission: Annotated[Path, typer.Argument(help="CSV of id,landmarks or id,images.")],
    solution: Annotated[
        Path, typer.Argument(help="Official solution: id,landmarks,Usage or id,images,Usage.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Score a submission to the Google Landmarks challenges: GAP and top-1, or mAP@100."""
    from pipelines.measuring.score import score_table
    from retrieval.evaluation.submissions import score_submission

    found = score_submission(submission, solution)
    if as_json:
        typer.echo(json.dumps({"kind": found.kind, **found.figures}, indent=2))
    else:
        console.print(score_table(found))


def _needs_out(**given: Any) -> None:
    """Refuse options of a file where none is written.

    Raises:
        ConfigError: naming the first.
    """
    for name, value in given.items():
        if value:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: give --out too, or the answers go to the terminal")


def _form(out: Path | None, given: str | None, top: int, guard: bool) -> tuple[Path, Form]:
    """Where predictions go, and how they are written.

    Raises:
        ConfigError: no such format, or one in which nothing is to be guarded.
    """
    from pipelines.answering.classify import Form
    from pipelines.lists.formats import CSV, format_of

    target = out or Path("predictions.csv").with_suffix(f".{given or CSV}")
    if str(target) == "-":
        raise ConfigError("--out -: give a file, from which a killed run can go on")
    found = format_of(target, given)
    if guard and found != CSV:
        raise ConfigError(f"--guard: is for CSVs, which spreadsheets open, and not for {found}")
    return target, Form(found, top, guard=guard)


def _say_summary(summary: ClassifySummary) -> None:
    say(str(summary))
    for line in summary.why():
        say(f"  {line}")
