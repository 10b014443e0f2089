"""Fitting a network to a gallery: the loop, epoch by epoch.

Everything random belongs to (seed, epoch) and a step or a photograph, never to what ran before: a
training that was cut short and goes on comes to what one without a break does, and several
processes take the same steps as one (but for dropout, and for batch norms in training on a
processor, which see a process's own part of a batch). Of a frozen trunk every view of a photograph
is pooled once, before the first epoch; see :mod:`retrieval.training.sources`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from retrieval.classifiers.base import Integers
from retrieval.descriptors.trained import (
    RECORD,
    TrainedConfig,
    TrainedExtractor,
    extractor_around,
    read_record,
    settle,
)
from retrieval.devices import CUDA
from retrieval.errors import TrainingError
from retrieval.evaluation.metrics import Truth, global_average_precision
from retrieval.networks.embedder import Embedder, at_rest
from retrieval.networks.heads import ranked, uses_bank
from retrieval.networks.running import fast_bfloat16
from retrieval.storage.fingerprint import fingerprint
from retrieval.training.checkpoints import (
    Checkpoint,
    begin,
    finish,
    latest,
    mend,
    optimiser_state,
    restore_optimiser,
    write_checkpoint,
    write_photographs,
)
from retrieval.training.checkpoints import best as best_epoch
from retrieval.training.config import TrainingConfig
from retrieval.training.distributed import World
from retrieval.training.learner import (
    Learner,
    make_learner,
    make_optimiser,
    rate_factor,
    set_rates,
    without_gradient,
)
from retrieval.training.losses import head_memory
from retrieval.training.photographs import Photographs
from retrieval.training.sampling import epoch_batches, own_part, sampled_classes
from retrieval.training.sources import Crops, Halfway, Pooled, Source, Views
from retrieval.training.split import Collection, split
from retrieval.training.watching import Epoch, Mistake, Watcher

log = logging.getLogger(__name__)

CODE: Final = 1
"""Version of the code that decides what a training comes to."""
VIEWS: Final = "views"
MIB: Final = 2**20
SHOWN: Final = 8
"""Mistakes told of in an epoch."""
LOGITS: Final = 1 << 24
"""Logits of validation computed at a time."""
TAUGHT: Final = 10_000
"""Photographs from which the neck's whitening is learnt, at most."""


@dataclass(frozen=True)
class Training:
    """All that a training works with.

    Attributes:
        config, collection, seed: what it was asked for.
        learner: network and head.
        extractor: around the network, for whole photographs.
        source: of inputs.
        device, world: where it runs.
        watcher: told of it.
    """

    config: TrainingConfig
    collection: Collection
    seed: int
    learner: Learner
    extractor: TrainedExtractor
    source: Source
    device: torch.device
    world: World
    watcher: Watcher


def fit(
    config: TrainingConfig,
    table: pd.DataFrame,
    table_mark: str,
    folder: Path,
    device: str,
    seed: int,
    watcher: Watcher | None = None,
    world: World | None = None,
    views: Path | None = None,
) -> dict[str, Any]:
    """Train, or go on, or find that it is done.

    Args:
        config: of the training.
        table: ``id``, ``source`` (paths) and ``landmark`` of gallery and bank.
        table_mark: fingerprint of the photographs' files.
        folder: of the training.
        device: ``cpu`` or ``cuda``.
        seed: of everything random.
        watcher: told of what goes on.
        world: the processes that train it together.
        views: where pooled views are kept; by default in the folder.

    Returns:
        what ``training.json`` says.

    Raises:
        TrainingError: nothing to train or validate on, or the loss is not finite.
        ConfigError, WeightsError, RunError: as their names say.
    """
    world = world or World()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Embedder(config.network, seed)
        made_from = recipe(config, network, table_mark, seed)
        if world.first:
            begin(folder, made_from)
            mend(folder)
        world.wait()
        if (folder / RECORD).exists():
            log.info("%s: trained already, nothing to do", folder)
            return read_record(folder)
        collection = split(table, config.validation, config.subset, seed)
        where = place(device)
        learner = make_learner(network, config, collection, seed)
        settle(network, where, config.precision)
        learner.to(where)
        extractor = extractor_around(network, TrainedConfig(), config.size)
        watcher = watcher or Watcher()
        source = _source(
            config, collection, extractor, made_from, views or folder / VIEWS, seed, watcher, world
        )
        neck, found = config.network.neck, latest(folder)
        # Further processes are given the first one's parameters.
        if neck is not None and neck.start == "whitening" and found is None and world.first:
            rows = _some(collection.rows(validation=False), seed)
            pooled, readable = source.embeddings(replace(extractor, part="pooled"), rows)
            network.start_neck(pooled[readable], neck, seed)
        training = Training(
            config, collection, seed, learner, extractor, source, where, world, watcher
        )
        history = _run(training, folder, found)
        if world.first:
            write_photographs(folder, collection.table, collection.validation)
            finish(folder, _record(training, made_from), history)
        world.wait()
        return read_record(folder)


