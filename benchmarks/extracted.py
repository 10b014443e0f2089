"""Features that are extracted once, and shared by all builds of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.index import build_run, features_store
from retrieval.devices import CPU
from retrieval.extractors.base import FeatureMaker
from retrieval.extractors.describer import (
    KnownFeatures,
    extract_table,
    feature_maker,
    table_digest,
)
from retrieval.extractors.extraction import Outcome
from retrieval.extractors.registry import build_extractor
from retrieval.index.store import ShardStore
from retrieval.photographs.table import DataSet
from retrieval.system import SystemConfig, companion_of


@dataclass(frozen=True)
class Extracted:
    """Photographs and their features, which lie on disk."""

    maker: FeatureMaker
    store: ShardStore
    ids: Sequence[str]

    @classmethod
    def of(cls, config: SystemConfig, table: pd.DataFrame, folder: Path) -> Extracted:
        """A table's, from the folder where they are there already."""
        extractor = build_extractor(config.extractor, CPU, config.seed)
        maker = feature_maker(extractor, companion_of(config, CPU))
        made_from = {"extractor": maker.identity(), "table": table_digest(table)}
        store = ShardStore(folder, made_from)
        extract_table(table, maker, store, packed_by(maker))
        return cls(maker, store, list(table["id"]))

    def outcomes(self, ids: Iterable[str]) -> list[Outcome]:
        """The features of some of the photographs, or why there are none."""
        known = KnownFeatures(self.maker, self.store, np.arange(len(self.ids)))
        places = {one: place for place, one in enumerate(self.ids)}
        return [known[places[one]] for one in ids]

    def build(self, config: SystemConfig, data: DataSet, run: Path) -> dict[str, Any]:
        """:func:`build_run` of some of the photographs, none of which is read again."""
        table = pd.concat([data.gallery, data.bank], ignore_index=True)
        wanted = {one: place for place, one in enumerate(table["id"])}
        # Photographs that are not among them get places that no table has.
        places = np.array([wanted.get(one, -1 - i) for i, one in enumerate(self.ids)])
        known = KnownFeatures(self.maker, self.store, places)
        store = features_store(run, self.maker, table)
        extract_table(table, self.maker, store, packed_by(self.maker), known=known)
        return build_run(config, data, run, CPU)


def packed_by(maker: FeatureMaker) -> Any:
    """What a store of features keeps of them."""
    return lambda features: (maker.pack(features), [""] * len(features))
