"""Explain answers, and what networks have learnt."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from pipelines.cli.answering import PANEL
from pipelines.cli.options import DEMO_RUN, Device, Run, Weights
from pipelines.progress import console, say
from retrieval.errors import ConfigError

app = typer.Typer()
RENDERED: Final = Path("data/concepts")
"""Where concepts are rendered to that nobody has photographs of."""
command = partial(app.command, rich_help_panel=PANEL)


@command(epilog="Example: landmarks explain photo.jpg --run mine --out why.html")
def explain(
    photograph: Annotated[
        str | None, typer.Argument(help="A photograph's file.", show_default=False)
    ] = None,
    run: Run = DEMO_RUN,
    against: Annotated[
        str | None,
        typer.Option(
            help="Id of the gallery photograph to compare with; by default the best candidate's"
            " most similar one."
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="shares, gradient, gradient-input, integrated, smooth, occlusion, grad-cam, guided"
            " or guided-grad-cam."
        ),
    ] = "shares",
    target: Annotated[
        str,
        typer.Option(help="What a method but shares explains: similarity, margin or class."),
    ] = "similarity",
    out: Annotated[
        Path, typer.Option(help="A page, or a picture: a name in .html or .png.")
    ] = Path("why.html"),
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Instead: measure on a few gallery photographs which methods can be trusted.",
        ),
    ] = False,
    device: Device = "auto",
    weights: Weights = None,
) -> None:
    """Tell why a photograph is answered as it is: a page, or a picture.

    The similarity to a gallery photograph is split over the places of both, the
    vote over neighbours, an SVM's margin over places. It also tells what would
    have had to differ for another verdict. With --check every method is measured
    on the run's networks: those that fail are marked on the page from then on.
    """
    from pipelines.measuring.explaining import check_methods, checks_table
    from pipelines.report.forms import require_form
    from pipelines.report.why import write
    from retrieval.system import System

    if check:
        if photograph is not None:
            raise ConfigError("--check takes no photograph: it draws some of the gallery")
        found, path = check_methods(System.load(run, device, weights), target)
        console.print(checks_table(found))
        say(f"→ {path}")
        return
    if photograph is None:
        raise ConfigError("give a photograph that is to be explained, or --check")
    require_form(out)
    system = System.load(run, device, weights)
    explained = system.explain(photograph, against, method, target)
    write(explained, system.config.name, out)
    say(f"{explained.sentence} → {out}")


@command(epilog="Example: landmarks concepts --run mine --concepts photos-of-concepts")
def concepts(
    run: Run = DEMO_RUN,
    concepts: Annotated[
        Path,
        typer.Option(
            help="A folder with a folder of photographs for each concept, and one named random of"
            " nothing in particular (without it the gallery's stand for that)."
        ),
    ] = RENDERED,
    layer: Annotated[
        str | None,
        typer.Option(help="Layer of the network, by the name of its module; by default the last."),
    ] = None,
    landmark: Annotated[
        list[str] | None,
        typer.Option(help="Id of a landmark (repeatable); by default those with most photographs."),
    ] = None,
    target: Annotated[
        str, typer.Option(help="What of a landmark is looked at: similarity, margin or class.")
    ] = "similarity",
    seed: Annotated[int, typer.Option(min=0, help="Of the random sets that are drawn.")] = 0,
    device: Device = "auto",
    weights: Weights = None,
) -> None:
    """Tell which concepts a run's network knows, and which landmarks depend on them (TCAV).

    A score is the share of a landmark's photographs that come nearer to it as
    the concept grows. Scores that chance explains are struck out. Without
    --concepts a few are rendered into data/concepts. The report of an evaluation
    tells from then on what in false accepts the evidence lies on.
    """
    from pipelines.measuring.explaining import concepts_table, measure_concepts
    from retrieval.system import System

    system = System.load(run, device, weights)
    if concepts == RENDERED:
        from pipelines.cli.data import rendered_concepts

        rendered_concepts(concepts, seed=0)
    found, path = measure_concepts(
        system, concepts, layer=layer, target=target, landmarks=landmark or (), seed=seed
    )
    console.print(concepts_table(found))
    say(f"→ {path}")


@command(epilog="Example: landmarks visualise --run mine --out learnt.html")
def visualise(
    run: Run = DEMO_RUN,
    out: Annotated[
        Path, typer.Option(help="A page, or a picture: a name in .html or .png.")
    ] = Path("learnt.html"),
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Layer (repeatable); by default five from the first to the last."),
    ] = None,
    channels: Annotated[int, typer.Option(min=1, max=64, help="Channels of each layer.")] = 3,
    neurons: Annotated[
        bool, typer.Option("--neurons", help="For the middle neuron of each channel alone.")
    ] = False,
    landmark: Annotated[
        list[str] | None,
        typer.Option(help="Id of a landmark (repeatable); by default the three largest."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures' beginnings.")] = 0,
    device: Device = "auto",
    weights: Weights = None,
) -> None:
    """Draw what a run's network has learnt to see: a sheet, from early layers to landmarks.

    Pictures that channels, landmarks and a head's classes answer to the most
    (feature visualisation), and beside a channel's the patches of gallery
    photographs that it answers to the most.
    """
    from pipelines.measuring.explaining import draw_learnt
    from pipelines.report.forms import require_form
    from pipelines.report.learnt import write
    from retrieval.system import System

    require_form(out)
    system = System.load(run, device, weights)
    rows = draw_learnt(system, layer or (), channels, landmark or (), neurons=neurons, seed=seed)
    write(rows, system.config.name, out)
    say(f"{sum(len(row.pictures) for row in rows)} pictures → {out}")
