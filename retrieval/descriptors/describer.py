"""A fitted extractor with its whitening: photographs to the descriptors that the index holds."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrieval.descriptors.base import Extractor
from retrieval.descriptors.extraction import WINDOW, Outcome, extract
from retrieval.descriptors.joint_frontend import FeatureColumn, JointFrontend
from retrieval.descriptors.local_branch import LocalBranch
from retrieval.descriptors.representation import Representation, write_descriptors
from retrieval.errors import ConfigError, DescribeError, PhotographError, RunError, failure
from retrieval.frontend import Frontend
from retrieval.local.features import no_features
from retrieval.storage.files import read_arrays
from retrieval.storage.shards import OK, Shard, ShardStore, with_status
from retrieval.types import Features, Labels, Photograph, Vectors
from retrieval.vectors.whitening import AugmentedRows, Whitening, WhiteningConfig

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
ToArrays = Callable[[list[Features]], tuple[Mapping[str, Any], list[str]]]

MAPPED: Final = "mapped"
CALIBRATION: Final = "calibration"
NO_FEATURES: Final = "nothing to describe (no keypoint, or a blank photograph)"


def no_progress(rows: int, failed: int) -> None:
    """For callers who do not watch."""


@dataclass(frozen=True)
class Describer:
    """Photographs to what the index holds of them.

    Attributes:
        extractor: fitted.
        whitening: or ``None``, and descriptors stay as the extractor makes them.
        companion: what is made of local features besides, fitted; or ``None``.
        calibration: as it would be if one part of the photographs had not taught it, for each
            part that is left out (:mod:`retrieval.descriptors.cross_fit`); none where photographs
            teach nothing, and where queries are described.
    """

    extractor: Extractor
    whitening: Whitening | None
    local_branch: LocalBranch | None = None
    calibration: tuple[Describer, ...] = ()

    @property
    def dimension(self) -> int:
        return self.extractor.dimension if self.whitening is None else self.whitening.dimension

    @property
    def frontend(self) -> Frontend:
        """What makes the features that all of it starts from."""
        return frontend_of(self.extractor, self.local_branch)

    @property
    def longest_side(self) -> int:
        return self.frontend.longest_side

    @classmethod
    def fit(
        cls,
        extractor: Extractor,
        features: Sequence[Features],
        whitening: WhiteningConfig | None,
        seed: int,
        local_branch: LocalBranch | None = None,
        labels: Labels | None = None,
        views: Callable[[Extractor], AugmentedRows] | None = None,
        parts: NDArray[np.int64] | None = None,
        left_out: int = 0,
    ) -> Describer:
        """Learn the extractor's own state, then the whitening, from the same features.

        Args:
            extractor: not yet fitted.
            features: of the :func:`frontend_of` of extractor and companion.
            whitening: how descriptors are whitened.
            seed: of everything random.
            companion: not yet fitted.
            labels: of the photographs, for whitening learnt on pairs.
            views: what describes altered views of some photographs by the fitted extractor, for
                whitening learnt on them.
            parts: (n,) which part each photograph is in.
            left_out: parts 0 to this are each left out of a describer for calibration.

        Raises:
            ConfigError: as :meth:`Whitening.fit`.
        """
        if local_branch is not None:
            local_branch = local_branch.fit(FeatureColumn(features, 1), seed)
            features = FeatureColumn(features, 0)
        fitted = extractor.fit(features, seed, labels)
        viewed = None if views is None or whitening is None else views(fitted)

        # Once: what all of an extractor's whitenings are learnt from.
        known_rows = None if whitening is None else fitted.aggregate(features)

        def learnt(by: Extractor, taught: NDArray[np.bool_]) -> Describer:
            if whitening is None:
                return cls(by, None)
            rows = by.aggregate(features) if by is not fitted else known_rows
            assert rows is not None
            places = np.flatnonzero(taught & (np.linalg.norm(rows, axis=1) > 0))
            known = None if labels is None else [labels[int(i)] for i in places]
            altered = None if viewed is None else _viewed(viewed, places)
            return cls(by, Whitening.fit(rows[places], whitening, seed, known, altered))

        def without(part: int) -> Describer:
            assert parts is not None
            taught = parts != part
            # A codebook is learnt from hundreds of thousands of local features, and its few words
            # know no photograph among them; a whitening within an extractor does. AugmentedRows were
            # described by the extractor that all taught, and fit no other.
            whitened = any(getattr(part, "whitening", None) for part in _parts(extractor))
            if not whitened or viewed is not None:
                return learnt(fitted, taught)
            few = np.flatnonzero(taught).tolist()
            names = None if labels is None else [labels[i] for i in few]
            return learnt(extractor.fit(_Read(features, few), seed, names), taught)

        whole = learnt(fitted, np.ones(len(features), dtype=np.bool_))
        calibration: tuple[Describer, ...] = ()
        try:
            calibration = tuple(without(part) for part in range(left_out))
        except (ConfigError, RunError) as error:
            log.warning(
                "too few photographs to leave a part of them out (%s): thresholds are fitted on"
                " photographs that taught the descriptors, and will accept too much", error,
            )  # fmt: skip
        return replace(whole, local_branch=local_branch, calibration=calibration)

    def describe(self, photographs: Sequence[Photograph]) -> Representation:
        """Describe RGB photographs (h, w, 3) of any sizes; as :meth:`from_outcomes`."""
        (outcomes,) = extract([photographs], self.frontend)
        return self.from_outcomes(outcomes)

    def from_outcomes(self, outcomes: Sequence[Outcome]) -> Representation:
        """:meth:`from_features`, with zeros in place of the photographs that failed."""
        good = [i for i, one in enumerate(outcomes) if not isinstance(one, PhotographError)]
        found = self.from_features([outcomes[i] for i in good])
        if len(good) == len(outcomes):
            return found
        # The last row is nobody's: zeros, without words or features.
        padded = Representation.joined([found, self._nothing()])
        places = np.full(len(outcomes), len(good))
        places[good] = np.arange(len(good))
        return padded[places]

    def from_features(self, features: Sequence[Features]) -> Representation:
        """The cheap half: features to descriptors; zeros for a photograph without any feature."""
        words, kept = None, None
        if self.local_branch is not None:
            words, kept = self.local_branch.from_features(FeatureColumn(features, 1))
            features = FeatureColumn(features, 0)
        rows = self._aggregated(features)
        found = Representation(_whitened(rows, self.whitening), words, kept)
        if not self.calibration:
            return found
        parts = [
            _whitened(
                rows if one.extractor is self.extractor else one._aggregated(features),
                one.whitening,
            )
            for one in self.calibration
        ]
        # Fewer photographs may teach fewer numbers; further ones of 0 change no similarity.
        wide = np.zeros((len(found), len(parts), self._calibrated), dtype=np.float32)
        for part, few in enumerate(parts):
            wide[:, part, : few.shape[1]] = few
        return replace(found, calibration=wide)

    def vectors(self, features: Sequence[Features]) -> Vectors:
        """(n, dimension) unit rows of the extractor's own features."""
        return _whitened(self._aggregated(features), self.whitening)

    @property
    def _calibrated(self) -> int:
        """Numbers of the longest descriptor for calibration."""
        return max(one.dimension for one in self.calibration)

    def _aggregated(self, features: Sequence[Features]) -> Vectors:
        if not len(features):
            return np.zeros((0, self.extractor.dimension), dtype=np.float32)
        return self.extractor.aggregate(features)

    def save(self, folder: Path) -> None:
        """Write what was learnt, below ``extractor``, ``whitening`` and ``local``."""
        self.extractor.save(folder / "extractor")
        if self.whitening is not None:
            self.whitening.save(folder / "whitening")
        shutil.rmtree(folder / CALIBRATION, ignore_errors=True)  # another build's
        for part, one in enumerate(self.calibration):
            inner = folder / CALIBRATION / str(part)
            if one.extractor is not self.extractor:
                one.extractor.save(inner / "extractor")
            if one.whitening is not None:
                one.whitening.save(inner / "whitening")
        if self.local_branch is not None:
            self.local_branch.save(folder)

    @classmethod
    def load(
        cls,
        folder: Path,
        extractor: Extractor,
        whitened: bool,
        local_branch: LocalBranch | None = None,
        calibrated: bool = False,
    ) -> Describer:
        """The inverse of ``save``, for extractor and companion built from the run's config.

        Args:
            calibrated: whether those for calibration are wanted, for photographs that come into
                the run.
        """
        parts = sorted((folder / CALIBRATION).glob("*"), key=lambda one: int(one.name))
        own = extractor.restored(folder / "extractor")

        def without(part: Path) -> Describer:
            inner = part / "extractor"
            by = extractor.restored(inner) if inner.exists() else own
            return cls(by, Whitening.load(part / "whitening") if whitened else None)

        return cls(
            own,
            Whitening.load(folder / "whitening") if whitened else None,
            None if local_branch is None else local_branch.restored(folder),
            tuple(without(part) for part in (parts if calibrated else ())),
        )

    def _nothing(self) -> Representation:
        """One photograph in which nothing was found."""
        words, kept = None, None
        if self.local_branch is not None:
            nothing = no_features(self.local_branch.detector.dimension, (0, 0))
            words, kept = self.local_branch.from_features([nothing])
        rows = np.zeros((1, self.dimension), dtype=np.float32)
        wide = None
        if self.calibration:
            shape = 1, len(self.calibration), self._calibrated
            wide = np.zeros(shape, dtype=np.float32)
        return Representation(rows, words, kept, wide)


