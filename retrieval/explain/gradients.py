"""Attributions by derivatives: saliency, gradient × input, integrated gradients, SmoothGrad.

Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks" (ICLR workshop 2014);
Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks" (ICML 2017); Smilkov et al.,
"SmoothGrad: removing noise by adding noise" (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from retrieval.explain.derivable import Derivable
from retrieval.explain.targets import Function

STEPS: Final = 32
"""Points of the path of integrated gradients."""
NOISY: Final = 24
"""Noisy copies of SmoothGrad."""
NOISE: Final = 0.15
"""Their noise's deviation, as a share of the range of what the network sees."""
BATCH: Final = 4
"""Copies that are run at a time."""


def gradients(
    by: Derivable, function: Function, values: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """(n,) values of the target, and each network's (n, 3, h, w) derivatives by what it sees.

    Args:
        by: the descriptor's function.
        function: the target.
        values: (n, 3, h, w) of every network.
    """
    leaves = [one.detach().clone().requires_grad_() for one in values]
    found = function(by(leaves))
    return found.detach(), list(torch.autograd.grad(found.sum(), leaves))


def gradient_input(by: Derivable, function: Function) -> list[Tensor]:
    """The derivative times what the network sees: against a photograph of the mean colour."""
    values = [one.values for one in by.seen]
    _, slopes = gradients(by, function, values)
    return [slope * one for slope, one in zip(slopes, values, strict=True)]


def integrated(by: Derivable, function: Function, steps: int = STEPS) -> tuple[list[Tensor], float]:
    """Derivatives averaged on the way from the mean colour, times what the network sees; and how
    far their sum is from what the target changes on that way.

    The points are those of Gauss and Legendre.
    """
    values = [one.values for one in by.seen]
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    totals = [torch.zeros_like(one) for one in values]
    for start in range(0, steps, BATCH):
        here = slice(start, start + BATCH)
        far = torch.tensor((nodes[here] + 1) / 2, dtype=torch.float32)[:, None, None, None]
        much = torch.tensor(weights[here] / 2, dtype=torch.float32)[:, None, None, None]
        _, slopes = gradients(by, function, [far.to(one.device) * one for one in values])
        for total, slope in zip(totals, slopes, strict=True):
            total += (much.to(slope.device) * slope).sum(dim=0, keepdim=True)
    found = [total * one for total, one in zip(totals, values, strict=True)]
    with torch.inference_mode():
        ends = [float(function(by(some))[0]) for some in (values, [0 * one for one in values])]
    return found, float(sum(float(one.sum()) for one in found) - (ends[0] - ends[1]))


def smooth(by: Derivable, function: Function, seed: int = 0) -> list[Tensor]:
    """The mean derivative of noisy copies."""
    values = [one.values for one in by.seen]
    random: Any = torch.Generator().manual_seed(seed)
    totals = [torch.zeros_like(one) for one in values]
    for _ in range(0, NOISY, BATCH):
        noisy = []
        for one in values:
            spread = NOISE * float(one.max() - one.min())
            noise = torch.randn((BATCH, *one.shape[1:]), generator=random)
            noisy.append(one + spread * noise.to(one.device))
        _, slopes = gradients(by, function, noisy)
        for total, slope in zip(totals, slopes, strict=True):
            total += slope.sum(dim=0, keepdim=True) / NOISY
    return totals
