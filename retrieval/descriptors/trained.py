"""A network fitted to landmarks (``landmarks train``), cut before its head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from retrieval.descriptors.base import VectorExtractor, parts_of, with_parts
from retrieval.descriptors.cnn import CnnConfig, CnnExtractor
from retrieval.errors import ConfigError, RunError
from retrieval.frontend import Shared
from retrieval.networks.embedder import Embedder, NetworkConfig, digest
from retrieval.networks.running import MIN_SIDE, chosen_float, on_the_way
from retrieval.networks.runtime import Runtime, settled
from retrieval.networks.trunk import NONE
from retrieval.storage.files import read_sealed, reading
from retrieval.storage.fingerprint import checksum
from retrieval.types import Photograph, StrictModel, Vectors

RECORD: Final = "training.json"
NETWORK: Final = "network.safetensors"
HEAD: Final = "head."
TRAIN: Final = "train again (landmarks train)"
FILES: Final = "files"
"""The key of a training's record below which the checksums of its files stand."""
RECORD_KEYS: Final = (
    "fingerprint", "config", "network", "landmarks", "none", "photographs", "best", "gap", "epochs",
)  # fmt: skip


class TrainedConfig(StrictModel):
    """A trained network as an extractor.

    Attributes:
        network: folder of the training; ``None``: the run's own.
        size: longest side in pixels at scale 1; ``None``: that of the training.
        scales: relative to size; the embeddings at each are summed.
        flip: whether the mirrored photograph's are too.
        precision, runtime: as of :func:`retrieval.networks.runtime.settled`.
        batch: as of :class:`retrieval.descriptors.cnn.CnnConfig`.
    """

    kind: Literal["trained"] = "trained"
    network: str | None = None
    size: int | None = Field(None, ge=MIN_SIDE, le=4096)
    scales: tuple[Annotated[float, Field(ge=1e-2, le=4.0)], ...] = Field(
        (1.0,), min_length=1, max_length=16, strict=False
    )
    flip: bool = False
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    runtime: Runtime = "auto"
    batch: int = Field(8, ge=1, le=1024)


@dataclass(frozen=True)
class TrainedExtractor(VectorExtractor):
    """See :class:`TrainedConfig`; made by :func:`build`, or around a network in training.

    Attributes:
        network: at rest, on its device.
        seen: what shows photographs to its trunk, at all scales.
        weights: checksum of the network's parameters.
        part: what the features are: ``embedding``, ``pooled`` (what the neck is given) or
            ``halfway`` (what the part that learns is).
    """

    network: Embedder
    seen: CnnExtractor
    weights: str = ""
    part: Literal["embedding", "pooled", "halfway"] = "embedding"
    batched = True

    @property
    def dimension(self) -> int:
        return self.network.dimension if self.part == "embedding" else self.network.channels

    @property
    def longest_side(self) -> int:
        return self.seen.longest_side

    @property
    def batch(self) -> int:
        return self.seen.batch

    @property
    def threaded(self) -> bool:
        return self.seen.threaded

    def identity(self) -> dict[str, Any]:
        shown, form = {"size", "scales", "flip", "batch"}, self.network.form.identity
        return {
            **self.seen.config.model_dump(mode="json", include=shown),
            "weights": self.weights,
            **{key: form[key] for key in ("precision", "runtime") if key in form},
        }

    def shape(self, photograph: Photograph) -> tuple[int, int]:
        """The (height, width) at which the network sees a photograph at the largest scale."""
        return self.seen.shape(photograph)

    def features(self, photographs: Sequence[Photograph]) -> list[Vectors]:
        return self.start(self.prepare(photographs))()

    def prepare(self, photographs: Sequence[Photograph], shared: Shared | None = None) -> Tensor:
        return self.seen.prepare(photographs)

    def start(self, prepared: Tensor, shared: Shared | None = None) -> Callable[[], list[Vectors]]:
        network = self.network
        describe = {"embedding": network.described, "pooled": network.pooled,
                    "halfway": network.halfway}[self.part]  # fmt: skip
        with torch.inference_mode():
            values = prepared.to(self.seen.device, non_blocking=True)
            total = torch.stack([describe(view) for view in self.seen.views(values)]).sum(dim=0)
            return on_the_way(total.float())


