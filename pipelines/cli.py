"""The `landmarks` command: one subcommand a stage, thin over the stages' functions."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.logging import RichHandler
from rich.table import Table

from pipelines.main import INTERRUPTED
from pipelines.progress import console, progress_bar
from retrieval.errors import ConfigError, LandmarksError, TableError
from retrieval.photographs.fetching import PLAIN, FetchConfig

if TYPE_CHECKING:
    from pipelines.classify import ClassifySummary, Form

# Stages are imported where they are called: torch and its kin take seconds, and `--help` needs
# none of them.

log = logging.getLogger(__name__)

DEMO_CONFIG: Final = "classical-global"
LEARNER: Final = "vgg_small"
"""The network that the demo trains from nothing."""
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Recognise landmarks in photographs, or say that there is none.",
    epilog="Start with: landmarks demo",
)
data_app = typer.Typer(
    no_args_is_help=True,
    help="Get photographs, and look tables over.",
    epilog="Example: landmarks data check photos",
)
app.add_typer(data_app, name="data")
protocol_app = typer.Typer(
    no_args_is_help=True,
    help="Measure a run on published benchmarks.",
    epilog="Example: landmarks protocol holidays --photos holidays --run mine",
)
app.add_typer(protocol_app, name="protocol")

Run = Annotated[Path, typer.Option("--run", help="Folder of the run.")]
DEMO_RUN: Final = Path("data/runs/demo")
TargetPrecision = Annotated[
    float | None, typer.Option(help="Share of answers to be right, such as 0.95.")
]
MaxFalseAccepts = Annotated[
    float | None,
    typer.Option(help="Share of photographs without a landmark that may be answered."),
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

_FETCH = FetchConfig()


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, and more of what goes on.")
    ] = False,
) -> None:
    """Recognise landmarks in photographs, or say that there is none."""
    handler = RichHandler(
        console=console, show_path=False, show_time=False, show_level=False, highlighter=None
    )
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(message)s",
        handlers=[handler],
        force=True,
    )
    for noisy in ("asyncio", "aiohttp", "matplotlib", "PIL", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.command(epilog="Example: landmarks demo --data data/demo --run data/runs/demo")
def demo(
    folder: Annotated[Path, typer.Option("--data", help="Where the photographs go.")] = Path(
        "data/demo"
    ),
    run: Run = DEMO_RUN,
    config: Annotated[str, typer.Option(help="Name of the system.")] = DEMO_CONFIG,
    device: Device = "auto",
    weights: Weights = None,
    replace: Replace = False,
) -> None:
    """Render made-up landmarks; index, train, evaluate and classify them."""
    from pipelines.config import load_config
    from pipelines.demo import run_demo
    from retrieval.devices import choose_device

    run_demo(
        load_config(config).with_weights(weights), load_config(LEARNER), folder, run,
        choose_device(device), console, replace, _agreed,
    )  # fmt: skip


@app.command(epilog="Example: landmarks index --data photos --run data/runs/mine")
def index(
    config: Annotated[
        str | None,
        typer.Option(
            help="A system by name (see `landmarks config`), or a YAML file; by default the run's"
            " own, or else the best that this machine can run."
        ),
    ] = None,
    data: Annotated[
        Path,
        typer.Option(help="A data folder (index.csv, none.csv), or a folder per landmark."),
    ] = Path("data/demo"),
    gallery: Annotated[
        Path | None, typer.Option(help="Another gallery CSV in place of index.csv.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; by default data/runs/ and the config's name, or the data's."
        ),
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    target_precision: TargetPrecision = None,
    max_false_accepts: MaxFalseAccepts = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: whitening.dimension=128 (repeatable)."),
    ] = None,
    replace: Replace = False,
) -> None:
    """Describe gallery and bank, index them, fit the classifiers. A killed run goes on."""
    from pipelines.config import load_config
    from pipelines.index import build_run
    from pipelines.replacing import begin_build
    from pipelines.shipped import settle_system
    from retrieval.classifiers.promise import promise_of
    from retrieval.devices import choose_device
    from retrieval.photographs.table import bank_origins, load_data_set, photographs_each

    asked = {"target_precision": target_precision, "max_false_accepts": max_false_accepts}
    points = [f"rejection.{key}={value}" for key, value in asked.items() if value is not None]
    overrides = [*points, *(settings or ())]
    named = None if config is None else load_config(config, overrides).with_weights(weights)
    # A run whose system is not named has its data's name, so that the next call finds it.
    name = Path(os.path.abspath(data)).name if named is None else named.name
    folder = run or Path("data/runs") / name
    photographs, on = load_data_set(data, gallery), choose_device(device)
    system = named or settle_system(photographs, folder, overrides, weights, on)
    begin_build(folder, system, photographs, gallery, on, replace, _agreed)
    record = build_run(system, photographs, folder, on)
    _say_built(folder, record)
    each = photographs_each(photographs.gallery)
    promise = promise_of(record["bank"], bank_origins(photographs), each)
    console.print(promise, highlight=False, soft_wrap=True)


@app.command(epilog="Example: landmarks train mobilenet_v2-arcface --data photos --run mine")
def train(
    config: Annotated[str, typer.Argument(help="A system with a section training.")],
    data: Annotated[Path, typer.Option(help="A data folder, or a folder per landmark.")] = Path(
        "data/demo"
    ),
    gallery: Annotated[
        Path | None, typer.Option(help="Another gallery CSV in place of index.csv.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default data/runs/NAME.")
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="First learn ten photographs by heart, or stop.")
    ] = False,
    subset: Annotated[
        float | None, typer.Option(help="Share of every landmark's photographs, such as 0.1.")
    ] = None,
    search: Annotated[
        int, typer.Option(min=0, help="Trials of the hyperparameters that training.search names.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: training.epochs=5 (repeatable)."),
    ] = None,
) -> None:
    """Fit a network to gallery and bank, into RUN/training. A killed training goes on."""
    from pipelines.config import load_config
    from pipelines.train import train_run, trainings_table
    from retrieval.devices import choose_device
    from retrieval.photographs.table import load_data_set

    system = load_config(config, settings or ()).with_weights(weights)
    folder = run or Path("data/runs") / system.name
    folders = train_run(
        system, load_data_set(data, gallery), folder, choose_device(device), sanity, subset, search
    )
    if folders:
        console.print(trainings_table(folders))


@app.command(epilog="Example: landmarks trainings mine other")
def trainings(
    folders: Annotated[list[Path], typer.Argument(help="Runs, or folders of trainings.")],
) -> None:
    """Compare trainings: what they came to, and the hyperparameters in which they differ."""
    from pipelines.train import trainings_table

    console.print(trainings_table(folders))


@app.command(epilog="Example: landmarks evaluate --run mine --run other --data photos")
def evaluate(
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", help="Folder of a run; several are measured side by side."),
    ] = None,
    test: Test = None,
    data: Annotated[
        Path | None, typer.Option(help="Data folder whose test.csv, or test folder, is measured.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the figures go; by default RUN/evaluation, data/evaluation for several."
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Tell precision for this share of landmark photographs too."
        ),
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
) -> None:
    """Measure runs on labelled photographs: figures, predictions, submission and report."""
    from pipelines.evaluate import evaluate_run, evaluate_runs, figures_table
    from retrieval.system import System

    folders = runs or [DEMO_RUN]
    systems = {folder.resolve().name: System.load(folder, device, weights) for folder in folders}
    if len(systems) < len(folders):
        raise ConfigError("two of the runs have one name: each needs a folder name of its own")
    first = next(iter(systems.values()))
    csv = _test_csv(first.record, test, data)
    if len(folders) == 1:
        target = out or folders[0] / "evaluation"
        figures = evaluate_run(first, csv, target, share)
    else:
        target = out or Path("data/evaluation")
        figures = evaluate_runs(systems, csv, target, share)
    console.print(figures_table(figures))
    console.print(f"report: {target / 'report.html'}", highlight=False)


@app.command(epilog="Example: landmarks ablate --run mine --test photos/test.csv")
def ablate(
    run: Run = DEMO_RUN,
    test: Test = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Markdown file of the table, with a .json beside it.  [RUN/ablation.md]"),
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
) -> None:
    """Measure every vote, rejection, calibration and classifier on a run: one table."""
    from pipelines.ablate import ablate_run
    from retrieval.system import System

    system = System.load(run, device, weights)
    target = out or run / "ablation.md"
    rows = ablate_run(system, _test_csv(system.record, test, None), target)
    console.print(f"{sum(map(len, rows.values())):,} rows → {target}", highlight=False)


@app.command(epilog="Example: landmarks score submission.csv recognition_solution_v2.1.csv")
def score(
    submission: Annotated[Path, typer.Argument(help="CSV of id,landmarks or id,images.")],
    solution: Annotated[
        Path, typer.Argument(help="Official solution: id,landmarks,Usage or id,images,Usage.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Score a submission to the Google Landmarks challenges: GAP and top-1, or mAP@100."""
    from pipelines.score import score_table
    from retrieval.evaluation.submissions import score_submission

    found = score_submission(submission, solution)
    if as_json:
        typer.echo(json.dumps({"kind": found.kind, **found.figures}, indent=2))
    else:
        console.print(score_table(found))


