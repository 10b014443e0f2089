"""Which system to take where none was named: judged by facts alone.

The best of the shipped systems, by its measured GAP, whose weights and libraries are here and that
describes the photographs in reasonable time. :mod:`pipelines.building.shipped` gathers the facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from retrieval.types import StrictModel

REFERENCE_CORES: Final = 2
"""Of the machine on which milliseconds were measured."""
GPU_TIMES: Final = 20.0
"""How much faster networks are taken to be on a GPU; decoding bounds them there."""
PATIENCE: Final = 30 * 60.0
"""Seconds that describing all photographs may reasonably take."""
FEW: Final = 8.0
"""Photographs a landmark up to which figures measured with three tell more than those with 26."""
LEAST_GAP: Final = 0.5
"""What answers worse is a baseline to compare with, and is taken only by name."""


class Accuracy(StrictModel):
    """On the queries of landmarks52: see docs/measuring.md."""

    top1: float = Field(ge=0.0, le=1.0)
    gap: float = Field(ge=0.0, le=1.0)


class ShippedFigures(StrictModel):
    """What a system was measured to do; ``None`` where it was not.

    Attributes:
        gallery: with some 26 photographs a landmark.
        few: with three.
        milliseconds: of decoding and describing a photograph on :data:`REFERENCE_CORES`.
        bytes: a photograph.
    """

    gallery: Accuracy | None = None
    few: Accuracy | None = None
    milliseconds: float | None = Field(None, gt=0.0)
    bytes: int | None = Field(None, gt=0)

    def of(self, few: bool) -> Accuracy | None:
        """What tells most of galleries with few photographs a landmark, or with many."""
        return (self.few or self.gallery) if few else (self.gallery or self.few)


@dataclass(frozen=True)
class Lack:
    """Something that a system needs and that is not here.

    Attributes:
        what: in words.
        downloaded: whether it comes by itself when the system is built.
    """

    what: str
    downloaded: bool


@dataclass(frozen=True)
class Candidate:
    """A shipped system.

    Attributes:
        name: of its config.
        measured: its figures.
        network: whether a GPU describes for it.
        views: of each viewed photograph, described besides.
        viewed: how many those are, at most.
        trained: whether a network is fitted first, in a time that was not measured.
        pairs: whether its whitening needs two photographs of one landmark.
        lacks: what is not here.
    """

    name: str
    measured: ShippedFigures
    network: bool = False
    views: int = 0
    viewed: int = 500
    trained: bool = False
    pairs: bool = False
    lacks: tuple[Lack, ...] = ()


@dataclass(frozen=True)
class MachineFacts:
    """What a system is chosen by.

    Attributes:
        candidates: the shipped systems; one at least that was measured is here.
        gallery: how many photographs of landmarks there are.
        bank: and how many of none.
        landmarks: how many there are.
        paired: whether one of them has two photographs.
        cores: of this machine.
        gpu: whether it has one to use.
    """

    candidates: tuple[Candidate, ...]
    gallery: int
    bank: int
    landmarks: int
    paired: bool
    cores: int
    gpu: bool

    @property
    def photographs(self) -> int:
        return self.gallery + self.bank

    @property
    def few(self) -> bool:
        """Whether landmarks have few photographs."""
        return self.gallery <= FEW * self.landmarks


@dataclass(frozen=True)
class Proposal:
    """The system to take, and why and what else in a line each; and all that are here, in the
    order in which they would be taken."""

    system: str
    lines: tuple[str, ...]
    ranked: tuple[Candidate, ...] = ()


def propose(facts: MachineFacts) -> Proposal:
    """The best system by measured GAP that is here and in time; else the quickest that is here."""
    able = [one for one in facts.candidates if _able(one, facts)]
    ranked = sorted(able, key=lambda one: (*_rank(one, facts), -_seconds(one, facts)), reverse=True)
    here = [one for one in ranked if not one.lacks]
    in_time = [one for one in here if _in_time(one, facts)]
    taken = in_time[0] if in_time else min(here, key=lambda one: _seconds(one, facts))
    limit = f"within {spoken(PATIENCE)}"
    why = f"the best here {limit}" if in_time else f"the quickest here, as none is done {limit}"
    photographs = f"{facts.photographs:,} photographs on {_machine(taken, facts)}"
    lines = [f"{taken.name} is taken, {why}: {_cost(taken, facts)} for {photographs}"]
    other = _alternative(taken, ranked, facts)
    if other is not None:
        needs = ", ".join(lack.what for lack in other.lacks)
        offer = f"or --config {other.name}: {_cost(other, facts)}"
        lines.append(f"{offer}; it needs {needs}" if needs else offer)
    return Proposal(taken.name, tuple(lines), (taken, *(one for one in here if one is not taken)))


def _alternative(
    taken: Candidate, ranked: Sequence[Candidate], facts: MachineFacts
) -> Candidate | None:
    """What else to tell of: a better system to be had in time, rather one that comes by itself;
    or else the least slow of the better ones; or else the next one in half the time."""
    place, own = ranked.index(taken), _seconds(taken, facts)
    better, worse = ranked[:place], ranked[place + 1 :]
    in_time = [one for one in better if _seconds(one, facts) <= max(PATIENCE, own)]
    slower = sorted(better, key=lambda one: _seconds(one, facts))
    ways = (
        [one for one in in_time if all(lack.downloaded for lack in one.lacks)],
        in_time,
        [one for one in slower if not one.lacks],
        slower,
        [one for one in worse if not one.lacks and _seconds(one, facts) <= own / 2],
    )
    return next((some[0] for some in ways if some), None)


def _able(candidate: Candidate, facts: MachineFacts) -> bool:
    """Whether a system may be proposed at all: it answers well, and how long it takes is known."""
    accuracy = candidate.measured.of(facts.few)
    return (
        not candidate.trained
        and candidate.measured.milliseconds is not None
        and accuracy is not None
        and accuracy.gap >= LEAST_GAP
        and (facts.paired or not candidate.pairs)
    )


def _rank(candidate: Candidate, facts: MachineFacts) -> tuple[float, float]:
    """The higher the better. With few photographs a landmark, systems measured so come first:
    the others' figures are of many, and would compare as too good."""
    gallery, few = (
        -1.0 if one is None else one.gap
        for one in (candidate.measured.gallery, candidate.measured.few)
    )
    return (few, gallery) if facts.few else (gallery, few)


