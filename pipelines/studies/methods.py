"""What is compared: every detector by every aggregation, global descriptors, shipped configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from pipelines.config import current_name, load_config
from retrieval.aggregation.asmk import Asmk, AsmkConfig
from retrieval.aggregation.bow import Bow, BowConfig
from retrieval.aggregation.fisher import FisherConfig
from retrieval.aggregation.registry import build_aggregator
from retrieval.aggregation.vlad import VladConfig
from retrieval.config import SystemConfig
from retrieval.describing import local_branch_of
from retrieval.descriptors.aggregated import AggregatedExtractor
from retrieval.descriptors.describer import (
    Describer,
    frontend_of,
)
from retrieval.descriptors.hog import HogConfig
from retrieval.descriptors.hough import HoughConfig
from retrieval.descriptors.local_branch import LocalBranch
from retrieval.descriptors.registry import build_extractor
from retrieval.descriptors.representation import Representation
from retrieval.descriptors.sample import Sample
from retrieval.errors import ConfigError, WeightsError
from retrieval.frontend import Frontend
from retrieval.index.searcher import PLAIN, SearchConfig
from retrieval.index.verification import VerificationConfig
from retrieval.local.compression import CompressionConfig, FeatureCompressor
from retrieval.local.delf import DelfConfig
from retrieval.local.dense import DenseConfig
from retrieval.local.harris import HarrisConfig
from retrieval.local.learned import AlikedConfig
from retrieval.local.reduction import ReduceConfig, Reducer
from retrieval.local.registry import DetectorConfig, build_detector, located
from retrieval.local.sift import SiftConfig
from retrieval.local.surf import SurfConfig
from retrieval.types import Features, StrictModel
from retrieval.vectors.whitening import WhiteningConfig

SEED: Final = 0
Config = DetectorConfig | HogConfig | HoughConfig | SystemConfig


class Budget(StrictModel):
    """What all systems get alike.

    Attributes:
        size: longest side of the photograph in pixels, for detectors.
        keypoints: of a photograph, at most.
        words: of VLAD and Fisher vectors.
        visual_words: of bags of words and ASMK*.
        whitening: of all descriptors but those of shipped configs, which say so themselves.
        verified: neighbours that are verified, in the rows that do.
    """

    size: int = Field(512, ge=16, le=4096)
    keypoints: int = Field(1000, ge=1, le=20_000)
    words: int = Field(64, ge=1, le=4096)
    visual_words: int = Field(4096, ge=1, le=1_000_000)
    whitening: WhiteningConfig = WhiteningConfig(dimension=128, power=-0.4)
    verified: int = Field(50, ge=1, le=2048)


@dataclass(frozen=True)
class WordsAlone:
    """A describer by visual words; a photograph's vector only says whether it has any."""

    local_branch: LocalBranch

    @classmethod
    def fit(
        cls,
        local_branch: LocalBranch,
        sample: Sample,
        seed: int,
    ) -> WordsAlone:
        """As :meth:`Describer.fit`; words learn nothing from labels."""
        return cls(local_branch.fit(sample.features, seed))

    def from_features(self, features: Sequence[Features]) -> Representation:
        """As :meth:`Describer.from_features`, of the detector's features."""
        words, kept = self.local_branch.from_features(features)
        assert words is not None
        vectors = (np.diff(words.starts) > 0).astype(np.float32)[:, None]
        return Representation(vectors, words, kept)


@dataclass(frozen=True)
class Method:
    """Photographs described in one way, and searched in one or more.

    Attributes:
        features: their name.
        frontend: that makes the features.
        learn: from features, and ``labels``, of gallery and bank to what describes photographs by
            theirs.
        searches: how a gallery of them is searched, by what is made of the features, in words; a
            row of the table each.
    """

    features: str
    frontend: Frontend
    learn: Callable[..., Describer | WordsAlone]
    searches: Mapping[str, SearchConfig]


