"""What a trained network ends in: unit embeddings to a logit for every landmark.

``linear`` and ``two-layer`` are trained by softmax over the landmarks and one class more, the
photographs without a landmark. ``arcface`` (Deng et al., CVPR 2019) has the cosines to landmarks'
centres as logits, with a margin in training; ``sub-centre`` (Deng et al., ECCV 2020) has several
centres a landmark, of which the nearest counts, and margins by the landmarks' sizes (Ha et al.,
arXiv 2010.05350). ``sigmoid`` asks of every landmark alone whether it is shown.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from retrieval.networks.trunk import seeded
from retrieval.types import StrictModel


class LinearConfig(StrictModel):
    """One layer; the logits' scale, here at the start, is learnt."""

    kind: Literal["linear"] = "linear"
    scale: float = Field(16.0, ge=1e-3, le=1e3)


class TwoLayerConfig(StrictModel):
    """A hidden layer with dropout before."""

    kind: Literal["two-layer"] = "two-layer"
    hidden: int = Field(512, ge=1, le=65_536)
    dropout: float = Field(0.2, ge=0.0, le=0.9)
    scale: float = Field(16.0, ge=1e-3, le=1e3)


class ArcFaceConfig(StrictModel):
    """Cosines with one margin, in radians; ``negatives`` gives the bank a centre of its own."""

    kind: Literal["arcface"] = "arcface"
    margin: float = Field(0.3, ge=0.0, lt=math.pi / 2)
    scale: float = Field(30.0, ge=1e-3, le=1e3)
    negatives: bool = False


class SubCentreConfig(StrictModel):
    """Several centres a landmark; the margin is ``least + spread * photographs ** -falling``."""

    kind: Literal["sub-centre"] = "sub-centre"
    centres: int = Field(3, ge=1, le=64)
    least: float = Field(0.05, ge=0.0, lt=math.pi / 2)
    spread: float = Field(0.5, ge=0.0, le=math.pi)
    falling: float = Field(0.25, ge=0.0, le=100.0)
    scale: float = Field(30.0, ge=1e-3, le=1e3)
    negatives: bool = False


class SigmoidConfig(StrictModel):
    """One landmark against the rest, all landmarks at once."""

    kind: Literal["sigmoid"] = "sigmoid"
    scale: float = Field(16.0, ge=1e-3, le=1e3)


HeadConfig = Annotated[
    LinearConfig | TwoLayerConfig | ArcFaceConfig | SubCentreConfig | SigmoidConfig,
    Field(discriminator="kind"),
]


class Head(nn.Module):
    """See the module's docstring.

    Args:
        config: of its kind.
        dimension: of the embeddings.
        landmarks: how many; class ``landmarks`` is none, where there is one.
        bank: whether there are photographs without a landmark.
        seed: of its first parameters.
    """

    def __init__(self, config: HeadConfig, dimension: int, landmarks: int, bank: bool, seed: int):
        super().__init__()
        self.config = config
        self.landmarks = landmarks
        self.none = bank and takes_none(config)
        self.classes = landmarks + self.none
        self.centres = config.centres if isinstance(config, SubCentreConfig) else 1
        self.angular = isinstance(config, ArcFaceConfig | SubCentreConfig)
        with seeded(seed):
            self.hidden: nn.Module | None = None
            if isinstance(config, TwoLayerConfig):
                layer = nn.Linear(dimension, config.hidden)
                self.hidden = nn.Sequential(layer, nn.ReLU(), nn.Dropout(config.dropout))
                dimension = config.hidden
            rows = torch.randn(self.classes * self.centres, dimension) / math.sqrt(dimension)
        self.weight = nn.Parameter(rows)
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
        self.log_scale.requires_grad_(not self.angular)
        self.bias: nn.Parameter | None = None
        if not self.angular:
            # One against the rest begins where each landmark is as rare as it is.
            rare = -math.log(max(landmarks - 1, 1)) if config.kind == "sigmoid" else 0.0
            self.bias = nn.Parameter(torch.full((self.classes,), rare))

    def forward(self, embeddings: Tensor, classes: Tensor | None = None) -> Tensor:
        """(n, d) unit rows to logits (n, classes), or those of some ascending classes alone."""
        if self.hidden is not None:
            embeddings = nn.functional.normalize(self.hidden(embeddings), dim=1)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if classes is not None:
            weight = weight.view(self.classes, -1)[classes].view(-1, weight.shape[1])
            bias = None if bias is None else bias[classes]
        if self.angular:
            weight = nn.functional.normalize(weight, dim=1)
        likeness = embeddings @ weight.T
        if self.centres > 1:
            likeness = likeness.view(len(likeness), -1, self.centres).amax(dim=2)
        logits = likeness * self.log_scale.exp()
        return logits if bias is None else logits + bias


def takes_none(config: HeadConfig) -> bool:
    """Whether the bank is one more class."""
    if isinstance(config, ArcFaceConfig | SubCentreConfig):
        return config.negatives
    return not isinstance(config, SigmoidConfig)


def uses_bank(config: HeadConfig) -> bool:
    """Whether a photograph without a landmark teaches the head anything."""
    return takes_none(config) or isinstance(config, SigmoidConfig)


def confidences(head: Head, logits: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """The best landmarks of n photographs, with values that compare photographs.

    For ``sigmoid`` the value is the logit. Else it is the log-odds against all other classes and
    none; heads without such a class have a logit of 0 for it, the cosine of unrelated centres.

    Args:
        head: that made them.
        logits: (n, classes).
        candidates: how many landmarks.

    Returns:
        (n, c) int64 landmarks and (n, c) float64 values, falling; equal ones keep their order.
    """
    logits = logits.double()
    own = logits[:, : head.landmarks]
    values, best = torch.sort(own, dim=1, descending=True, stable=True)
    count = min(candidates, head.landmarks)
    values, best = values[:, :count], best[:, :count]
    if head.config.kind == "sigmoid":
        return best, values
    if not head.none:
        logits = torch.cat([logits, logits.new_zeros(len(logits), 1)], dim=1)
    # Beside the best one the rest is summed without it: as a difference it would vanish.
    rest = logits.scatter(1, best[:, :1], -torch.inf).logsumexp(dim=1, keepdim=True)
    total = torch.logaddexp(rest, values[:, :1])
    others = total + torch.log1p(-(values[:, 1:] - total).exp().clamp(max=0.5 + 1e-9))
    return best, values - torch.cat([rest, others], dim=1)


def ranked(
    head: Head, embeddings: NDArray[np.float32], candidates: int, block: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """:func:`confidences` of (n, d) embeddings, so many photographs at a time."""
    count = min(candidates, head.landmarks)
    best = np.empty((len(embeddings), count), np.int64)
    values = np.empty((len(embeddings), count), np.float32)
    device = head.weight.device
    with torch.inference_mode():
        for start in range(0, len(embeddings), block):
            here = slice(start, start + block)
            rows = torch.from_numpy(np.array(embeddings[here], np.float32)).to(device)
            found, value = confidences(head, head(rows), candidates)
            best[here], values[here] = found.cpu().numpy(), value.cpu().numpy()
    return best, values
