"""What OpenVINO is worth beside torch: whole extraction from files, on processor cores.

Photographs of a data folder are extracted by torch and by OpenVINO in bfloat16 (float32 where the
processor is not fast at that), and by OpenVINO in eight bits, in turns. Each turn's processor time
counts, decoding and pooling included, so that other work on the machine disturbs little; the least
of the turns is taken. Beside it the mean cosine of the vectors to torch's in float32.

    python benchmarks/runtimes.py --data DATA [--weights FOLDER] [--trunks mobilenet_v2 resnet50]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.descriptors.cnn import CnnConfig, CnnExtractor, build
from retrieval.descriptors.extraction import WINDOW, extract
from retrieval.descriptors.registry import quantise_network, unsettled
from retrieval.devices import CPU, machine
from retrieval.networks.trunks import find_weights
from retrieval.photographs.table import load_data_set
from retrieval.storage.files import atomic_write
from retrieval.types import Vectors

RESULTS = Path(__file__).parent / "results"
WAYS = {
    "torch": {"runtime": "torch"},
    "OpenVINO": {"runtime": "openvino"},
    "OpenVINO, int8": {"precision": "int8"},
}
MEASURED = 100
"""Photographs that the ranges of eight bits are measured on."""


@dataclass(frozen=True)
class Figures:
    """Of one network, run in one way."""

    trunk: str
    way: str
    milliseconds: float
    times: float
    cosine: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--trunks", nargs="+", default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--photographs", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "runtimes.md")
    options = parser.parse_args()
    sources = load_data_set(options.data).gallery["source"].astype(str).tolist()
    few = [sources[i] for i in np.linspace(0, len(sources) - 1, options.photographs).astype(int)]
    rows: list[Figures] = []
    for trunk in options.trunks:
        weights = "DEFAULT" if options.weights is None else find_weights(trunk, options.weights)
        rows += compared(CnnConfig(trunk=trunk, weights=weights), sources, few, options.turns)
    text = markdown(rows, options.data.name, options.photographs)
    atomic_write(options.out, text.encode())
    print(text)


def compared(
    config: CnnConfig, sources: Sequence[str], few: Sequence[str], turns: int
) -> Iterator[Figures]:
    """One network in all ways, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        config = config.model_copy(update={"quantised": folder})
        eight = config.model_copy(update={"precision": "int8"})
        quantise_network(
            unsettled(eight, 0), sources[:: max(1, len(sources) // MEASURED)], Path(folder)
        )
        ways = {name: build(config.model_copy(update=how), CPU, 0) for name, how in WAYS.items()}
        exact = build(
            config.model_copy(update={"runtime": "torch", "precision": "float32"}), CPU, 0
        )
    expected, _ = extracted(exact, few)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Vectors] = {}
    for turn in range(turns + 1):
        for name, extractor in ways.items():
            found[name], seconds = extracted(extractor, few)
            if turn:  # the first compiles what each size of photograph needs
                spent[name].append(seconds)
    for name, each in spent.items():
        yield Figures(
            config.trunk,
            name,
            1000 * min(each) / len(few),
            min(spent["torch"]) / min(each),
            float((found[name] * expected).sum(axis=1).mean()),
        )


def extracted(extractor: CnnExtractor, sources: Sequence[str]) -> tuple[Vectors, float]:
    """Unit vectors of photographs, and the processor's seconds that they took."""
    windows = [sources[i : i + WINDOW] for i in range(0, len(sources), WINDOW)]
    begun = time.process_time()
    features = [one for window in extract(windows, extractor) for one in window]
    seconds = time.process_time() - begun
    return extractor.aggregate(features), seconds


def markdown(rows: Sequence[Figures], data: str, photographs: int) -> str:
    lines = [
        "# Runtimes",
        "",
        f"Whole extraction of {photographs} photographs of {data} from files (decoding, network,"
        " GeM) at 448 pixels, by `benchmarks/runtimes.py`, whose head says how: processor time a"
        f" photograph on {machine()['cores']} cores of an {machine()['processor']}.",
        "",
        "| network | by | ms | times as fast as torch | cosine to float32 |",
        "|---|---|---|---|---|",
        *(
            f"| {one.trunk} | {one.way} | {one.milliseconds:.1f} | {one.times:.2f} |"
            f" {one.cosine:.4f} |"
            for one in rows
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
