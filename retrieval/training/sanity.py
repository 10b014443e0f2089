"""Can the network overfit ten photographs? Checked before a long training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch

from retrieval.descriptors.trained import TrainedConfig, extractor_around, settle
from retrieval.errors import TrainingError
from retrieval.networks.embedder import Embedder, at_rest
from retrieval.training.config import TrainingConfig
from retrieval.training.distributed import World
from retrieval.training.learner import make_learner, make_optimiser, set_rates, without_gradient
from retrieval.training.loop import MIB, Step, Training, place, pooling_extractor
from retrieval.training.photographs import Photographs
from retrieval.training.sources import Crops, Pooled, Source, described
from retrieval.training.split import Collection, split
from retrieval.training.watching import Watcher
from retrieval.types import Integers

PHOTOGRAPHS: Final = 10
LANDMARKS: Final = 5
SAME: Final = 1e-4
"""Embeddings that differ by less are the same for all photographs."""


@dataclass(frozen=True)
class Sanity:
    """What the check found.

    Attributes:
        steps: after which all photographs were answered right.
        loss: of the last step.
    """

    steps: int
    loss: float


def check_sanity(config: TrainingConfig, table: pd.DataFrame, device: str, seed: int) -> Sanity:
    """Train on ten photographs of several landmarks, unaugmented, until all are answered right.

    Raises:
        TrainingError: that did not happen within ``config.sanity_steps``, or some parameters that
            are to learn get no gradient; the message says what looks disconnected.
    """
    whole = split(table, config.validation, config.subset, seed)
    rows = _ten(whole, seed)
    few = Collection(whole.table.iloc[rows].reset_index(drop=True), whole.landmarks,
                     whole.codes[rows], np.zeros(len(rows), np.bool_))  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = config.model_copy(update={"batch": len(rows)})
        return _learn(_training(config, few, place(device), seed))


def _ten(collection: Collection, seed: int) -> Integers:
    """Training rows of a few landmarks, as many of each as of the others."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(collection.rows(validation=False))
    rows = rows[collection.codes[rows] >= 0]
    counts = np.bincount(collection.codes[rows], minlength=len(collection.landmarks))
    most = rng.permutation(len(counts))
    most = most[np.argsort(-counts[most], kind="stable")][:LANDMARKS]
    turns = [rows[collection.codes[rows] == landmark] for landmark in most]
    dealt = [own[turn] for turn in range(PHOTOGRAPHS) for own in turns if turn < len(own)]
    return np.sort(np.array(dealt[:PHOTOGRAPHS], np.int64))


def _training(config: TrainingConfig, few: Collection, device: torch.device, seed: int) -> Training:
    network = Embedder(config.network, seed)
    learner = make_learner(network, config, few, seed)
    settle(network, device, config.precision)
    learner.to(device)
    sources = [str(source) for source in few.table["source"]]
    extractor = extractor_around(network, TrainedConfig(), config.size)
    source: Source
    if config.train == "head":
        source = Pooled([described(pooling_extractor(config, device, seed), sources)[0]], seed)
    else:
        photographs = Photographs(sources, config.size, config.memory * MIB)
        source = Crops(
            photographs, sources, config.augmentation, network.side(config.crop), False, seed
        )
    return Training(config, few, seed, learner, extractor, source, device, World(), Watcher())


def _learn(training: Training) -> Sanity:
    config, learner = training.config, training.learner
    optimiser, _ = make_optimiser(learner, config.optimiser)
    set_rates(optimiser, 1.0)
    scaler = torch.amp.GradScaler(training.device.type, enabled=False)
    step = Step(training, learner, optimiser, scaler)
    rows = np.arange(len(training.collection.codes))
    ((inputs, readable),) = training.source.batches([rows], 0)
    if int(readable.sum()) < 2:
        raise TrainingError("--sanity: fewer than two of the photographs tried can be read")
    targets, classes = training.collection.codes, np.arange(learner.head.classes)
    starved: set[str] = set(learner.trained())
    loss = float("nan")
    for number in range(1, config.sanity_steps + 1):
        total, right, tried = step.step(inputs, targets, readable, classes).tolist()
        loss = total / len(targets)
        if not np.isfinite(loss):
            raise TrainingError(f"--sanity: the loss is {loss} at step {number}: {_RATE}")
        # What has none at first may get some later, behind weights that begin at zero.
        starved &= set(without_gradient(learner))
        if right == tried and number > 1:
            if starved:
                raise TrainingError(f"--sanity: {_unreached(starved)}")
            return Sanity(number, loss)
    raise TrainingError(
        f"--sanity: {len(targets)} photographs are not learnt by heart in"
        f" {config.sanity_steps} steps (loss {loss:.3f}): {_suspect(training, inputs, starved)}"
    )


_RATE: Final = "lower training.optimiser.rate, or the trunk's"


def _suspect(training: Training, inputs: torch.Tensor, starved: set[str]) -> str:
    if starved:
        return _unreached(starved)
    with at_rest(training.learner), torch.inference_mode():
        embeddings = training.learner.network(inputs.to(training.device))
    if float(embeddings.std(dim=0).max()) < SAME:
        return "the head is given the same embedding for every photograph"
    return f"nothing is disconnected; allow more training.sanity_steps, or {_RATE} or raise it"


def _unreached(starved: set[str]) -> str:
    names = sorted(starved)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"no gradient reaches {', '.join(names[:3])}{more}: something before is cut off"
