"""What a training reports while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Mistake:
    """A validation photograph that was answered wrong, the surest first.

    Attributes:
        id: of the photograph.
        source: its path.
        truth: its landmark, empty for none.
        answer: the landmark that was named.
        confidence: of the answer.
    """

    id: str
    source: str
    truth: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to.

    Attributes:
        number: from 1.
        loss: mean over the training photographs.
        accuracy: share of those of a class that the head put first, before the step.
        validation_accuracy: share of validation's landmark photographs named right.
        gap: global average precision on validation, bank photographs among it.
        rates: by group, at the epoch's end.
        mistakes: the surest; not kept in training.json.
    """

    number: int
    loss: float
    accuracy: float
    validation_accuracy: float
    gap: float
    rates: Mapping[str, float]
    mistakes: tuple[Mistake, ...] = field(default=(), compare=False)


class Watcher:
    """For callers who do not watch; others override what they want to see."""

    def begin(self, what: str, total: int) -> None:
        """A stage of so many photographs begins."""

    def advance(self, rows: int, failed: int) -> None:
        """So many more are done."""

    def epoch(self, record: Epoch) -> None:
        """An epoch is over."""

    def network(self, network: nn.Module, photographs: Tensor) -> None:
        """Training begins with this network, which takes photographs such as these."""
