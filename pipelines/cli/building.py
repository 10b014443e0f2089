"""Build a run, and change the photographs in it."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from pipelines.cli.options import (
    DEMO_RUN,
    Device,
    GalleryTable,
    MaxFalseAccepts,
    Replace,
    Run,
    TargetPrecision,
    Weights,
    Workers,
)
from pipelines.progress import console, say

DEMO_CONFIG: Final = "classical-global"
LEARNER: Final = "vgg_small"
"""The network that the demo trains from nothing."""

PANEL: Final = "Build a run"
STAGES: Final = {
    "quantised": "quantising",
    "describe": "describing",
    "describer": "learning codebook and whitening",
    "index": "indexing",
    "classifiers": "fitting classifiers",
}
"""Stages of a build, in the words that are told of how long each took."""

Data = Annotated[
    Path, typer.Option(help="A data folder (index.csv, none.csv), or a folder per landmark.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key: whitening.dimension=128 (repeatable)."),
]
Subset = Annotated[
    float | None, typer.Option(help="Share of every landmark's photographs, such as 0.1.")
]

app = typer.Typer()
command = partial(app.command, rich_help_panel=PANEL)


@command(epilog="Example: landmarks demo --data data/demo --run data/runs/demo")
def demo(
    folder: Annotated[Path, typer.Option("--data", help="Where the photographs go.")] = Path(
        "data/demo"
    ),
    run: Run = DEMO_RUN,
    config: Annotated[str, typer.Option(help="Name of the system.")] = DEMO_CONFIG,
    device: Device = "auto",
    weights: Weights = None,
    replace: Replace = False,
    train: Annotated[
        bool, typer.Option("--train", help="Train a network from nothing too, and compare both.")
    ] = False,
) -> None:
    """Render made-up landmarks; index, evaluate and classify them."""
    from pipelines.config import load_config
    from pipelines.demo.stages import run_demo
    from retrieval.devices import choose_device

    run_demo(
        load_config(config).with_weights(weights), load_config(LEARNER) if train else None, folder,
        run, choose_device(device), console, replace, _agreed,
    )  # fmt: skip


@command(epilog="Example: landmarks index --data photos --run data/runs/mine")
def index(
    config: Annotated[
        str | None,
        typer.Option(
            help="A system by name (see `landmarks config`), or a YAML file; by default the run's"
            " own, or else the best that this machine can run."
        ),
    ] = None,
    data: Data = Path("data/demo"),
    gallery: GalleryTable = None,
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
    settings: Settings = None,
    subset: Subset = None,
    workers: Workers = None,
    replace: Replace = False,
) -> None:
    """Describe gallery and bank, index them, fit the classifiers. A killed run goes on."""
    from pipelines.building.index import build_run
    from pipelines.building.planning import check_room
    from pipelines.building.replacing import begin_build
    from pipelines.building.shipped import settle_system
    from pipelines.building.subset import subset_of
    from pipelines.config import RENAMED, load_config
    from retrieval.classifiers.promise import promise_of
    from retrieval.devices import choose_device
    from retrieval.photographs.table import bank_origins, load_data_set, photographs_each
    from retrieval.ray_pool import reach

    asked = {"target_precision": target_precision, "max_false_accepts": max_false_accepts}
    points = [f"rejection.{key}={value}" for key, value in asked.items() if value is not None]
    overrides = [*points, *(settings or ())]
    named = None if config is None else load_config(config, overrides).with_weights(weights)
    # A run whose system is not named has its data's name, so that the next call finds it.
    name = Path(os.path.abspath(data)).name if named is None else named.name
    if config in RENAMED:  # and one whose system was renamed keeps its folder
        name = config
    folder = run or Path("data/runs") / name
    photographs, on = load_data_set(data, gallery), choose_device(device)
    system = named or settle_system(photographs, folder, overrides, weights, on)
    photographs = subset_of(photographs, subset, system.seed)
    check_room(system, photographs, folder)
    if workers is not None:
        reach(workers)
    begin_build(folder, system, photographs, gallery, on, replace, _agreed)
    record = build_run(system, photographs, folder, on, workers)
    _say_built(folder, record)
    each = photographs_each(photographs.gallery)
    say(promise_of(record["bank"], bank_origins(photographs), each))


@command(epilog="Example: landmarks describe photos --part 3/16 --run data/runs/mine")
def describe(
    data: Annotated[Path, typer.Argument(help="A data folder, or a folder per landmark.")],
    part: Annotated[str, typer.Option(help="Which part of how many: 3/16.")],
    run: Annotated[Path, typer.Option("--run", help="Folder of the run, that of all parts.")],
    config: Annotated[
        str | None, typer.Option(help="A system, or a YAML file; as of `landmarks index`.")
    ] = None,
    gallery: GalleryTable = None,
    device: Device = "auto",
    weights: Weights = None,
    settings: Settings = None,
    subset: Subset = None,
    replace: Replace = False,
) -> None:
    """Describe a part of gallery and bank, on this machine; `landmarks index` takes all parts.

    The part that comes first learns codebook and whitening, and the others wait
    for it. A killed part goes on.
    """
    from pipelines.building.index import describe_part
    from pipelines.building.replacing import begin_build
    from pipelines.building.shipped import settle_system
    from pipelines.building.subset import subset_of
    from pipelines.config import load_config
    from retrieval.devices import choose_device
    from retrieval.parts import BuildPart
    from retrieval.photographs.table import load_data_set

    one, overrides = BuildPart.parse(part), settings or []
    photographs, on = load_data_set(data, gallery), choose_device(device)
    named = None if config is None else load_config(config, overrides).with_weights(weights)
    system = named or settle_system(photographs, run, overrides, weights, on)
    photographs = subset_of(photographs, subset, system.seed)
    begin_build(run, system, photographs, gallery, on, replace, _agreed, part=True)
    store = describe_part(system, photographs, run, one, on)
    say(
        f"{run}: all of it is described already, nothing to do"
        if store is None
        else f"{run}: part {one} is described, {store.rows:,} photographs, {store.failed:,} failed;"
        f" landmarks index --data {data} --run {run} takes all parts, once they are there"
    )


@command(epilog="Example: landmarks train mobilenet_v2-arcface --data photos --run mine")
def train(
    config: Annotated[str, typer.Argument(help="A system with a section training.")],
    data: Annotated[Path, typer.Option(help="A data folder, or a folder per landmark.")] = Path(
        "data/demo"
    ),
    gallery: GalleryTable = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default data/runs/NAME.")
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="First learn ten photographs by heart, or stop.")
    ] = False,
    subset: Subset = None,
    search: Annotated[
        int, typer.Option(min=0, help="Trials of the hyperparameters that training.search names.")
    ] = 0,
    replace: Replace = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: training.epochs=5 (repeatable)."),
    ] = None,
) -> None:
    """Fit a network to gallery and bank, into RUN/training. A killed training goes on."""
    from pipelines.building.replacing import begin_build
    from pipelines.building.train import train_run, trainings_table
    from pipelines.config import load_config
    from retrieval.devices import choose_device
    from retrieval.photographs.table import load_data_set

    system = load_config(config, settings or ()).with_weights(weights)
    folder = run or Path("data/runs") / system.name
    photographs, on = load_data_set(data, gallery), choose_device(device)
    # Of torchrun's processes the first alone; what cannot be trained is refused below.
    if system.training is not None and os.environ.get("RANK", "0") == "0":
        begin_build(folder, system, photographs, gallery, on, replace, _agreed)
    folders = train_run(system, photographs, folder, on, sanity, subset, search)
    if folders:
        console.print(trainings_table(folders))


@command(epilog="Example: landmarks trainings mine other")
def trainings(
    folders: Annotated[list[Path], typer.Argument(help="Runs, or folders of trainings.")],
) -> None:
    """Compare trainings: what they came to, and the hyperparameters in which they differ."""
    from pipelines.building.train import trainings_table

    console.print(trainings_table(folders))


@command(
    epilog="Example: landmarks attention resnet50-delf --out attention.safetensors --data photos"
)
def attention(
    config: Annotated[str, typer.Argument(help="A system with a delf detector, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="The file: what detector.attention names then.")],
    data: Annotated[Path, typer.Option(help="A data folder: its gallery teaches.")] = Path(
        "data/demo"
    ),
    gallery: GalleryTable = None,
    device: Device = "auto",
    weights: Weights = None,
    epochs: Annotated[int, typer.Option(min=1, help="How often each photograph teaches.")] = 20,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the system.")
    ] = None,
) -> None:
    """Learn where DELF is to look, by the landmarks of a gallery."""
    from pipelines.building.attention import learn_attention
    from pipelines.config import load_config
    from retrieval.devices import choose_device
    from retrieval.photographs.table import load_data_set
    from retrieval.training.attention import AttentionConfig

    system = load_config(config, settings or ()).with_weights(weights)
    notes = learn_attention(
        system, AttentionConfig(epochs=epochs), load_data_set(data, gallery), out,
        choose_device(device),
    )  # fmt: skip
    say(
        f"{out}: learnt on {notes['photographs']:,} photographs of {notes['landmarks']:,}"
        f" landmarks; {notes['accuracy']:.3f} of {notes['held_out']:,} held out told right"
    )


@command(epilog="Example: landmarks add more.csv --run data/runs/mine")
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

    What was taken out before may come back. A folder's photographs are named by
    their paths in it; where the run holds such ids already, for other
    photographs, the folder's name goes before them. With --bank its folders mean
    nothing.
    """
    from pipelines.building.gallery_changes import known_origins, known_photographs
    from pipelines.building.index import add_photographs
    from retrieval.classifiers.promise import promise_of
    from retrieval.devices import choose_device
    from retrieval.photographs.table import (
        BANK,
        photographs_each,
        read_bank,
        read_table,
        table_in,
    )

    photographs = read_bank(table) if bank else read_table(table)
    folder = table if table.is_dir() else None
    record = add_photographs(run, photographs, choose_device(device), weights, folder)
    _say_built(run, record)
    known = known_photographs(run)
    origins = known_origins(known, (table_in(Path(record["data"]), BANK), table))
    say(promise_of(record["bank"], origins, photographs_each(known.present)))