def extractor_around(
    network: Embedder, config: TrainedConfig, size: int, weights: str = ""
) -> TrainedExtractor:
    """An extractor of a network that is on its device, with the precision that it has there."""
    shown = CnnConfig(
        size=config.size or size, scales=config.scales, flip=config.flip, batch=config.batch
    )
    seen = CnnExtractor(shown, network.form, network.device, network.channels)
    return TrainedExtractor(network, seen, weights)


def resolved(config: Any, training: Path) -> Any:
    """An extractor's config whose trained networks, those of its parts too, are all named.

    Args:
        config: of any extractor.
        training: folder of the run's own.
    """

    def named(one: Any) -> Any:
        own = isinstance(one, TrainedConfig) and one.network is None
        return one.model_copy(update={"network": str(training)}) if own else one

    return with_parts(config, named)


def trained_networks(config: Any) -> list[Path]:
    """The folders of all trained networks of a resolved extractor's config."""
    return [Path(str(one.network)) for one in parts_of(config) if isinstance(one, TrainedConfig)]


def own_network(config: Any) -> bool:
    """Whether an extractor, or one of its parts, is the run's own trained network."""
    return any(isinstance(one, TrainedConfig) and one.network is None for one in parts_of(config))


def build(config: TrainedConfig, device: str) -> TrainedExtractor:
    """Load a finished training on a device ("cpu" or "cuda").

    Raises:
        ConfigError: no folder was named.
        RunError: there is none, or it is damaged.
    """
    if config.network is None:
        raise ConfigError("extractor: trained, outside a run, needs the folder of its training:"
                          " set extractor.network")  # fmt: skip
    folder = Path(config.network)
    record = read_record(folder)
    tensors = read_network(folder)
    state = {k: v for k, v in tensors.items() if not k.startswith(HEAD)}
    with reading(folder / NETWORK, TRAIN):
        # The file has every parameter: none is looked for elsewhere.
        form = NetworkConfig.model_validate({**record["config"]["network"], "weights": NONE})
        network = Embedder(form, 0)
        lacking = network.load_state_dict(state, strict=False)
        wanted = [key for key in lacking.missing_keys if not key.endswith("num_batches_tracked")]
        if wanted or lacking.unexpected_keys:
            raise KeyError(*wanted[:1], *lacking.unexpected_keys[:1])
        first = record["network"]
        network.form = replace(
            network.form,
            mean=tuple(first["mean"]),
            std=tuple(first["std"]),
            interpolation=first["interpolation"],
        )
        size = int(record["config"]["size"])
    # The head's too: what judges the embeddings belongs to them.
    weights = digest(tensors)
    network.eval().fold()
    where = torch.device(device)
    network.to(where)
    network.form = settled(network.form, where, config.precision, config.runtime)
    return extractor_around(network, config, size, weights)


def settle(
    network: Embedder, device: torch.device, precision: Literal["auto", "bfloat16", "float32"]
) -> None:
    """Put a network on its device, channels last, with the trunk's precision chosen."""
    chosen = chosen_float(precision, device)
    network.precision = torch.bfloat16 if chosen == "bfloat16" else torch.float32
    network.to(device).to(memory_format=torch.channels_last)
    network.form = replace(network.form, identity={**network.form.identity, "precision": chosen})


def read_record(folder: Path) -> dict[str, Any]:
    """What a finished training says of itself.

    Raises:
        RunError: it is missing, damaged, or was not finished.
    """
    if not (folder / RECORD).is_file():
        raise RunError(f"{folder} holds no finished training: train first (landmarks train)")
    return read_sealed(folder / RECORD, TRAIN, RECORD_KEYS)


def check_file(folder: Path, name: str) -> None:
    """Compare a finished training's file with its checksum in the record.

    Raises:
        RunError: it is missing or damaged.
    """
    # A training by a version that kept no checksums has none to compare.
    told = read_record(folder).get(FILES)
    with reading(folder / name, TRAIN):
        if told is not None and checksum(folder / name) != told[name]:
            raise ValueError("another checksum")


def read_network(folder: Path) -> dict[str, torch.Tensor]:
    """A training's parameters by their names.

    Raises:
        RunError: missing or damaged.
    """
    check_file(folder, NETWORK)
    with reading(folder / NETWORK, TRAIN):
        return load_file(folder / NETWORK)
