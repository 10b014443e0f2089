"""Feature visualisation: pictures that a channel, a neuron or a direction of the descriptor answers
to the most.

Olah, Mordvintsev and Schubert, "Feature visualization" (Distill, 2017): gradient ascent on a
picture that is given by its Fourier coefficients, each scaled by one over its frequency, in colours
that are decorrelated; moved, turned and scaled a little at every step, so that it is no noise that
works in one place alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, normalize

from retrieval.explain.derivable import Derivable
from retrieval.explain.layers import MapLayer, output_of
from retrieval.types import Photograph

SIDE: Final = 112
"""Of a picture, in pixels."""
STEPS: Final = 64
RATE: Final = 0.05
JITTER: Final = 0.06
"""Shifts, as a share of the side."""
TURN: Final = 8.0
"""Degrees."""
SCALES: Final = (0.9, 1.15)
SPREAD: Final = 0.01
"""Deviation of the coefficients at the start."""

Objective = Callable[[Tensor], Tensor]
"""(n, 3, h, w) normalised pictures to (n,) numbers that are to grow, the i-th of the i-th."""


@dataclass(frozen=True)
class Colours:
    """How colours go together in photographs.

    Attributes:
        mean: (3,) of pixels in 0 to 1.
        mixing: (3, 3) from decorrelated colours to RGB; the squared root of the covariance.
    """

    mean: NDArray[np.float32]
    mixing: NDArray[np.float32]

    @classmethod
    def of(cls, photographs: Sequence[Photograph]) -> Colours:
        """Measured on photographs."""
        pixels = np.concatenate([one[::7, ::7].reshape(-1, 3) for one in photographs]) / 255.0
        values, vectors = np.linalg.eigh(np.cov(pixels.T))
        root = vectors * np.sqrt(np.maximum(values, 1e-6)) @ vectors.T
        return cls(pixels.mean(axis=0).astype(np.float32), root.astype(np.float32))


def channel(by: Derivable, layer: MapLayer, channels: Sequence[int]) -> Objective:
    """The mean of a channel's map: the i-th picture is for the i-th channel."""
    places = torch.tensor(channels)

    def function(pictures: Tensor) -> Tensor:
        maps = output_of(by, layer, pictures)
        return maps[torch.arange(len(maps)), places].mean(dim=(1, 2))

    return function


def neuron(by: Derivable, layer: MapLayer, channels: Sequence[int]) -> Objective:
    """The middle place of a channel's map alone."""
    places = torch.tensor(channels)

    def function(pictures: Tensor) -> Tensor:
        maps = output_of(by, layer, pictures)
        row, column = maps.shape[2] // 2, maps.shape[3] // 2
        return maps[torch.arange(len(maps)), places, row, column]

    return function


def described(by: Derivable, functions: Sequence[Callable[[Tensor], Tensor]]) -> Objective:
    """A function of the descriptor for each picture: a logit, the similarity to a landmark.

    All networks of the describer see the same picture; what is no network's stays that of the
    photograph that ``by`` is of.
    """
    first = by.seen[0].trunk

    def function(pictures: Tensor) -> Tensor:
        rows = by([_renormalised(pictures, first, one.trunk) for one in by.seen])
        return torch.stack([one(rows[i : i + 1])[0] for i, one in enumerate(functions)])

    return function


def _renormalised(pictures: Tensor, given: object, wanted: object) -> Tensor:
    """Normalised for one trunk, as another was trained with."""
    if given is wanted:
        return pictures
    (mean, std), (other, spread) = (
        [torch.tensor(getattr(one, name)).view(1, 3, 1, 1) for name in ("mean", "std")]
        for one in (given, wanted)
    )
    return (pictures * std + mean - other) / spread


def visualise(
    by: Derivable,
    objective: Objective,
    count: int,
    colours: Colours,
    *,
    seen: int = 0,
    side: int = SIDE,
    steps: int = STEPS,
    seed: int = 0,
) -> list[Photograph]:
    """Pictures for an objective, all at once.

    Args:
        by: whose network it is of.
        objective: what is to grow.
        count: of pictures.
        colours: how those go together.
        seen: which of the networks normalises the pictures.
        side: of a picture.
        steps: of gradient ascent.
        seed: of the start and of how the pictures are moved.

    Returns:
        (side, side, 3) uint8 RGB each.
    """
    random = torch.Generator().manual_seed(seed)
    trunk = by.seen[seen].trunk
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (trunk.mean, trunk.std))
    width = side // 2 + 1
    spectrum = SPREAD * torch.randn((count, 3, side, width, 2), generator=random)
    spectrum.requires_grad_()
    weights = _weights(side)
    mixing = torch.from_numpy(colours.mixing / np.linalg.norm(colours.mixing, 2))
    centre = torch.logit(torch.from_numpy(colours.mean).clamp(0.05, 0.95)).view(1, 3, 1, 1)

    def drawn() -> Tensor:
        plain = torch.fft.irfft2(torch.view_as_complex(spectrum) * weights, s=(side, side))
        mixed = torch.einsum("nchw,dc->ndhw", plain, mixing)
        return torch.sigmoid(mixed + centre)

    optimiser = torch.optim.Adam([spectrum], lr=RATE)
    for _ in range(steps):
        values = objective((_moved(drawn(), random) - mean) / std)
        # Each by its own size, else those of large numbers alone would be drawn.
        loss = (-values / values.detach().abs().clamp(min=1e-3)).sum()
        (spectrum.grad,) = torch.autograd.grad(loss, [spectrum])
        optimiser.step()
    with torch.no_grad():
        pictures = (255 * drawn()).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [np.ascontiguousarray(one) for one in pictures]


def _weights(side: int) -> Tensor:
    """(side, side / 2 + 1) one over each coefficient's frequency, and the size of a picture."""
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1.0 / side)
    return torch.from_numpy((side / frequency).astype(np.float32))


def _moved(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Each shifted, turned and scaled by chance; beyond its edges it is mirrored."""
    count = len(pictures)
    angle, scale, right, down = torch.rand((4, count), generator=random)
    angle = torch.deg2rad((2 * angle - 1) * TURN)
    scale = torch.exp(math.log(SCALES[0]) + scale * math.log(SCALES[1] / SCALES[0]))
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    shifts = 2 * JITTER * (2 * torch.stack([right, down]) - 1)
    rows = torch.stack([cos, -sin, shifts[0], sin, cos, shifts[1]], dim=1).view(count, 2, 3)
    grid = affine_grid(rows, list(pictures.shape), align_corners=False)
    moved: Tensor = grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    return moved


def landmark_direction(rows: NDArray[np.float32]) -> Callable[[Tensor], Tensor]:
    """The similarity to the mean of a landmark's (n, d) descriptors."""
    mean = normalize(torch.from_numpy(rows.mean(axis=0)), dim=0)
    return lambda descriptors: descriptors @ mean
