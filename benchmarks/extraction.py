"""How fast a network's extraction is, beside a plain loop and beside the bare trunk.

Three things over the same photographs, one after the other in each round, so that a drifting
machine drifts for all of them:

* ours: decoding at reduced scale beside the network, dense batches by shape, every core busy;
* the plain loop of most research code: one photograph at a time, Pillow at full size, float32,
  batch normalisation as its own layers, torch's own threads;
* the bare trunk: the network alone over batches that are ready in memory, torch's own threads.

    python benchmarks/extraction.py --photographs FOLDER --trunk resnet50 --weights FILE

Without --photographs the demo's are taken, without --weights random ones: speed does not depend
on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image

from retrieval.descriptors.cnn import CnnConfig, CnnExtractor, build
from retrieval.descriptors.extraction import WINDOW, extract
from retrieval.devices import machine
from retrieval.networks.pooling import gem
from retrieval.photographs.decoding import read_photograph
from retrieval.storage.files import write_json

RESULTS = Path(__file__).parent / "results"


def ours(extractor: CnnExtractor, paths: Sequence[str]) -> None:
    windows = [paths[i : i + WINDOW] for i in range(0, len(paths), WINDOW)]
    for _ in extract(windows, extractor):
        pass


def plain_loop(trunk: str, size: int) -> Callable[[Sequence[str]], None]:
    """What most research code does: the model from torchvision, a transform, a batch of one."""
    model = torchvision.models.get_model(trunk, weights=None).eval()
    layers = model.features if hasattr(model, "features") else _without_head(model)
    normalise = torchvision.transforms.Compose(
        [
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def run(paths: Sequence[str]) -> None:
        with torch.no_grad():
            for path in paths:
                image = Image.open(path).convert("RGB")
                image.thumbnail((size, size), Image.Resampling.BILINEAR)
                gem(layers(normalise(image)[None]), 3.0)

    return run


def bare_trunk(extractor: CnnExtractor, paths: Sequence[str], batch: int) -> Callable[[], None]:
    """The network over batches of one shape that are made beforehand."""
    groups: dict[tuple[int, ...], list[Any]] = {}
    for path in paths:
        photograph = read_photograph(path, extractor.longest_side)
        groups.setdefault(photograph.shape, []).append(photograph)
    batches = [
        torch.from_numpy(np.stack(members[i : i + batch])).permute(0, 3, 1, 2)
        .to(extractor.trunk.dtype).contiguous(memory_format=torch.channels_last)
        for members in groups.values()
        for i in range(0, len(members), batch)
    ]  # fmt: skip

    def run() -> None:
        with torch.inference_mode():
            for one in batches:
                extractor.trunk.network(one)

    return run


def _without_head(model: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.Sequential(*list(model.children())[:-2])


def seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=Path, default=Path("data/demo/photos"))
    parser.add_argument("--trunk", default="resnet50")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file")
    options = parser.parse_args()

    found = sorted(str(path) for path in options.photographs.rglob("*.jpg"))
    step = max(1, len(found) // options.count)
    paths = found[::step][: options.count]
    if not paths:
        parser.error(f"no photographs in {options.photographs}: make data, or --photographs FOLDER")
    config = CnnConfig(trunk=options.trunk, weights=options.weights, size=options.size)
    extractor = build(config, "cpu", 0)
    loop = plain_loop(options.trunk, options.size)
    bare = bare_trunk(extractor, paths, config.batch)
    ours(extractor, paths[:16])
    loop(paths[:2])
    bare()
    rounds = [
        {
            "ours": seconds(lambda: ours(extractor, paths)),
            "plain loop": seconds(lambda: loop(paths)),
            "bare trunk": seconds(bare),
        }
        for _ in range(options.rounds)
    ]
    faster = statistics.median(one["plain loop"] / one["ours"] for one in rounds)
    share = statistics.median(one["bare trunk"] / one["ours"] for one in rounds)
    for name in ("ours", "plain loop", "bare trunk"):
        rate = len(paths) / statistics.median(one[name] for one in rounds)
        print(f"{name:<12} {rate:8.1f} photographs/s")
    print(f"{faster:.2f} times the plain loop; {100 * share:.0f} % of the bare trunk's rate")
    out = options.out or RESULTS / f"extraction-{options.trunk}.json"
    write_json(
        out,
        {
            "trunk": options.trunk,
            "size": options.size,
            "precision": extractor.identity()["precision"],
            "photographs": len(paths),
            "seconds": rounds,
            "times_plain_loop": faster,
            "share_of_bare_trunk": share,
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main()
