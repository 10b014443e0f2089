"""What a system's network has learnt: pictures for its channels, its landmarks and its classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import ExplainError
from retrieval.explain.concept_study import landmark_codes
from retrieval.explain.derivable import Derivable, derivable
from retrieval.explain.drawn import drawn, opened
from retrieval.explain.explainer import Explainer
from retrieval.explain.layers import MapLayer, layer_named, layers_of, met
from retrieval.explain.targets import Asked, target_of
from retrieval.explain.visualisation import (
    Colours,
    Objective,
    channel,
    described,
    landmark_direction,
    neuron,
    visualise,
)
from retrieval.types import Photograph

LAYERS: Final = 5
LANDMARKS: Final = 3
LOOKED_AT: Final = 60
"""Gallery photographs among which patches are looked for."""
PATCHES: Final = 4
CELLS: Final = 5
"""A patch is as large as so many cells of the layer's map, and LEAST pixels."""
LEAST: Final = 40

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LearntPicture:
    """A picture, and gallery patches that the same channel answers to the most, nearest first."""

    name: str
    picture: Photograph
    patches: tuple[Photograph, ...] = ()


@dataclass(frozen=True)
class LearntRow:
    """Pictures of one layer, or of one kind of direction."""

    name: str
    pictures: tuple[LearntPicture, ...]


@dataclass(frozen=True)
class _Answers:
    """How strongly a layer's channels answer to photographs.

    Attributes:
        most: (photographs, channels) the largest value of each map.
        places: (photographs, channels) where, row by row.
        sizes: of each photograph's map.
    """

    most: NDArray[np.float32]
    places: NDArray[np.int64]
    sizes: list[tuple[int, int]]


def learnt(
    explainer: Explainer,
    layers: Sequence[str] = (),
    channels: int = 3,
    landmarks: Sequence[str] = (),
    *,
    neurons: bool = False,
    seed: int = 0,
    told: Progress = lambda done, failed: None,
) -> list[LearntRow]:
    """Pictures of the first network, from its input on, then of landmarks and classes.

    Args:
        explainer: of the system.
        layers: by name; by default :data:`LAYERS` of them, evenly.
        channels: of each layer: those that few photographs excite far more than the others.
        landmarks: ids; by default the :data:`LANDMARKS` with the most photographs.
        neurons: whether the middle neuron of a channel is drawn for instead of all.
        seed: of what is drawn.
        told: of (pictures since the last call, 0).

    Raises:
        ExplainError: no network, no such layer or landmark.
    """
    side = explainer.describer.longest_side
    first = drawn(explainer, 1, side, seed)[0].asked
    rows = np.random.default_rng(seed).permutation(len(explainer.rows))[:LOOKED_AT]
    read = (opened(explainer, int(row), side) for row in rows)
    photographs = [one for one in read if one is not None]
    colours = Colours.of(photographs)
    by = derivable(first.describer, first.photograph)
    chosen = _chosen(layers_of(by), layers)
    answers = _answers(first, chosen, photographs)
    found = []
    with _still(by):
        for layer, answer in zip(chosen, answers, strict=True):
            places = _selective(answer, channels)
            objective: Objective = (neuron if neurons else channel)(by, layer, places)
            pictures = visualise(by, objective, len(places), colours, seen=layer.seen, seed=seed)
            told(len(pictures), 0)
            found.append(
                LearntRow(
                    layer.name,
                    tuple(
                        LearntPicture(f"channel {place}", one, _patches(answer, place, photographs))
                        for place, one in zip(places, pictures, strict=True)
                    ),
                )
            )
        for title, named in _directions(explainer, first, landmarks):
            objective = described(by, [function for _, function in named])
            pictures = visualise(by, objective, len(named), colours, seed=seed)
            told(len(pictures), 0)
            made = zip(named, pictures, strict=True)
            found.append(LearntRow(title, tuple(LearntPicture(name, p) for (name, _), p in made)))
    return found


