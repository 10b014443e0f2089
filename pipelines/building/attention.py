"""Learn DELF's attention on a gallery, for a system's detector."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipelines.progress import Report, progress_bar
from retrieval.config import SystemConfig
from retrieval.errors import ConfigError
from retrieval.local.delf import DelfConfig, build, save_attention
from retrieval.photographs.table import DataSet
from retrieval.training.attention import AttentionConfig, train_attention
from retrieval.training.watching import Watcher


class Stages(Watcher):
    """A bar for each stage, the last one's until the stack is closed."""

    def __init__(self, stack: ExitStack):
        self._stack = stack
        self._report: Report | None = None

    def begin(self, what: str, total: int) -> None:
        self._stack.close()
        self._report = self._stack.enter_context(progress_bar(what, total))

    def advance(self, rows: int, failed: int) -> None:
        if self._report is not None:
            self._report(rows, failed)


def learn_attention(
    system: SystemConfig, config: AttentionConfig, data: DataSet, out: Path, device: str
) -> dict[str, Any]:
    """Learn attention on a gallery's landmarks and write it.

    Args:
        system: whose detector it is for, and whose seed counts.
        config: of the learning.
        data: of whose gallery alone is learnt.
        out: the safetensors file; maps lie beside it meanwhile.
        device: ``cpu`` or ``cuda``.

    Returns:
        the notes that stand in the file too.

    Raises:
        ConfigError: the system has no detector delf, or several.
        TrainingError: as :func:`train_attention`.
    """
    # Attention that a config names already may not be there yet: it is what is learnt.
    detector = build(_detector_of(system).model_copy(update={"attention": None}), device)
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        attention, notes = train_attention(
            detector, data.gallery, config, out.parent, system.seed, Stages(stack)
        )
    save_attention(out, attention, detector.trunk, notes)
    return notes


def _detector_of(system: SystemConfig) -> DelfConfig:
    found = {(one.trunk, one.layer, one.weights): one for one in system.detectors
             if isinstance(one, DelfConfig)}  # fmt: skip
    if len(found) != 1:
        raise ConfigError(
            f"{system.name} has {len(found) or 'no'} detectors of kind delf; attention is learnt"
            " for one (resnet50-delf has one)"
        )
    return next(iter(found.values()))
