"""Which system is proposed, by tables of facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.building.proposal import (
    Accuracy,
    Candidate,
    Lack,
    MachineFacts,
    ShippedFigures,
    propose,
    spoken,
)

DOWNLOAD = Lack("weights", downloaded=True)
BY_HAND = Lack("a file", downloaded=False)


def measured(
    gap: float | None, milliseconds: float | None, few: float | None = None
) -> ShippedFigures:
    def of(one: float | None) -> Accuracy | None:
        return None if one is None else Accuracy(top1=one, gap=one)

    return ShippedFigures(gallery=of(gap), few=of(few), milliseconds=milliseconds)


SLOW = Candidate(
    "slow", measured(0.96, 400, 0.83), network=True, views=4, viewed=10_000, pairs=True
)
MIDDLE = Candidate("middle", measured(0.93, 80, 0.76), network=True)
QUICK = Candidate("quick", measured(0.92, 15, 0.74), network=True)
CLASSICAL = Candidate("classical", measured(0.83, 110))
WORDS = Candidate("words", measured(0.66, 30))
BASELINE = Candidate("baseline", measured(0.43, 3))
FACTS = MachineFacts(
    candidates=(BASELINE, WORDS, CLASSICAL, QUICK, MIDDLE, SLOW),
    gallery=1400,
    bank=400,
    landmarks=50,
    paired=True,
    cores=2,
    gpu=False,
)
TABLE: dict[str, tuple[dict[str, Any], dict[str, Any], str, str | None]] = {
    # what differs in the facts, in candidates; what is taken, and what else is offered
    "views cost five times": ({}, {}, "middle", "slow"),
    "few photographs": ({"gallery": 80, "bank": 80, "landmarks": 8}, {}, "slow", "middle"),
    "a GPU": ({"gpu": True}, {}, "slow", "middle"),
    "a million on a GPU": ({"gpu": True, "gallery": 1_000_000}, {}, "quick", "middle"),
    "many cores": ({"cores": 32}, {}, "slow", "middle"),
    "many photographs": ({"gallery": 40_000}, {}, "quick", "middle"),
    "a million": ({"gallery": 1_000_000}, {}, "quick", "middle"),
    "no pair to learn from": ({"gallery": 50, "bank": 10, "paired": False}, {}, "middle", "quick"),
    "no weights": (
        {}, {"slow": DOWNLOAD, "middle": DOWNLOAD, "quick": DOWNLOAD}, "classical", "middle",
    ),
    "rather what comes by itself": (
        {}, {"slow": BY_HAND, "middle": BY_HAND, "quick": DOWNLOAD}, "classical", "quick",
    ),
    "only by hand": ({}, {"slow": BY_HAND, "middle": BY_HAND}, "quick", "middle"),
    "weights of one network": ({}, {"slow": DOWNLOAD, "middle": DOWNLOAD}, "quick", "middle"),
    "no weights, many photographs": (
        {"gallery": 40_000}, {"slow": DOWNLOAD, "middle": DOWNLOAD, "quick": DOWNLOAD},
        "words", "quick",
    ),
    "no weights, a million": (
        {"gallery": 1_000_000}, {"slow": DOWNLOAD, "middle": DOWNLOAD, "quick": DOWNLOAD},
        "words", "quick",
    ),
    "classical needs no GPU": (
        {"gpu": True, "gallery": 40_000},
        {"slow": BY_HAND, "middle": BY_HAND, "quick": BY_HAND}, "words", "slow",
    ),
}  # fmt: skip


def facts(changes: dict[str, Any], lacks: dict[str, Lack]) -> MachineFacts:
    candidates = tuple(
        replace(one, lacks=(lacks[one.name],) if one.name in lacks else ())
        for one in FACTS.candidates
    )
    return replace(FACTS, candidates=candidates, **changes)


@pytest.mark.parametrize("case", TABLE)
def test_what_is_taken_and_what_else_there_is(case: str) -> None:
    changes, lacks, taken, other = TABLE[case]
    found = propose(facts(changes, lacks))
    assert found.system == taken
    assert found.lines[0].startswith(f"{taken} is taken, ")
    assert [line.partition(":")[0] for line in found.lines[1:]] == (
        [f"or --config {other}"] if other else []
    )


def test_views_of_a_few_photographs_take_little_longer() -> None:
    viewed = tuple(replace(one, viewed=10) for one in FACTS.candidates)
    assert propose(replace(FACTS, candidates=viewed)).system == "slow"


def test_lines_say_why_and_what_else_it_takes() -> None:
    assert propose(facts({}, {"middle": DOWNLOAD, "slow": BY_HAND})).lines == (
        "quick is taken, the best here within 30 minutes: GAP 0.920, some 27 s for 1,800"
        " photographs on 2 cores",
        "or --config middle: GAP 0.930, some 2 minutes; it needs weights",
    )
    few = {"gallery": 24, "bank": 8, "landmarks": 8}
    assert propose(facts({**few, "cores": 1}, {"slow": BY_HAND})).lines == (
        "middle is taken, the best here within 30 minutes: GAP 0.760 with three photographs a"
        " landmark, some 5 s for 32 photographs on 1 core",
        "or --config slow: GAP 0.830 with three photographs a landmark, some 2 minutes; it needs"
        " a file",
    )
    (line, offer) = propose(replace(facts(few, {}), candidates=(CLASSICAL, WORDS))).lines
    assert "GAP 0.830 with 26 photographs a landmark, and with three not measured, some" in line
    assert offer.startswith("or --config words: GAP 0.660 with 26 photographs")
    assert offer.endswith("some 1 s")
    lines = propose(facts({"gpu": True, "gallery": 100_000_000}, {})).lines
    assert "the quickest here, as none is done within 30 minutes" in lines[0]
    assert lines[0].endswith("photographs on the GPU")


def test_nothing_better_and_nothing_quicker_is_no_offer() -> None:
    hardly = replace(QUICK, name="hardly", measured=measured(0.90, 10))
    assert len(propose(replace(FACTS, candidates=(QUICK, hardly))).lines) == 1


@pytest.mark.parametrize(
    "useless",
    [
        Candidate("unmeasured", ShippedFigures(milliseconds=1)),
        Candidate("untimed", measured(0.99, None)),
        Candidate("trained", measured(0.99, 1, 0.99), trained=True),
        BASELINE,
    ],
    ids=lambda one: one.name,
)
def test_what_is_never_proposed(useless: Candidate) -> None:
    found = propose(replace(FACTS, candidates=(useless, WORDS)))
    assert found.system == "words"
    assert useless.name not in " ".join(found.lines)


def test_measured_with_few_comes_before_figures_of_many() -> None:
    """A figure of many photographs is no match for one of few."""
    few = replace(FACTS, candidates=(CLASSICAL, QUICK), gallery=150)
    assert propose(few).system == "quick"
    modest = replace(CLASSICAL, measured=measured(0.95, 110))
    assert propose(replace(few, candidates=(modest, QUICK))).system == "quick"
    assert propose(replace(FACTS, candidates=(modest, QUICK))).system == "classical"


def test_of_two_alike_the_quicker_one() -> None:
    twin = replace(QUICK, name="twin", measured=measured(0.92, 30, 0.74))
    for both in ((QUICK, twin), (twin, QUICK)):
        assert propose(replace(FACTS, candidates=both)).system == "quick"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "1 s"), (61.4, "61 s"), (95.0, "2 minutes"), (1800, "30 minutes"),
     (9000, "2.5 hours"), (90_000, "25 hours")],
)  # fmt: skip
def test_times_are_told_in_round_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