def _whitened(rows: Vectors, whitening: Whitening | None) -> Vectors:
    if whitening is None:
        return rows
    # A photograph without features must not become the whitened mean's mirror image.
    there = np.linalg.norm(rows, axis=1, keepdims=True) > 0
    described: Vectors = whitening.apply(rows) * there
    return described


def _parts(extractor: Extractor) -> Sequence[Any]:
    """What a combination joins; nothing, of any other extractor."""
    return getattr(extractor, "parts", ())


def _viewed(views: AugmentedRows, seen: NDArray[np.int64]) -> AugmentedRows:
    """Those in which there is something to describe, of photographs of which that holds too."""
    there = np.flatnonzero((np.linalg.norm(views.rows, axis=1) > 0) & np.isin(views.of, seen))
    return AugmentedRows(views.rows[there], np.searchsorted(seen, views.of[there]))


def frontend_of(extractor: Extractor, local_branch: LocalBranch | None) -> Frontend:
    """What makes the features of an extractor, and of a companion beside it where there is one.

    With a companion, a photograph's features are the pair of the extractor's and the local ones;
    where both start from the same, they are computed once.
    """
    return extractor if local_branch is None else JointFrontend((extractor, local_branch.detector))


@dataclass(frozen=True)
class Described:
    """A table with what became of each row.

    Attributes:
        table: the image table, and ``status`` and ``reason`` of each row.
        descriptors: of the rows whose status is ``ok``, in order.
        seconds_per_image: the time that describing took, or 0 if none was described.
        digest: fingerprint of all of it.
    """

    table: pd.DataFrame
    descriptors: Representation
    seconds_per_image: float
    digest: str

    @property
    def ok(self) -> pd.DataFrame:
        """The rows that went well, as many as there are descriptors."""
        return self.table[self.table["status"] == OK].reset_index(drop=True)


