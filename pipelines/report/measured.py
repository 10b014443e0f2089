"""What an evaluation found, row by row: the one thing that the report is drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd

from pipelines.report.explained import Explained
from retrieval.errors import RunError
from retrieval.evaluation.intervals import Difference, Outcomes, paired_differences
from retrieval.evaluation.metrics import Truth, recognition_metrics
from retrieval.types import Flags, Integers, Vectors

NO_LANDMARK: Final = -1  # truth code of a photograph that shows no landmark
NOT_IN_GALLERY: Final = -2  # truth code of a landmark that the gallery has no photograph of


@dataclass(frozen=True)
class Cost:
    """What a system holds of a gallery photograph, and the time to describe a query (or NaN)."""

    bytes_per_image: float
    seconds_per_image: float


@dataclass(frozen=True)
class ClassifierResult:
    """One classifier's answers to every test row, in the table's order.

    A row that failed has no candidates, a confidence of -inf, a probability of NaN, and is not
    accepted.

    Attributes:
        name: the classifier's name in the config.
        candidates: (n, c) codes into the landmarks, best first, -1 where there is none.
        confidence: (n,) of the best candidate, comparable across photographs.
        probability: (n,) that the best candidate is right.
        accepted: (n,) whether the classifier names the candidate rather than saying "none".
        threshold: the confidence at which it accepts, where that is what decides.
        metrics: the figures of ``metrics.json``; NaN where undefined.
        intervals: 95 % intervals of some of them.
        cost: of a photograph, where systems of several costs stand side by side.
        caveats: what its threshold cannot promise, and why it gives no probabilities, a line each.
    """

    name: str
    candidates: Integers
    confidence: Vectors
    probability: Vectors
    accepted: Flags
    threshold: float | None
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    cost: Cost | None = None
    caveats: Sequence[str] = ()

    @property
    def answered(self) -> Flags:
        """(n,) whether there is a candidate."""
        answered: Flags = self.best >= 0
        return answered

    @property
    def best(self) -> Integers:
        """(n,) code of the best candidate, -1 where there is none."""
        return self.candidates[:, 0]


@dataclass(frozen=True)
class OriginFigures:
    """Test photographs that come from one place.

    Attributes:
        origin: the place, as the table's column ``source`` says.
        queries: photographs.
        with_landmark: of these, those that show one.
        figures: of each classifier, as :func:`recognition_metrics` has them; NaN where undefined.
    """

    origin: str
    queries: int
    with_landmark: int
    figures: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Measured:
    """A whole evaluation.

    Attributes:
        config: the name of the system that was measured.
        answer: the name of the classifier that answers for the system.
        ids: (n,) test ids.
        sources: (n,) paths or URLs of the test photographs.
        truth: (n,) landmark ids, ``None`` where the photograph shows none.
        truth_codes: (n,) codes into ``landmarks``, or NO_LANDMARK, or NOT_IN_GALLERY.
        statuses: (n,) "ok" or how the photograph failed.
        reasons: (n,) why it failed.
        landmarks: the gallery's landmark ids, in the order of the codes.
        names: landmark id to a name for people, where there is one.
        gallery_ids: (g,) ids of the gallery photographs.
        gallery_sources: (g,) their paths or URLs.
        gallery_codes: (g,) their landmarks.
        near_rows: (n, k) gallery rows of the nearest photographs, -1 where there is none.
        near_similarities: (n, k) their similarities, descending.
        results: one for each classifier.
        seconds_per_image: describing one test photograph, NaN where it was not timed.
        bytes_per_image: what the index holds of one gallery photograph.
        conditions: what was measured how, for the footer: label to value.
        notes: one-line remarks that a reader of the figures has to know.
        origins: (n,) where each test photograph comes from, as the table's ``source`` column says;
            empty where it has none.
        explained: why some of the photographs were answered so.
    """

    config: str
    answer: str
    ids: Sequence[str]
    sources: Sequence[str]
    truth: Sequence[str | None]
    truth_codes: Integers
    statuses: Sequence[str]
    reasons: Sequence[str]
    landmarks: Sequence[str]
    names: Mapping[str, str]
    gallery_ids: Sequence[str]
    gallery_sources: Sequence[str]
    gallery_codes: Integers
    near_rows: Integers
    near_similarities: Vectors
    results: Sequence[ClassifierResult]
    seconds_per_image: float
    bytes_per_image: float
    conditions: Mapping[str, str | int | float]
    notes: Sequence[str]
    origins: Sequence[str] = ()
    explained: Explained = field(default_factory=Explained)

    @property
    def caveats(self) -> list[str]:
        """What the classifiers cannot promise, a line each, those that say the same together."""
        said: dict[str, list[str]] = {}
        for result in self.results:
            for caveat in result.caveats:
                said.setdefault(caveat, []).append(result.name)
        return [f"{', '.join(names)}: {caveat}" for caveat, names in said.items()]

    @cached_property
    def ok(self) -> Flags:
        """(n,) whether the photograph could be described."""
        return np.array([status == "ok" for status in self.statuses], dtype=bool)

    @cached_property
    def with_landmark(self) -> Flags:
        """(n,) whether the photograph shows a landmark, in the gallery or not."""
        shown: Flags = self.truth_codes != NO_LANDMARK
        return shown

    @property
    def answering(self) -> ClassifierResult:
        """The classifier that answers for the system."""
        return next(result for result in self.results if result.name == self.answer)

    def outcomes(self, result: ClassifierResult) -> Outcomes:
        """What resampled figures are made from."""
        return Outcomes.of(
            self.ids,
            result.best,
            result.confidence,
            result.accepted,
            Truth.of_codes(self.truth_codes),
        )

    @cached_property
    def paired(self) -> dict[str, dict[str, Difference]]:
        """Each other classifier's GAP and top-1 less those of the one that answers, by name."""
        against = self.outcomes(self.answering)
        return {
            result.name: paired_differences(self.outcomes(result), against)
            for result in self.results
            if result.name != self.answer
        }

    @cached_property
    def per_origin(self) -> list[OriginFigures]:
        """Figures of each origin of test photographs by itself, by origin; none without origins."""
        origins = pd.Series(self.origins, dtype=object)
        found = []
        for origin, places in sorted(origins.groupby(origins).indices.items()):
            rows = np.asarray(places)
            truth = Truth.of_codes(self.truth_codes[rows])
            ids = [self.ids[row] for row in rows.tolist()]
            shown = int(truth.has_landmark.sum())
            figures = {
                one.name: recognition_metrics(
                    ids, one.candidates[rows], one.confidence[rows], one.accepted[rows], truth
                )
                for one in self.results
            }
            if not shown:
                for each in figures.values():
                    each["gap"] = math.nan
            found.append(OriginFigures(str(origin), len(rows), shown, figures))
        return found

    def best_is_right(self, result: ClassifierResult) -> Flags:
        """(n,) whether the best candidate is the photograph's landmark, accepted or not."""
        right: Flags = (self.truth_codes >= 0) & (result.best == self.truth_codes)
        return right

    def named_right(self, result: ClassifierResult) -> Flags:
        """(n,) whether the photograph's landmark was named."""
        return self.best_is_right(result) & result.accepted

    def answered_right(self, result: ClassifierResult) -> Flags:
        """(n,) whether the final answer is right: the landmark, or "none" where there is none.

        A photograph that failed got no answer: wrong where it shows a landmark, and where it
        shows none as good as the "none" that it is counted as.
        """
        return np.where(self.with_landmark, self.named_right(result), ~result.accepted)

    def display(self, landmark: str) -> str:
        """A landmark's name for people."""
        return self.names.get(landmark) or landmark

    def display_code(self, code: int) -> str:
        """The name of the landmark with this code."""
        return self.display(self.landmarks[code])


