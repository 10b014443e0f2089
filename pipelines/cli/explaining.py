"""Explain one answer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.answering import PANEL
from pipelines.cli.options import DEMO_RUN, Device, Run, Weights
from pipelines.progress import say

app = typer.Typer()
command = partial(app.command, rich_help_panel=PANEL)


@command(epilog="Example: landmarks explain photo.jpg --run mine --out why.html")
def explain(
    photograph: Annotated[str, typer.Argument(help="A photograph's file.")],
    run: Run = DEMO_RUN,
    against: Annotated[
        str | None,
        typer.Option(
            help="Id of a gallery photograph that it is held against; by default the best"
            " candidate's most similar one."
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
    device: Device = "auto",
    weights: Weights = None,
) -> None:
    """Tell why a photograph is answered as it is: a page, or a picture.

    The similarity to a gallery photograph is split over the places of both, the
    vote over neighbours, an SVM's margin over places; and what would have had to
    differ for another verdict is told.
    """
    from pipelines.report.why import require_form, write
    from retrieval.system import System

    require_form(out)
    system = System.load(run, device, weights)
    explained = system.explain(photograph, against, method, target)
    write(explained, system.config.name, out)
    say(f"{explained.sentence} → {out}")
