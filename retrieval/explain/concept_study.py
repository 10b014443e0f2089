"""Concepts of a system: folders of photographs, and how far its landmarks depend on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.errors import ExplainError, PhotographError
from retrieval.explain import SIMILARITY
from retrieval.explain.concepts import (
    RANDOM,
    ConceptScore,
    Rows,
    channel_scale,
    concept_scores,
    layer_for,
    mean_channels,
    separate,
    slopes,
)
from retrieval.explain.drawn import drawn, of_rows, opened
from retrieval.explain.explainer import Explainer
from retrieval.explain.layers import MapLayer
from retrieval.explain.targets import Asked, Target, target_of
from retrieval.photographs.folders import photographs_below
from retrieval.photographs.given import open_given
from retrieval.types import Photograph

LANDMARKS: Final = 6
"""Landmarks that are looked at unless some are named: those with the most photographs."""
OF_LANDMARK: Final = 12
"""Photographs of each, at most."""
OF_CONCEPT: Final = 60
"""Photographs of a concept, at most."""
OWN_RANDOM: Final = 120
"""Gallery photographs that stand for nothing in particular where there is no such folder."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ConceptDirection:
    """A concept in a layer's channels.

    Attributes:
        name: of the concept.
        photographs: of it.
        accuracy: of its separators on photographs held out.
        direction: (channels,) of unit length, by scaled channels.
    """

    name: str
    photographs: int
    accuracy: float
    direction: NDArray[np.float64]


@dataclass(frozen=True)
class ConceptStudy:
    """What was found.

    Attributes:
        layer: whose channels they are.
        target: what of the landmarks was derived.
        scale: (channels,) the deviation in which each channel is measured.
        concepts: their directions.
        scores: of every landmark by every concept.
    """

    layer: str
    target: str
    scale: Rows
    concepts: tuple[ConceptDirection, ...]
    scores: tuple[ConceptScore, ...]

    def as_json(self) -> dict[str, Any]:
        """For a run."""
        return {
            "layer": self.layer,
            "target": self.target,
            "scale": _short(self.scale),
            "concepts": [
                {**asdict(one), "direction": _short(one.direction)} for one in self.concepts
            ],
            "scores": [asdict(one) for one in self.scores],
        }

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> ConceptStudy:
        """What :meth:`as_json` made."""
        return cls(
            found["layer"],
            found["target"],
            np.array(found["scale"], np.float32),
            tuple(
                ConceptDirection(**{**one, "direction": np.array(one["direction"])})
                for one in found["concepts"]
            ),
            tuple(ConceptScore(**one) for one in found["scores"]),
        )


def _short(values: NDArray[Any]) -> list[float]:
    return [float(f"{one:.6g}") for one in values]


def read_concepts(folder: Path) -> dict[str, list[Path]]:
    """The photographs of each concept, by the names of the folders; ``random`` among them.

    Raises:
        ExplainError: there is no folder in it.
    """
    if not folder.is_dir():
        raise ExplainError(f"{folder}: no such folder (--concepts)")
    found = {
        one.name: [Path(path) for path in photographs_below(one, lambda _: False, [])]
        for one in sorted(folder.iterdir())
        if one.is_dir() and not one.name.startswith(".")
    }
    if not set(found) - {RANDOM}:
        raise ExplainError(f"{folder} holds no concept: each is a folder of photographs in it")
    return found