@app.command(
    epilog="Example: landmarks classify urls.csv --run mine --out predictions.parquet --top 5"
)
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
    user_agent: UserAgent = _FETCH.user_agent,
    header: Headers = None,
    concurrency: Concurrency = _FETCH.concurrency,
    per_host: PerHost = _FETCH.per_host,
    seconds: Seconds = _FETCH.total_seconds,
    retries: Annotated[int, typer.Option(help="Further tries of a download.")] = _FETCH.retries,
    max_bytes: Annotated[
        int, typer.Option(help="Cap on one photograph's file, in bytes.")
    ] = _FETCH.max_bytes,
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
    probability: that the best candidate is right, whether it is answered or not; empty where
    held-out photographs were too few to learn it from.
    status, reason: ok, fetch_failed, decode_failed or describe_failed, and why.
    candidate, candidate_name: the best candidate, even where the answer is none.
    confidence: its score, which the answer hangs on.
    nearest, similarity: the nearest gallery photograph.
    candidate_1, score_1 to candidate_K, score_K: with --top K.
    """
    from pipelines.classify import classify_input
    from pipelines.inputs import opened
    from pipelines.predictions import ban_frequent
    from pipelines.terminal import show
    from retrieval.system import System

    fetch = _fetch_config(
        allow_private=allow_private,
        user_agent=user_agent,
        headers=_headers(header or []),
        concurrency=concurrency,
        per_host=per_host,
        total_seconds=seconds,
        retries=retries,
        max_bytes=max_bytes,
    )
    target, written = _form(out, form, top or 0, guard)
    with opened(inputs, url_column, id_column) as given:
        for line in given.told:
            console.print(line, highlight=False, soft_wrap=True)
        if given.named and out is None:
            _needs_out(
                format=form, guard=guard, frequency_ban=frequency_ban, retry_failed=retry_failed,
                restart=restart,
            )  # fmt: skip
            system = System.load(run, device, weights)
            shown = 3 if top is None else top
            failed = show(system, given, fetch, shown, urls_only, name=system.name)
            _say_notes(system.notes)
            if failed:
                raise typer.Exit(1)
            return
        system = System.load(run, device, weights)
        with progress_bar("classifying", sum(1 for _ in given.rows())) as progress:
            summary = classify_input(
                system, given, target, form=written, fetch=fetch, urls_only=urls_only,
                retry_failed=retry_failed, restart=restart, memory=memory * 2**20,
                progress=progress,
            )  # fmt: skip
    if summary.nothing_to_do:
        console.print(f"{target}: finished already, nothing to do", highlight=False)
    _say_summary(summary)
    _say_notes(system.notes)
    if frequency_ban is not None:
        kept = target.with_name(f"{target.stem}.banned{target.suffix}")
        banned = ban_frequent(target, kept, frequency_ban)
        console.print(
            f"{banned:,} rows of landmarks that more than {frequency_ban:,} rows are answered with"
            f" are none → {kept}",
            highlight=False,
        )


@app.command(
    epilog="Example: landmarks rethreshold predictions.csv --run mine --min-probability 0.8"
)
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
    from pipelines.predictions import rethreshold as answer_anew

    by_default = f"{predictions.stem}.rethresholded{predictions.suffix}"
    summary = answer_anew(
        predictions, out or predictions.with_name(by_default), run,
        min_probability=min_probability, target_precision=target_precision,
        max_false_accepts=max_false_accepts, device=device, weights=weights,
    )  # fmt: skip
    _say_summary(summary)


@app.command(epilog="Example: landmarks vote one.csv other.csv --out merged.csv")
def vote(
    csvs: Annotated[
        list[Path], typer.Argument(help="Predictions of one list, by `landmarks classify`.")
    ],
    out: Annotated[Path, typer.Option(help="Merged predictions CSV.")] = Path("merged.csv"),
) -> None:
    """Merge several runs' predictions of one list: on every row, the files' answers vote."""
    from pipelines.predictions import vote_csvs

    _say_summary(vote_csvs(csvs, out))


@app.command(epilog="Example: landmarks add more.csv --run data/runs/mine")
def add(
    table: Annotated[
        Path,
        typer.Argument(help="CSV, or folder with a folder per landmark, of labelled photographs."),
    ],
    run: Run = DEMO_RUN,
    device: Device = "auto",
    weights: Weights = None,
    bank: Annotated[
        bool, typer.Option("--bank", help="None of the photographs shows a landmark.")
    ] = False,
) -> None:
    """Add photographs to a built run, without describing the rest again.

    What was taken out before may come back. A folder's photographs are named by their paths in it;
    where the run holds such ids already, for other photographs, the folder's name goes before them.
    """
    from pipelines.index import add_photographs
    from retrieval.devices import choose_device
    from retrieval.photographs.table import read_table

    photographs, folder = read_table(table, bank=bank), table if table.is_dir() else None
    _say_built(run, add_photographs(run, photographs, choose_device(device), weights, folder))


@app.command(epilog="Example: landmarks remove --landmark 'Old Bridge' --run data/runs/mine")
def remove(
    photographs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids, paths or folders of photographs; or a file (- for standard input) that lists"
            " ids or paths, one a line or in its column id or path."
        ),
    ] = None,
    landmarks: Annotated[
        list[str] | None,
        typer.Option("--landmark", help="All photographs of a landmark, by id or readable name."),
    ] = None,
    run: Run = DEMO_RUN,
    device: Device = "auto",
) -> None:
    """Take photographs out of a built run, without describing the rest again."""
    from pipelines.gallery_changes import chosen_ids
    from pipelines.index import known_photographs, remove_photographs
    from retrieval.devices import choose_device

    known = known_photographs(run)
    ids = chosen_ids(known, run, photographs or (), landmarks or (), sys.stdin)
    _say_built(run, remove_photographs(run, ids, choose_device(device)))


@app.command("list", epilog="Example: landmarks list --landmark 'Old Bridge' --run data/runs/mine")
def list_run(
    run: Run = DEMO_RUN,
    photographs: Annotated[
        bool, typer.Option("--photographs", help="List id,landmark,source of each photograph.")
    ] = False,
    landmarks: Annotated[
        list[str] | None,
        typer.Option("--landmark", help="List the photographs of this landmark (repeatable)."),
    ] = None,
) -> None:
    """List a run's landmarks with their numbers of photographs, or its photographs, as CSV."""
    from pipelines.gallery_changes import landmark_rows, photograph_rows, summary
    from pipelines.index import known_photographs

    known = known_photographs(run)
    named = photographs or landmarks
    rows = photograph_rows(known, landmarks or ()) if named else landmark_rows(known)
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
    sys.stdout.flush()
    console.print(f"{run}: {summary(known)}", highlight=False)


