"""A training on disk: checkpoints to go on from, and what it came to; safetensors and JSON.

A checkpoint's tensors are written before the JSON that makes it one, each of them whole or not at
all. ``network.safetensors`` and ``training.json`` are there once the training is finished.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from retrieval.descriptors.trained import FILES, NETWORK, RECORD, TRAIN, check_file
from retrieval.errors import RunError, without_remedy
from retrieval.storage.files import (
    atomic_write,
    read_json,
    read_sealed,
    reading,
    write_json,
    write_sealed,
)
from retrieval.storage.fingerprint import checksum
from retrieval.storage.journal import as_json, reusable
from retrieval.training.watching import Epoch
from retrieval.types import STRING, Flags

log = logging.getLogger(__name__)

STARTED: Final = "started.json"
CHECKPOINTS: Final = "checkpoints"
PHOTOGRAPHS: Final = "photographs.parquet"
TAUGHT: Final = "training"
MEASURED: Final = "validation"
OPTIMISER: Final = "optimiser."


@dataclass(frozen=True)
class Checkpoint:
    """A training after an epoch.

    Attributes:
        history: every epoch so far.
        tensors: parameters and buffers, and the optimiser's below ``optimiser.``.
        scaler: of float16's gradients; empty without.
    """

    history: tuple[Epoch, ...]
    tensors: Mapping[str, Tensor]
    scaler: Mapping[str, float]


def begin(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Make the folder one of this training; what another left there goes, and the log says why."""
    wanted, path = as_json(made_from), folder / STARTED
    if reusable(folder, path, wanted, lambda: (read_json(path), True)) is None:
        for name in (STARTED, RECORD, NETWORK, PHOTOGRAPHS):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        write_json(folder / STARTED, wanted)


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write a checkpoint, and drop all but the best and the last few."""
    path = _path(folder, len(checkpoint.history))
    tensors = {key: value.cpu().contiguous() for key, value in checkpoint.tensors.items()}
    data = save(tensors)
    atomic_write(path.with_suffix(".safetensors"), data)
    history = [_without_mistakes(one) for one in checkpoint.history]
    sums = {"tensors": hashlib.sha256(data).hexdigest()}
    write_sealed(path, {"history": history, "scaler": dict(checkpoint.scaler), FILES: sums})
    kept = {best(checkpoint.history), *_numbers(folder)[-keep:]}
    for number in _numbers(folder):
        if number not in kept:
            _drop(folder, number)


def latest(folder: Path) -> Checkpoint | None:
    """The last checkpoint, if there is any.

    Raises:
        RunError: it is damaged.
    """
    numbers = _numbers(folder)
    return read_checkpoint(folder, numbers[-1]) if numbers else None


def read_checkpoint(folder: Path, number: int) -> Checkpoint:
    """The checkpoint of an epoch.

    Raises:
        RunError: it is damaged.
    """
    path = _path(folder, number)
    notes = read_sealed(path, TRAIN, ("history", "scaler"))
    with reading(path, TRAIN):
        history = tuple(Epoch(**one) for one in notes["history"])
        best(history)
        data = path.with_suffix(".safetensors")
        if FILES in notes and checksum(data) != notes[FILES]["tensors"]:
            raise ValueError(f"another checksum of {data.name}")
        return Checkpoint(history, load_file(data), notes["scaler"])


def mend(folder: Path) -> None:
    """Take away what is damaged of a training, so that training goes on before it."""
    try:
        if (folder / RECORD).exists():
            for name in (NETWORK, PHOTOGRAPHS):
                check_file(folder, name)
            return
    except RunError as error:
        log.warning("%s: made anew", without_remedy(error))
        (folder / RECORD).unlink()
    best_so_far = {}
    for number in _numbers(folder):
        try:
            best_so_far[number] = best(read_checkpoint(folder, number).history)
        except RunError as error:
            log.warning("%s: training goes on before it", without_remedy(error))
            _drop(folder, number)
    # The network is made of the best: training goes on where that is still there.
    while best_so_far and best_so_far[max(best_so_far)] not in best_so_far:
        number = max(best_so_far)
        del best_so_far[number]
        _drop(folder, number)


def _drop(folder: Path, number: int) -> None:
    _path(folder, number).unlink()
    _path(folder, number).with_suffix(".safetensors").unlink(missing_ok=True)


def finish(folder: Path, record: Mapping[str, Any], history: Sequence[Epoch]) -> dict[str, Any]:
    """Write the best network and what the training came to."""
    number = best(history)
    tensors = read_checkpoint(folder, number).tensors
    network = {k: v for k, v in tensors.items() if not k.startswith(OPTIMISER)}
    atomic_write(folder / NETWORK, save(network))
    epochs = [_without_mistakes(one) for one in history]
    sums = {name: checksum(folder / name) for name in (NETWORK, PHOTOGRAPHS)}
    whole = {
        **record, "best": number, "gap": history[number - 1].gap, "epochs": epochs, FILES: sums,
    }  # fmt: skip
    write_sealed(folder / RECORD, whole)
    return whole


def seen_photographs(folder: Path) -> list[str]:
    """Ids of the photographs that a finished training was trained on.

    Raises:
        RunError: missing or damaged.
    """
    check_file(folder, PHOTOGRAPHS)
    with reading(folder / PHOTOGRAPHS, TRAIN):
        frame = pd.read_parquet(folder / PHOTOGRAPHS)
        return [str(one) for one in frame.loc[frame["part"] == TAUGHT, "id"]]


def write_photographs(folder: Path, table: pd.DataFrame, validation: Flags) -> None:
    """Note which photographs were trained on and which validated."""
    part = pd.array(np.where(validation, MEASURED, TAUGHT), dtype=STRING)
    frame = table[["id", "landmark"]].assign(part=part)
    atomic_write(folder / PHOTOGRAPHS, lambda file: frame.to_parquet(file, index=False))


def best(history: Sequence[Epoch]) -> int:
    """The number of the epoch with the highest GAP, the first of equal ones."""
    return max(history, key=lambda one: (one.gap, -one.number)).number


def optimiser_state(optimiser: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """The optimiser's tensors by the names of the parameters that they belong to, in its order."""
    state = optimiser.state_dict()["state"]
    return {
        f"{OPTIMISER}{names[place]}.{key}": value
        for place, values in state.items()
        for key, value in values.items()
        if value is not None
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of :func:`optimiser_state`."""
    places = {name: place for place, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(OPTIMISER):
            name, _, part = key.removeprefix(OPTIMISER).rpartition(".")
            state.setdefault(places[name], {})[part] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _numbers(folder: Path) -> list[int]:
    found = (folder / CHECKPOINTS).glob("epoch-*.json")
    return sorted(int(path.stem.removeprefix("epoch-")) for path in found)


def _path(folder: Path, number: int) -> Path:
    return folder / CHECKPOINTS / f"epoch-{number:03d}.json"


def _without_mistakes(epoch: Epoch) -> dict[str, Any]:
    kept = asdict(epoch)
    del kept["mistakes"]
    return kept
