"""How wrong a head is about every photograph of a batch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from retrieval.classifiers.base import Integers
from retrieval.networks.heads import (
    ArcFaceConfig,
    Head,
    HeadConfig,
    SubCentreConfig,
    TwoLayerConfig,
)


def margins(config: HeadConfig, counts: Integers) -> Tensor:
    """(classes,) float32 the angle added to each class in training, from its photographs.

    One for all in ArcFace. With sub-centres the rarer a landmark, the larger: ``a n^-λ + b``, Ha
    et al., arXiv 2010.05350, section 2.2.
    """
    if isinstance(config, SubCentreConfig):
        rarity = np.maximum(counts, 1.0) ** -config.falling
        found = np.minimum(config.least + config.spread * rarity, math.pi / 2)
        return torch.from_numpy(found.astype(np.float32))
    margin = config.margin if isinstance(config, ArcFaceConfig) else 0.0
    return torch.full((len(counts),), margin)


def row_losses(
    logits: Tensor, head: Head, targets: Tensor, margin: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each row.

    Args:
        logits: (n, c) of :class:`Head`.
        head: that made them.
        targets: (n,) columns, -1 where none of the columns is right: that costs nothing by
            softmax, and by sigmoid every landmark that is taken for it.
        margin: (n,) angle of each row's class.
        smoothing: share of the softmax's target that is spread over all classes, for labels that
            may be wrong (Szegedy et al., "Rethinking the Inception architecture", 2016, section 7).

    Returns:
        (n,) float32.
    """
    own = functional.one_hot(targets.clamp(min=0), logits.shape[1]).bool()
    own &= (targets >= 0)[:, None]
    if head.config.kind == "sigmoid":
        wanted = own.to(logits.dtype)
        each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return each.sum(dim=1)
    if head.angular:
        logits = torch.where(own, _further(logits, head.log_scale.exp(), margin[:, None]), logits)
    return functional.cross_entropy(
        logits, targets, ignore_index=-1, reduction="none", label_smoothing=smoothing
    )


def _further(logits: Tensor, scale: Tensor, margin: Tensor) -> Tensor:
    """``s cos(angle + margin)``, Deng et al. (CVPR 2019), equation 3.

    Past half a turn the cosine would rise again: there it goes on falling in a straight line.
    """
    cosine = (logits / scale).clamp(-1.0, 1.0)
    sine = (1.0 - cosine.square()).clamp(min=1e-12).sqrt()
    turned = cosine * margin.cos() - sine * margin.sin()
    straight = cosine - margin.sin() * margin
    return scale * torch.where(cosine > (math.pi - margin).cos(), turned, straight)


def head_memory(
    config: HeadConfig,
    landmarks: int,
    dimension: int,
    batch: int,
    sampled: int | None = None,
    optimiser: str = "adam",
) -> int:
    """Bytes that training a head takes, beside the trunk: stated before training starts.

    Parameters, their gradients and the optimiser's one or two moments stay; a batch's logits are
    held about four times over (cosines, with margins, softmax, gradient). Where classes are
    sampled only theirs are, with a copy of their parameters and of its gradient.
    """
    centres = config.centres if isinstance(config, SubCentreConfig) else 1
    hidden = config.hidden if isinstance(config, TwoLayerConfig) else 0
    parameters = landmarks * centres * (hidden or dimension) + hidden * dimension
    classes = min(sampled or landmarks, landmarks) * centres
    copies = 2 * classes * (hidden or dimension) if classes < landmarks * centres else 0
    return 4 * (parameters * (4 if optimiser == "adam" else 3) + 4 * batch * classes + copies)