@app.command(
    epilog="Example: landmarks attention resnet50-delf --out attention.safetensors --data photos"
)
def attention(
    config: Annotated[str, typer.Argument(help="A system with a delf detector, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="The file: what detector.attention names then.")],
    data: Annotated[Path, typer.Option(help="A data folder: its gallery teaches.")] = Path(
        "data/demo"
    ),
    gallery: Annotated[
        Path | None, typer.Option(help="Another gallery CSV in place of index.csv.")
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    epochs: Annotated[int, typer.Option(min=1, help="How often each photograph teaches.")] = 20,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the system.")
    ] = None,
) -> None:
    """Learn where DELF is to look, by the landmarks of a gallery."""
    from pipelines.attention import learn_attention
    from pipelines.config import load_config
    from retrieval.devices import choose_device
    from retrieval.photographs.table import load_data_set
    from retrieval.training.attention import AttentionConfig

    system = load_config(config, settings or ()).with_weights(weights)
    notes = learn_attention(
        system, AttentionConfig(epochs=epochs), load_data_set(data, gallery), out,
        choose_device(device),
    )  # fmt: skip
    console.print(
        f"{out}: learnt on {notes['photographs']:,} photographs of {notes['landmarks']:,}"
        f" landmarks; {notes['accuracy']:.3f} of {notes['held_out']:,} held out told right",
        highlight=False,
    )


@app.command(epilog="Example: landmarks config hog --set whitening.dimension=64 > mine.yaml")
def config(
    name: Annotated[str | None, typer.Argument(help="A system; without it, the list.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a key.")] = None,
) -> None:
    """List the shipped systems, or print one with every default filled in.

    The list has what each was measured to do (docs/measuring.md): top-1 and GAP on landmarks52,
    milliseconds and bytes a photograph; and whether it needs weights.
    """
    from pipelines.config import dump_config, load_config

    if name is not None:
        typer.echo(dump_config(load_config(name, settings or ())), nl=False)
        return
    from pipelines.shipped import list_lines

    for line in list_lines():
        typer.echo(line)


@app.command(
    epilog="Example: landmarks compare --data photos --holidays holidays --out comparison.md"
)
def compare(
    data: Annotated[Path, typer.Option(help="A data folder with index.csv and test.csv.")],
    holidays: Annotated[
        Path, typer.Option(help="Folder of INRIA Holidays, or a part: photos/NNNNNN.jpg.")
    ],
    weights: Weights = None,
    out: Annotated[
        Path, typer.Option(help="Markdown file of the table; the same as .json stands beside it.")
    ] = Path("data/comparison.md"),
    only: Annotated[
        list[str] | None, typer.Option(help="Just the rows of these features (repeatable).")
    ] = None,
    configs: Annotated[
        list[str] | None, typer.Option("--config", help="A system besides, by name (repeatable).")
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Folder of the features: many GB, taken up again.")
    ] = Path("data/comparison"),
    dimension: Annotated[int, typer.Option(min=1, help="Numbers of a whitened descriptor.")] = 128,
    power: Annotated[
        float, typer.Option(min=-1.0, max=0.0, help="Of the whitening's eigenvalues.")
    ] = -0.4,
    device: Device = "auto",
) -> None:
    """Measure every extractor with every aggregation: one table. A killed run goes on."""
    from pipelines.compare import Budget, run_comparison
    from retrieval.devices import choose_device
    from retrieval.extractors.whitening import WhiteningConfig
    from retrieval.photographs.table import load_data_set

    whitening = WhiteningConfig(dimension=dimension, power=power)
    rows = run_comparison(
        load_data_set(data), holidays, work, out, budget=Budget(whitening=whitening),
        configs=configs or (), only=only or (), weights=weights, device=choose_device(device),
    )  # fmt: skip
    console.print(f"{len(rows):,} rows → {out}", highlight=False)


@app.command(epilog="Example: landmarks describe vgg16 --size 224")
def describe(
    network: Annotated[
        str, typer.Argument(help="A torchvision classification network, or timm/NAME.")
    ],
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the photograph; by default its own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Print a network layer by layer: outputs, activations, parameters, multiply-adds."""
    from pipelines.describe import table_lines
    from retrieval.extractors.layer_table import layer_table

    table = layer_table(network, size)
    if as_json:
        typer.echo(json.dumps(table.as_dict(), indent=2))
        return
    for line in table_lines(table):
        typer.echo(line)


@app.command(epilog="Example: landmarks doctor")
def doctor() -> None:
    """Check what breaks installations in this field, a line and a remedy each."""
    from pipelines.doctor import render, run_checks

    checks = run_checks()
    console.print(render(checks))
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


@protocol_app.command(
    "revisited",
    epilog="Example: landmarks protocol revisited --truth gnd_roxford5k.pkl --photos oxford",
)
def protocol_revisited(
    truth: Annotated[Path, typer.Option(help="gnd_roxford5k.pkl, gnd_rparis6k.pkl, or as JSON.")],
    photos: Annotated[Path, typer.Option(help="Folder of their photographs, NAME.jpg.")],
    run: Run = DEMO_RUN,
    out: ProtocolOut = None,
    device: Device = "auto",
    weights: Weights = None,
) -> None:
    """Revisited Oxford or Paris: easy, medium and hard. A killed command goes on."""
    from pipelines.protocol import figures_table, measure_revisited
    from retrieval.system import System

    target = out or run / "protocols" / truth.stem
    system = System.load(run, device, weights)
    console.print(figures_table(measure_revisited(system, truth, photos, target)))
    console.print(f"figures: {target / 'figures.json'}", highlight=False)


@protocol_app.command(
    "holidays", epilog="Example: landmarks protocol holidays --photos holidays --run mine"
)
def protocol_holidays(
    photos: Annotated[Path, typer.Option(help="Folder of the photographs, NNNNNN.jpg.")],
    run: Run = DEMO_RUN,
    out: ProtocolOut = None,
    device: Device = "auto",
    weights: Weights = None,
) -> None:
    """INRIA Holidays, or a part of it. A killed command goes on."""
    from pipelines.protocol import figures_table, measure_holidays
    from retrieval.system import System

    target = out or run / "protocols" / "holidays"
    system = System.load(run, device, weights)
    console.print(figures_table(measure_holidays(system, photos, target)))
    console.print(f"figures: {target / 'figures.json'}", highlight=False)


@data_app.command("demo", epilog="Example: landmarks data demo --out data/demo --seed 1")
def data_demo(
    out: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path("data/demo"),
    seed: Annotated[int, typer.Option(help="Another seed, another world.")] = 0,
) -> None:
    """Render the demo's photographs: made-up landmarks, and scenes without one."""
    from pipelines.demo import make_photographs

    make_photographs(out, seed)


@data_app.command("bank", epilog="Example: landmarks data bank --out photos --count 80")
def data_bank(
    out: Annotated[
        Path, typer.Option(help="Folder; a data folder without photographs of none may be given.")
    ],
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Photographs.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other photographs.")] = 0,
) -> None:
    """Render photographs of no landmark, for those who have none: country, streets, rooms, objects.

    They lie in OUT/none, and OUT/none.csv lists them: for a data folder as its bank, or for a run:
    landmarks add OUT/none.csv --bank. Real photographs are worth far more: do without
    these where you have some.
    """
    from pipelines.bank import make_bank

    with progress_bar("rendering", count) as progress:
        summary = make_bank(out, count=count, seed=seed, progress=progress)
    console.print(str(summary), highlight=False)


@data_app.command("check", epilog="Example: landmarks data check photos")
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
    from pipelines.checking import check_data_set

    with ExitStack() as stack:
        found = check_data_set(
            data, quick=quick, tell_all=tell_all,
            progress=lambda total: stack.enter_context(progress_bar("opening", total)),
        )  # fmt: skip
    for line in found.lines:
        typer.echo(line)
    if not found.usable:
        raise TableError(f"{data}: none of its photographs can be opened, so nothing can be built")


@data_app.command("fetch", epilog="Example: landmarks data fetch index.csv --out data/fetched")
def data_fetch(
    csv: Annotated[Path, typer.Argument(help="Landmarks CSV: id,url,landmark_id.")],
    out: Annotated[Path | None, typer.Option(help="Data folder; by default the CSV's own.")] = None,
    url_column: UrlColumn = None,
    id_column: IdColumn = None,
    allow_private: AllowPrivate = False,
    user_agent: UserAgent = _FETCH.user_agent,
    header: Headers = None,
    concurrency: Concurrency = _FETCH.concurrency,
    per_host: PerHost = _FETCH.per_host,
    seconds: Seconds = _FETCH.total_seconds,
    retry_failed: RetryFailed = False,
    restart: Restart = False,
) -> None:
    """Download a landmarks CSV's own URLs into photos/a/b/c/ID.jpg. A killed run goes on."""
    from pipelines.data import fetch_photographs
    from pipelines.rows import read_rows

    fetch = _fetch_config(
        allow_private=allow_private,
        user_agent=user_agent,
        headers=_headers(header or []),
        concurrency=concurrency,
        per_host=per_host,
        total_seconds=seconds,
    )
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
    console.print(str(summary), highlight=False)


@data_app.command("gldv2", epilog="Example: landmarks data gldv2 --split index --shards 0-3")
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
    from pipelines.data import GLDV2, download_gldv2

    with progress_bar("downloading", None) as progress:
        summary = download_gldv2(
            split, shards, out, base_url=base_url or GLDV2, keep_archives=keep_archives,
            fetch=_fetch_config(allow_private=allow_private), progress=progress,
        )  # fmt: skip
    console.print(str(summary), highlight=False)


def _fetch_config(**values: Any) -> FetchConfig:
    """The limits of downloads that the command line gave, checked.

    Raises:
        ConfigError: naming the option.
    """
    from pydantic import ValidationError

    # A photograph as large as is allowed has to fit into what may be in flight.
    in_flight = max(_FETCH.bytes_in_flight, values.get("max_bytes", 0))
    try:
        return FetchConfig(**values, bytes_in_flight=in_flight)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        option = {"headers": "header", "total_seconds": "seconds"}.get(name, name.replace("_", "-"))
        # What FetchConfig itself says of a value, or else pydantic.
        reason = first.get("ctx", {}).get("error") or f"{first['msg']}, found {first['input']}"
        raise ConfigError(f"--{option}: {reason}") from None


def _headers(given: list[str]) -> dict[str, str]:
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
    from pipelines.classify import Form
    from pipelines.formats import CSV, format_of

    target = out or Path("predictions.csv").with_suffix(f".{given or CSV}")
    if str(target) == "-":
        raise ConfigError("--out -: give a file, from which a killed run can go on")
    found = format_of(target, given)
    if guard and found != CSV:
        raise ConfigError(f"--guard: is for CSVs, which spreadsheets open, and not for {found}")
    return target, Form(found, top, guard=guard)


def _say_summary(summary: ClassifySummary) -> None:
    console.print(str(summary), highlight=False)
    for line in summary.why():
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def _say_notes(notes: Sequence[str]) -> None:
    for line in notes:
        console.print(line, highlight=False, soft_wrap=True)


def _test_csv(record: Any, test: Path | None, data: Path | None) -> Path:
    if test is not None:
        return test
    from retrieval.photographs.folders import find_test

    folder = data or Path(record["data"])
    path = folder / "test.csv"
    if not path.exists() and folder.is_dir():
        path = find_test(folder) or path
    if not path.exists():
        raise TableError(
            f"{path}: no such file; say what to measure: --test FILE.csv, or --test FOLDER with a"
            " folder for each landmark"
        )
    return path


def _say_built(run: Path, record: dict[str, Any]) -> None:
    from retrieval.classifiers.rejection import Rejection

    table = Table.grid(padding=(0, 2))
    for what, value in (
        ("run", str(run)),
        ("gallery", f"{record['gallery']:,} photographs of {record['landmarks']:,} landmarks"),
        ("bank", f"{record['bank']:,} photographs of none"),
        ("failed", f"{record['failed']:,} photographs"),
        *_lost(record.get("lost", [])),
        ("descriptor", f"{record['dimension']} numbers"),
        ("answers by", record["answer"]),
        ("seconds", json.dumps(record["timings"]).strip("{}").replace('"', "")),
    ):
        table.add_row(what, value)
    console.print(table, highlight=False)
    _say_notes(Rejection.load(run / "classifiers" / record["answer"]).notes)


def _lost(landmarks: list[str]) -> list[tuple[str, str]]:
    """A line on the landmarks all of whose photographs failed: nothing is answered by those."""
    if not landmarks:
        return []
    from retrieval.photographs.folders import listed

    return [("landmarks lost", f"all photographs failed: {listed(landmarks, 20)}")]


def _agreed(held: str) -> bool:
    """Whether somebody at the terminal agrees that what a run holds is taken away."""
    return sys.stdin.isatty() and typer.confirm(f"{held}. Replace it?", err=True)


def _mistake(error: Exception) -> str | None:
    """What to tell whoever made a mistake; ``None`` for a bug.

    A file that cannot be read or written, a full disk, and a GPU that gives out are the user's to
    mend.
    """
    if isinstance(error, LandmarksError):
        return str(error)
    if not isinstance(error, OSError):
        from retrieval.devices import gpu_mistake

        return gpu_mistake(error)
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    from retrieval.index.store import FULL

    return f"{error.strerror}: {FULL[error.errno]}" if error.errno in FULL else None


def main() -> None:
    """Run the command; a user's mistake is one line and exit code 2, a bug a traceback."""
    try:
        app(standalone_mode=True)
    except (LandmarksError, OSError, RuntimeError) as error:
        message = _mistake(error)
        if "--debug" in sys.argv or message is None:
            raise
        console.print(f"landmarks: {message}", style="red", highlight=False, soft_wrap=True)
        sys.exit(LandmarksError.exit_code)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # which typer makes of Ctrl-C
            console.print(
                "landmarks: stopped; the same command goes on where it was", style="yellow"
            )
        raise
