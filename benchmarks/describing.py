"""What several layers and scales cost in one description, beside the same taken one by one.

Three things over the same photographs, in memory, one after the other in each round:

* together: both layers at all scales, one pass a scale;
* one by one: a description for each layer at each scale, every one with passes of its own;
* least: the later layer alone at all scales, whose passes the first has to make in any case.

    python benchmarks/describing.py --photographs FOLDER --trunk resnet50

Without --photographs the demo's are taken; weights are random, on which speed does not depend.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from retrieval.descriptors.cnn import CnnConfig, CnnExtractor, build
from retrieval.descriptors.extraction import WINDOW, extract
from retrieval.devices import machine
from retrieval.photographs.decoding import read_photograph
from retrieval.storage.files import write_json
from retrieval.types import Photograph

RESULTS = Path(__file__).parent / "results"
SCALES = (1.0, 0.7071, 0.5)


def extractor(
    trunk: str, size: int, layers: Sequence[str], scales: Sequence[float]
) -> CnnExtractor:
    values = {"trunk": trunk, "weights": "none", "size": size, "scales": list(scales)}
    named = [{"layer": layer} for layer in layers]
    return build(CnnConfig.model_validate({**values, "layers": named}), "cpu", 0)


def seconds(extractors: Sequence[CnnExtractor], photographs: Sequence[Photograph]) -> float:
    windows = [photographs[i : i + WINDOW] for i in range(0, len(photographs), WINDOW)]
    begun = time.perf_counter()
    for one in extractors:
        for _ in extract(windows, one):
            pass
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=Path, default=Path("data/demo/photos"))
    parser.add_argument("--trunk", default="resnet50")
    parser.add_argument("--layers", nargs=2, default=["layer3", "layer4"], help="in order")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "describing.json", help="a JSON file")
    options = parser.parse_args()

    found = sorted(str(path) for path in options.photographs.rglob("*.jpg"))
    step = max(1, len(found) // options.count)
    photographs = [read_photograph(one, options.size) for one in found[::step][: options.count]]
    if not photographs:
        parser.error(f"no photographs in {options.photographs}: make data, or --photographs FOLDER")

    both, later = options.layers, options.layers[-1:]
    sides = {
        "together": [extractor(options.trunk, options.size, both, SCALES)],
        "one by one": [
            # At the size, since a single scale is the largest.
            extractor(options.trunk, round(options.size * scale), [layer], [1.0])
            for layer in both
            for scale in SCALES
        ],
        "least": [extractor(options.trunk, options.size, later, SCALES)],
    }
    for side in sides.values():
        seconds(side, photographs[:4])
    rounds = [
        {name: seconds(side, photographs) for name, side in sides.items()}
        for _ in range(options.rounds)
    ]
    sooner = statistics.median(one["one by one"] / one["together"] for one in rounds)
    over = statistics.median(one["together"] / one["least"] for one in rounds)
    for name in sides:
        rate = len(photographs) / statistics.median(one[name] for one in rounds)
        print(f"{name:<12} {rate:8.1f} photographs/s")
    print(f"{sooner:.2f} times as fast as one by one; {over:.2f} times the time of the least")
    write_json(
        options.out,
        {
            "trunk": options.trunk,
            "layers": both,
            "scales": SCALES,
            "size": options.size,
            "precision": sides["together"][0].identity()["precision"],
            "photographs": len(photographs),
            "seconds": rounds,
            "times_one_by_one": sooner,
            "times_least": over,
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main()
