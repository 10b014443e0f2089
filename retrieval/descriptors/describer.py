"""From photographs to what the index holds of them: the road that lists, tables, pages and
notebooks all take.

A stream of sources (:mod:`retrieval.photographs.given`) becomes features
(:mod:`retrieval.descriptors.extraction`), and a :class:`Describer`, an extractor that is fitted
and its whitening, makes a :class:`Representation` of them.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retrieval.descriptors.base import Extractor
from retrieval.descriptors.extraction import Outcome, extract
from retrieval.descriptors.joint_frontend import FeatureColumn, JointFrontend
from retrieval.descriptors.local_branch import LocalBranch
from retrieval.descriptors.representation import Representation
from retrieval.descriptors.sample import Chosen, Sample
from retrieval.errors import ConfigError, DescribeError, PhotographError, RunError
from retrieval.frontend import Frontend
from retrieval.local.features import no_features
from retrieval.photographs.given import Source
from retrieval.threads import in_threads
from retrieval.types import Features, Photograph, Vectors
from retrieval.vectors.whitening import AugmentedRows, Whitening, WhiteningConfig

log = logging.getLogger(__name__)

CALIBRATION: Final = "calibration"
NO_FEATURES: Final = "nothing to describe (no keypoint, or a blank photograph)"

Errors = list[PhotographError | None]
"""Why each photograph could not be described; ``None`` for those that could."""


@dataclass(frozen=True)
class Describer:
    """Photographs to what the index holds of them.

    Attributes:
        extractor: fitted.
        whitening: or ``None``, and descriptors stay as the extractor makes them.
        local_branch: what is made of local features besides, fitted; or ``None``.
        calibration: the same, each fitted without one part of the photographs
            (:mod:`retrieval.descriptors.cross_fit`); none where nothing is fitted, and where
            queries are described.
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
        sample: Sample | Sequence[Features],
        whitening: WhiteningConfig | None,
        seed: int,
        local_branch: LocalBranch | None = None,
        left_out: int = 0,
    ) -> Describer:
        """Fit the extractor, then the whitening, on the same features.

        Args:
            extractor: not yet fitted.
            sample: features of the :func:`frontend_of` of extractor and local branch.
            whitening: how descriptors are whitened, or ``None``.
            seed: of everything random.
            local_branch: not yet fitted, or ``None``.
            left_out: parts 0 to this of the sample are each left out of a describer for
                calibration.

        Raises:
            ConfigError: as :meth:`Whitening.fit`.
        """
        sample = Sample.of(sample)
        features = sample.features
        if local_branch is not None:
            local_branch = local_branch.fit(FeatureColumn(features, 1), seed)
            features = FeatureColumn(features, 0)
        fitted = extractor.fit(features, seed, sample.labels)
        learnt = cls(fitted, None, local_branch)
        return learnt.fit_whitening(sample, whitening, seed, left_out, extractor)

    def fit_whitening(
        self,
        sample: Sample,
        whitening: WhiteningConfig | None,
        seed: int,
        left_out: int = 0,
        bare: Extractor | None = None,
    ) -> Describer:
        """This describer, which has none yet, with a whitening of what it makes of the sample.

        Args:
            sample, whitening, seed, left_out: as of :meth:`fit`.
            bare: the extractor, not fitted: one that whitens within is fitted anew without each
                part.

        Raises:
            ConfigError: as :meth:`Whitening.fit`.
        """
        if self.local_branch is not None:
            sample = replace(sample, features=FeatureColumn(sample.features, 0))
        views = None if whitening is None or sample.views is None else sample.views(self.extractor)
        training_set = _TrainingSet(self.extractor, sample, whitening, seed, views)
        whole = training_set.learn(np.ones(len(sample), dtype=np.bool_))
        calibration = _cross_fit(bare or self.extractor, training_set, left_out)
        return replace(whole, local_branch=self.local_branch, calibration=calibration)

    def stream(
        self, windows: Iterable[Sequence[Source]], windows_ahead: int = 1
    ) -> Generator[tuple[Representation, Errors], None, None]:
        """Describe photographs window by window, in order; as :meth:`from_outcomes`.

        Args:
            windows: of sources; read as far ahead as they are decoded.
            windows_ahead: windows that are brought and decoded before one is handed over.
        """
        extracted = extract(windows, self.frontend, windows_ahead=windows_ahead)
        with closing(extracted):
            for outcomes in extracted:
                yield self.from_outcomes(outcomes)

    def describe(self, photographs: Sequence[Photograph]) -> Representation:
        """Describe RGB photographs (h, w, 3) of any sizes; zeros for those that cannot be."""
        ((described, _),) = self.stream([photographs])
        return described

    def from_outcomes(self, outcomes: Sequence[Outcome]) -> tuple[Representation, Errors]:
        """:meth:`from_features`, with zeros in place of the photographs that failed, and why any
        cannot be used."""
        good = [i for i, one in enumerate(outcomes) if not isinstance(one, PhotographError)]
        found = self.from_features([outcomes[i] for i in good])
        if len(good) < len(outcomes):
            # The last row is nobody's: zeros, without words or features.
            padded = Representation.joined([found, self._nothing()])
            places = np.full(len(outcomes), len(good))
            places[good] = np.arange(len(good))
            found = padded[places]
        both = zip(outcomes, failures(found), strict=True)
        return found, [one if isinstance(one, PhotographError) else error for one, error in both]

    def from_features(self, features: Sequence[Features]) -> Representation:
        """The cheap half: features to descriptors; zeros for a photograph without any feature."""
        words, kept = None, None
        if self.local_branch is not None:
            words, kept = self.local_branch.from_features(FeatureColumn(features, 1))
            features = FeatureColumn(features, 0)
        plain = Representation(self._aggregated(features), words, kept)
        return self._whitened(
            plain,
            [
                plain.vectors if one.extractor is self.extractor else one._aggregated(features)
                for one in self.calibration
            ],
        )

    @property
    def plain(self) -> Describer:
        """The same without whitening. Where no extractor whitens within, :meth:`whiten` makes of
        what it describes what this one would."""
        return Describer(self.extractor, None, self.local_branch)

    def whiten(self, described: Representation) -> Representation:
        """What :meth:`from_features` makes of photographs that :attr:`plain` has described."""
        return self._whitened(described, [described.vectors] * len(self.calibration))

    def _whitened(self, plain: Representation, others: Sequence[Vectors]) -> Representation:
        """Photographs by whitened vectors, and by those for calibration, from rows of their own."""
        found = replace(plain, vectors=_whitened(plain.vectors, self.whitening))
        if not self.calibration:
            return found
        pairs = zip(others, self.calibration, strict=True)
        parts = [_whitened(rows, one.whitening) for rows, one in pairs]
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
        """The inverse of ``save``, for extractor and local branch built from the run's config.

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


@dataclass(frozen=True)
class _TrainingSet:
    """A fitted extractor, and what whitenings of its descriptors are learnt from.

    Attributes:
        extractor: fitted.
        sample: the photographs.
        whitening: how descriptors are whitened, or ``None``.
        seed: of everything random.
        views: of some of the photographs, described by the extractor; or ``None``.
    """

    extractor: Extractor
    sample: Sample
    whitening: WhiteningConfig | None
    seed: int
    views: AugmentedRows | None = None

    @cached_property
    def rows(self) -> Vectors:
        """(n, d) of the photographs, aggregated once for all whitenings."""
        known = self.sample.rows
        return self.extractor.aggregate(self.sample.features) if known is None else known

    def learn(self, chosen: NDArray[np.bool_]) -> Describer:
        """Learn the whitening from the chosen ones in which there is something to describe."""
        if self.whitening is None:
            return Describer(self.extractor, None)
        places = np.flatnonzero(chosen & (np.linalg.norm(self.rows, axis=1) > 0))
        labels = self.sample.labels_at(places.tolist())
        views = None if self.views is None else _viewed(self.views, places)
        learnt = Whitening.fit(self.rows[places], self.whitening, self.seed, labels, views)
        return Describer(self.extractor, learnt)


def _cross_fit(extractor: Extractor, whole: _TrainingSet, left_out: int) -> tuple[Describer, ...]:
    """Describers for calibration, each without a part; none where the photographs are too few."""
    try:
        return tuple(in_threads(lambda part: _without(part, extractor, whole), range(left_out)))
    except (ConfigError, RunError) as error:
        log.warning(
            "too few photographs to leave a part of them out (%s): thresholds are fitted on"
            " photographs that taught the descriptors, and will accept too much", error,
        )  # fmt: skip
        return ()


def _without(part: int, extractor: Extractor, whole: _TrainingSet) -> Describer:
    """A describer that is fitted without a part of the photographs."""
    assert whole.sample.parts is not None
    chosen = whole.sample.parts != part
    # A codebook is learnt from hundreds of thousands of local features, and its few words know no
    # photograph among them; a whitening within an extractor does. Altered photographs were
    # described by the extractor that was fitted on all, and fit no other.
    if extractor.whitened and whole.views is None:
        few = np.flatnonzero(chosen).tolist()
        features, labels = Chosen(whole.sample.features, few), whole.sample.labels_at(few)
        refitted = extractor.fit(features, whole.seed, labels)
        whole = replace(whole, extractor=refitted, sample=replace(whole.sample, rows=None))
    return whole.learn(chosen)


def _viewed(views: AugmentedRows, seen: NDArray[np.int64]) -> AugmentedRows:
    """Those in which there is something to describe, of photographs of which that holds too."""
    there = np.flatnonzero((np.linalg.norm(views.rows, axis=1) > 0) & np.isin(views.of, seen))
    return AugmentedRows(views.rows[there], np.searchsorted(seen, views.of[there]))


def frontend_of(extractor: Extractor, local_branch: LocalBranch | None) -> Frontend:
    """What makes the features of an extractor, and of a local branch beside it where there is one.

    With a local branch, a photograph's features are the pair of the extractor's and the local ones;
    where both start from the same, they are computed once.
    """
    return extractor if local_branch is None else JointFrontend((extractor, local_branch.detector))


def failures(described: Representation) -> Errors:
    """Why each photograph cannot be used: nothing was found in it."""
    norms = np.linalg.norm(described.vectors, axis=1)
    usable = np.isfinite(norms) & (norms > 0.5)
    return [None if ok else DescribeError(NO_FEATURES) for ok in usable]