def table_digest(table: pd.DataFrame) -> str:
    """A fingerprint of a table's photographs: ids, and their files' sizes and times."""
    digest = hashlib.sha256()
    for name, source in zip(table["id"], table["source"], strict=True):
        path = Path(source)
        stat = path.stat() if path.is_file() else None
        facts = [name, stat.st_size, stat.st_mtime_ns] if stat else [name]
        digest.update(json.dumps(facts).encode() + b"\n")
    return digest.hexdigest()[:16]


class KnownFeatures(Mapping[int, Outcome]):
    """Features that lie in a store, by their position in a larger table, read shard by shard.

    Args:
        extractor: that made them.
        store: filled by :func:`extract_table` from the rows at ``positions``.
        positions: (n,) of the store's rows in the larger table, ascending.
    """

    def __init__(self, extractor: Frontend, store: ShardStore, positions: NDArray[np.int64]):
        self._extractor = extractor
        self._store = store
        self._places = {int(position): place for place, position in enumerate(positions)}
        self._shard: tuple[int, list[Outcome]] = (-1, [])

    @property
    def good_positions(self) -> list[int]:
        """The positions of the photographs that did not fail."""
        statuses, _ = self._store.verdicts()
        return [key for key, one in zip(self._places, statuses, strict=True) if one == OK]

    @property
    def good(self) -> Sequence[Features]:
        """The features of the photographs that did not fail, read when they are asked for."""
        return _Read(self, self.good_positions)

    def __getitem__(self, position: int) -> Outcome:
        number, row = divmod(self._places[position], WINDOW)
        if number != self._shard[0]:
            self._shard = (number, _outcomes(self._extractor, self._store.read(number)))
        return self._shard[1][row]

    def __contains__(self, position: object) -> bool:
        return position in self._places

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class _Read(Sequence[Features]):
    """Some of a mapping's values, or a sequence's, as a sequence that holds none of them."""

    source: Mapping[int, Features] | Sequence[Features]
    keys: Sequence[int]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return _Read(self.source, self.keys[place])
        return self.source[self.keys[place]]

    def __iter__(self) -> Iterator[Features]:
        return (self.source[key] for key in self.keys)


def _outcomes(extractor: Frontend, shard: Shard) -> list[Outcome]:
    """A shard's features, an error in place of each row that failed."""
    good = iter(extractor.unpack(shard.arrays))
    return [
        next(good) if status == OK else failure(status, reason)
        for status, reason in zip(shard.statuses, shard.reasons, strict=True)
    ]