def _chosen(known: list[MapLayer], names: Sequence[str]) -> list[MapLayer]:
    if names:
        return [layer_named(known, name) for name in names]
    own = [layer for layer in known if layer.seen == known[0].seen]
    places = np.linspace(len(own) / LAYERS, len(own), LAYERS).round().astype(int) - 1
    return [own[place] for place in dict.fromkeys(places.tolist())]


def _answers(
    asked: Asked, layers: Sequence[MapLayer], photographs: Sequence[Photograph]
) -> list[_Answers]:
    """Of every layer, from one pass a photograph."""
    found: list[list[tuple[Tensor, Tensor, tuple[int, int]]]] = [[] for _ in layers]

    def take(place: int, output: Tensor) -> None:
        laid = layers[place].channels_first(output)[0]
        most, where = laid.flatten(1).max(dim=1)
        found[place].append((most.cpu(), where.cpu(), (laid.shape[1], laid.shape[2])))

    with ExitStack() as stack, torch.inference_mode():
        for place, layer in enumerate(layers):
            stack.enter_context(met(layer, partial(take, place)))
        for one in photographs:
            by = derivable(asked.describer, one)
            for seen in {layer.seen for layer in layers}:
                by.seen[seen].trunk.network(by.seen[seen].values)
    return [
        _Answers(
            np.array([most.numpy() for most, _, _ in own]),
            np.array([where.numpy() for _, where, _ in own]),
            [size for _, _, size in own],
        )
        for own in found
    ]


def _selective(answers: _Answers, count: int) -> list[int]:
    """Channels whose best few photographs stand out the most, in deviations."""
    ordered = np.sort(answers.most, axis=0)[-PATCHES:].mean(axis=0)
    spread = answers.most.std(axis=0)
    out = np.where(spread > 0, (ordered - answers.most.mean(axis=0)) / np.maximum(spread, 1e-9), 0)
    return [int(place) for place in np.argsort(-out, kind="stable")[:count]]


def _patches(
    answers: _Answers, place: int, photographs: Sequence[Photograph]
) -> tuple[Photograph, ...]:
    best = np.argsort(-answers.most[:, place], kind="stable")[:PATCHES]
    return tuple(
        _patch(photographs[row], int(answers.places[row, place]), answers.sizes[row])
        for row in best.tolist()
    )


def _patch(photograph: Photograph, at: int, size: tuple[int, int]) -> Photograph:
    height, width = photograph.shape[:2]
    row, column = divmod(at, size[1])
    side = min(max(LEAST, round(CELLS * height / size[0])), height, width)
    middle = (row + 0.5) * height / size[0], (column + 0.5) * width / size[1]
    top, left = (
        int(np.clip(round(centre - side / 2), 0, most - side))
        for centre, most in zip(middle, (height, width), strict=True)
    )
    return photograph[top : top + side, left : left + side]


def _directions(
    explainer: Explainer, asked: Asked, landmarks: Sequence[str]
) -> Iterator[tuple[str, list[tuple[str, Callable[[Tensor], Tensor]]]]]:
    """Landmarks, and the classes of a head where there is one."""
    codes = landmark_codes(explainer, landmarks, LANDMARKS)
    gallery = explainer.gallery
    names = [explainer.name(gallery.landmarks[code]) for code in codes]
    own = [np.flatnonzero(np.asarray(gallery.codes) == code) for code in codes]
    yield (
        "similarity to landmarks",
        [
            (name, landmark_direction(np.asarray(gallery.vectors[rows])))
            for name, rows in zip(names, own, strict=True)
        ],
    )
    try:
        targets = [target_of("class", replace(asked, code=code)) for code in codes]
    except ExplainError:  # it has no head
        return
    each = [(name, one.function) for name, one in zip(names, targets, strict=True)]
    yield targets[0].words, each


@contextmanager
def _still(by: Derivable) -> Iterator[None]:
    """Within, parameters have no derivatives: those of the picture alone are wanted."""
    moving = [
        one for seen in by.seen for one in seen.trunk.network.parameters() if one.requires_grad
    ]
    for one in moving:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in moving:
            one.requires_grad_()
