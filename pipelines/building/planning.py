"""Which system, index and classifiers fit a machine, what a build takes, and what to give up.

The shipped systems are gone through, best first or quickest first; for each what may be given up,
little by little, until time, memory and disk suffice. What is taken is then probed, and chosen
again if it turns out slower than the table says.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Final

from pipelines.building.costs import (
    FLOAT,
    StageCost,
    Work,
    factory_of,
    feature_bytes,
    stage_costs,
    start_seconds,
    stored_bytes,
)
from pipelines.building.listing import measured_figures
from pipelines.building.probing import ProbedSystem, probe_pace, probe_system
from pipelines.building.proposal import (
    GPU_TIMES,
    REFERENCE_CORES,
    MachineFacts,
    ShippedFigures,
    propose,
    spoken,
)
from pipelines.building.shipped import Counted, counted, gather, pretrained
from pipelines.config import load_config
from pipelines.doctor import memory_bytes
from retrieval.classifiers.centroid import CentroidConfig
from retrieval.classifiers.svm import SvmConfig
from retrieval.config import SystemConfig
from retrieval.devices import CPU, cores
from retrieval.errors import ConfigError, LandmarksError
from retrieval.index.faiss_factory import SMALL, IndexConfig, lists_of
from retrieval.photographs.table import DataSet, load_data_set

log = logging.getLogger(__name__)

MARGIN: Final = 1.5
"""How many times too high a plan may be, before a build is refused by it."""
UNPROBED_NUMBERS: Final = 2048
"""Of a descriptor before it is whitened."""
UNKNOWN_MILLISECONDS: Final = 1000.0
"""Of a photograph, by a system that was neither measured nor probed."""
UNPROBED_SIDE: Final = 512
SHARD: Final = 2_000_000
"""Rows of a shard of a gallery that has more."""
NPROBE: Final = 64
CODE_BYTES: Final = 64
"""Of product quantisation."""
LEAST_NUMBERS: Final = 64
SHARES: Final = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
BANK_SHARE: Final = 0.1
"""Photographs of none for each of a landmark, where it is not said."""
MOST_PROBES: Final = 3
"""Systems that are probed at most."""


@dataclass(frozen=True)
class Wishes:
    """What a plan is asked for.

    Attributes:
        photographs, landmarks, bank: how many, where there is no data folder.
        config: a system by name or file; ``None``: the best that fits.
        settings: ``dotted.key=value`` each.
        weights: where networks find theirs.
        device: ``cpu`` or ``cuda``.
        gpu: whether the build will have a GPU; ``None``: as this machine.
        cores: that it will have; ``None``: as this machine.
        memory, disk: bytes that it may take; ``None``: what is here.
        seconds: that it may take; ``None``: any.
        gap: that the system should reach on landmarks52; ``None``: the best there is.
        run: where it will be built.
    """

    photographs: int | None = None
    landmarks: int | None = None
    bank: int | None = None
    config: str | None = None
    settings: tuple[str, ...] = ()
    weights: Path | None = None
    device: str = CPU
    gpu: bool | None = None
    cores: int | None = None
    memory: float | None = None
    disk: float | None = None
    seconds: float | None = None
    gap: float | None = None
    run: Path = Path("data/runs")


@dataclass(frozen=True)
class Limits:
    """Bytes of memory and disk, and seconds, if any."""

    memory: float
    disk: float
    seconds: float | None


@dataclass(frozen=True)
class Option:
    """A system that may be taken, and what a build by it is of."""

    name: str
    gap: float | None
    config: SystemConfig
    work: Work


@dataclass(frozen=True)
class Plan:
    """A system as it is to be built, and what that takes.

    Attributes:
        option: the system, changed as ``given_up`` says.
        share: of the photographs.
        stages: what each takes.
        given_up: what was given up so that it fits, a line each.
        lacks: what it does not fit into all the same, a line each.
        notes: what else there is to say.
    """

    option: Option
    share: float
    stages: tuple[StageCost, ...]
    given_up: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return start_seconds(self.option.work) + sum(one.seconds for one in self.stages)

    @property
    def memory(self) -> float:
        return max(one.memory for one in self.stages)

    @property
    def disk(self) -> float:
        return sum(one.disk for one in self.stages)

    @property
    def stored(self) -> float:
        return stored_bytes(self.option.config, self.option.work)


def plan_of(data: Path | None, wishes: Wishes, gallery: Path | None = None) -> Plan:
    """The plan for a data folder, or for numbers of photographs.

    Raises:
        ConfigError: neither tells how many photographs there are, or both do.
        TableError: the data cannot be read.
    """
    photographs = None if data is None else load_data_set(data, gallery)
    facts = _facts(photographs, wishes)
    pace = probe_pace()
    options = _options(facts, wishes, pace)
    limits = Limits(
        memory=wishes.memory or memory_bytes(),
        disk=wishes.disk or _free(wishes.run),
        seconds=wishes.seconds,
    )
    sources = [] if photographs is None else [str(one) for one in photographs.gallery["source"]]
    probed: dict[str, ProbedSystem | None] = {}
    while True:
        plan = choose(options, limits, wishes.gap)
        name = plan.option.name
        if name in probed or len(probed) == MOST_PROBES:
            return _with_notes(plan, probed, name)
        found = _probed(next(one for one in options if one.name == name), sources, wishes.device)
        probed[name] = found
        if found is not None:
            options = [
                _with_probe(one, found, wishes) if one.name == name else one for one in options
            ]


def choose(options: Sequence[Option], limits: Limits, gap: float | None) -> Plan:
    """The first of the systems, best first, that fits, with the least given up.

    Args:
        options: best first; at least one.
        limits: to fit into.
        gap: that is wanted: of the systems that reach it the quickest is taken.
    """
    notes: tuple[str, ...] = ()
    wanted = list(options)
    if gap is not None:
        wanted = [one for one in options if one.gap is not None and one.gap >= gap]
        wanted.sort(key=lambda one: _planned(one, 1.0, ()).seconds)
        if not wanted:
            notes = (f"no system that is here was measured to reach a GAP of {gap:g}",)
            wanted = list(options)
    plans = (
        _planned(one, share, given_up)
        for share in SHARES
        for one in wanted
        for given_up in _concessions()
        if all(_applies(each, one) for each in given_up)
    )
    least: Plan | None = None
    for plan in plans:
        lacks = _lacks(plan, limits)
        if not lacks:
            return replace(plan, notes=notes)
        if least is None or len(lacks) < len(least.lacks) or plan.seconds < least.seconds:
            least = replace(plan, lacks=lacks, notes=notes)
    assert least is not None
    return least


def check_room(config: SystemConfig, data: DataSet, run: Path) -> None:
    """Refuse a build that cannot end here for want of disk or memory; warn of one that may not.

    Raises:
        ConfigError: even were the plan wrong by half, there would be too little.
    """
    landmarks = data.gallery["landmark"].nunique()
    facts = _unprobed(config, len(data.gallery), len(data.bank), landmarks)
    stages = stage_costs(config, facts)
    there = sum(one.stat().st_size for one in run.rglob("*") if one.is_file())
    for what, needed, have in (
        ("of disk", sum(one.disk for one in stages) - there, _free(run)),
        ("of memory", max(one.memory for one in stages), memory_bytes()),
    ):
        told = f"{size(needed)} {what} for {facts.photographs:,} photographs, {size(have)} here"
        if needed / MARGIN > have:
            raise ConfigError(f"the build cannot end: it takes some {told}; landmarks plan says"
                              " what fits")  # fmt: skip
        if needed > have:
            log.warning("the build may not end: it takes some %s; landmarks plan says what fits",
                        told)  # fmt: skip


def size(many: float) -> str:
    """A number of bytes in round words."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if many >= scale:
            return f"{many / scale:.3g} {unit}"
    return f"{many / 1e3:.3g} kB"