def recipe(config: TrainingConfig, network: Embedder, table_mark: str, seed: int) -> dict[str, Any]:
    """What decides the result of a training."""
    return {
        "code": CODE,
        "config": config.fields(),
        "trunk": network.form.identity,
        "table": table_mark,
        "seed": seed,
    }


def place(device: str) -> torch.device:
    """A device with its number, where it has one."""
    return torch.device(device, torch.cuda.current_device()) if device == CUDA else (
        torch.device(device)
    )  # fmt: skip


def _some(rows: Integers, seed: int) -> Integers:
    """At most :data:`TAUGHT` of some rows, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:TAUGHT])


def _source(
    config: TrainingConfig,
    collection: Collection,
    extractor: TrainedExtractor,
    made_from: dict[str, Any],
    views: Path,
    seed: int,
    watcher: Watcher,
    world: World,
) -> Source:
    """Where inputs come from; shows a trunk's frozen part its views, unless they lie there."""
    sources = [str(source) for source in collection.table["source"]]
    photographs = Photographs(sources, config.size, config.memory * MIB)
    network, count = extractor.network, config.kept_views
    side: int | None = network.side(config.crop)
    if not count:
        return Crops(photographs, sources, config.augmentation, network.side(config.crop), True,
                     seed)  # fmt: skip
    if config.train == "head":
        describer, side = pooling_extractor(config, network.device, seed), None
    else:
        network.divide()
        describer = replace(extractor, part="halfway")
    fields = {key: made_from["config"][key] for key in ("augmentation", "subset", "size")}
    mark = {**made_from, "config": fields, "p": config.network.p, "by": describer.identity(),
            "side": side, "trainable": config.trainable}  # fmt: skip
    folder = views / fingerprint(mark)
    shown = Views(photographs, sources, describer, config.augmentation, side, seed)
    if world.first:
        shown.kept(count, folder, watcher)
    world.wait()
    kept = shown.kept(count, folder, Watcher())
    return Pooled(kept, seed) if config.train == "head" else Halfway(kept, sources, seed)


def pooling_extractor(config: TrainingConfig, device: torch.device, seed: int) -> TrainedExtractor:
    """What a frozen trunk's vectors are pooled by: another such network, its norms folded."""
    still = Embedder(config.network, seed).eval()
    still.fold()
    settle(still, device, config.precision)
    still.trunk.to(still.precision)
    return replace(extractor_around(still, TrainedConfig(), config.size), part="pooled")


