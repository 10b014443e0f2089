"""Measure runs and systems on labelled photographs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pipelines.cli.options import DEMO_RUN, Device, ProtocolOut, Run, Test, Weights, Workers
from pipelines.progress import console, say
from retrieval.errors import ConfigError, TableError, WriteError

PANEL: Final = "Measure"

app = typer.Typer()
command = partial(app.command, rich_help_panel=PANEL)
protocol_app = typer.Typer(
    no_args_is_help=True,
    help="Measure a run on published benchmarks.",
    epilog="Example: landmarks protocol holidays --photos holidays --run mine",
)


@command(epilog="Example: landmarks evaluate --run mine --run other --data photos")
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
    workers: Workers = None,
) -> None:
    """Measure runs on labelled photographs: figures, predictions, submission and report."""
    from pipelines.measuring.evaluate import evaluate_run, evaluate_runs
    from pipelines.measuring.written import figures_table
    from retrieval.ray_pool import reach
    from retrieval.system import System

    if workers is not None:
        reach(workers)
    folders = runs or [DEMO_RUN]
    systems = {folder.resolve().name: System.load(folder, device, weights) for folder in folders}
    if len(systems) < len(folders):
        raise ConfigError("two of the runs have one name: each needs a folder name of its own")
    first = next(iter(systems.values()))
    csv = _test_csv(first.record, test, data)
    alone = len(folders) == 1
    target = out or (folders[0] / "evaluation" if alone else Path("data/evaluation"))
    try:
        figures = (
            evaluate_run(first, csv, target, share, workers)
            if alone
            else evaluate_runs(systems, csv, target, share, workers)
        )
    except WriteError as error:
        raise WriteError(f"{error}; --out puts the figures elsewhere") from None
    console.print(figures_table(figures))
    say(f"report: {target / 'report.html'}")


@command(epilog="Example: landmarks compare --data photos --holidays holidays --out comparison.md")
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
        Path, typer.Option(help="Folder of the features: many GB, reused by the next call.")
    ] = Path("data/comparison"),
    dimension: Annotated[int, typer.Option(min=1, help="Numbers of a whitened descriptor.")] = 128,
    power: Annotated[
        float, typer.Option(min=-1.0, max=0.0, help="Of the whitening's eigenvalues.")
    ] = -0.4,
    device: Device = "auto",
) -> None:
    """Measure every extractor with every aggregation: one table. A killed run goes on."""
    from pipelines.studies.compare import run_comparison
    from pipelines.studies.methods import Budget
    from retrieval.devices import choose_device
    from retrieval.photographs.table import load_data_set
    from retrieval.vectors.whitening import WhiteningConfig

    whitening = WhiteningConfig(dimension=dimension, power=power)
    rows = run_comparison(
        load_data_set(data), holidays, work, out, budget=Budget(whitening=whitening),
        configs=configs or (), only=only or (), weights=weights, device=choose_device(device),
    )  # fmt: skip
    say(f"{len(rows):,} rows → {out}")


@command(epilog="Example: landmarks ablate --run mine --test photos/test.csv")
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
    from pipelines.studies.ablate import ablate_run
    from retrieval.system import System

    system = System.load(run, device, weights)
    target = out or run / "ablation.md"
    rows = ablate_run(system, _test_csv(system.record, test, None), target)
    say(f"{sum(map(len, rows.values())):,} rows → {target}")


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
    from pipelines.studies.protocol import measure_revisited, protocol_table
    from retrieval.system import System

    target = out or run / "protocols" / truth.stem
    system = System.load(run, device, weights)
    console.print(protocol_table(measure_revisited(system, truth, photos, target)))
    say(f"figures: {target / 'figures.json'}")


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
    from pipelines.studies.protocol import measure_holidays, protocol_table
    from retrieval.system import System

    target = out or run / "protocols" / "holidays"
    system = System.load(run, device, weights)
    console.print(protocol_table(measure_holidays(system, photos, target)))
    say(f"figures: {target / 'figures.json'}")


def _test_csv(record: Any, test: Path | None, data: Path | None) -> Path:
    if test is not None:
        return test
    from retrieval.photographs.folders import find_test
    from retrieval.photographs.table import TEST, table_in

    folder = data or Path(record["data"])
    path = table_in(folder, TEST)
    if not path.exists() and folder.is_dir():
        path = find_test(folder) or path
    if not path.exists():
        raise TableError(
            f"{path}: no such file; say what to measure: --test FILE.csv, or --test FOLDER with a"
            " folder for each landmark"
        )
    return path
