"""What a photograph costs the systems of several parts: as they were, and as they are.

Describing from files, in turns; each turn's processor time counts, so that other work on the
machine disturbs little, and the least of the turns is taken. As they were: networks by torch in
bfloat16 (float32 where the processor is not fast at that) at the scales of then, ALIKED by kornia's
whole network, and nothing shared between parts. As they are: the shipped configs, whose networks of
eight bits are made first, of photographs of the gallery.

    python benchmarks/systems.py --data DATA --weights WEIGHTS [--run RUN ...]

Of a run, photographs of the test are answered: described, searched, verified, judged.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kornia.feature import ALIKED

from pipelines.config import load_config
from retrieval.config import SystemConfig
from retrieval.describing import local_branch_of
from retrieval.descriptors.cnn import CnnConfig
from retrieval.descriptors.describer import frontend_of
from retrieval.descriptors.extraction import WINDOW, extract
from retrieval.descriptors.joint import JointExtractor
from retrieval.descriptors.joint_frontend import JointFrontend
from retrieval.descriptors.registry import (
    build_extractor,
    eight_bits,
    quantise_network,
    unsettled,
    with_quantised,
)
from retrieval.devices import CPU, machine
from retrieval.frontend import Frontend
from retrieval.local.delf import DelfDetector
from retrieval.local.features import LocalFeatures, encode
from retrieval.local.learned import NETWORK, AlikedDetector
from retrieval.local.sift import SiftDetector
from retrieval.photographs.table import load_data_set
from retrieval.storage.files import atomic_write
from retrieval.system import System
from retrieval.types import Photograph

RESULTS = Path(__file__).parent / "results"
SYSTEMS = (
    "resnet50-rmac-delf",
    "resnet50-mobilenet-delf",
    "resnet50-mobilenet-delf-aliked",
    "classical-global",
)
MEASURED = 16
"""Photographs that the ranges of eight bits are measured on: more change no time."""


@dataclass(frozen=True)
class KorniaAliked(AlikedDetector):
    """ALIKED as it was: kornia's network in float32."""

    whole: Any = None

    def features(self, photographs: Sequence[Photograph]) -> list[LocalFeatures]:
        return [self._by_kornia(one) for one in photographs]

    def _by_kornia(self, photograph: Photograph) -> LocalFeatures:
        values = torch.tensor(photograph).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            (found,) = self.whole(values)
        points = found.keypoints.numpy()
        order = np.lexsort([points[:, 0], points[:, 1], -found.keypoint_scores.numpy()])
        zeros = np.zeros(len(order), np.float32)
        codes = encode(found.descriptors.numpy()[order], signed=True)
        return LocalFeatures(points[order], zeros, zeros, codes, photograph.shape[:2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--run", type=Path, nargs="*", default=[])
    parser.add_argument("--photographs", type=int, default=24)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "systems.md")
    options = parser.parse_args()
    data = load_data_set(options.data)
    gallery = data.gallery["source"].astype(str).tolist()
    few = _spread(gallery, options.photographs)
    asked = few if data.test is None else _spread(data.test["source"], options.photographs)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        small = EightBits(Path(folder), gallery[:: max(1, len(gallery) // MEASURED)])
        for name in options.systems:
            config = load_config(name).with_weights(options.weights)
            ways = [described(one, few) for one in (as_it_was(config), as_it_is(config, small))]
            was, spent = in_turns(ways, options.turns)
            rows.append((f"`{name}`, described", was, spent))
    for run in options.run:
        system = System.load(run, CPU, options.weights)
        (spent,) = in_turns([lambda s=system: s.classify(asked)], options.turns)
        early = "" if system.gallery.searcher.early_exit is None else ", early exits"
        rows.append((f"`{system.config.name}`, answered{early}", None, spent))
    text = markdown(rows, options.data.name, options.photographs)
    atomic_write(options.out, text.encode())
    print(text)


def _spread(sources: Sequence[str], wanted: int) -> list[str]:
    """So many of them, from first to last."""
    return [
        str(one) for one in np.asarray(sources)[np.linspace(0, len(sources) - 1, wanted, dtype=int)]
    ]


def as_it_was(config: SystemConfig) -> Frontend:
    """The frontend of a system before its networks were compiled and its parts shared anything."""

    def network(own: Any) -> Any:
        changes: dict[str, Any] = {"runtime": "torch", "precision": "auto"}
        if isinstance(own, CnnConfig):
            changes["size"] = 448
        return own.model_copy(update=changes)

    def part(one: Any) -> Any:
        extractor = one.extractor
        local = getattr(extractor, "local", None)
        if local is None:
            extractor = network(extractor)
        elif local.kind == "delf":
            extractor = extractor.model_copy(update={"local": network(local)})
        else:
            more = local.model_copy(update={"keypoints": 2000})
            extractor = extractor.model_copy(update={"local": more})
        return one.model_copy(update={"extractor": extractor})

    joint: Any = config.extractor
    joint = joint.model_copy(update={"parts": tuple(part(one) for one in joint.parts)})
    extractor = build_extractor(joint, CPU, config.seed)
    assert isinstance(extractor, JointExtractor)
    frontends = [_alone(one.describer.extractor) for one in extractor.parts]
    branch = local_branch_of(config, CPU)
    if branch is None:
        return JointFrontend(tuple(frontends))
    aliked = branch.detector
    assert isinstance(aliked, AlikedDetector)
    whole = ALIKED(NETWORK, aliked.config.keypoints, aliked.config.threshold).eval()
    state = torch.load(str(aliked.config.weights), weights_only=True)
    whole.load_state_dict(state, strict=False)
    kornia = KorniaAliked(
        aliked.config, aliked.trunk, aliked.keypoints, aliked.head, aliked.device, whole
    )
    return JointFrontend((JointFrontend(tuple(frontends)), kornia))


def _alone(extractor: Any) -> Any:
    """An extractor that shares nothing."""
    detector = getattr(extractor, "detector", None)
    if isinstance(detector, DelfDetector):
        return replace(extractor, detector=replace(detector, passes=None))
    if isinstance(detector, SiftDetector):
        return replace(extractor, detector=replace(detector, paired=False))
    return extractor


class EightBits:
    """Networks of eight bits in a folder, each made once of some photographs."""

    def __init__(self, folder: Path, sources: Sequence[str]):
        self.folder, self.sources = folder, sources
        self._made: list[Any] = []

    def made(self, config: Any) -> Any:
        """An extractor's config whose networks of eight bits are there."""
        for one in eight_bits(config):
            if one not in self._made:
                quantise_network(unsettled(one, 0), self.sources, self.folder)
                self._made.append(one)
        return with_quantised(config, self.folder)


def as_it_is(config: SystemConfig, small: EightBits) -> Frontend:
    """The frontend of a shipped system."""
    extractor = build_extractor(small.made(config.extractor), CPU, config.seed)
    return frontend_of(extractor, local_branch_of(config, CPU))


def described(frontend: Frontend, sources: Sequence[str]) -> Callable[[], None]:
    windows = [sources[i : i + WINDOW] for i in range(0, len(sources), WINDOW)]

    def describe() -> None:
        for _ in extract(windows, frontend):
            pass

    return describe


def in_turns(works: Sequence[Callable[[], Any]], turns: int) -> list[float]:
    """The processor's seconds of each, the least of its turns; the first turn compiles."""
    spent: list[list[float]] = [[] for _ in works]
    for turn in range(turns + 1):
        for work, seconds in zip(works, spent, strict=True):
            begun = time.process_time()
            work()
            if turn:
                seconds.append(time.process_time() - begun)
    return [min(seconds) for seconds in spent]


def markdown(rows: Sequence[tuple[str, float | None, float]], data: str, photographs: int) -> str:
    cores = machine()["cores"]

    def milliseconds(seconds: float) -> str:
        each = 1000 * seconds / photographs
        return f"{each:.0f} | {each / cores:.0f}"

    lines = [
        "# Systems",
        "",
        f"{photographs} photographs of {data}, by `benchmarks/systems.py`, whose head says what was"
        f" before and what is now: processor time a photograph on an {machine()['processor']}, and"
        f" a share of it on each of {cores} cores.",
        "",
        f"| system | before, ms | on {cores} cores | now, ms | on {cores} cores | times as fast |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {'– | –' if was is None else milliseconds(was)} | {milliseconds(now)} |"
            f" {'–' if was is None else f'{was / now:.2f}'} |"
            for name, was, now in rows
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
