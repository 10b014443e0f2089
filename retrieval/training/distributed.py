"""Several processes that train one network: who is who, and what they agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
from torch import Tensor, distributed, nn

from retrieval.devices import CUDA

PATIENCE: Final = timedelta(days=1)
"""The others wait while the first one pools features or validates."""


@dataclass(frozen=True)
class World:
    """One process among those that ``torchrun`` started, or the only one."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def shared(self, values: Tensor) -> Tensor:
        """What the first one has."""
        if self.size > 1:
            distributed.broadcast(values, 0)
        return values

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module, its gradients averaged over all. Batch norms go together on GPUs alone."""
        if self.size == 1:
            return module
        if device.type == CUDA:
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
            return nn.parallel.DistributedDataParallel(module, device_ids=[device.index])
        return nn.parallel.DistributedDataParallel(module)


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` started; without it there is one.

    Args:
        device: ``cuda`` takes a GPU a process and nccl, ``cpu`` gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    if device == CUDA:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == CUDA else "gloo", timeout=PATIENCE)
    try:
        yield World(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
