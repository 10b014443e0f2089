"""Fit a network to a gallery: bars on the terminal, curves for TensorBoard, searches, tables."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from rich.table import Table
from torch import Tensor, nn

from pipelines.config import dump_config, explain
from pipelines.progress import Report, progress_bar
from retrieval.config import SystemConfig
from retrieval.descriptors.cache import table_digest
from retrieval.descriptors.trained import RECORD, read_record
from retrieval.errors import ConfigError, PhotographError, RunError
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.table import DataSet
from retrieval.run import Run
from retrieval.storage.files import atomic_write, read_json, write_json, writing
from retrieval.training.config import TrainingConfig
from retrieval.training.distributed import World, joined
from retrieval.training.loop import VIEWS, fit
from retrieval.training.sanity import check_sanity
from retrieval.training.watching import Epoch, Watcher

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

BOARD: Final = "tensorboard"
TRIALS: Final = "trials"
BEST: Final = "best.yaml"
SHOWN_SIDE: Final = 256


class Bars(Watcher):
    """A bar for each stage; losses, accuracies, rates, the graph and mistakes for TensorBoard.

    Args:
        folder: of the curves.
    """

    def __init__(self, folder: Path):
        self._stack = ExitStack()
        self._threads = ExitStack()
        self._report: Report | None = None
        self._folder = folder
        self._board: Any = None

    def begin(self, what: str, total: int) -> None:
        self._stack.close()
        self._report = self._stack.enter_context(progress_bar(what, total)) if total else None

    def advance(self, rows: int, failed: int) -> None:
        if self._report is not None:
            self._report(rows, failed)

    def network(self, network: nn.Module, photographs: Tensor) -> None:
        with writing(self._folder):
            self._board = _writer(self._folder)
        if self._board is not None:
            self._threads.enter_context(_quiet_threads())
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # tracing is to go, says torch at every step
                    self._board.add_graph(network, photographs)
            except Exception as error:  # whatever tracing does not know: curves do without
                log.debug("TensorBoard gets no graph (%s)", error)

    def epoch(self, record: Epoch) -> None:
        log.info(
            "epoch %d: loss %.3f, accuracy %.3f, of photographs left out %.3f", record.number,
            record.loss, record.accuracy, record.validation_accuracy,
        )  # fmt: skip
        board = self._board
        if board is None:
            return
        with writing(self._folder):
            self._draw(board, record)

    def _draw(self, board: Any, record: Epoch) -> None:
        for name in ("loss", "accuracy", "validation_accuracy", "gap"):
            board.add_scalar(name, getattr(record, name), record.number)
        for part, rate in record.rates.items():
            board.add_scalar(f"rate/{part}", rate, record.number)
        for place, one in enumerate(record.mistakes):
            with contextlib.suppress(PhotographError):
                shown = read_photograph(one.source, SHOWN_SIDE)
                board.add_image(f"mistakes/{place}", shown, record.number, dataformats="HWC")
            text = f"{one.id}: {one.answer}, not {one.truth or 'none'} ({one.confidence:.3f})"
            board.add_text(f"mistakes/{place}", text, record.number)
        board.flush()

    def close(self) -> None:
        """End the bar and the curves."""
        self._stack.close()
        with self._threads:
            if self._board is not None:
                with writing(self._folder):
                    self._board.close()


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """TensorBoard's thread tells of a full disk in the next call, and need not by a traceback."""
    before = threading.excepthook

    def hook(told: threading.ExceptHookArgs) -> None:
        if isinstance(told.exc_value, OSError) and "tensorboard" in type(told.thread).__module__:
            log.debug("TensorBoard: %s", told.exc_value)
        else:
            before(told)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _writer(folder: Path) -> Any:
    """TensorBoard's, or ``None`` where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("no curves: TensorBoard is not installed (pip install '.[training]')")
        return None
    return SummaryWriter(str(folder))


def train_network(
    system: SystemConfig,
    data: DataSet,
    folder: Path,
    device: str,
    world: World | None = None,
    views: Path | None = None,
) -> dict[str, Any]:
    """Train on gallery and bank, or find that it is done.

    Args:
        system: with a training.
        data: its gallery and bank.
        folder: of the training.
        device: ``cpu`` or ``cuda``.
        world: the processes that do it together.
        views: where pooled views are kept, if not in the folder.

    Returns:
        what ``training.json`` says.
    """
    table = data.photographs
    first = world is None or world.first
    watcher = Bars(folder / BOARD) if first else Watcher()
    try:
        return fit(
            _training(system), table, table_digest(table), folder, device, system.seed, watcher,
            world, views,
        )  # fmt: skip
    finally:
        if isinstance(watcher, Bars):
            watcher.close()


def train_run(
    system: SystemConfig,
    data: DataSet,
    run: Path,
    device: str,
    sanity: bool = False,
    subset: float | None = None,
    trials: int = 0,
) -> list[Path]:
    """The command: check, then train, or search.

    Args:
        system: with a training.
        data: its gallery and bank.
        run: the run's folder.
        device: ``cpu`` or ``cuda``.
        sanity: first learn ten photographs by heart.
        subset: share of the photographs, in place of the config's.
        trials: of a search, in all; 0 trains once.

    Returns:
        folders of the trainings; of several processes the first one's alone.

    Raises:
        TrainingError: the check failed.
    """
    if subset is not None:
        system = changed(system, {"subset": subset})
    files = Run(run)
    files.create()
    with joined(device) as world, files.locked() if world.first else contextlib.nullcontext():
        if sanity and world.first:
            found = check_sanity(_training(system), data.photographs, device, system.seed)
            log.info("sanity: ten photographs learnt by heart in %d steps", found.steps)
        world.wait()
        if trials:
            if world.size > 1:
                raise ConfigError("--search is for one process: start it without torchrun")
            return search(system, data, run, device, trials)
        train_network(system, data, files.training, device, world)
        return [files.training] if world.first else []


def search(system: SystemConfig, data: DataSet, run: Path, device: str, trials: int) -> list[Path]:
    """Try hyperparameters until there are so many finished trials; a killed search goes on.

    Each trial is a training in ``RUN/trials/NNN``; the best one's system is ``RUN/best.yaml``.

    Returns:
        the trials' folders, the best first.

    Raises:
        ConfigError: optuna is not installed, or there is nothing to search.
    """
    study = _study(system, run)
    space = _training(system).search

    def objective(trial: optuna.Trial) -> float:
        values = {key: _suggested(trial, key, choice) for key, choice in space.items()}
        chosen = changed(system, values)
        folder = run / TRIALS / f"{trial.number:03d}"
        training = _training(chosen).model_dump(mode="json")
        write_json(folder / "config.json", {"chosen": values, "training": training})
        log.info("trial %d: %s", trial.number, json.dumps(values))
        record = train_network(chosen, data, folder, device, views=run / TRIALS / VIEWS)
        return float(record["gap"])

    study.optimize(objective, n_trials=max(0, trials - len(_finished(study))))
    ordered = sorted(_finished(study), key=lambda one: -(one.value or 0.0))
    best = read_json(run / TRIALS / f"{ordered[0].number:03d}" / "config.json")
    text = dump_config(changed(system, {**best["chosen"], "search": {}}))
    atomic_write(run / BEST, text.encode())
    return [run / TRIALS / f"{one.number:03d}" for one in ordered]


def _study(system: SystemConfig, run: Path) -> optuna.Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise ConfigError("--search needs optuna: pip install '.[training]'") from None
    if not _training(system).search:
        raise ConfigError("--search: training.search names nothing to choose from")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(run / "search.journal"))),
        sampler=optuna.samplers.TPESampler(seed=system.seed),
        study_name="training",
        direction="maximize",
        load_if_exists=True,
    )


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _suggested(trial: optuna.Trial, key: str, choice: Sequence[Any] | Mapping[str, Any]) -> Any:
    """A value of a key: one of a list, of any form, or a number of a range."""
    if not isinstance(choice, Mapping):
        texts = [json.dumps(one) for one in choice]
        return json.loads(trial.suggest_categorical(key, texts))
    try:
        low, high, spread = choice["low"], choice["high"], bool(choice.get("log", False))
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(key, low, high, log=spread)
        return trial.suggest_float(key, low, high, log=spread)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"training.search.{key}: expected a list, or low and high ({error})"
        ) from None


def changed(system: SystemConfig, values: Mapping[str, Any]) -> SystemConfig:
    """A system with other values at dotted keys of its training.

    Raises:
        ConfigError: no such key, or no such value.
    """
    whole = system.model_dump()
    for key, value in values.items():
        *outer, last = key.split(".")
        place: Any = whole["training"]
        for part in outer:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise ConfigError(f"training.{key}: {'.'.join(outer)} holds no keys")
        place[last] = value
    try:
        return SystemConfig.model_validate(whole)
    except ValidationError as error:
        raise ConfigError(explain(error, SystemConfig, whole)) from None


def trainings_table(folders: Sequence[Path]) -> Table:
    """Trainings side by side: what they came to, and the hyperparameters in which they differ.

    Args:
        folders: of trainings, or of runs: theirs, with the trials of a search.

    Raises:
        RunError: there is no finished training.
    """
    found = {one: read_record(one) for folder in folders for one in _trainings(folder)}
    if not found:
        raise RunError(f"{', '.join(map(str, folders))}: no finished training there")
    flat = {folder: _flat(record["config"]) for folder, record in found.items()}
    keys = sorted({key for one in flat.values() for key in one} - {"network.weights"})
    differing = [key for key in keys if len({str(one.get(key)) for one in flat.values()}) > 1]
    table = Table("training", "GAP", "accuracy", "epoch", *differing)
    for folder, record in sorted(found.items(), key=lambda item: -item[1]["gap"]):
        best = record["epochs"][record["best"] - 1]
        table.add_row(
            str(folder), f"{record['gap']:.4f}", f"{best['validation_accuracy']:.4f}",
            f"{record['best']} of {len(record['epochs'])}",
            *(str(flat[folder].get(key, "")) for key in differing),
        )  # fmt: skip
    return table


def _trainings(folder: Path) -> list[Path]:
    """Finished trainings that a folder is or holds."""
    places = [folder, Run(folder).training, *sorted((folder / TRIALS).glob("*"))]
    return [one for one in places if (one / RECORD).is_file()]


def _flat(values: Mapping[str, Any], outer: str = "") -> dict[str, Any]:
    """Nested keys dotted; what is searched is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and key != "search":
            flat |= _flat(value, f"{outer}{key}.")
        elif key != "search":
            flat[outer + key] = value
    return flat


def _training(system: SystemConfig) -> TrainingConfig:
    if system.training is None:
        raise ConfigError(f"{system.name} has no section training: there is nothing to train")
    return system.training
