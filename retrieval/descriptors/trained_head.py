"""The head of a trained network, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from retrieval.descriptors.trained import HEAD, NETWORK, TRAIN, read_network, read_record
from retrieval.networks.heads import Head, HeadConfig
from retrieval.storage.files import reading


@dataclass(frozen=True)
class TrainedHead:
    """A head, and the landmarks that its classes are.

    Attributes:
        head: at rest.
        landmarks: ids, in the order of its classes.
    """

    head: Head
    landmarks: list[str]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the head of a finished training.

        Raises:
            RunError: there is none, or it is damaged.
        """
        record = read_record(folder)
        tensors = read_network(folder)
        state = {k.removeprefix(HEAD): v for k, v in tensors.items() if k.startswith(HEAD)}
        with reading(folder / NETWORK, TRAIN):
            config: HeadConfig = TypeAdapter(HeadConfig).validate_python(record["config"]["head"])
            dimension = state["hidden.0.weight" if "hidden.0.weight" in state else "weight"].shape[
                1
            ]
            head = Head(config, dimension, len(record["landmarks"]), record["none"], 0)
            head.load_state_dict(state)
        return cls(head.eval(), record["landmarks"])
