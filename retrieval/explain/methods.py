"""The methods of attribution, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from retrieval.errors import ExplainError
from retrieval.explain import gradients
from retrieval.explain.attribution import Attribution
from retrieval.explain.derivable import Derivable, derivable
from retrieval.explain.grad_cam import grad_cam
from retrieval.explain.guided import guided
from retrieval.explain.occlusion import occlusion
from retrieval.explain.targets import Asked, Function, Target, target_of

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What a method gives: (h, w) over what the networks see, and what it says of itself."""

    map: Map
    note: str = ""


def attribution(method: str, target: str, asked: Asked) -> Attribution:
    """A method's map of one photograph.

    Raises:
        ExplainError: there is no such method or target, or it does not apply to the system.
    """
    if method not in METHODS:
        raise ExplainError(f"--method {method}: there is none; there are {', '.join(METHODS)}")
    wanted = target_of(target, asked)
    signed, make = METHODS[method]
    found = make(asked, wanted)
    (row,) = asked.describer.describe([asked.photograph]).vectors
    value = float(wanted.of(row[None])[0])
    return Attribution(method, wanted.words, value, found.map, signed, found.note)


def _network(asked: Asked) -> Derivable:
    return derivable(asked.describer, asked.photograph)


def _flat(values: Sequence[Tensor], size: tuple[int, int], absolute: bool) -> Map:
    """(h, w) of every network's (1, 3, h, w): the largest size over colours, or the sum."""
    total = np.zeros(size, np.float32)
    for one in values:
        plane = one.abs().amax(dim=1) if absolute else one.sum(dim=1)
        flat = plane[0].detach().float().cpu().numpy()
        if absolute:
            total += cv2.resize(flat, size[::-1], interpolation=cv2.INTER_AREA)
        else:  # what pixels add stays as much
            laid = cv2.resize(flat, size[::-1], interpolation=cv2.INTER_AREA)
            total += laid * np.float32(flat.size / laid.size)
    return total


def _size(by: Derivable) -> tuple[int, int]:
    """Of the largest of what the networks see."""
    height, width = max((one.values.shape[-2:] for one in by.seen), key=lambda size: size.numel())
    return int(height), int(width)


def _gradient(asked: Asked, target: Target) -> Found:
    by = _network(asked)
    _, slopes = gradients.gradients(by, target.function, [one.values for one in by.seen])
    return Found(_flat(slopes, _size(by), absolute=True))


def _gradient_input(asked: Asked, target: Target) -> Found:
    by = _network(asked)
    return Found(_flat(gradients.gradient_input(by, target.function), _size(by), absolute=False))


def _integrated(asked: Asked, target: Target) -> Found:
    by = _network(asked)
    found, gap = gradients.integrated(by, target.function)
    note = f"its sum misses what the target changes from the mean colour on by {gap:+.4f}"
    return Found(_flat(found, _size(by), absolute=False), note)


def _smooth(asked: Asked, target: Target) -> Found:
    by = _network(asked)
    return Found(_flat(gradients.smooth(by, target.function), _size(by), absolute=True))


def _occlusion(asked: Asked, target: Target) -> Found:
    grid, falls, value = occlusion(asked.describer, asked.photograph, target)
    note = f"of the photograph at the size at which it was occluded the target is {value:.3f}"
    return Found(falls.reshape(grid.rows, grid.columns).astype(np.float32), note)


def _grad_cam(asked: Asked, target: Target) -> Found:
    by = _network(asked)
    return Found(_smoothly(grad_cam(by, target.function), _size(by)))


def _smoothly(maps: Sequence[Tensor], size: tuple[int, int]) -> Map:
    """(h, w) of (1, 1, h, w) maps of any size, summed."""
    laid = [interpolate(one, size, mode="bilinear", align_corners=False) for one in maps]
    return np.asarray(torch.stack(laid).sum(dim=0)[0, 0].cpu().numpy(), np.float32)


def guided_slopes(by: Derivable, function: Function) -> list[Tensor]:
    """Each network's (1, 3, h, w) derivatives by guided backpropagation.

    Raises:
        ExplainError: a network calls what no rule is known for.
    """
    with guided():
        values = [one.values.detach().clone().requires_grad_() for one in by.seen]
        maps = [one.maps(its) for one, its in zip(by.seen, values, strict=True)]
    found = function(by.of_maps(maps))
    return list(torch.autograd.grad(found.sum(), values))


def _guided(asked: Asked, target: Target) -> Found:
    by = _network(asked)
    return Found(_flat(guided_slopes(by, target.function), _size(by), absolute=True))


def _guided_grad_cam(asked: Asked, target: Target) -> Found:
    by = _network(asked)
    cams = grad_cam(by, target.function)
    slopes = guided_slopes(by, target.function)
    # As captum has it: the map laid over the pixels without smoothing.
    both = [
        slope * interpolate(cam, slope.shape[-2:], mode="nearest")
        for slope, cam in zip(slopes, cams, strict=True)
    ]
    return Found(_flat(both, _size(by), absolute=True))


METHODS: Final[dict[str, tuple[bool, Callable[[Asked, Target], Found]]]] = {
    "gradient": (False, _gradient),
    "gradient-input": (True, _gradient_input),
    "integrated": (True, _integrated),
    "smooth": (False, _smooth),
    "occlusion": (True, _occlusion),
    "grad-cam": (False, _grad_cam),
    "guided": (False, _guided),
    "guided-grad-cam": (False, _guided_grad_cam),
}
"""Whether a map's values below nought mean something, and what makes it."""
