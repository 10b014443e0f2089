"""What this machine has, and what systems and networks there are."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from pipelines.cli.options import Device, Weights
from pipelines.progress import console, say

if TYPE_CHECKING:
    from pipelines.building.planning import Plan

PANEL: Final = "Machine and systems"

app = typer.Typer()
command = partial(app.command, rich_help_panel=PANEL)

Network = Annotated[str, typer.Argument(help="A torchvision classification network, or timm/NAME.")]
Side = Annotated[
    int | None, typer.Option(min=1, help="Side of the photograph; by default its own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="The same as JSON.")]


@command(epilog="Example: landmarks doctor")
def doctor() -> None:
    """Check what breaks installations in this field, a line and a remedy each."""
    from pipelines.doctor import render, run_checks

    checks = run_checks()
    console.print(render(checks))
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


@command(epilog="Example: landmarks config hog --set whitening.dimension=64 > mine.yaml")
def config(
    name: Annotated[str | None, typer.Argument(help="A system; without it, the list.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a key.")] = None,
) -> None:
    """List the shipped systems, or print one with every default filled in.

    The list has what each was measured to do (docs/measuring.md): top-1 and GAP
    on landmarks52, milliseconds and bytes a photograph; and whether it needs
    weights.
    """
    from pipelines.config import dump_config, load_config

    if name is not None:
        typer.echo(dump_config(load_config(name, settings or ())), nl=False)
        return
    from pipelines.building.listing import list_lines

    for line in list_lines():
        typer.echo(line)


@command(epilog="Example: landmarks layers vgg16 --size 224")
def layers(
    network: Network,
    size: Side = None,
    as_json: AsJson = False,
) -> None:
    """Print a network layer by layer: outputs, activations, parameters, multiply-adds."""
    from pipelines.layers import table_lines
    from retrieval.networks.layer_table import layer_table

    table = layer_table(network, size)
    if as_json:
        typer.echo(json.dumps(table.as_dict(), indent=2))
        return
    for line in table_lines(table):
        typer.echo(line)


@command(epilog="Example: landmarks plan photos --memory 16GB --time 2h --write mine.yaml")
def plan(
    data: Annotated[
        Path | None, typer.Argument(help="A data folder; without it, --photographs, --landmarks.")
    ] = None,
    photographs: Annotated[
        int | None, typer.Option(min=1, max=10**10, help="Photographs of landmarks.")
    ] = None,
    landmarks: Annotated[int | None, typer.Option(min=1, help="Landmarks.")] = None,
    bank: Annotated[
        int | None, typer.Option(min=0, help="Photographs of none; by default a tenth as many.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="A system, or a YAML file; by default the best that fits.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="What may be used: 16GB.")] = None,
    disk: Annotated[str | None, typer.Option(help="Likewise: 500GB.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Likewise.")] = None,
    gpu: Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="Likewise.")] = None,
    time: Annotated[str | None, typer.Option(help="What a build may take: 90s, 30m, 2h.")] = None,
    gap: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="GAP wanted, on landmarks52: the quickest with it."),
    ] = None,
    run: Annotated[Path, typer.Option("--run", help="Where it will be built.")] = Path("data/runs"),
    write: Annotated[
        Path | None, typer.Option(help="Write the config, for landmarks index --config.")
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the system.")
    ] = None,
) -> None:
    """Say which system fits, what a build of it takes, and what to give up where it does not.

    Photographs are described for a few seconds to see how long that takes here;
    the rest is worked out from measured costs. Nothing is built. What is not
    said of memory, disk, cores and GPU is as this machine has it. Exit code 1
    where nothing fits.
    """
    from pipelines.building.planning import Wishes, plan_of
    from pipelines.building.wishes import bytes_of, require_writable, seconds_of, write_config
    from retrieval.devices import choose_device

    require_writable(write)
    found = plan_of(
        data,
        Wishes(
            photographs, landmarks, bank, config, tuple(settings or ()), weights,
            choose_device(device), gpu, cores, bytes_of("memory", memory), bytes_of("disk", disk),
            seconds_of("time", time), gap, run,
        ),
    )  # fmt: skip
    _tell_plan(found)
    if write is not None:
        write_config(found, write)
        share = f" --subset {found.share:g}" if found.share < 1 else ""
        say(f"landmarks index --config {write} --data {data or 'DATA'}{share}")
    if found.lacks:
        raise typer.Exit(1)


def _tell_plan(found: Plan) -> None:
    """Tables of the system and of what its stages take, and what is given up or lacks."""
    from pipelines.building.costs import factory_of, measured_costs
    from pipelines.building.planning import size
    from pipelines.building.proposal import spoken
    from pipelines.cli.building import STAGES
    from retrieval.index.faiss_factory import IndexConfig

    system, work = found.option.config, found.option.work
    told = factory_of(system, work) or "a Milvus server"
    if isinstance(system.index, IndexConfig) and "IVF" in told:
        rows, recall = measured_costs().recall_of(work.gallery, system.index.nprobe)
        finds = f"; of {rows:,} rows it found {recall:.3f} of the ten nearest" if recall else ""
        shards = f", {system.index.shard:,} rows a shard" if system.index.shard else ""
        told += f", nprobe {system.index.nprobe}{shards}{finds if 'SQ8' in told else ''}"
    gap = "not measured" if found.option.gap is None else f"{found.option.gap:.3f}"
    grid = Table.grid(padding=(0, 2))
    for what, value in (
        ("system", f"{system.name}, GAP {gap} on landmarks52"),
        ("photographs", f"{work.gallery:,} of {work.landmarks:,} landmarks, {work.bank:,} of none"),
        ("index", told),
        ("a photograph", f"{size(found.stored)} stored, {work.milliseconds:.1f} ms"),
        ("classifiers", ", ".join(one.kind for one in system.classifiers.values())),
    ):
        grid.add_row(what, value)
    stages = Table(box=None, padding=(0, 2), pad_edge=False)
    for heading in ("stage", "time", "memory", "disk"):
        stages.add_column(heading)
    for one in found.stages:
        stages.add_row(STAGES[one.name], spoken(one.seconds), size(one.memory), size(one.disk))
    stages.add_row("in all", spoken(found.seconds), size(found.memory), size(found.disk))
    console.print(grid, "", stages, highlight=False)
    for line in found.given_up:
        say(f"given up: {line}")
    for line in found.lacks:
        say(f"does not fit: {line}", style="red")
    say(*found.notes)