def _facts(data: DataSet | None, wishes: Wishes) -> MachineFacts:
    told = (wishes.photographs, wishes.landmarks, wishes.bank)
    if data is not None and any(one is not None for one in told):
        raise ConfigError(
            f"{data.folder} says how many there are: leave out --photographs, --landmarks and"
            " --bank, or the folder"
        )
    if data is None:
        if not wishes.photographs or not wishes.landmarks:
            raise ConfigError("say of what: a data folder, or --photographs and --landmarks")
        if wishes.landmarks > wishes.photographs:
            raise ConfigError("--landmarks: there are more than photographs")
        bank = round(BANK_SHARE * wishes.photographs) if wishes.bank is None else wishes.bank
        many = Counted(
            wishes.photographs, bank, wishes.landmarks, wishes.photographs > wishes.landmarks
        )
    else:
        many = counted(data)
    facts = gather(many, wishes.weights, wishes.device)
    return replace(
        facts,
        cores=wishes.cores or facts.cores,
        gpu=facts.gpu if wishes.gpu is None else wishes.gpu,
    )


def _options(facts: MachineFacts, wishes: Wishes, pace: float) -> list[Option]:
    """The systems that are here, as `landmarks index` would take them; or the one asked for."""

    def option(name: str) -> Option:
        config = load_config(name, wishes.settings).with_weights(wishes.weights)
        measured = measured_figures().get(config.name, ShippedFigures())
        return _option(config, measured, facts, pace)

    if wishes.config is not None:
        return [option(wishes.config)]
    return [option(one.name) for one in propose(facts).ranked]


