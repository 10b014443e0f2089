"""What is measured of a run's explanations: which methods can be trusted, which concepts count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.table import Table
from rich.text import Text

from pipelines.progress import progress_bar
from retrieval.explain.checks import CHECKED, HALF, Checks, check
from retrieval.explain.concept_study import (
    LANDMARKS,
    OF_LANDMARK,
    ConceptStudy,
    read_concepts,
    study,
)
from retrieval.explain.concepts import RANDOM
from retrieval.explain.drawn import drawn
from retrieval.explain.kept import CHECKS, CONCEPTS, keep
from retrieval.explain.learnt import LearntRow, learnt
from retrieval.system import System

PHOTOGRAPHS: Final = 4
"""That methods are checked on: what fails, fails on each."""
SIDE: Final = 224
"""Their longest side in pixels: as many maps are made of each as there are steps and methods."""


def check_methods(system: System, target: str) -> tuple[Checks, Path]:
    """Check every method on a system's networks, and keep the verdict in the run.

    Returns:
        what was measured, and where it is kept.

    Raises:
        ExplainError: the system has no network, or not what the target needs.
        WriteError: it can be kept nowhere.
    """
    explainer = system.explainer
    chosen = drawn(explainer, PHOTOGRAPHS, SIDE)
    with progress_bar("checking methods", len(CHECKED)) as progress:
        found = check(
            [one.asked for one in chosen],
            [str(explainer.rows["id"].iloc[one.row]) for one in chosen],
            target,
            progress,
        )
    return found, keep(system.run.folder, CHECKS, system.record["describer"], found.as_json())


def checks_table(found: Checks) -> Table:
    """For a terminal."""
    count = len(found.photographs)
    table = Table(title=f"Methods of explanation on {count} gallery photographs, {found.target}")
    table.add_column("method")
    for title in ("rank", "structure", "deletion", "insertion", "occlusion"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for one in found.methods:
        if one.refused:
            table.add_row(one.method, *[""] * 5, f"does not apply: {one.refused}")
            continue
        figures = (one.ranks[HALF], one.structure[HALF], one.deletion, one.insertion, one.occlusion)
        verdict = Text("fails", "bold red") if one.fails else Text("passes")
        table.add_row(one.method, *(f"{value:.2f}" for value in figures), verdict)
    deletion, insertion = found.random
    table.add_row("in no order", "", "", f"{deletion:.2f}", f"{insertion:.2f}", "", "")
    table.caption = (
        "rank, structure: how like the trained network's the map still is with the upper half of"
        " the layers random (a method fails that is 0.5 or more alike then or later); deletion: low"
        " is good; insertion: high is good; occlusion: rank correlation with it"
    )
    return table


def measure_concepts(
    system: System,
    folder: Path,
    *,
    layer: str | None,
    target: str,
    landmarks: Sequence[str],
    seed: int,
) -> tuple[ConceptStudy, Path]:
    """Find concepts in a system's network, and keep them in the run.

    Returns:
        what was found, and where it is kept.

    Raises:
        ExplainError: as :func:`retrieval.explain.concept_study.study`.
        WriteError: it can be kept nowhere.
    """
    paths = read_concepts(folder)
    total = sum(map(len, paths.values())) + OF_LANDMARK * (len(landmarks) or LANDMARKS)
    total += 0 if RANDOM in paths else LANDMARKS
    with progress_bar("looking for concepts", total) as progress:
        found = study(
            system.explainer, paths, layer=layer, target=target, landmarks=landmarks, seed=seed,
            told=progress,
        )  # fmt: skip
    return found, keep(system.run.folder, CONCEPTS, system.record["describer"], found.as_json())


def concepts_table(found: ConceptStudy) -> Table:
    """For a terminal: a row a concept, a column a landmark."""
    landmarks = list(dict.fromkeys(one.landmark for one in found.scores))
    table = Table(title=f"Concepts in {found.layer}, {found.target}")
    table.add_column("concept")
    table.add_column("told apart", justify="right")
    for landmark in landmarks:
        table.add_column(landmark, justify="right", max_width=18)
    scores = {(one.concept, one.landmark): one for one in found.scores}
    for concept in found.concepts:
        cells = []
        for landmark in landmarks:
            one = scores[concept.name, landmark]
            style = "" if one.significant else "strike dim"
            cells.append(Text(f"{one.score:.2f} {one.effect:+.2f}", style))
        table.add_row(concept.name, f"{concept.accuracy:.2f}", *cells)
    table.caption = (
        "told apart: share of held-out photographs that the separator has right; then the share of"
        " each landmark's photographs that come nearer to it as the concept grows, and how much"
        " nearer on the whole; struck out: what chance explains (p ≥ 0.05, corrected)"
    )
    return table


def draw_learnt(
    system: System,
    layers: Sequence[str],
    channels: int,
    landmarks: Sequence[str],
    *,
    neurons: bool,
    seed: int,
) -> list[LearntRow]:
    """As :func:`retrieval.explain.learnt.learnt`, with a progress bar."""
    with progress_bar("drawing", None) as progress:
        return learnt(
            system.explainer, layers, channels, landmarks, neurons=neurons, seed=seed, told=progress
        )