@command(epilog="Example: landmarks remove --landmark 'Old Bridge' --run data/runs/mine")
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
    from pipelines.building.gallery_changes import chosen_ids, known_photographs
    from pipelines.building.index import remove_photographs
    from retrieval.devices import choose_device

    known = known_photographs(run)
    ids = chosen_ids(known, run, photographs or (), landmarks or ())
    _say_built(run, remove_photographs(run, ids, choose_device(device)))


@command("list", epilog="Example: landmarks list --landmark 'Old Bridge' --run data/runs/mine")
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
    from pipelines.building.gallery_changes import (
        known_photographs,
        landmark_rows,
        photograph_rows,
        summary,
    )

    known = known_photographs(run)
    named = photographs or landmarks
    rows = photograph_rows(known, landmarks or ()) if named else landmark_rows(known)
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
    sys.stdout.flush()
    say(f"{run}: {summary(known)}")


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
        *_since(record),
        ("stages took", f"{_seconds(record['timings'])} seconds, when last made"),
    ):
        table.add_row(what, value)
    console.print(table, highlight=False)
    say(*Rejection.load(run / "classifiers" / record["answer"]).notes)


def _since(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line on what came and went since the classifiers were fitted, where they were kept."""
    from retrieval.changes import SINCE, SinceFitted

    if SINCE not in record:
        return []
    return [("kept", f"classifiers and thresholds: {SinceFitted.of(record)}")]


def _seconds(timings: Mapping[str, float]) -> str:
    """How long each stage took."""
    told = {words: timings[one] for one, words in STAGES.items() if one in timings}
    return ", ".join(f"{words} {seconds:.1f}" for words, seconds in told.items())


def _lost(landmarks: list[str]) -> list[tuple[str, str]]:
    """A line on the landmarks all of whose photographs failed: nothing is answered by those."""
    if not landmarks:
        return []
    from retrieval.photographs.folders import first_few

    return [("landmarks lost", f"all photographs failed: {first_few(landmarks, 20)}")]


def _agreed(held: str) -> bool:
    """Whether somebody at the terminal agrees that what a run holds is taken away."""
    return sys.stdin.isatty() and typer.confirm(f"{held}. Replace it?", err=True)
