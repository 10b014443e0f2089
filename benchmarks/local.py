"""How fast local features are found, aggregated, searched by words and verified.

Each figure that is a ratio comes from both sides in turn, in one run:

* extraction of 800 RootSIFT a photograph with every core, beside one core;
* aggregation (VLAD, Fisher, the words of ASMK*), beside that extraction;
* verification of a query's first 50 neighbours from stored features;
* an ASMK* query (quantise, aggregate, search), and how it grows with the gallery: real
  photographs' words, dealt anew to as many photographs as are asked for.

    python benchmarks/local.py --photographs FOLDER

Without --photographs the demo's are taken.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.aggregation.asmk import Asmk, AsmkConfig
from retrieval.aggregation.fisher import Fisher, FisherConfig
from retrieval.aggregation.vlad import Vlad, VladConfig
from retrieval.aggregation.words import Words
from retrieval.descriptors.extraction import WINDOW, extract
from retrieval.devices import machine
from retrieval.index.inverted_file import InvertedFile
from retrieval.index.verification import Kept, VerificationConfig, count_inliers
from retrieval.local.compression import CompressionConfig, FeatureCompressor
from retrieval.local.features import LocalFeatures
from retrieval.local.sift import SiftConfig, SiftDetector
from retrieval.storage.files import write_json

RESULTS = Path(__file__).parent / "results"
NEIGHBOURS = 50
SIZES = (1_000, 10_000, 100_000)
GROWN = 500  # features a photograph in these, so that 100,000 fit a laptop's memory


def features_of(paths: Sequence[str], config: SiftConfig, threads: int | None) -> list[Any]:
    windows = [paths[i : i + WINDOW] for i in range(0, len(paths), WINDOW)]
    found = extract(windows, SiftDetector(config), threads)
    return [one for window in found for one in window if isinstance(one, LocalFeatures)]


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def extraction(paths: Sequence[str], rounds: int) -> dict[str, Any]:
    """All cores beside one, and the aggregations beside all cores."""
    config = SiftConfig(keypoints=800)
    features = features_of(paths, config, None)
    codebooks = {
        "vlad": Vlad(VladConfig(), 128).fit(features, 0, "cpu"),
        "fisher": Fisher(FisherConfig(), 128).fit(features, 0, "cpu"),
    }
    measured = [
        {
            "every core": seconds(lambda: features_of(paths, config, None)),
            "one core": seconds(lambda: features_of(paths, config, 1)),
            **{
                name: seconds(lambda one=one: one.aggregate(features))
                for name, one in codebooks.items()
            },
        }
        for _ in range(rounds)
    ]
    keypoints = sum(map(len, features)) / len(features)
    rate = statistics.median(one["one core"] / one["every core"] for one in measured)
    shares = {
        name: statistics.median(one[name] / one["every core"] for one in measured)
        for name in codebooks
    }
    print(f"extraction, {keypoints:.0f} RootSIFT a photograph: {rate:.2f} times one core's rate")
    for name, share in shares.items():
        print(f"{name}: {100 * share:.1f} % of extraction")
    return {"keypoints": keypoints, "times_one_core": rate, "shares": shares, "seconds": measured}


def verification(features: Sequence[LocalFeatures], rounds: int) -> dict[str, Any]:
    """A query against 50 others, at two budgets."""
    told = {}
    for budget in (CompressionConfig(features=300, dimension=64), CompressionConfig()):
        rows = FeatureCompressor(budget).fit(features, 0).keep(features)
        kept = [
            Kept(one.points, one.scales, one.angles, one.codes)
            for one in (rows.one(i) for i in range(min(len(rows), NEIGHBOURS + rounds)))
        ]
        others = kept[:NEIGHBOURS]
        taken = [
            seconds(lambda a=query, b=others: count_inliers(a, b, VerificationConfig()))
            for query in kept[-rounds:]
        ]
        name = f"{budget.features} features of {budget.dimension} numbers"
        told[name] = {"seconds": statistics.median(taken), "bytes": rows.bytes_per_row}
        print(f"verifying {len(others)} neighbours, {name}: {statistics.median(taken):.3f} s")
    return told


def strongest(one: LocalFeatures) -> LocalFeatures:
    return LocalFeatures(
        one.points[:GROWN], one.scales[:GROWN], one.angles[:GROWN], one.codes[:GROWN], one.size
    )


def dealt(words: Words, many: int, seed: int) -> Words:
    """Words of ``many`` photographs: each takes half of one real photograph and half of another."""
    random = np.random.default_rng(seed)
    counts = np.diff(words.starts)
    each = []
    for one, other in random.integers(len(words), size=(many, 2)):
        first = np.arange(words.starts[one], words.starts[one] + counts[one])[::2]
        second = np.arange(words.starts[other], words.starts[other] + counts[other])[1::2]
        chosen = np.concatenate([first, second])
        found, places = np.unique(words.words[chosen], return_index=True)
        each.append((found, words.values[chosen[places]]))
    return Words.of(each, words[:0])


def asmk(
    features: Sequence[LocalFeatures], config: AsmkConfig, rounds: int, sizes: Sequence[int]
) -> dict[str, Any]:
    """A query in its steps, over the real gallery and over larger made-up ones."""
    made = Asmk(config).fit(features, 0, "cpu")
    words = made.words(features, config.assignments)
    queries = features[:: max(1, len(features) // rounds)][:rounds]
    quantising = [seconds(lambda one=one: made.words([one], config.assignments)) for one in queries]
    rows = []
    for many in (len(features), *sizes):
        gallery = words if many == len(features) else dealt(words, many, seed=many)
        index = InvertedFile.build(gallery, config, SiftDetector.dimension)
        asked = [made.words([one], config.assignments) for one in queries]
        searching = [seconds(lambda a=index, b=one: a.search(b, 100)) for one in asked]
        rows.append(
            {
                "photographs": many,
                "search_ms": 1000 * statistics.median(searching),
                "query_ms": 1000 * (statistics.median(searching) + statistics.median(quantising)),
                "bytes_per_photograph": index.bytes_per_row,
            }
        )
        print(
            f"ASMK*, {statistics.mean(map(len, features)):.0f} features, {many:,} photographs:"
            f" {rows[-1]['query_ms']:.1f} ms a query,"
            f" {rows[-1]['search_ms']:.1f} of them search,"
            f" {index.bytes_per_row:,.0f} bytes a photograph"
        )
    return {
        "features": statistics.mean(map(len, features)),
        "words": config.words,
        "assignments": config.assignments,
        "quantise_ms": 1000 * statistics.median(quantising),
        "galleries": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=Path, default=Path("data/demo/photos"))
    parser.add_argument("--count", type=int, default=805)
    parser.add_argument("--words", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "local.json", help="a JSON file")
    options = parser.parse_args()
    paths = sorted(str(path) for path in options.photographs.rglob("*.jpg"))[: options.count]
    if len(paths) < NEIGHBOURS:
        parser.error(f"too few photographs in {options.photographs}: make data, or --photographs")
    many = features_of(paths, SiftConfig(keypoints=2000, contrast=0.005, upright=False), None)
    config = AsmkConfig(words=options.words)
    told = {
        "extraction": extraction(paths[:192], options.rounds),
        "verification": verification(many[:200], 10 * options.rounds),
        "asmk": asmk(many, config, 10 * options.rounds, ()),
        "asmk growth": asmk([strongest(one) for one in many], config, 10 * options.rounds, SIZES),
        "photographs": len(paths),
        "machine": machine(),
    }
    write_json(options.out, told)


if __name__ == "__main__":
    main()