def _seconds(candidate: Candidate, facts: MachineFacts) -> float:
    """How long describing takes, the views that teach among it."""
    views = candidate.views * min(facts.photographs, candidate.viewed)
    milliseconds = candidate.measured.milliseconds or 0.0
    if facts.gpu and candidate.network:
        return milliseconds / 1000 * (facts.photographs + views) / GPU_TIMES
    cores = REFERENCE_CORES / max(1, facts.cores)
    return milliseconds / 1000 * (facts.photographs + views) * cores


def _in_time(candidate: Candidate, facts: MachineFacts) -> bool:
    return _seconds(candidate, facts) <= PATIENCE


def _cost(candidate: Candidate, facts: MachineFacts) -> str:
    """What a system's answers are worth, and how long describing takes."""
    accuracy = candidate.measured.of(facts.few)
    told = "" if accuracy is None else f"GAP {accuracy.gap:.3f}"
    if facts.few and accuracy is candidate.measured.few:
        told += " with three photographs a landmark"
    elif facts.few:
        told += " with 26 photographs a landmark, and with three not measured"
    return f"{told}, some {spoken(_seconds(candidate, facts))}"


def _machine(candidate: Candidate, facts: MachineFacts) -> str:
    if facts.gpu and candidate.network:
        return "the GPU"
    return f"{facts.cores} core{'s' * (facts.cores != 1)}"


def spoken(seconds: float) -> str:
    """A time in round words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{round(seconds / 3600)} hours" if seconds >= 36_000 else f"{seconds / 3600:.1f} hours"