def study(
    explainer: Explainer,
    concepts: Mapping[str, Sequence[Path]],
    *,
    layer: str | None = None,
    target: str = SIMILARITY,
    landmarks: Sequence[str] = (),
    seed: int = 0,
    told: Progress = lambda done, failed: None,
) -> ConceptStudy:
    """Find concepts in a layer, and score landmarks by them.

    Args:
        explainer: of the system.
        concepts: as :func:`read_concepts` gives them.
        layer: as ``landmarks layers`` names modules, or the default.
        target: of a landmark: ``similarity`` to its other photographs, ``margin`` or ``class``.
        landmarks: ids; by default the :data:`LANDMARKS` with the most photographs.
        seed: of all that is drawn.
        told: of (photographs, of which so many cannot be read) since the last call.

    Raises:
        ExplainError: no network, no such layer, landmark or target, too few photographs.
    """
    side = explainer.describer.longest_side
    first = drawn(explainer, 1, side, seed)[0].asked
    where = layer_for(first, layer)
    codes = landmark_codes(explainer, landmarks, LANDMARKS)

    def rows_of(photographs: Sequence[Path | Photograph]) -> Rows:
        made = []
        for one in photographs:
            try:
                made.append(mean_channels(first, where, [open_given(one, side)]))
                told(1, 0)
            except PhotographError:
                told(1, 1)
        return np.concatenate(made) if made else np.zeros((0, where.channels), np.float32)

    random = rows_of(concepts[RANDOM] if RANDOM in concepts else _own(explainer, side, seed))
    named = {
        name: rows_of(paths[:OF_CONCEPT]) for name, paths in concepts.items() if name != RANDOM
    }
    centre, scale = channel_scale(random)
    scaled = {name: (rows - centre) / scale for name, rows in named.items()}
    separated, chances = separate(scaled, (random - centre) / scale, seed)
    derivatives = {
        explainer.name(explainer.gallery.landmarks[code]): _derivatives(
            explainer, code, where, target, told
        )
        * scale
        for code in codes
    }
    return ConceptStudy(
        where.name,
        target,
        scale,
        tuple(
            ConceptDirection(
                one.name,
                one.photographs,
                float(one.separators.accuracy.mean()),
                one.separators.direction,
            )
            for one in separated
        ),
        tuple(concept_scores(separated, chances, derivatives)),
    )


def _own(explainer: Explainer, side: int, seed: int) -> list[Photograph]:
    rows = np.random.default_rng(seed).permutation(len(explainer.rows))[:OWN_RANDOM]
    found = (opened(explainer, int(row), side) for row in rows)
    return [one for one in found if one is not None]


def landmark_codes(explainer: Explainer, landmarks: Sequence[str], count: int) -> list[int]:
    """Of the landmarks named by id; where none is, of so many with the most photographs.

    Raises:
        ExplainError: the gallery has no such landmark.
    """
    known = list(explainer.gallery.landmarks)
    for one in landmarks:
        if one not in known:
            raise ExplainError(f"--landmark {one}: the gallery has no landmark of this id")
    if landmarks:
        return [known.index(one) for one in dict.fromkeys(landmarks)]
    counts = np.bincount(np.asarray(explainer.gallery.codes), minlength=len(known))
    return [int(code) for code in np.argsort(-counts, kind="stable")[:count]]


def _derivatives(
    explainer: Explainer, code: int, layer: MapLayer, target: str, told: Progress
) -> Rows:
    rows = np.flatnonzero(np.asarray(explainer.gallery.codes) == code)[:OF_LANDMARK].tolist()
    made = []
    for one in of_rows(explainer, rows, explainer.describer.longest_side):
        wanted = (
            to_landmark(explainer, one.asked, one.row)
            if target == SIMILARITY
            else target_of(target, one.asked)
        )
        made.append(slopes(one.asked, layer, wanted))
        told(1, 0)
    if not made:
        name = explainer.gallery.landmarks[code]
        raise ExplainError(f"landmark {name}: fewer than two of its photographs can be read")
    return np.array(made)


def to_landmark(explainer: Explainer, asked: Asked, but: int) -> Target:
    """The similarity to the mean of a landmark's photographs, one left out."""
    rows = np.flatnonzero(np.asarray(explainer.gallery.codes) == asked.code)
    mean = explainer.gallery.vectors[rows[rows != but]].mean(axis=0)
    wide = torch.from_numpy(np.array(mean, np.float32))
    return Target("similarity to the landmark's other photographs", lambda rows: rows @ wide)