def side_by_side(systems: Mapping[str, Measured]) -> Measured:
    """Several systems' evaluations of the same photographs as one: the answer of each.

    Neighbours, gallery and costs shown are those of the first; the conditions name each system's.

    Args:
        systems: by the name that each goes by.

    Raises:
        RunError: they were not measured on the same rows.
    """
    first = next(iter(systems.values()))
    for name, other in systems.items():
        if (other.ids, other.truth) != (first.ids, first.truth):
            raise RunError(f"{name} was not measured on the same photographs as the first run")
    landmarks = sorted({landmark for one in systems.values() for landmark in one.landmarks})
    title = " beside ".join(systems)
    results = [
        replace(
            one.answering,
            name=f"{name}: {one.answer}",
            candidates=_recoded(one.answering.candidates, one.landmarks, landmarks),
            cost=Cost(one.bytes_per_image, one.seconds_per_image),
        )
        for name, one in systems.items()
    ]
    shared = {key: value for key, value in first.conditions.items()
              if all(one.conditions.get(key) == value for one in systems.values())}  # fmt: skip
    each = {name: _summary(one) for name, one in systems.items()}
    return replace(
        first,
        config=title,
        answer=results[0].name,
        landmarks=landmarks,
        names={key: name for one in systems.values() for key, name in one.names.items()},
        truth_codes=codes_of(first.truth, landmarks),
        gallery_codes=_recoded(first.gallery_codes, first.landmarks, landmarks),
        results=results,
        conditions={**shared, "config": title, **each},
        # Of the first system alone.
        explained=Explained(),
        notes=list(dict.fromkeys(note for one in systems.values() for note in one.notes)),
    )


def _recoded(codes: Integers, own: Sequence[str], landmarks: Sequence[str]) -> Integers:
    """Codes into a system's own landmarks as codes into others, -1 as it is."""
    # The last place is that of -1, which is no landmark.
    return np.array([*codes_of(own, landmarks), NO_LANDMARK])[codes]


def _summary(measured: Measured) -> str:
    """What a system's figures have to be quoted with, in a line."""
    quoted = [f"{key} {measured.conditions[key]}" for key in ("whitening", "index", "precision")
              if key in measured.conditions]  # fmt: skip
    return (
        f"{measured.config}, answered by {measured.answer}; {measured.bytes_per_image:,.0f} bytes"
        f" and {1000 * measured.seconds_per_image:,.1f} ms a photograph; {'; '.join(quoted)}"
    )


def codes_of(truth: Sequence[str | None], landmarks: Sequence[str]) -> Integers:
    """(n,) the landmarks' places; NO_LANDMARK for none, NOT_IN_GALLERY for unknown ones."""
    code_of = {landmark: code for code, landmark in enumerate(landmarks)}
    return np.array(
        [NO_LANDMARK if one is None else code_of.get(one, NOT_IN_GALLERY) for one in truth],
        dtype=np.int64,
    )