def _run(training: Training, folder: Path, found: Checkpoint | None) -> tuple[Epoch, ...]:
    """All epochs, those after a checkpoint if there is one."""
    config, learner, world = training.config, training.learner, training.world
    optimiser, names = make_optimiser(learner, config.optimiser)
    half = training.device.type == CUDA and config.precision == "auto" and not (
        fast_bfloat16(training.device)
    )  # fmt: skip
    if half:
        learner.network.precision = torch.float16
    scaler = torch.amp.GradScaler(training.device.type, enabled=half)
    history: tuple[Epoch, ...] = ()
    if found is not None:
        history = found.history
        learner.restore(found.tensors)
        restore_optimiser(optimiser, names, found.tensors)
        scaler.load_state_dict({**scaler.state_dict(), **found.scaler})
        log.info("%s: goes on after epoch %d", folder, len(history))
    if world.first:
        _say_size(training)
        _show(training)
    module = world.parallel(learner, training.device)
    training.watcher.begin("training", (config.epochs - len(history)) * _steps(training))
    while not _over(history, config):
        number = len(history) + 1
        step = Step(training, module, optimiser, scaler)
        loss, accuracy, rates = step.epoch(number)
        right, gap, mistakes = validate(training)
        told = world.told(torch.tensor([right, gap], dtype=torch.float64, device=training.device))
        record = Epoch(number, loss, accuracy, float(told[0]), float(told[1]), rates, mistakes)
        history = (*history, record)
        due = number % config.checkpoint_every == 0 or _over(history, config)
        if world.first and (due or best_epoch(history) == number):
            tensors = {**learner.saved(), **optimiser_state(optimiser, names)}
            scale = scaler.state_dict() if half else {}
            write_checkpoint(folder, Checkpoint(history, tensors, scale), config.keep)
        training.watcher.epoch(record)
    return history


def _show(training: Training) -> None:
    """The network to the watcher, with a photograph of nothing."""
    network = training.learner.network
    side = network.side(training.config.crop)
    nothing = torch.zeros((1, side, side, 3), dtype=torch.uint8, device=training.device)
    with at_rest(network):
        training.watcher.network(network, nothing)


def _over(history: Sequence[Epoch], config: TrainingConfig) -> bool:
    """Whether all epochs are done, or patience is at its end."""
    if len(history) >= config.epochs:
        return True
    if config.patience is None or not history:
        return False
    return len(history) - best_epoch(history) >= config.patience


