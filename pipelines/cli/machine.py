"""What this machine has, and what systems and networks there are."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Final

import typer

from pipelines.progress import console

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
