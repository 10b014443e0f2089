"""What the stages of a build cost, worked out from measured costs: seconds, memory, disk.

Each stage is counted in multiplications and additions of the kind that it mostly does, by the rules
that its code follows; ``pipelines/costs.yaml`` says what one takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil, log, sqrt
from typing import Final

from pydantic import Field

from pipelines.config import CONFIGS, read_config
from retrieval.classifiers.ensemble import EnsembleConfig
from retrieval.classifiers.members import MemberConfig
from retrieval.classifiers.svm import SvmConfig
from retrieval.classifiers.vote import VoteConfig
from retrieval.config import SystemConfig
from retrieval.describing import MOST_BYTES
from retrieval.descriptors.aggregated import AggregatedConfig
from retrieval.descriptors.base import parts_of
from retrieval.descriptors.cross_fit import PARTS, parts_left_out
from retrieval.descriptors.extraction import WINDOW
from retrieval.index.faiss_factory import IndexConfig, resolve_factory, training_rows
from retrieval.types import StrictModel
from retrieval.vectors.whitening import EXACT_LIMIT

STAGES: Final = ("describe", "describer", "index", "classifiers")
"""As they are named in the timings of run.json."""
KMEANS_ROUNDS: Final = 10
HELD_OUT: Final = 5_000
PIXEL: Final = 3 * 3 / 4
"""Bytes of a decoded photograph for each pixel of a square of its longer side."""
FLOAT: Final = 4
LOCAL_NUMBERS: Final = {"delf": 1024}
"""Of a local feature's descriptor, a byte each, by its kind: DELF has those of ResNet's layer3."""
OTHER_NUMBERS: Final = 128
PLACED: Final = 4 * FLOAT
"""Bytes of a local feature beside its descriptor: place, scale and angle."""


class ByKind(StrictModel):
    """A cost of extractors that are no networks, and of those that are."""

    classical: float = Field(gt=0.0)
    network: float = Field(gt=0.0)

    def of(self, network: bool) -> float:
        return self.network if network else self.classical


class Seconds(StrictModel):
    """See ``pipelines/costs.yaml``."""

    product: float = Field(gt=0.0)
    search: float = Field(gt=0.0)
    cluster: float = Field(gt=0.0)
    separator: float = Field(gt=0.0)
    covariance: float = Field(gt=0.0)
    eigen: float = Field(gt=0.0)
    codebook: float = Field(gt=0.0)
    byte: float = Field(gt=0.0)
    whitening: float = Field(gt=0.0)
    classifier: float = Field(gt=0.0)
    start: ByKind


class Bytes(ByKind):
    """See ``pipelines/costs.yaml``."""

    row: int = Field(gt=0)


class Costs(StrictModel):
    """See ``pipelines/costs.yaml``."""

    seconds: Seconds
    bytes: Bytes
    recall: dict[str, dict[str, float]]

    def recall_of(self, rows: int, nprobe: int) -> tuple[int, float | None]:
        """The number of rows nearest to these that was measured, and the share of the ten nearest
        found there; ``None`` for another ``nprobe``."""
        near = min(map(int, self.recall), key=lambda one: abs(log(one / rows)))
        return near, self.recall[str(near)].get(str(nprobe))


@cache
def measured_costs() -> Costs:
    """The costs in ``pipelines/costs.yaml``."""
    return Costs.model_validate(read_config(CONFIGS.parent / "costs.yaml"))


@dataclass(frozen=True)
class Work:
    """What a build is of.

    Attributes:
        gallery: photographs of landmarks.
        bank: photographs of none.
        landmarks: how many there are.
        numbers: of a descriptor before it is whitened.
        feature_bytes: of what a photograph's descriptor is made from.
        stored_bytes: of words and kept features of a photograph, beside its descriptor.
        milliseconds: of decoding and describing a photograph, all cores at work.
        side: of photographs as they are decoded, in pixels.
        network: whether a network describes.
        pace: how many times as long as in the table the other work takes here.
        cores: of the machine.
    """

    gallery: int
    bank: int
    landmarks: int
    numbers: int
    feature_bytes: float
    stored_bytes: float
    milliseconds: float
    side: int
    network: bool
    pace: float
    cores: int

    @property
    def photographs(self) -> int:
        return self.gallery + self.bank


@dataclass(frozen=True)
class StageCost:
    """What one stage takes: seconds, and bytes of memory at its peak and of disk."""

    name: str
    seconds: float
    memory: float
    disk: float


def stage_costs(config: SystemConfig, work: Work, costs: Costs | None = None) -> list[StageCost]:
    """What each of :data:`STAGES` takes."""
    costs = costs or measured_costs()
    base = costs.bytes.of(work.network)
    base += costs.bytes.row * work.photographs
    stages = [
        _describe(config, work, costs),
        _learn(config, work, costs),
        _index(config, work, costs),
        _classifiers(config, work, costs),
    ]
    return [StageCost(one.name, one.seconds, base + one.memory, one.disk) for one in stages]


def start_seconds(work: Work, costs: Costs | None = None) -> float:
    """What a command takes before its first stage."""
    return (costs or measured_costs()).seconds.start.of(work.network) * work.pace


def taught(config: SystemConfig, work: Work) -> int:
    """How many photographs teach codebook and whitening."""
    return min(work.photographs, config.fit_photographs)


def views_described(config: SystemConfig, photographs: int) -> int:
    """How many altered views are described for the whitening of so many photographs."""
    if config.whitening is None:
        return 0
    viewed = min(photographs, config.fit_photographs, config.whitening.viewed)
    return config.whitening.views * viewed


def dimension(config: SystemConfig, work: Work) -> int:
    """Numbers of a descriptor in the index."""
    if config.whitening is None:
        return work.numbers
    return min(config.whitening.dimension, work.numbers, max(taught(config, work) - 1, 1))


def left_out(config: SystemConfig, work: Work) -> int:
    """How many describers are learnt besides, each without a part of the photographs."""
    return parts_left_out(work.photographs, config.pairs_teach, bool(config.whitenings))


def row_bytes(factory: str, numbers: int) -> float:
    """Bytes of a photograph in an index of FAISS; none in one that a server holds."""
    if not factory:
        return 0.0
    ids = 8.0 if "IVF" in factory else 0.0
    codes = re.search(r"(?<!O)PQ(\d+)", factory)
    if codes:
        return ids + float(codes[1])
    if "SQ8" in factory:
        return ids + numbers
    return ids + numbers * (2.0 if "SQfp16" in factory else FLOAT)


def feature_bytes(config: SystemConfig, numbers: int) -> float:
    """Bytes of what a photograph's descriptor is made from, of a system that was not probed."""
    local = sum(
        one.keypoints * (PLACED + LOCAL_NUMBERS.get(one.kind, OTHER_NUMBERS))
        for one in config.detectors
    )
    return FLOAT * numbers + local