def _option(
    config: SystemConfig, measured: ShippedFigures, facts: MachineFacts, pace: float
) -> Option:
    accuracy, network = measured.of(facts.few), bool(pretrained(config))
    milliseconds = measured.milliseconds or UNKNOWN_MILLISECONDS
    milliseconds *= 1 / GPU_TIMES if network and facts.gpu else REFERENCE_CORES / facts.cores
    work = replace(
        _unprobed(config, facts.gallery, facts.bank, facts.landmarks), milliseconds=milliseconds,
        pace=pace * cores() / facts.cores, cores=facts.cores,
    )  # fmt: skip
    return Option(config.name, accuracy.gap if accuracy else None, config, work)


def _unprobed(config: SystemConfig, gallery: int, bank: int, landmarks: int) -> Work:
    """What a build is of, before anything is tried on its machine."""
    return Work(
        gallery, bank, landmarks, UNPROBED_NUMBERS, feature_bytes(config, UNPROBED_NUMBERS),
        _stored_beside(config), 1.0, UNPROBED_SIDE, bool(pretrained(config)), 1.0, cores(),
    )  # fmt: skip


def indexed(config: SystemConfig, work: Work) -> SystemConfig:
    """The config with an inverted file where there are too many photographs for a flat index."""
    if config.index != IndexConfig() or work.gallery <= SMALL:
        return config
    return config.model_copy(update={"index": _inverted("{},SQ8", work)})


def _inverted(key: str, work: Work) -> IndexConfig:
    """An inverted file by a factory key that lacks its lists, divided where it is very large."""
    factory = key.format(f"IVF{lists_of(work.gallery)}")
    shard = SHARD if work.gallery > SHARD else None
    return IndexConfig(factory=factory, nprobe=NPROBE, shard=shard)


def _stored_beside(config: SystemConfig) -> float:
    """Bytes of words and kept features of a photograph, of a system that was measured."""
    found = measured_figures().get(config.name)
    if config.local is None or found is None or found.bytes is None:
        return 0.0
    return max(0.0, found.bytes - FLOAT * (config.whitening.dimension if config.whitening else 0))


def _probed(option: Option, sources: Sequence[str], device: str) -> ProbedSystem | None:
    try:
        return probe_system(option.config, sources, device)
    except LandmarksError as error:
        log.warning("%s could not be probed: %s", option.name, error)
        return None


def _with_probe(option: Option, found: ProbedSystem, wishes: Wishes) -> Option:
    """An option by what was found of it here, for the cores and GPU that the build will have."""
    milliseconds = found.milliseconds
    many = wishes.cores or cores()
    if option.work.network and wishes.gpu and wishes.device == CPU:
        milliseconds *= cores() / REFERENCE_CORES / GPU_TIMES
    elif wishes.device == CPU:
        milliseconds *= cores() / many
    work = replace(
        option.work, milliseconds=milliseconds, numbers=found.numbers,
        feature_bytes=found.feature_bytes, side=found.side,
    )  # fmt: skip
    return replace(option, work=work)