@dataclass(frozen=True)
class Step:
    """What steps are taken with.

    Attributes:
        training: all that belongs to it.
        module: the learner, or the learner among processes.
        optimiser, scaler: of its gradients.
    """

    training: Training
    module: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def epoch(self, number: int) -> tuple[float, float, dict[str, float]]:
        """Train for an epoch.

        Returns:
            mean loss, accuracy, and the rates at its end.

        Raises:
            TrainingError: the loss is not finite.
        """
        training, config = self.training, self.training.config
        rows, targets = _teachers(training)
        plan = epoch_batches(
            training.collection.codes[rows], config.sampling, config.batch, _seed(training, number)
        )
        world = training.world
        own = (rows[own_part(batch, world.rank, world.size)] for batch in plan)
        totals = torch.zeros(3, dtype=torch.float64, device=training.device)
        rates: dict[str, float] = {}
        for place, (inputs, readable) in enumerate(training.source.batches(own, number)):
            batch = targets[plan[place]]
            factor = rate_factor(config.schedule, number - 1 + place / len(plan), config.epochs)
            rates = set_rates(self.optimiser, factor)
            torch.manual_seed(_seed(training, number, place, world.rank))
            classes = sampled_classes(
                batch, training.learner.head.classes, config.sampled,
                _seed(training, number, place),
            )  # fmt: skip
            sums = self.step(inputs, own_part(batch, world.rank, world.size), readable, classes)
            totals += sums
            if number == 1 and place == 0:
                self._warn()
            training.watcher.advance(len(batch), int((~readable).sum()))
        loss, right, counted = world.summed(totals).tolist()
        loss /= plan.size
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} in epoch {number}: lower training.optimiser.rate, or the"
                " trunk's, and delete the training's folder"
            )
        return loss, right / max(counted, 1), rates

    def step(
        self, inputs: Tensor, targets: Integers, readable: Tensor, classes: Integers
    ) -> Tensor:
        """One step on this process's part of a batch; (3,) loss, right ones, ones of a class."""
        training, config = self.training, self.training.config
        device, world = training.device, training.world
        wanted = torch.from_numpy(targets).to(device)
        weight = readable.to(device)
        subset = None
        if len(classes) < training.learner.head.classes:
            subset = torch.from_numpy(classes).to(device)
        self.optimiser.zero_grad(set_to_none=True)
        # All batches are of one shape: cuDNN may try its algorithms once and keep the quickest.
        cudnn = torch.backends.cudnn
        with cudnn.flags(cudnn.enabled, benchmark=True, deterministic=cudnn.deterministic):
            losses, right = self.module(inputs.to(device, non_blocking=True), wanted, subset)
            loss = (losses * weight).sum()
            # Gradients are averaged over the processes, the loss is the mean over the batch.
            self.scaler.scale(loss * (world.size / config.batch)).backward()
        if config.clip is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(training.learner.trained().values(), config.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        known = (wanted >= 0) & weight
        return torch.stack([loss.detach(), (right & known).sum(), known.sum()]).double()

    def _warn(self) -> None:
        missing = without_gradient(self.training.learner)
        if missing:
            log.warning("no gradient reaches %s", ", ".join(missing))


def _teachers(training: Training) -> tuple[Integers, Integers]:
    """The rows that teach, and (rows,) their classes; the bank's is -1 where it has none."""
    collection, head = training.collection, training.learner.head
    rows = collection.rows(validation=False)
    if not uses_bank(training.config.head):
        rows = rows[collection.codes[rows] >= 0]
    codes = collection.codes[rows]
    return rows, np.where((codes < 0) & head.none, head.landmarks, codes)


def _steps(training: Training) -> int:
    """Photographs of an epoch, with those that fill its last batch."""
    rows, _ = _teachers(training)
    codes = training.collection.codes[rows]
    return int(
        epoch_batches(codes, training.config.sampling, training.config.batch, training.seed).size
    )


def validate(training: Training) -> tuple[float, float, tuple[Mistake, ...]]:
    """Accuracy, GAP and the surest mistakes on validation, by whole photographs.

    Only the first process looks; the others are told.
    """
    if not training.world.first:
        return 0.0, 0.0, ()
    collection, head = training.collection, training.learner.head
    rows = collection.rows(validation=True)
    embeddings, readable = training.source.embeddings(training.extractor, rows)
    rows, embeddings = rows[readable], embeddings[readable]
    with at_rest(head):
        best, values = ranked(head, embeddings, 1, max(1, LOGITS // head.classes))
    codes, named, confidence = collection.codes[rows], best[:, 0], values[:, 0]
    ids = collection.table["id"].iloc[rows].tolist()
    gap = global_average_precision(ids, named, confidence, Truth.of_codes(codes))
    shown = codes >= 0
    right = float((named == codes)[shown].mean()) if shown.any() else 0.0
    wrong = np.flatnonzero(named != codes)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN]
    names = [*collection.landmarks, ""]
    mistakes = tuple(
        Mistake(
            ids[place],
            str(collection.table["source"].iloc[rows[place]]),
            names[codes[place]],
            names[named[place]],
            float(confidence[place]),
        )
        for place in wrong
    )
    return right, gap, mistakes


def _seed(training: Training, *place: int) -> int:
    """A seed of a place in the training."""
    return int(np.random.SeedSequence((training.seed, *place)).generate_state(1)[0])


def _say_size(training: Training) -> None:
    config, head, collection = training.config, training.learner.head, training.collection
    memory = head_memory(
        config.head, head.classes, training.learner.network.dimension, config.batch,
        config.sampled, config.optimiser.kind,
    )  # fmt: skip
    log.info(
        "training on %d photographs of %d landmarks and %d of none, validating on %d;"
        " the head takes %.0f MiB",
        int((collection.codes[~collection.validation] >= 0).sum()), len(collection.landmarks),
        int((collection.codes[~collection.validation] < 0).sum()),
        int(collection.validation.sum()), memory / MIB,
    )  # fmt: skip


def _record(training: Training, made_from: dict[str, Any]) -> dict[str, Any]:
    collection = training.collection
    return {
        "fingerprint": fingerprint(made_from),
        "config": training.config.model_dump(mode="json"),
        "network": training.learner.network.form.identity,
        "landmarks": collection.landmarks,
        "none": training.learner.head.none,
        "photographs": {
            "training": int((~collection.validation).sum()),
            "validation": int(collection.validation.sum()),
        },
    }
