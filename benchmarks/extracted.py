"""Features that are extracted once, and shared by all builds of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.building.index import build_run
from retrieval.config import SystemConfig
from retrieval.describing import features_store, local_branch_of
from retrieval.descriptors.cache import KnownFeatures, extract_table, table_digest
from retrieval.descriptors.describer import frontend_of
from retrieval.descriptors.extraction import Outcome
from retrieval.descriptors.registry import build_extractor
from retrieval.devices import CPU
from retrieval.frontend import Frontend
from retrieval.photographs.table import DataSet
from retrieval.run import Run
from retrieval.storage.shards import ShardStore


@dataclass(frozen=True)
class Extracted:
    """Photographs and their features, which lie on disk."""

    frontend: Frontend
    store: ShardStore
    ids: Sequence[str]

    @classmethod
    def of(cls, config: SystemConfig, table: pd.DataFrame, folder: Path) -> Extracted:
        """A table's, from the folder where they are there already."""
        extractor = build_extractor(config.extractor, CPU, config.seed)
        frontend = frontend_of(extractor, local_branch_of(config, CPU))
        made_from = {"extractor": frontend.identity(), "table": table_digest(table)}
        store = ShardStore(folder, made_from)
        extract_table(table, frontend, store)
        return cls(frontend, store, list(table["id"]))

    def outcomes(self, ids: Iterable[str]) -> list[Outcome]:
        """The features of some of the photographs, or why there are none."""
        known = KnownFeatures(self.frontend, self.store, np.arange(len(self.ids)))
        places = {one: place for place, one in enumerate(self.ids)}
        return [known[places[one]] for one in ids]

    def build(self, config: SystemConfig, data: DataSet, run: Path) -> dict[str, Any]:
        """:func:`build_run` of some of the photographs, none of which is read again."""
        table = data.photographs
        wanted = {one: place for place, one in enumerate(table["id"])}
        # Photographs that are not among them get places that no table has.
        places = np.array([wanted.get(one, -1 - i) for i, one in enumerate(self.ids)])
        known = KnownFeatures(self.frontend, self.store, places)
        store = features_store(Run(run), self.frontend, table)
        extract_table(table, self.frontend, store, known=known)
        return build_run(config, data, run, CPU)
