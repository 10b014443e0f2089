"""Files of random parameters, for networks whose own are not at hand."""

from __future__ import annotations

from pathlib import Path

import torch
from kornia.feature import ALIKED
from safetensors.torch import save_file

from retrieval.descriptors.trained import NETWORK, RECORD
from retrieval.local.delf import Attention, save_attention
from retrieval.networks.embedder import Embedder, NeckConfig, NetworkConfig
from retrieval.networks.heads import Head
from retrieval.networks.trunk import Trunk, seeded
from retrieval.networks.trunks import bare_network
from retrieval.storage.files import write_json
from retrieval.training.config import TrainingConfig
from retrieval.training.learner import Learner


def random_aliked(path: Path, seed: int) -> Path:
    """Write parameters for ALIKED that find keypoints, if no good ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = ALIKED("aliked-n16rot").state_dict()
    torch.save({key: value for key, value in state.items() if key != "dkd.hw_grid"}, path)
    return path


def random_trunk(path: Path, name: str, seed: int) -> Path:
    """Write random parameters of a torchvision network."""
    with seeded(seed):
        save_file(bare_network(name).state_dict(), path)
    return path


def random_training(folder: Path, trunk: str, seed: int) -> Path:
    """Write a finished training of a network that learnt nothing, of two landmarks."""
    neck = NeckConfig(dimension=24, start="random")
    config = TrainingConfig(network=NetworkConfig(trunk=trunk, weights="none", neck=neck), size=128)
    network = Embedder(config.network, seed)
    head = Head(config.head, network.dimension, 2, True, seed)
    learner = Learner(network, head, torch.zeros(3))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in learner.saved().items()}, folder / NETWORK)
    record = {
        "config": config.model_dump(mode="json"), "network": network.form.identity,
        "landmarks": ["a", "b"], "none": True,
    }  # fmt: skip
    write_json(folder / RECORD, record)
    return folder


def random_attention(path: Path, trunk: Trunk, seed: int, channels: int = 128) -> Path:
    """Write random attention for a trunk's map of so many channels."""
    with seeded(seed):
        save_attention(path, Attention(channels, 16), trunk, {})
    return path
