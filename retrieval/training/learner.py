"""Network and head as one, with what teaches them: losses, groups of parameters, rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.networks.embedder import Embedder, set_trained
from retrieval.networks.heads import Head
from retrieval.training.config import OptimiserConfig, ScheduleConfig, SgdConfig, TrainingConfig
from retrieval.training.losses import margins, row_losses
from retrieval.training.split import Collection


class Learner(nn.Module):
    """Photographs and their classes in, what each cost out.

    Args:
        network: up to the embedding.
        head: behind it.
        margin: (classes,) angles of :func:`retrieval.training.losses.margins`.
        smoothing: of :func:`retrieval.training.losses.row_losses`.
    """

    def __init__(self, network: Embedder, head: Head, margin: Tensor, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing
        self.network = network
        self.head = head
        self.margin: Tensor
        self.register_buffer("margin", margin, persistent=False)

    def forward(
        self, inputs: Tensor, targets: Tensor, classes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Losses of a batch.

        Args:
            inputs: (n, h, w, 3) uint8 or (n, channels) pooled.
            targets: (n,) classes, -1 for none of them.
            classes: (c,) ascending, the only ones compared with; all without.

        Returns:
            (n,) losses, and (n,) whether the head puts the right class first.
        """
        logits = self.head(self.network(inputs), classes)
        columns = targets
        if classes is not None:
            columns = torch.searchsorted(classes, targets).where(targets >= 0, targets)
        margin = self.margin[targets.clamp(min=0)]
        losses = row_losses(logits, self.head, columns, margin, self.smoothing)
        return losses, logits.argmax(dim=1) == columns

    def saved(self) -> dict[str, Tensor]:
        """Everything learnt, by the names that ``network.safetensors`` has."""
        head = {f"head.{key}": value for key, value in self.head.state_dict().items()}
        return {**self.network.state_dict(), **head}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`saved`."""
        head = {k.removeprefix("head."): v for k, v in tensors.items() if k.startswith("head.")}
        self.head.load_state_dict(head)
        rest = {k: tensors[k] for k in self.network.state_dict()}
        self.network.load_state_dict(rest)

    def trained(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return {key: one for key, one in self.named_parameters() if one.requires_grad}


def make_learner(
    network: Embedder, config: TrainingConfig, collection: Collection, seed: int
) -> Learner:
    """Network and a new head, with what does not learn frozen.

    Raises:
        ConfigError: a stage to train that the trunk does not have.
    """
    landmarks = len(collection.landmarks)
    head = Head(config.head, network.dimension, landmarks, collection.bank, seed)
    taught = collection.codes[~collection.validation]
    counts = [*collection.counts(), *([(taught < 0).sum()] if head.none else [])]
    angles = margins(config.head, torch.tensor(counts).numpy())
    learner = Learner(network, head, angles, config.smoothing)
    set_trained(network, config.train, config.trainable)
    return learner


def make_optimiser(
    learner: Learner, config: OptimiserConfig
) -> tuple[torch.optim.Optimizer, list[str]]:
    """The optimiser, with a group for each of head, neck and trunk that learns.

    Biases, norms, GeM's exponent and the scale do not decay.

    Returns:
        it, and the parameters' names in its order.
    """
    rates = {
        "head": config.rate,
        "neck": config.rate if config.neck_rate is None else config.neck_rate,
        "trunk": config.trunk_rate,
    }
    groups: list[dict[str, Any]] = []
    names: list[str] = []
    for part, rate in rates.items():
        for decays in (True, False):
            own = {
                key: one
                for key, one in learner.trained().items()
                if _part(key) == part and (one.ndim > 1) == decays
            }
            if own:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": list(own.values()), "lr": rate, "initial_lr": rate,
                               "weight_decay": decay, "part": part})  # fmt: skip
                names += own
    if isinstance(config, SgdConfig):
        momentum = config.momentum
        return torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0), names
    return torch.optim.AdamW(groups), names


def _part(name: str) -> str:
    if name.startswith("head."):
        return "head"
    return "neck" if name.startswith("network.neck.") else "trunk"


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set all rates to their first ones times a factor; what they are now, by part."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return {group["part"]: group["lr"] for group in optimiser.param_groups}


def rate_factor(config: ScheduleConfig, epoch: float, epochs: int) -> float:
    """What rates are multiplied by at a time within 0 to ``epochs``."""
    if epoch < config.warm_up:
        return (epoch + 1e-3) / (config.warm_up + 1e-3)
    if config.kind == "step":
        return float(config.factor ** (int(epoch) // config.every))
    if config.kind == "constant":
        return 1.0
    gone = (epoch - config.warm_up) / max(epochs - config.warm_up, 1e-9)
    wave = 0.5 * (1.0 + math.cos(math.pi * min(gone, 1.0)))
    return config.least + (1.0 - config.least) * wave


def without_gradient(learner: Learner) -> list[str]:
    """Parameters that ought to learn and that the last backward pass gave nothing."""
    return [
        name
        for name, one in learner.trained().items()
        if one.grad is None or not bool(one.grad.any())
    ]