def stored_bytes(config: SystemConfig, work: Work) -> float:
    """Bytes of a photograph in the index and beside it."""
    return row_bytes(factory_of(config, work), dimension(config, work)) + work.stored_bytes


def plain_bytes(config: SystemConfig, work: Work) -> float:
    """Of what is kept of all photographs for another whitening
    (:func:`retrieval.describing.keeps_plain`)."""
    if config.whitening is None or len(config.whitenings) > 1:  # parts are whitened within
        return 0.0
    each = FLOAT * work.numbers
    if config.local is not None and config.local.kept is not None:
        each += config.local.kept.bytes_each
    return each * work.photographs if each * work.photographs <= MOST_BYTES else 0.0


def factory_of(config: SystemConfig, work: Work) -> str:
    """FAISS's key of the index; empty where a server holds the gallery."""
    if not isinstance(config.index, IndexConfig):
        return ""
    return resolve_factory(config.index.factory, work.gallery)


def _describe(config: SystemConfig, work: Work, costs: Costs) -> StageCost:
    views = views_described(config, work.photographs)
    row = FLOAT * dimension(config, work) * (1 + left_out(config, work)) + work.stored_bytes
    pixels = 2 * WINDOW * PIXEL * work.side**2
    seconds = work.milliseconds / 1000 * (work.photographs + views)
    disk = row * work.photographs + work.feature_bytes * taught(config, work)
    disk += plain_bytes(config, work)
    return StageCost("describe", seconds + costs.seconds.byte * disk, pixels, disk)


def _learn(config: SystemConfig, work: Work, costs: Costs) -> StageCost:
    rows, numbers = taught(config, work), work.numbers
    side = min(rows, numbers)
    if side <= EXACT_LIMIT:
        once = costs.seconds.covariance * rows * numbers * side + costs.seconds.eigen * side**3
    else:  # a randomised range finder: some rounds of two products each
        once = costs.seconds.product * rows * numbers * dimension(config, work) * 12
    whitenings = (1 + left_out(config, work)) * len(config.whitenings)
    seconds = (once + costs.seconds.whitening) * whitenings * work.pace
    if _has_codebook(config):
        seconds += costs.seconds.codebook * rows * work.pace
    # Rows, as they are and centred, and a square in float64, decomposed: of each whitening that is
    # learnt beside others.
    beside = max(1, min(left_out(config, work), work.cores))
    square = 4 * 8 * min(side, EXACT_LIMIT) ** 2
    memory = FLOAT * rows * numbers + beside * (3 * FLOAT * rows * numbers + square)
    disk = whitenings * FLOAT * numbers * (dimension(config, work) + 1)
    return StageCost("describer", seconds, memory, disk)


