"""How a network is fitted to a gallery: what the ``training`` section of a system says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from retrieval.networks.embedder import NetworkConfig
from retrieval.networks.heads import HeadConfig, LinearConfig
from retrieval.photographs.augmentation import AugmentationConfig, Share
from retrieval.types import StrictModel


class AdamConfig(StrictModel):
    """AdamW. A rate each for head, neck and trunk; ``None`` is the head's for the neck."""

    kind: Literal["adam"] = "adam"
    rate: float = Field(0.01, ge=1e-12, le=1e6)
    neck_rate: float | None = Field(None, ge=0.0, le=1e6)
    trunk_rate: float = Field(1e-4, ge=0.0, le=1e6)
    weight_decay: float = Field(0.0, ge=0.0, le=100.0)


class SgdConfig(StrictModel):
    """Stochastic gradient descent with Nesterov's momentum; rates as for Adam."""

    kind: Literal["sgd"] = "sgd"
    rate: float = Field(0.5, ge=1e-12, le=1e6)
    neck_rate: float | None = Field(None, ge=0.0, le=1e6)
    trunk_rate: float = Field(1e-2, ge=0.0, le=1e6)
    weight_decay: float = Field(1e-4, ge=0.0, le=100.0)
    momentum: float = Field(0.9, ge=0.0, lt=1.0)


OptimiserConfig = Annotated[AdamConfig | SgdConfig, Field(discriminator="kind")]


class ScheduleConfig(StrictModel):
    """What all rates are multiplied by, step by step.

    Attributes:
        kind: ``cosine`` falls to ``least`` along half a wave, ``step`` by ``factor`` every
            ``every`` epochs, ``constant`` not at all.
        warm_up: epochs over which it first rises from nothing.
    """

    kind: Literal["cosine", "step", "constant"] = "cosine"
    warm_up: float = Field(0.0, ge=0.0, le=10_000.0)
    least: float = Field(0.01, ge=0.0, le=1.0)
    every: int = Field(10, ge=1, le=10_000)
    factor: float = Field(0.1, ge=1e-6, le=1.0)


class SamplingConfig(StrictModel):
    """What an epoch is made of; it is as long as there are photographs.

    Attributes:
        temperature: a landmark of n photographs is drawn n ** temperature times, in proportion:
            1 draws every photograph once, 0 every landmark as often as any other.
        bank: share of photographs without a landmark; ``None``: what there is.
    """

    temperature: float = Field(1.0, ge=0.0, le=1.0)
    bank: float | None = Field(None, ge=0.0, lt=1.0)


class TrainingConfig(StrictModel):
    """A training.

    Attributes:
        network: what is trained, but for the head.
        head: see :mod:`retrieval.networks.heads`.
        train: ``head`` (and neck) alone, the ``last`` stages too, or ``all``.
        trainable: which stages of the trunk ``last`` names, such as ``features.17``.
        size: longest side of a whole photograph, which validation and the extractor see.
        crop: side of the squares that a batch consists of, where the trunk is trained.
        views: how often the frozen part of the trunk sees each photograph, augmented but for a
            first time with ``head``. What it makes of them is kept on disk, and every epoch picks
            one. 0 is anew in every epoch. By default 4 with ``head`` and else 0.
        epochs, batch: their number; photographs in a batch (of all processes together).
        optimiser, schedule: see there.
        clip: longest gradient.
        smoothing: of the softmax's targets (not the sigmoid's), for galleries with wrong labels.
        augmentation, sampling: see there.
        sampled: classes that a batch is compared with, its own and random others (An et al.,
            "Partial FC", ICCVW 2021); ``None``: all.
        validation: share of the photographs that only measure.
        subset: share of the photographs taken at all, of every landmark alike.
        precision: ``auto`` is bfloat16 where the device is fast at it, float16 on other GPUs.
        checkpoint_every, keep: epochs between checkpoints; how many are kept beside the best.
        patience: epochs without a better GAP after which training stops; ``None``: never.
        memory: soft cap on photographs kept decoded, in MiB.
        sanity_steps: steps in which ten photographs have to be learnt by heart.
        search: keys of this section, dotted, each with a list of values to choose from or with
            ``{low, high, log}``: the space of ``landmarks train --search``.
    """

    network: NetworkConfig = Field(default_factory=NetworkConfig)
    head: HeadConfig = Field(default_factory=LinearConfig)
    train: Literal["head", "last", "all"] = "head"
    trainable: tuple[str, ...] = Field((), strict=False)
    size: int = Field(448, ge=32, le=4096)
    crop: int = Field(320, ge=32, le=4096)
    views: int | None = Field(None, ge=0, le=1000)
    epochs: int = Field(20, ge=1, le=10_000)
    batch: int = Field(64, ge=2, le=65_536)
    optimiser: OptimiserConfig = Field(default_factory=AdamConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    clip: float | None = Field(1.0, ge=1e-6, le=1e6)
    smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    sampled: int | None = Field(None, ge=2, le=10_000_000)
    validation: float = Field(0.1, ge=1e-4, lt=1.0)
    subset: Share = 1.0
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    checkpoint_every: int = Field(5, ge=1, le=10_000)
    keep: int = Field(2, ge=1, le=10_000)
    patience: int | None = Field(None, ge=1, le=10_000)
    memory: int = Field(1024, ge=0, le=2**24)
    sanity_steps: int = Field(200, ge=1, le=1_000_000)
    search: dict[str, list[Any] | dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _stages(self) -> TrainingConfig:
        if (self.train == "last") != bool(self.trainable):
            raise ValueError("trainable: names the stages where train is last, and only there")
        if self.train == "head" and self.views == 0:
            raise ValueError("views: with train head there is at least one")
        if self.train == "all" and self.views:
            raise ValueError("views: with train all nothing is frozen that could be kept")
        return self

    @property
    def kept_views(self) -> int:
        """How many views of a photograph are kept."""
        if self.views is None:
            return 4 if self.train == "head" else 0
        return self.views

    def fields(self) -> dict[str, Any]:
        """What decides the result; weights do by their checksum, wherever they lie."""
        aside = {"search": True, "memory": True, "keep": True, "sanity_steps": True}
        return self.model_dump(exclude={**aside, "network": {"weights", "layer"}})