def _with_notes(plan: Plan, probed: dict[str, ProbedSystem | None], name: str) -> Plan:
    notes = plan.notes
    if not factory_of(plan.option.config, plan.option.work):
        notes += ("what the server that holds the gallery takes is not counted",)
    if probed.get(name) is None:
        notes += ("the time of describing is the table's: the system was not probed here",)
    return replace(plan, notes=notes)


# What may be given up.


def _planned(option: Option, share: float, given_up: Sequence[str]) -> Plan:
    """What a build takes with some things given up."""
    work = option.work
    if share < 1:
        gallery = max(work.landmarks, round(share * work.gallery))
        work = replace(work, gallery=gallery, bank=round(share * work.bank))
    config = indexed(option.config, work)
    for one in given_up:
        config = _conceded(one, config, work)
    if NO_VERIFICATION in given_up:
        work = replace(work, stored_bytes=0.0)
    option = replace(option, config=config, work=work)
    lines = tuple(given_up)
    if share < 1:
        lines += (f"photographs: {share:g} of every landmark's (--subset {share:g})",)
    return Plan(option, share, tuple(stage_costs(config, work)), lines)


STAND_IN: Final = "SVM: the nearest mean of a landmark's photographs in its place (centroid)"
NO_VERIFICATION: Final = "verification: none"
FEWER_NUMBERS: Final = "numbers: half as many a descriptor (whitening.dimension)"
QUANTISED: Final = "index: product quantisation, 64 bytes a photograph, of lower recall"
CONCESSIONS: Final = (STAND_IN, NO_VERIFICATION, QUANTISED, FEWER_NUMBERS)


def _concessions() -> Iterator[tuple[str, ...]]:
    """What is given up: nothing, then one thing, then two."""
    for many in range(len(CONCESSIONS) + 1):
        yield from combinations(CONCESSIONS, many)


def _applies(what: str, option: Option) -> bool:
    """Whether a system has what would be given up."""
    config = option.config
    if what == STAND_IN:
        return any(isinstance(one, SvmConfig) for one in config.classifiers.values())
    if what == NO_VERIFICATION:
        return config.search.verification is not None
    numbers = config.whitening.dimension if config.whitening else 0
    if what == FEWER_NUMBERS:
        return numbers >= 2 * LEAST_NUMBERS
    return option.work.gallery > SMALL and numbers % CODE_BYTES == 0 and numbers > 0


def _conceded(what: str, config: SystemConfig, work: Work) -> SystemConfig:
    """A config without what is given up."""
    values = config.model_dump()
    if what == STAND_IN:
        values["classifiers"] = {
            name: CentroidConfig().model_dump() if one["kind"] == "svm" else one
            for name, one in values["classifiers"].items()
        }
    elif what == NO_VERIFICATION:
        values["search"]["verification"] = None
        values["local"]["kept"] = None
        if values["local"]["words"] is None:
            values["local"] = None
    elif what == FEWER_NUMBERS:
        values["whitening"]["dimension"] //= 2
    else:
        numbers = values["whitening"]["dimension"]
        key = f"OPQ{CODE_BYTES}_{numbers},{{}},PQ{CODE_BYTES}"
        values["index"] = _inverted(key, work).model_dump()
    return SystemConfig.model_validate(values)


def _lacks(plan: Plan, limits: Limits) -> tuple[str, ...]:
    """What a plan does not fit into."""
    lacks = []
    for what, needed, have in (
        ("memory", plan.memory, limits.memory),
        ("disk", plan.disk, limits.disk),
    ):
        if needed > have:
            lacks.append(f"{what}: {size(needed)} are needed, and there are {size(have)}")
    if limits.seconds is not None and plan.seconds > limits.seconds:
        lacks.append(
            f"time: it takes {spoken(plan.seconds)}, and {spoken(limits.seconds)} are allowed"
        )
    return tuple(lacks)


def _free(folder: Path) -> float:
    """Bytes free where a folder is, or will be."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return float(shutil.disk_usage(there).free)