def _index(config: SystemConfig, work: Work, costs: Costs) -> StageCost:
    factory = factory_of(config, work)
    numbers, rows = dimension(config, work), work.gallery
    seconds = 0.0
    lists = re.search(r"IVF(\d+)", factory)
    if lists:
        many = int(lists[1])
        sample = min(rows, training_rows(many))
        products = (KMEANS_ROUNDS * sample + rows) * many * numbers
        seconds = costs.seconds.cluster * products * work.pace
    whole = row_bytes(factory, numbers) * rows
    shard = config.index.shard if isinstance(config.index, IndexConfig) else None
    held = whole * min(1.0, (shard or rows) / max(rows, 1))
    copied = FLOAT * numbers * (1 + left_out(config, work)) + work.stored_bytes
    disk = whole + copied * work.photographs
    sample = min(rows, 2**18) * numbers * FLOAT
    return StageCost("index", seconds + costs.seconds.byte * disk, held + sample, disk)


def _classifiers(config: SystemConfig, work: Work, costs: Costs) -> StageCost:
    seconds, memory = 0.0, 0.0
    for one in config.classifiers.values():
        for each in _members(one):
            more, peak = _classifier(each, config, work, costs)
            seconds += more
            memory = max(memory, peak)
    # Each gallery that photographs are held out in is a copy of the vectors.
    copies = FLOAT * dimension(config, work) * work.photographs * (1 + bool(left_out(config, work)))
    return StageCost("classifiers", seconds, copies + memory, 0.0)


def _classifier(
    one: MemberConfig, config: SystemConfig, work: Work, costs: Costs
) -> tuple[float, float]:
    """Seconds and memory of fitting a classifier, and of scoring held-out photographs by it."""
    numbers, galleries = dimension(config, work), 1 + max(1, left_out(config, work))
    seconds, memory = 0.0, 0.0
    if isinstance(one, SvmConfig):
        rows, machines = svm_work(one, work)
        trained = numbers * rows * machines * _trainings(one.folds, config, work)
        seconds = costs.seconds.separator * trained
        # In float64, and as LinearSVC copies it, in each thread.
        memory = rows * numbers * (8 + 16 * work.cores)
        memory += FLOAT * numbers * machines * 2
    elif isinstance(one, VoteConfig):
        # Of every row to the bank, once for each way in which all are described.
        own = (1 + left_out(config, work)) * work.gallery * work.bank * numbers
        queries = min(work.gallery, HELD_OUT) + min(work.bank, HELD_OUT)
        seconds = costs.seconds.search * (own + queries * searched(config, work) * numbers)
    return seconds * work.pace + costs.seconds.classifier * sqrt(galleries) * work.pace, memory


def searched(config: SystemConfig, work: Work) -> float:
    """How many rows a query is compared with."""
    lists = re.search(r"IVF(\d+)", factory_of(config, work))
    if not lists or not isinstance(config.index, IndexConfig):
        return work.gallery
    many = int(lists[1])
    return many + work.gallery * min(1.0, config.index.nprobe / many)


def svm_work(one: SvmConfig, work: Work) -> tuple[float, int]:
    """Rows that a landmark's separator is trained on, and how many separators there are."""
    everything, machines = work.photographs, work.landmarks + 1
    if one.trains_on_all(everything, work.landmarks):
        return everything, machines
    own = min(work.gallery / max(work.landmarks, 1), one.most_positives)
    negatives = min(work.bank, one.bank_negatives) + one.random_negatives + one.hard_negatives
    return own + negatives, machines


def _trainings(folds: int, config: SystemConfig, work: Work) -> int:
    """How often all of a classifier is trained: for itself, and for the folds held out."""
    each = work.gallery / max(work.landmarks, 1)
    folds = min(folds, max(2, int(each)))
    parts = left_out(config, work)
    if parts:
        return 1 + parts * max(2, round(folds / PARTS))
    return 1 + min(folds, ceil(min(work.gallery, HELD_OUT) / (work.gallery / folds)))


def _members(one: object) -> Iterator[MemberConfig]:
    """A classifier, or those that an ensemble fits for its answer and for its weights."""
    if isinstance(one, EnsembleConfig):
        yield from one.members.values()
    else:
        yield one  # type: ignore[misc]


def _has_codebook(config: SystemConfig) -> bool:
    words = config.local is not None and config.local.words is not None
    return words or any(isinstance(one, AggregatedConfig) for one in parts_of(config.extractor))
