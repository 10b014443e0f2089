"""The shipped systems: what they need, and which is taken where none is named."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from pipelines.building.listing import measured_figures
from pipelines.building.proposal import Candidate, Lack, MachineFacts, propose
from pipelines.building.replacing import held_config
from pipelines.config import config_of, load_config
from pipelines.doctor import EXTRAS
from retrieval.config import SystemConfig
from retrieval.descriptors.cnn import CnnConfig
from retrieval.devices import CPU, cores
from retrieval.errors import WeightsError
from retrieval.local.delf import DelfConfig
from retrieval.local.learned import FILE as ALIKED_FILE
from retrieval.local.learned import AlikedConfig
from retrieval.networks.embedder import NetworkConfig
from retrieval.networks.trunk import NONE, TIMM
from retrieval.networks.trunks import cached_weights, load_trunk
from retrieval.photographs.table import DataSet

log = logging.getLogger(__name__)

ALIKED: Final = "aliked"


@dataclass(frozen=True)
class Pretrained:
    """A network that comes with parameters: by the trunk's name, or :data:`ALIKED`."""

    network: str
    weights: str = ""


def settle_system(
    data: DataSet, run: Path, overrides: Sequence[str], weights: Path | None, device: str
) -> SystemConfig:
    """The system of a build that names none: the run's own, or the one that is proposed.

    Args:
        data: the photographs.
        run: the run's folder.
        overrides: ``dotted.key=value`` each.
        weights: where networks find theirs.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: an override is wrong.
        RunError: the run's own system is not fully known.
        WeightsError: what was given is not there, or fits no network.
    """
    held = held_config(run)
    if held is not None:
        log.info("%s holds %s, which is kept (--config takes another)", run, held["name"])
        return config_of(held, overrides, f"{run}: its config").with_weights(weights)
    proposal = propose(gather(data, weights, device))
    for line in proposal.lines:
        log.info("%s", line)
    return load_config(proposal.system, overrides).with_weights(weights)


@dataclass(frozen=True)
class Counted:
    """How many photographs there are.

    Attributes:
        gallery: of landmarks.
        bank: of none.
        landmarks: how many there are.
        paired: whether one of them has two photographs.
    """

    gallery: int
    bank: int
    landmarks: int
    paired: bool


def counted(data: DataSet) -> Counted:
    """How many photographs a data set has."""
    counts = data.gallery["landmark"].value_counts()
    return Counted(len(data.gallery), len(data.bank), len(counts), bool((counts > 1).any()))


def gather(data: DataSet | Counted, weights: Path | None, device: str) -> MachineFacts:
    """The facts that a system is chosen by, for photographs or for so many.

    Raises:
        WeightsError: what was given is not there, or fits no network.
    """
    many = data if isinstance(data, Counted) else counted(data)
    configs = {name: load_config(name) for name in measured_figures()}
    fitting = None if weights is None else _fitting(weights, configs.values())
    return MachineFacts(
        candidates=tuple(
            _candidate(name, config, weights, fitting) for name, config in configs.items()
        ),
        gallery=many.gallery,
        bank=many.bank,
        landmarks=many.landmarks,
        paired=many.paired,
        cores=cores(),
        gpu=device != CPU,
    )


def pretrained(config: SystemConfig) -> list[Pretrained]:
    """The networks of a system that come with parameters, each once."""
    found = []
    for one in _models(config):
        match one:
            case CnnConfig() | DelfConfig() | NetworkConfig() if one.weights != NONE:
                found.append(Pretrained(one.trunk, one.weights))
            case AlikedConfig():
                found.append(Pretrained(ALIKED))
            case _:
                pass
    return list(dict.fromkeys(found))


def _models(value: Any) -> Iterator[BaseModel]:
    """A config and every config in it."""
    if isinstance(value, BaseModel):
        yield value
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _models(one)


def _candidate(
    name: str, config: SystemConfig, weights: Path | None, fitting: Collection[str] | None
) -> Candidate:
    networks = pretrained(config)
    return Candidate(
        name=name,
        measured=measured_figures()[name],
        network=bool(networks),
        views=0 if config.whitening is None else config.whitening.views,
        viewed=0 if config.whitening is None else config.whitening.viewed,
        trained=config.training is not None,
        pairs=config.labels_teach,
        lacks=tuple(_lacks(networks, weights, fitting)),
    )


def _lacks(
    networks: Sequence[Pretrained], weights: Path | None, fitting: Collection[str] | None
) -> Iterator[Lack]:
    """What of these networks is not here."""
    files = " and ".join(_file(one.network) for one in networks)
    together = Lack(f"{files} in a folder (--weights)", downloaded=False)
    if weights is not None:
        lacking = [_file(one.network) for one in networks if one.network not in (fitting or ())]
        if lacking and weights.is_dir():
            yield Lack(f"{' and '.join(lacking)} in {weights}", downloaded=False)
        elif lacking:
            yield together
    else:
        lacking = [one.network for one in networks if not _downloaded(one)]
        if ALIKED in lacking:
            yield together
        elif lacking:
            yield Lack(f"the weights of {' and '.join(lacking)} (downloaded if they can be)", True)
    for library, wanted in (("kornia", _is_aliked), ("timm", _is_timm)):
        if any(map(wanted, networks)) and find_spec(library) is None:
            yield Lack(f"{library} (pip install '.[{EXTRAS[library]}]')", downloaded=False)


def _downloaded(one: Pretrained) -> bool:
    """Whether a network's weights lie where they are downloaded to. ALIKED's never are, and where
    timm keeps its own is timm's affair."""
    if one.network == ALIKED or one.network.startswith(TIMM):
        return False
    return cached_weights(one.network, one.weights).exists()


def _file(network: str) -> str:
    """The name that ``--weights`` looks for."""
    return ALIKED_FILE if network == ALIKED else f"{network.removeprefix(TIMM)}.safetensors"


def _is_aliked(one: Pretrained) -> bool:
    return one.network == ALIKED


def _is_timm(one: Pretrained) -> bool:
    return one.network.startswith(TIMM)


def _fitting(weights: Path, configs: Collection[SystemConfig]) -> set[str]:
    """The networks that find their parameters in what ``--weights`` gave.

    Raises:
        WeightsError: it is not there, or a file that fits none of them.
    """
    networks = {one.network for config in configs for one in pretrained(config)}
    if weights.is_dir():
        return {one for one in networks if (weights / _file(one)).is_file()}
    if not weights.is_file():
        raise WeightsError(f"{weights}: no such file or folder of weights (--weights)")
    trunks = sorted(networks - {ALIKED})
    found = {one for one in trunks if _fits(weights, one)}
    if not found:
        raise WeightsError(
            f"{weights} fits none of {', '.join(trunks)}: name the system (--config), or give a"
            " folder with NAME.safetensors"
        )
    return found


def _fits(weights: Path, trunk: str) -> bool:
    """Whether a file holds a network's parameters."""
    try:
        load_trunk(trunk, (None,), str(weights), seed=0, fused=False)
    except WeightsError:
        return False
    return True
