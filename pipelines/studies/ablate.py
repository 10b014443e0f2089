"""One table of a run's choices: every vote, rejection, calibration and classifier, on a test table.

The photographs are described once, by the run, into the folder that ``landmarks evaluate`` keeps
them in, one for each table; only classifiers, rejections and calibrations are fitted anew, on the
run's gallery and bank. Each part of the table varies one choice, and compares its rows with the
first of them on the same queries, drawn anew together.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from pipelines.measuring.evaluate import measure_run
from pipelines.measuring.written import difference_json, figures_json
from pipelines.progress import progress_bar
from pipelines.report.measured import ClassifierResult, Measured
from pipelines.report.page import fraction, percent, signed
from retrieval.classifiers.base import Classifier, HeldOut
from retrieval.classifiers.calibration import CalibrationConfig
from retrieval.classifiers.ensemble import EnsembleConfig
from retrieval.classifiers.members import KINDS, Fitting
from retrieval.classifiers.network import NetworkClassifierConfig
from retrieval.classifiers.registry import ClassifierConfig, fit_and_hold_out
from retrieval.classifiers.rejection import Rejection, RejectionConfig, fit_rejection
from retrieval.classifiers.vote import Vote, VoteConfig
from retrieval.config import SystemConfig
from retrieval.errors import ConfigError
from retrieval.evaluation.intervals import Difference, paired_differences
from retrieval.storage.files import atomic_write, write_json
from retrieval.system import System
from retrieval.types import StrictModel

log = logging.getLogger(__name__)

COUNTS: Final = 0.5
"""Power of landmarks' counts that a sum of votes is divided by, unless the run has its own."""
FUSED: Final = ("knn", "svm", "mlp")
"""Members of the ensembles, unless the run has one."""
HEADER: Final = (
    "top-1", "GAP", "GAP less the reference's", "rejection AUC", "false accepts at 90 %",
    "calibration error", "precision",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A row of the table: what is fitted."""

    what: str
    classifier: ClassifierConfig
    rejection: RejectionConfig
    calibration: CalibrationConfig


Choices = Mapping[str, Sequence[Choice]]
"""By part of the table; the first of a part is what its others are compared with."""


@dataclass(frozen=True)
class ChoiceFigures:
    """What a choice came to.

    Attributes:
        choice: that was measured.
        result: its answers and figures, or ``None`` where it could not be fitted.
        difference: of its GAP to that of the part's first row; ``None`` for that one.
        skipped: why it could not be fitted.
    """

    choice: Choice
    result: ClassifierResult | None = None
    difference: Difference | None = None
    skipped: str = ""


def choices(config: SystemConfig, answer: str, trained: bool) -> Choices:
    """What is tried on a run.

    Args:
        config: of the run, whose constants stay as they are.
        answer: the name of its classifier that answers.
        trained: whether its gallery has a trained network's head.
    """
    own = {one.kind: one for one in reversed(config.classifiers.values())}
    knn = own.get("knn")
    answering = config.classifiers[answer]
    # Where votes and classifiers are compared, nothing else is to mend their confidence.
    plain = config.rejection.model_copy(update={"kind": "threshold"})
    alone = {
        made.kind: own.get(made.kind, made)
        for made in (kind() for kind in KINDS)
        if trained or not isinstance(made, NetworkClassifierConfig)
    }
    fused: dict[str, Any] = {name: alone[name] for name in FUSED}
    mine = own.get("ensemble", EnsembleConfig(members=fused))
    assert isinstance(mine, EnsembleConfig)
    ensembles = {
        f"{fusion} ensemble of {', '.join(mine.members)}": mine.model_copy(
            update={"fusion": fusion}
        )
        for fusion in _literals(EnsembleConfig, "fusion")
    }
    classifiers = {**alone, **ensembles}
    votes = _votes(knn if isinstance(knn, VoteConfig) else VoteConfig())
    return {
        "votes": [Choice(what, one, plain, config.calibration) for what, one in votes.items()],
        "rejections": [
            Choice(kind, answering, config.rejection.model_copy(update={"kind": kind}),
                   config.calibration)
            for kind in _literals(RejectionConfig, "kind")
        ],
        "calibrations": [
            Choice(kind, answering, config.rejection,
                   config.calibration.model_copy(update={"kind": kind}))
            for kind in _literals(CalibrationConfig, "kind")
        ],
        "classifiers": [
            Choice(what, one, plain, config.calibration) for what, one in classifiers.items()
        ],
    }  # fmt: skip


def _votes(knn: VoteConfig) -> dict[str, VoteConfig]:
    """Every vote as it is, corrected for counts, and without the bank; the run's own first."""
    kinds = (kind() for kind in get_args(get_args(Vote)[0]))
    others = [one for one in kinds if one.kind != knn.vote.kind]
    found = {}
    for vote in (knn.vote, *others):
        # Of a powered vote the root is taken first.
        counts = knn.counts or COUNTS / getattr(vote, "power", 1.0)
        changes: dict[str, dict[str, float]] = {
            "": {"counts": 0.0},
            ", corrected for counts": {"counts": counts},
            ", without the bank": {"counts": 0.0, "row_correction": 0.0, "query_correction": 0.0},
        }
        for suffix, change in changes.items():
            found[vote.kind + suffix] = knn.model_copy(update={"vote": vote, **change})
    return found


def _literals(config: type[StrictModel], field: str) -> tuple[Any, ...]:
    """What a field may be."""
    return get_args(config.model_fields[field].annotation)


def ablate_run(system: System, csv: Path, out: Path) -> dict[str, list[ChoiceFigures]]:
    """Measure every choice, and write the table as Markdown and, beside it, as JSON.

    Args:
        system: a loaded run.
        csv: labelled photographs; their descriptors stay in the run's ``evaluation``.
        out: the Markdown file.

    Raises:
        TableError: the CSV is bad.
    """
    tried = choices(system.config, system.answer, system.gallery.head is not None)
    fitted, rejections, skipped = _fitted(tried, system)
    several = replace(
        system, classifiers=fitted, rejections=rejections, answer=next(iter(fitted))
    )  # fmt: skip
    measured = measure_run(several, csv, system.run.evaluation)
    rows = {part: _rows(part, those, measured, skipped) for part, those in tried.items()}
    conditions = {
        "test": csv.name,
        "run": system.fingerprint,
        "answer": system.answer,
        "rejection": system.config.rejection.model_dump(),
        "calibration": system.config.calibration.kind,
        **measured.conditions,
    }
    atomic_write(out, ablation_page(rows, conditions).encode())
    found = {part: [_row_json(row) for row in those] for part, those in rows.items()}
    write_json(out.with_suffix(".json"), {"parts": found, "conditions": conditions})
    return rows


def _fitted(
    tried: Choices, system: System
) -> tuple[dict[str, Classifier], dict[str, Rejection], dict[str, str]]:
    """Classifiers and rejections by part and choice, and why there is none; one that several
    choices share is fitted once."""
    calibration, seed = system.calibration_galleries(), system.config.seed
    fitting = Fitting(system.gallery, calibration, seed)
    known: dict[str, tuple[Classifier, HeldOut] | ConfigError] = {}
    classifiers: dict[str, Classifier] = {}
    rejections: dict[str, Rejection] = {}
    skipped: dict[str, str] = {}
    with progress_bar("fitting", sum(map(len, tried.values()))) as progress:
        for part, those in tried.items():
            for one in those:
                name, key = f"{part}: {one.what}", one.classifier.model_dump_json()
                if key not in known:
                    known[key] = _fit(one.classifier, fitting)
                found = known[key]
                progress(1, int(isinstance(found, ConfigError)))
                if isinstance(found, ConfigError):
                    skipped[name] = str(found)
                    continue
                classifiers[name], held = found
                rejections[name], _ = fit_rejection(
                    held, calibration, one.rejection, one.calibration, seed
                )
    for unkept in sorted({one.unkept for one in rejections.values() if one.unkept}):
        log.warning("promise not kept: %s", unkept)
    return classifiers, rejections, skipped


def _fit(config: ClassifierConfig, fitting: Fitting) -> tuple[Classifier, HeldOut] | ConfigError:
    try:
        return fit_and_hold_out(config, fitting)
    except ConfigError as error:  # a gallery too large for it
        return error


def _rows(
    part: str, those: Sequence[Choice], measured: Measured, skipped: Mapping[str, str]
) -> list[ChoiceFigures]:
    results = {result.name: result for result in measured.results}
    first = results[f"{part}: {those[0].what}"]
    rows = []
    for one in those:
        name = f"{part}: {one.what}"
        if name in skipped:
            rows.append(ChoiceFigures(one, skipped=skipped[name]))
            continue
        result, against = (measured.outcomes(each) for each in (results[name], first))
        same = results[name] is first
        difference = None if same else paired_differences(result, against)["gap"]
        rows.append(ChoiceFigures(one, results[name], difference))
    return rows


def ablation_page(
    rows: Mapping[str, Sequence[ChoiceFigures]], conditions: Mapping[str, Any]
) -> str:
    """A table for each part, and what the figures have to be quoted with."""
    found = "\n".join(_part(part, those) for part, those in rows.items())
    return f"# What each choice adds\n\n{_conditions(conditions)}\n\n{found}"


def _part(part: str, rows: Sequence[ChoiceFigures]) -> str:
    first, *others = map(_cells, rows)
    named = (f"{first[0]} (reference)", *first[1:])
    lines = [(part, *HEADER), ("---",) * (len(HEADER) + 1), named, *others]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {part.capitalize()}\n\n{table}\n"


def _cells(row: ChoiceFigures) -> tuple[str, ...]:
    if row.result is None:
        return (f"{row.choice.what}: skipped: {row.skipped}", *["–"] * len(HEADER))
    figures, found = row.result.metrics, row.difference
    low, high = map(fraction, row.result.intervals["gap"])
    return (
        row.choice.what,
        fraction(figures["top1"]),
        f"{fraction(figures['gap'])} [{low}, {high}]",
        "–" if found is None
        else f"{signed(found.value)} [{signed(found.interval[0])}, {signed(found.interval[1])}]",
        fraction(figures["rejection_auc"]),
        percent(figures["false_accepts_at_90"]),
        fraction(figures["calibration_error"]),
        fraction(figures["precision"]),
    )  # fmt: skip


def _row_json(row: ChoiceFigures) -> dict[str, Any]:
    choice = row.choice
    found: dict[str, Any] = {
        "what": choice.what,
        "classifier": choice.classifier.model_dump(),
        "rejection": choice.rejection.model_dump(),
        "calibration": choice.calibration.kind,
    }
    if row.result is None:
        return {**found, "skipped": row.skipped}
    difference = {} if row.difference is None else {"gap_less": difference_json(row.difference)}
    return {**found, **figures_json(row.result), **difference}


def _conditions(conditions: Mapping[str, Any]) -> str:
    told = conditions
    rejection = {key: one for key, one in told["rejection"].items() if one is not None}
    points = ", ".join(f"{key} {one}" for key, one in rejection.items() if key != "kind")
    return (
        f"{told['test']}: {told['queries_with_landmark']:,} photographs of a landmark,"
        f" {told['queries_without_landmark']:,} of none. Run {told['run']} of {told['config']}:"
        f" gallery of {told['gallery']:,} photographs of {told['landmarks']:,} landmarks, bank of"
        f" {told['bank']:,}; {told['dimension']:,} numbers, whitening {told['whitening']}; index"
        f" {told['index']}; search by {told['search']}; {told['machine']}. Everything is fitted on"
        " gallery and bank, thresholds and probabilities on held-out photographs of them; the test"
        f" photographs teach nothing. Votes and classifiers are rejected by their own confidence;"
        f" rejections and calibrations are of the run's classifier {told['answer']}, the latter"
        f" with rejection {rejection['kind']}; probabilities elsewhere by {told['calibration']}."
        f" Operating point: {points}. In brackets 95 % intervals of 1,000 draws of as many"
        " queries, those of differences of the same draws for both rows."
    )