def extract_table(
    table: pd.DataFrame,
    extractor: Frontend,
    store: ShardStore,
    to_arrays: ToArrays,
    progress: Progress = no_progress,
    known: Mapping[int, Outcome] | None = None,
) -> None:
    """Fill a store with a shard for each :data:`WINDOW` rows; shards that are there stay.

    Args:
        table: the photographs, paths as sources.
        extractor: the costly half.
        store: where the shards go.
        to_arrays: features of the rows that went well to a shard's arrays, with a reason for each
            of those rows that is useless after all (empty where it is fine).
        progress: told of rows done and failed.
        known: what is known already of some rows, by their position in the table.
    """
    known = known or {}
    store.mend()
    todo = []
    for number in range(math.ceil(len(table) / WINDOW)):
        if number in store:
            progress(*store.counts(number))
        else:
            todo.append(number)

    def unknown(number: int) -> list[str]:
        places = _places(number, table)
        sources = table["source"].iloc[places.start : places.stop].tolist()
        return [one for place, one in zip(places, sources, strict=True) if place not in known]

    begun = time.perf_counter()
    outcomes = extract(map(unknown, todo), extractor)
    for number, fresh in zip(todo, outcomes, strict=True):
        new = iter(fresh)
        merged = [known[i] if i in known else next(new) for i in _places(number, table)]
        shard = _shard(merged, to_arrays)
        now = time.perf_counter()
        store.write(number, shard, now - begun)
        begun = now
        progress(*store.counts(number))


def _places(number: int, table: pd.DataFrame) -> range:
    """The positions of a shard's rows in its table."""
    return range(number * WINDOW, min((number + 1) * WINDOW, len(table)))


def _shard(
    outcomes: list[Outcome],
    to_arrays: ToArrays,
) -> Shard:
    good = [one for one in outcomes if not isinstance(one, PhotographError)]
    arrays, complaints = to_arrays(good)
    verdicts = iter(complaints)
    statuses, reasons = [], []
    for one in outcomes:
        if isinstance(one, PhotographError):
            statuses.append(one.status)
            reasons.append(str(one))
        else:
            reason = next(verdicts)
            statuses.append(DescribeError.status if reason else OK)
            reasons.append(reason)
    return Shard(arrays, statuses, reasons)


def complaints(descriptors: Representation) -> list[str]:
    """Why each photograph is useless, empty for those that are not."""
    norms = np.linalg.norm(descriptors.vectors, axis=1)
    return ["" if ok else NO_FEATURES for ok in np.isfinite(norms) & (norms > 0.5)]


def descriptor_arrays(
    descriptors: Representation, stored: bool = True
) -> tuple[Mapping[str, Any], list[str]]:
    """A shard's arrays of the usable photographs, and the reason for each that is not."""
    reasons = complaints(descriptors)
    if not stored:
        descriptors = replace(descriptors, kept=None)
    usable = np.array([not reason for reason in reasons], dtype=bool)
    return descriptors[np.flatnonzero(usable)].arrays(), reasons


def describe_table(
    table: pd.DataFrame,
    describer: Describer,
    folder: Path,
    made_from: Mapping[str, Any],
    progress: Progress = no_progress,
    known: Mapping[int, Outcome] | None = None,
    clock: Path | None = None,
    stored: bool = True,
) -> ShardStore:
    """Describe a table's photographs into ``folder``, going on where a killed run was.

    Args:
        table: the photographs.
        describer: fitted.
        folder: of the shards.
        made_from: the config and inputs that the describer was made from.
        progress: told of rows done and failed.
        known: features or errors that are known already, by position in the table.
        clock: as in :class:`ShardStore`.
        stored: whether the local features kept for verification are.

    Returns:
        the finished store, whose shards hold :class:`Representation`.
    """
    store = ShardStore(folder, {**made_from, "table": table_digest(table)}, clock)
    extract_table(
        table,
        describer.frontend,
        store,
        lambda features: descriptor_arrays(describer.from_features(features), stored),
        progress,
        known,
    )
    return store


def read_described(table: pd.DataFrame, store: ShardStore, describer: Describer) -> Described:
    """A table with its statuses and descriptors from a finished store.

    Words and kept features of many photographs do not fit into memory: descriptors are copied into
    arrays beside the shards, and mapped.
    """

    def blocks() -> Iterator[Representation]:
        yield describer.from_features([])
        yield from (Representation.from_arrays(shard.arrays) for shard in store.shards())

    write_descriptors(store.folder / MAPPED, blocks)
    descriptors = Representation.from_arrays(read_arrays(store.folder / MAPPED))
    seconds = store.seconds / len(table) if len(table) else 0.0
    return Described(with_status(table, store), descriptors, seconds, store.digest)