def catalogue(budget: Budget, configs: Sequence[str] = ()) -> dict[str, Config]:
    """Everything that is compared, by name: detectors, global descriptors, shipped configs.

    A shipped config stands in place of features of the same name.
    """
    shared: dict[str, Any] = {"size": budget.size, "keypoints": budget.keypoints}
    return {
        "sift": SiftConfig(root=False, **shared),
        "rootsift": SiftConfig(**shared),
        "rootsift-oriented": SiftConfig(upright=False, **shared),
        "dense": DenseConfig(**shared),
        "harris": HarrisConfig(**shared),
        "surf": SurfConfig(**shared),
        "aliked": AlikedConfig(**shared),
        "delf": DelfConfig(**shared),
        "hog": HogConfig(),
        "hog-cells": HogConfig(cells=(10, 20, 40)),
        "hough": HoughConfig(),
        **{name: load_config(name) for name in map(current_name, configs)},
    }


def methods_of(
    name: str, config: Config, budget: Budget, weights: Path | None, device: str
) -> list[Method]:
    """The systems on one kind of features, all of one maker.

    Raises:
        ConfigError: a package that it needs is not installed.
        WeightsError: its network's weights are not there.
    """
    if isinstance(config, SystemConfig):
        return [_shipped(name, config.with_weights(weights), device)]
    if isinstance(config, HogConfig | HoughConfig):
        whole = build_extractor(config, device, SEED)
        learn = partial(Describer.fit, whole, whitening=budget.whitening, seed=SEED)
        return [Method(name, whole, learn, {"the whole photograph": PLAIN})]
    if weights is not None:
        config = located(config, weights)
    elif isinstance(config, DelfConfig):
        raise WeightsError("DELF needs weights of its trunk (--weights)")
    detector = build_detector(config, device)
    # Of a network's many channels, as few numbers as DELF's paper keeps.
    short = isinstance(config, DelfConfig)
    reducer = Reducer(ReduceConfig(dimension=64), detector.dimension) if short else None
    methods = []
    for dense in (VladConfig(words=budget.words), FisherConfig(words=budget.words)):
        aggregator = build_aggregator(dense, (reducer or detector).dimension)
        extractor = AggregatedExtractor(detector, aggregator, device, reducer)
        learn = partial(Describer.fit, extractor, whitening=budget.whitening, seed=SEED)
        methods.append(Method(name, detector, learn, {dense.kind: PLAIN}))
    # ALIKED's keypoints have no scale to be verified by.
    estimator: Final = "magsac" if isinstance(config, AlikedConfig) else "affine"
    verification = VerificationConfig(top=budget.verified, estimator=estimator)
    words_alone = SearchConfig(share=1.0)
    verified = SearchConfig(share=1.0, verification=verification)
    bow = LocalBranch(detector, Bow(BowConfig(words=budget.visual_words)), None, device, reducer)
    asmk = Asmk(AsmkConfig(words=budget.visual_words))
    both = {"asmk": words_alone, f"asmk + verification of the first {budget.verified}": verified}
    for local_branch, searches in (
        (bow, {"bow": words_alone}),
        (replace(bow, words=asmk, compressor=FeatureCompressor(CompressionConfig())), both),
    ):
        by_words = partial(WordsAlone.fit, local_branch, seed=SEED)
        methods.append(Method(name, detector, by_words, searches))
    return methods


def _shipped(name: str, config: SystemConfig, device: str) -> Method:
    if config.whitening is not None and config.whitening.views:
        raise ConfigError("views are described by landmarks index alone: measure it by evaluate")
    extractor = build_extractor(config.extractor, device, config.seed)
    local_branch = local_branch_of(config, device)
    learn = partial(
        Describer.fit,
        extractor,
        whitening=config.whitening,
        seed=config.seed,
        local_branch=local_branch,
    )
    frontend = frontend_of(extractor, local_branch)
    searches = {config.description: config.search}
    return Method(name, frontend, learn, searches)
